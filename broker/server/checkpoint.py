"""Checkpoints of the broker: its tables and its segments as they were at one zxid, made durable without anyone waiting for it.

Segments are flushed all the time, a budget of bytes at a time, so that a checkpoint finds little to do. What is left of small ends
stands in the checkpoint itself: ten thousand partitions with a few records each would be ten thousand syncs.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from broker.errors import Corrupt
from broker.log.kept import PartitionRow, Tail, segment_name, segment_of, stem_of
from broker.log.log import Dirt, Log
from broker.snapshot import Snapshot, decode, encode
from broker.state import State
from broker.state.levels import UnknownLevel
from zablog import Corrupt as Unusable
from zablog import NodeStopped, Part, Unsupported, Versions
from zablog.core.zxid import Zxid
from zablog.storage.disk import Disk

if TYPE_CHECKING:
    from broker.server.application import BrokerApplication

Item = TypeVar("Item")

SLICE_SECONDS: Final = 0.002
"""After so much work others have their turn."""
REST_SECONDS_MAX: Final = 0.02
FILES_A_SLICE: Final = 32
"""The ends of so many segments are read at once."""
CAPTURED_AHEAD: Final = 500
"""Partitions captured ahead of time at each look of the flusher: about 2 ms of work."""
TAIL_BYTES_MAX: Final = 16 << 10
"""A longer end of a segment is synced rather than copied."""
TAILS_BYTES_MAX: Final = 16 << 20
"""All ends in one checkpoint together."""
DIRTY_BYTES_MAX: Final = 8 << 20
"""When so much of all segments is not durable, the flusher goes to work, the largest ends first."""
LOOK_SECONDS: Final = 0.05


class BrokerCapture:
    """`zablog.node.application.Capture`."""

    def __init__(
        self, disk: Disk, log: Log, state: State, partitions: list[PartitionRow], doomed: list[str], over: Callable[[], None]
    ) -> None:
        self._disk = disk
        self._log = log
        self._state = state
        self._partitions = partitions
        self._doomed = doomed
        self._over = over

    async def encode(self) -> Sequence[bytes]:
        dirt = await in_slices(self._log.dirt())
        due, rest = to_sync(dirt, TAIL_BYTES_MAX, TAILS_BYTES_MAX)
        await sync(self._disk, self._log, due)
        tails: list[Tail] = []
        for begin in range(0, len(rest), FILES_A_SLICE):
            began = time.monotonic()
            tails += await trio.to_thread.run_sync(read_tails, self._disk, rest[begin : begin + FILES_A_SLICE])
            await rest_after(began)
        await trio.to_thread.run_sync(self._disk.sync_names)
        return await in_slices(encode(Snapshot(self._state, self._partitions, tails)))

    async def durable(self) -> None:
        self._over()
        await trio.to_thread.run_sync(remove, self._disk, self._doomed)


async def in_slices(items: Iterable[Item]) -> list[Item]:
    """All of them, made a slice at a time, with rests between: a checkpoint is in no hurry, and everybody else is."""
    made: list[Item] = []
    began = time.monotonic()
    for item in items:
        made.append(item)
        if time.monotonic() - began > SLICE_SECONDS:
            await rest_after(began)
            began = time.monotonic()
    return made


async def rest_after(began: float) -> None:
    """Leave others twice the time that this slice took. A thread that runs Python takes it from the event loop as well."""
    await trio.sleep(min(REST_SECONDS_MAX, 2 * (time.monotonic() - began)))


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


async def sync(disk: Disk, log: Log, dirt: Sequence[Dirt]) -> None:
    """Make these durable, one after the other, and write down the rows of their indexes where that is worth it."""
    for name, rows in log.new_rows(dirt):
        with suppress(FileNotFoundError):  # removed meanwhile
            await trio.to_thread.run_sync(append_rows, disk, name, rows)
    for each in dirt:
        with suppress(FileNotFoundError):  # deleted meanwhile
            await trio.to_thread.run_sync(disk.sync, each.name)
        for old in log.warm.add(each.name, each.synced, each.size):
            with suppress(FileNotFoundError):
                await trio.to_thread.run_sync(disk.cool, *old)
        log.clean([each])


def append_rows(disk: Disk, name: str, rows: bytes) -> None:
    """Blocking. The rows are durable too: without them a segment is read from end to end. Nothing if the segment has gone."""
    if not disk.exists(segment_of(name)):
        return
    if not disk.exists(name):
        disk.create(name)
    disk.write(name, disk.size(name), [rows])
    disk.sync(name)


def read_tails(disk: Disk, dirt: Sequence[Dirt]) -> list[Tail]:
    """Blocking."""
    return [Tail(each.name, each.synced, disk.read(each.name, each.synced, each.bytes)) for each in dirt]


def remove(disk: Disk, names: Sequence[str]) -> None:
    """Blocking. Some of them may never have been made."""
    for name in names:
        with suppress(FileNotFoundError):
            disk.unlink(name)


def parts_of(raw: bytes, levels: Versions) -> list[Part]:
    """The segments that a snapshot names. Raises zablog.Corrupt, zablog.Unsupported."""
    try:
        snapshot = decode(raw, levels)
    except UnknownLevel as error:
        raise Unsupported(error.message) from error
    except Corrupt as error:
        raise Unusable(error.message) from error
    return [
        Part(segment_name(stem_of(row.topic, row.partition), segment.base_offset), segment.size, segment.crc)
        for row in snapshot.partitions
        for segment in row.segments
    ]


def read_snapshot(zxid: Zxid, raw: bytes, levels: Versions) -> Snapshot:
    """Raises Corrupt, UnknownLevel."""
    snapshot = decode(raw, levels)
    if snapshot.state.applied > zxid:
        raise Corrupt(f"a snapshot of {zxid} that holds what was applied at {snapshot.state.applied}")
    return snapshot


async def keep_flushing(application: "BrokerApplication") -> None:
    """For ever: what was appended becomes durable in time, so that no checkpoint has much to do. Raises NodeStopped."""
    while True:
        await trio.sleep(LOOK_SECONDS)
        if not application.restored or application.capturing:
            continue
        log = application.log
        log.capture_some(CAPTURED_AHEAD)
        if log.dirty_bytes > DIRTY_BYTES_MAX:
            try:
                due, _ = to_sync(await in_slices(log.dirt()), DIRTY_BYTES_MAX // 8, DIRTY_BYTES_MAX // 2)
                await sync(application.files, log, due)
            except OSError as error:
                raise NodeStopped(f"the disk failed while segments were flushed: {error}") from error
