"""The twin of `broker.server.application`, without trio: the replicated state, the log that it fills, and answers for those who wait.

The segments lie on a disk of their own that begins empty in each life; a checkpoint carries them whole, as ends that stand in the
snapshot. So every restart and every transfer goes through the real encoding of both; that segments survive a loss of power by
themselves is tested elsewhere.
"""

from collections.abc import Callable

from broker.log import Log
from broker.log.kept import Tail, restore_files
from broker.log.stored import split
from broker.snapshot import Snapshot, decode, encode
from broker.state import LEVELS, Answer, State
from zablog.core.zxid import Zxid
from zablog.sim.disk import SimDisk

SEGMENT_BYTES = 2_000
READ_BYTES = 600
Waiter = Callable[[Answer], None]


class Replica:
    """`zablog.sim.application.Application`, for one life of one node."""

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts
        self.state = State()
        self.disk = SimDisk()
        self.log = Log(self.disk, SEGMENT_BYTES)
        self.waiting: dict[Zxid, Waiter] = {}
        self.settled: list[tuple[Waiter, Answer]] = []

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

    def capture(self) -> bytes:
        rows = self.log.capture()
        tails = [Tail(dirt.name, dirt.synced, self.disk.read(dirt.name, dirt.synced, dirt.bytes)) for dirt in self.log.dirt()]
        for name in self.log.doomed():
            if self.disk.exists(name):
                self.disk.unlink(name)
        return b"".join(encode(Snapshot(self.state.capture(), rows, tails)))

    def restore(self, raw: bytes) -> None:
        snapshot = decode(raw, LEVELS)
        self.state, self.disk = snapshot.state, SimDisk()
        restore_files(self.disk, snapshot.partitions, snapshot.tails)
        self.log = Log(self.disk, SEGMENT_BYTES, snapshot.partitions, snapshot.tails)
        self.log.load_last_rows()

    def tables(self) -> bytes:
        """The state alone, to be compared byte by byte."""
        return b"".join(encode(Snapshot(self.state, (), ())))

    def read(self, topic: Zxid, partition: int, offset: int, bytes_max: int = READ_BYTES) -> tuple[int, ...]:
        """The values from `offset` on, as far as one read goes. Raises OffsetOutOfRange, Corrupt."""
        stored = self.log.partition(topic, partition).read(offset, bytes_max)
        records = [record for batch in split(stored) for record in batch.records()]
        return tuple(int(record.value or b"") for record in records if record.offset >= offset)

    def read_all(self, topic: Zxid, partition: int) -> list[int]:
        """What the partition holds."""
        found = self.log.partition(topic, partition)
        values: list[int] = []
        while found.first + len(values) < found.end:
            values += self.read(topic, partition, found.first + len(values))
        return values
