"""What a checkpoint does to the disk and in which order, and how a node becomes again what a checkpoint says. Blocking, on the `Disk` port.

Segments are flushed all the time, a budget of bytes at a time, so that a checkpoint finds little to do. What is left of small ends
stands in the checkpoint itself: ten thousand partitions with a few records each would be ten thousand syncs.

The steps are generators: what they yield is work for the disk, which may run in a thread; between two of them the log's own thread has
the turn. `None` is no work, only a place at which others may have theirs. The server walks through them with trio, the simulator
in virtual time, where anything may happen between two of them.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from broker.errors import Corrupt
from broker.log.kept import PartitionRow, Tail, restore_files, segment_name, segment_of, stem_of
from broker.log.log import Dirt, Log
from broker.log.partition import SEGMENT_BYTES_MAX
from broker.log.warm import WARM_BYTES
from broker.snapshot import Snapshot, decode, encode
from broker.state import LEVELS, State
from zablog.core.zxid import Zxid
from zablog.storage.disk import Disk
from zablog.storage.snapshots import Part
from zablog.wire.handshake import Versions

Item = TypeVar("Item")
Result = TypeVar("Result")

Work = Callable[[], None]
Steps = Generator[Work | None, None, Result]

FILES_A_SLICE: Final = 32
"""The ends of so many segments are read at once."""
TAIL_BYTES_MAX: Final = 16 << 10
"""A longer end of a segment is synced rather than copied."""
TAILS_BYTES_MAX: Final = 16 << 20
"""All ends in one checkpoint together."""


class Checkpoint:
    """The tables and the segments as they are now, after the last flush; made durable by `encoded`, then `over`.

    What is applied meanwhile changes nothing about it: segments only grow, and what is deleted stays on disk until `over`.
    """

    def __init__(self, disk: Disk, log: Log, state: State, tail_bytes_max: int | None = None, tails_bytes_max: int | None = None) -> None:
        self._disk = disk
        self._log = log
        self._bounds = tail_bytes_max or TAIL_BYTES_MAX, tails_bytes_max or TAILS_BYTES_MAX
        self._state = state.capture()
        self._partitions: list[PartitionRow] = log.capture()
        self._doomed = log.doomed()

    def encoded(self) -> Steps[list[bytes]]:
        """The snapshot's file, in pieces. All that it names is durable by then, or stands in it."""
        dirt = yield from collected(self._log.dirt())
        due, rest = to_sync(dirt, *self._bounds)
        yield from made_durable(self._disk, self._log, due)
        tails: list[Tail] = []
        for begin in range(0, len(rest), FILES_A_SLICE):
            yield partial(read_tails, self._disk, rest[begin : begin + FILES_A_SLICE], tails)
            yield None
        yield self._disk.sync_names
        return (yield from collected(encode(Snapshot(self._state, self._partitions, tails))))

    def over(self) -> None:
        """The manifest names the snapshot, durably, and an older one will not be restored any more: what only that one named may go."""
        remove(self._disk, self._doomed)


def collected(items: Iterable[Item]) -> Steps[list[Item]]:
    """All of them; others may have a turn behind each."""
    made: list[Item] = []
    for item in items:
        made.append(item)
        yield None
    return made


def to_sync(dirt: Sequence[Dirt], each_max: int, all_max: int) -> tuple[list[Dirt], list[Dirt]]:
    """Which segments are to be synced so that what remains is short everywhere, and not too much in all: the longest ends; the others."""
    longest = sorted(dirt, key=_bytes_of, reverse=True)
    left = sum(map(_bytes_of, dirt))
    for number, each in enumerate(longest):
        if each.bytes <= each_max and left <= all_max:
            return longest[:number], longest[number:]
        left -= each.bytes
    return longest, []


def _bytes_of(dirt: Dirt) -> int:
    return dirt.size - dirt.synced


def made_durable(disk: Disk, log: Log, dirt: Sequence[Dirt]) -> Steps[None]:
    """Make these durable, one after the other, and write down the rows of their indexes where that is worth it."""
    for name, rows in log.new_rows(dirt):
        yield partial(append_rows, disk, name, rows)
    for each in dirt:
        yield partial(sync_segment, disk, each.name)
        for old in log.warm.add(each.name, each.synced, each.size):
            yield partial(cool, disk, *old)
        log.clean([each])


# -- work of the disk --------------------------------------------------------------------------------------------------------


def sync_segment(disk: Disk, name: str) -> None:
    with suppress(FileNotFoundError):  # deleted meanwhile
        disk.sync(name)


def cool(disk: Disk, name: str, begin: int, end: int) -> None:
    with suppress(FileNotFoundError):
        disk.cool(name, begin, end)


def append_rows(disk: Disk, name: str, rows: bytes) -> None:
    """The rows are durable too: without them a segment is read from end to end. Nothing if the segment has gone, or goes meanwhile."""
    if not disk.exists(segment_of(name)):
        return
    with suppress(FileNotFoundError):
        if not disk.exists(name):
            disk.create(name)
        disk.write(name, disk.size(name), [rows])
        disk.sync(name)


def read_tails(disk: Disk, dirt: Sequence[Dirt], tails: list[Tail]) -> None:
    """Append to `tails` what of these is not durable."""
    tails += [Tail(each.name, each.synced, disk.read(each.name, each.synced, each.bytes)) for each in dirt]


def remove(disk: Disk, names: Sequence[str]) -> None:
    """Some of them may never have been made."""
    for name in names:
        with suppress(FileNotFoundError):
            disk.unlink(name)


# -- and back ----------------------------------------------------------------------------------------------------------------


def parts_of(raw: bytes, levels: Versions = LEVELS) -> list[Part]:
    """The segments that a snapshot names. Raises Corrupt, UnknownLevel."""
    return [
        Part(segment_name(stem_of(row.topic, row.partition), segment.base_offset), segment.size, segment.crc)
        for row in decode(raw, levels).partitions
        for segment in row.segments
    ]


def read_snapshot(zxid: Zxid, raw: bytes, levels: Versions = LEVELS) -> Snapshot:
    """What was captured when `zxid` had been applied. Raises Corrupt, UnknownLevel."""
    snapshot = decode(raw, levels)
    if snapshot.state.applied > zxid:
        raise Corrupt(f"a snapshot of {zxid} that holds what was applied at {snapshot.state.applied}")
    return snapshot


def restored(
    disk: Disk,
    snapshot: Snapshot,
    segment_bytes_max: int = SEGMENT_BYTES_MAX,
    warm_bytes: int = WARM_BYTES,
    index_bytes_min: int | None = None,
) -> Log:
    """The log that was captured. Its segments are on our disk, as long as the snapshot says or longer.

    Each is cut to what the snapshot says of it, so that what follows is appended behind that. What else is there of segments stays; see
    `Log.remove_others`. Raises Corrupt.
    """
    restore_files(disk, snapshot.partitions, snapshot.tails)
    log = Log(disk, segment_bytes_max, snapshot.partitions, snapshot.tails, warm_bytes, index_bytes_min)
    log.load_last_rows()
    return log
