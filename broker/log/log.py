"""Every partition's batches on one node's disk: what committed commands leave behind.

All segments lie in one directory, named by topic id, partition and base offset, so that a deleted and recreated topic shares no
name with its predecessor, and one cache of file descriptors serves them all.

A log begins empty, or as a snapshot says. What it appends is not durable until a checkpoint (or the flusher before it) has seen to that;
what it deletes stays on disk until the next checkpoint is durable, since the one before names it still.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from broker.errors import Corrupt
from broker.log.index import Index
from broker.log.kept import INDEX_BYTES_MIN, PartitionRow, Tail, index_name, remove_others, stem_of
from broker.log.partition import SEGMENT_BYTES_MAX, Partition, SegmentLimits
from broker.log.stored import HEAD_BYTES, PREFIX_BYTES, StoredBatch, place_at, split
from broker.log.warm import WARM_BYTES, Warm
from zablog.core.trail import Payload
from zablog.core.zxid import Zxid
from zablog.storage.disk import Disk


class Dirt(NamedTuple):
    """A segment whose end is not durable."""

    name: str
    segment: Index
    synced: int
    size: int

    @property
    def bytes(self) -> int:
        return self.size - self.synced


class Log:
    """For one thread. Every method may raise OSError, which is final."""

    __slots__ = (
        "_captured",
        "_dirty",
        "_disk",
        "_doomed",
        "_gathered",
        "_index_bytes_min",
        "_leaving",
        "_moving",
        "_partitions",
        "_segment_bytes_max",
        "_touched",
        "dirty_bytes",
        "warm",
    )

    def __init__(
        self,
        disk: Disk,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        kept: Iterable[PartitionRow] = (),
        tails: Iterable[Tail] = (),
        warm_bytes: int = WARM_BYTES,
        index_bytes_min: int | None = None,
    ) -> None:
        assert 0 < segment_bytes_max <= 1 << 31, "an index keeps places within a segment in 32 bits"
        self._disk = disk
        self._index_bytes_min = index_bytes_min
        self._segment_bytes_max = segment_bytes_max
        self._partitions: dict[Zxid, dict[int, Partition]] = {}
        self._gathered: dict[Partition, None] = {}
        """Partitions with batches that are not flushed yet."""
        self._moving: dict[tuple[Zxid, int], int] = {}
        """First offsets that partitions get with the next flush."""
        self._touched: dict[tuple[Zxid, int], Partition] = {}
        """Partitions that changed since they were captured."""
        self._captured: dict[tuple[Zxid, int], PartitionRow] = {}
        self._dirty: dict[Index, Partition] = {}
        """Segments that are not durable to their end."""
        self._doomed: list[str] = []
        """Files of which the last checkpoint may still speak."""
        self._leaving: list[Index] = []
        """Their segments, where a capture names what is not durable yet: a checkpoint under way has to see to it all the same."""
        self.dirty_bytes = 0
        """What was written and is not durable, about."""
        self.warm = Warm(warm_bytes)
        begins = {tail.name: tail.begin for tail in tails}
        for row in kept:
            self._made(row.topic, row.partition).restore(row, begins)
            self._captured[row.topic, row.partition] = row
        self.dirty_bytes = sum(index.size - index.synced for index in self._dirty)

    def load_last_rows(self) -> None:
        """Have the index of each partition's last segment at hand, to which the next batch is appended. Raises Corrupt."""
        for partitions in self._partitions.values():
            for partition in partitions.values():
                partition.load_last_rows()

    def remove_others(self) -> None:
        """Remove files that belong to no partition of this log: what a life before this one left behind."""
        remove_others(self._disk, self._captured.values())

    def append(
        self,
        zxid: Zxid,
        time: int,
        topic: Zxid,
        partition: int,
        base_offset: int,
        position: int,
        records: int,
        batch: Payload,
        limits: SegmentLimits | None = None,
    ) -> None:
        """Gather one batch of the command committed under `zxid`. `time` is the state's; the rest is an `Append` of its outcome."""
        found = self._partitions.get(topic, {}).get(partition)
        if found is None:
            found = self._made(topic, partition)
        found.append(base_offset, records, zxid, position, time, batch, limits)
        self._gathered[found] = None
        self._touched[topic, partition] = found

    def flush(self) -> None:
        """Write what was gathered since the last time, and make it readable; then let go of what lies below bounds that moved."""
        gathered, self._gathered = self._gathered, {}
        for partition in gathered:
            self.dirty_bytes += partition.flush()
        moving, self._moving = self._moving, {}
        for (topic, number), first in moving.items():
            partition = self._partitions[topic][number]
            self._let_go(partition, partition.move(first))

    def move(self, topic: Zxid, partition: int, first: int) -> None:
        """Records below `first` are let go of with the next flush. The files go once a checkpoint is durable; see `doomed`."""
        found = self._partitions.get(topic, {}).get(partition)
        assert found is not None, "bounds move within what was appended"
        if first == found.next:
            found.seal()
        self._moving[topic, partition] = first
        self._touched[topic, partition] = found

    def delete_topic(self, topic: Zxid) -> None:
        """Forget its segments, and what was gathered for it. The files go once a checkpoint is durable; see `doomed`."""
        gone = self._partitions.pop(topic, {})
        for number, partition in gone.items():
            self._gathered.pop(partition, None)
            self._moving.pop((topic, number), None)
            self._touched.pop((topic, number), None)
            self._captured.pop((topic, number), None)
            self._let_go(partition, partition.indexes)

    def partition(self, topic: Zxid, partition: int) -> Partition:
        """Where to read. That there is such a partition is the state's to say; without a batch it has no files and is not kept."""
        found = self._partitions.get(topic, {}).get(partition)
        return found if found is not None else Partition(self._disk, stem_of(topic, partition), self._segment_bytes_max)

    def _made(self, topic: Zxid, partition: int) -> Partition:
        made = Partition(self._disk, stem_of(topic, partition), self._segment_bytes_max, self._dirty)
        self._partitions.setdefault(topic, {})[partition] = made
        return made

    def _let_go(self, partition: Partition, segments: Iterable[Index]) -> None:
        for index in segments:
            name = partition.name(index)
            self._doomed += (name, index_name(name))
            if index.synced < index.captured:
                self._leaving.append(index)
            else:
                self._forget_dirt(index)

    def _forget_dirt(self, index: Index) -> None:
        if self._dirty.pop(index, None) is not None:
            self.dirty_bytes -= index.size - index.synced

    # -- for checkpoints ----------------------------------------------------------------------------------------------------

    def capture(self) -> list[PartitionRow]:
        """Every partition that has been written to, as it is after the last flush."""
        self.capture_some(len(self._touched))
        return list(self._captured.values())

    def capture_some(self, count: int) -> None:
        """Capture some of the partitions that changed ahead of time: a capture of all must be quick, and they may be many."""
        for place in list(islice(self._touched, count)):
            self._captured[place] = self._touched.pop(place).capture(*place)

    def dirt(self) -> Iterator[Dirt]:
        """What is not durable of the last capture. Those who make it so say that by `clean`; what is appended meanwhile is not of it."""
        for index, partition in list(self._dirty.items()):
            if index.synced < index.captured:
                yield Dirt(partition.name(index), index, index.synced, index.captured)

    def clean(self, dirt: Iterable[Dirt]) -> None:
        """These are durable now, as far as they went."""
        for _, segment, _, size in dirt:
            if segment in self._dirty and size > segment.synced:
                self.dirty_bytes -= size - segment.synced
                segment.synced = size
                if segment.synced == segment.size:
                    del self._dirty[segment]

    def new_rows(self, dirt: Iterable[Dirt]) -> list[tuple[str, bytes]]:
        """Rows of indexes that are worth being written down, each with its file, to the end of which they belong."""
        least = INDEX_BYTES_MIN if self._index_bytes_min is None else self._index_bytes_min
        worthy = (each for each in dirt if not each.segment.unread and each.segment.size - each.segment.indexed_size >= least)
        return [(index_name(each.name), each.segment.chunk()) for each in worthy]

    def segments(self) -> list[tuple[str, int, int]]:
        """Every segment as it is now: file, bytes, CRC-32C of them."""
        return [
            (partition.name(index), index.size, index.crc)
            for partitions in self._partitions.values()
            for partition in partitions.values()
            for index in partition.indexes
        ]

    def doomed(self) -> list[str]:
        """Files that may go once a checkpoint of the state as it was captured just now is durable. They are the caller's from here on."""
        leaving, self._leaving = self._leaving, []
        for index in leaving:
            self._forget_dirt(index)
        doomed, self._doomed = self._doomed, []
        return doomed


def scan(disk: Disk, name: str) -> Iterator[StoredBatch]:
    """Every batch of a segment, in order, with nothing but the file to go by. Raises Corrupt at the first that is not whole."""
    at, size = 0, disk.size(name)
    while at < size:
        try:
            place = place_at(disk.read(name, at, HEAD_BYTES))
            stored = disk.read(name, at, PREFIX_BYTES + place.length)
            yield from split(stored)
        except Corrupt as error:
            raise Corrupt(f"segment {name} at byte {at:,}: {error.message}") from error
        at += len(stored)
