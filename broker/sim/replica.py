"""The twin of `broker.server.application`, without trio: the replicated state, the log that it fills, and answers for those who wait.

The segments lie on the node's simulated disk. Checkpoints, what they name, and what is made of that again are the shipped code
(`broker.checkpoint`); only the bounds are smaller, so that ends of segments are synced, copied and indexed in short runs, too.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import google_crc32c

from broker.checkpoint import Checkpoint, Steps, made_durable, parts_of, read_snapshot, restored, to_sync
from broker.errors import Corrupt
from broker.log import Log
from broker.log.behind import WriteBehind
from broker.log.stored import split
from broker.snapshot import Snapshot, encode
from broker.state import LEVELS, Answer, State
from zablog.core.zxid import Zxid
from zablog.sim.disk import SimDisk
from zablog.storage.errors import Corrupt as Unusable
from zablog.storage.snapshots import Part

SEGMENT_BYTES = 2_000
GATHERED_BYTES = 500
INDEX_BYTES = 600
READ_BYTES = 600
WARM_BYTES = 4_000
TAIL_BYTES_MAX = 300
TAILS_BYTES_MAX = 1_000
Waiter = Callable[[Answer], None]


class Replica:
    """`zablog.sim.application.Application`, for one life of one node."""

    def __init__(self, counts: dict[str, int], disk: SimDisk) -> None:
        self.counts = counts
        self.state = State()
        self.disk = disk
        self.files = WriteBehind(disk, GATHERED_BYTES)
        self.damaged: str | None = None
        self.log = self.empty()
        self.waiting: dict[Zxid, Waiter] = {}
        self.settled: list[tuple[Waiter, Answer]] = []

    def empty(self) -> Log:
        return Log(self.files, SEGMENT_BYTES, warm_bytes=WARM_BYTES, index_bytes_min=INDEX_BYTES)

    def apply(self, zxid: Zxid, payload: bytes) -> None:
        state, log = self.state, self.log
        outcome = state.apply(zxid, payload)
        for topic, partition, base_offset, position, records, batch in outcome.appends:
            log.append(zxid, state.time, topic, partition, base_offset, position, records, batch)
        for topic, partition, first in outcome.moved:
            log.move(topic, partition, first)
        if outcome.deleted is not None:
            log.delete_topic(outcome.deleted)
        waiter = self.waiting.pop(zxid, None)
        if waiter is not None:
            self.counts["duplicates"] += outcome.duplicate
            self.settled.append((waiter, outcome.answer))

    def applied(self) -> None:
        self.log.flush()
        settled, self.settled = self.settled, []
        for waiter, answer in settled:
            waiter(answer)

    def flush(self) -> Steps[None]:
        """As `broker.server.checkpoint.keep_flushing`."""
        self.log.capture_some(2)
        due, _ = to_sync(list(self.log.dirt()), TAIL_BYTES_MAX, TAILS_BYTES_MAX)
        return made_durable(self.files, self.log, due)

    def capture(self) -> Checkpoint:
        return Checkpoint(self.files, self.log, self.state, TAIL_BYTES_MAX, TAILS_BYTES_MAX)

    def parts(self, raw: bytes) -> Sequence[Part]:
        try:
            return parts_of(raw, LEVELS)
        except Corrupt as error:
            raise Unusable(error.message) from error

    def restore(self, zxid: Zxid, raw: bytes | None) -> None:
        try:
            if raw is None:
                self.state, self.log = State(), self.empty()
            else:
                snapshot = read_snapshot(zxid, raw, LEVELS)
                log = restored(self.files, snapshot, SEGMENT_BYTES, WARM_BYTES, INDEX_BYTES)
                self.state, self.log = snapshot.state, log
        except Corrupt as error:
            raise Unusable(error.message) from error
        self.damaged = None
        self.log.remove_others()

    def check(self, restored: bool = False) -> str | None:
        found = self.segments()
        for name, size, crc in self.log.segments():
            if name not in found:
                return f"segment {name} is missing"
            if len(found[name]) < size or (restored and len(found[name]) > size):
                return f"segment {name} has {len(found[name])} bytes, and {size} were written"
            if google_crc32c.value(found[name][:size]) != crc:
                return f"segment {name} is not what was written"
        return None

    def segments(self) -> dict[str, bytes]:
        """All files of them, as they are, whatever a reader would meet."""
        return {name: bytes(self.disk.file(name).now) for name, *_ in self.log.segments() if self.files.exists(name)}

    def settle(self) -> None:
        for name, *_ in self.log.segments():
            if self.files.exists(name):
                self.files.size(name)

    def tables(self) -> bytes:
        """The state alone, to be compared byte by byte."""
        return b"".join(encode(Snapshot(self.state, (), ())))

    def read(self, topic: Zxid, partition: int, offset: int, bytes_max: int = READ_BYTES) -> tuple[int, ...]:
        """The values from `offset` on, as far as one read goes. Raises OffsetOutOfRange, Corrupt."""
        stored = self.log.partition(topic, partition).read(offset, bytes_max)
        records = [record for batch in split(stored) for record in batch.records()]
        return tuple(int(record.value or b"") for record in records if record.offset >= offset)

    def read_all(self, topic: Zxid, partition: int) -> list[int]:
        """What the partition holds, as far as it can be read."""
        found = self.log.partition(topic, partition)
        values: list[int] = []
        with suppress(Corrupt):
            while found.first + len(values) < found.end:
                values += self.read(topic, partition, found.first + len(values))
        return values
