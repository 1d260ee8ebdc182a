"""Every partition's batches on one node's disk: what committed commands leave behind.

All segments lie in one directory, named by topic id, partition and base offset, so that a deleted and recreated topic shares no
name with its predecessor, and one cache of file descriptors serves them all.

Until checkpoints come, segments are made anew from the write-ahead log at each start: `Log` begins by removing what it finds.
"""

from collections.abc import Iterator

from broker.errors import Corrupt
from broker.log.partition import SEGMENT_BYTES_MAX, SEGMENT_SUFFIX, Partition
from broker.log.stored import HEAD_BYTES, PREFIX_BYTES, StoredBatch, place_at, split
from zablog.core.trail import Payload
from zablog.core.zxid import Zxid
from zablog.storage.disk import Disk


class Log:
    """For one thread. Every method may raise OSError, which is final."""

    __slots__ = ("_dirty", "_disk", "_partitions", "_segment_bytes_max")

    def __init__(self, disk: Disk, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> None:
        assert 0 < segment_bytes_max <= 1 << 31, "an index keeps places within a segment in 32 bits"
        self._disk = disk
        self._segment_bytes_max = segment_bytes_max
        self._partitions: dict[Zxid, dict[int, Partition]] = {}
        self._dirty: dict[Partition, None] = {}
        for name in disk.names():
            if name.endswith(SEGMENT_SUFFIX):
                disk.unlink(name)

    def append(
        self, zxid: Zxid, time: int, topic: Zxid, partition: int, base_offset: int, position: int, records: int, batch: Payload
    ) -> None:
        """Gather one batch of the command committed under `zxid`. `time` is the state's; the rest is an `Append` of its outcome."""
        partitions = self._partitions.setdefault(topic, {})
        found = partitions.get(partition)
        if found is None:
            found = partitions[partition] = self._made(topic, partition)
        found.append(base_offset, records, zxid, position, time, batch)
        self._dirty[found] = None

    def flush(self) -> None:
        """Write what was gathered since the last time, and make it readable."""
        dirty, self._dirty = self._dirty, {}
        for partition in dirty:
            partition.flush()

    def delete_topic(self, topic: Zxid) -> None:
        """Remove its segments, and what was gathered for it."""
        for partition in self._partitions.pop(topic, {}).values():
            self._dirty.pop(partition, None)
            partition.unlink()

    def partition(self, topic: Zxid, partition: int) -> Partition:
        """Where to read. That there is such a partition is the state's to say; without a batch it has no files and is not kept."""
        found = self._partitions.get(topic, {}).get(partition)
        return found if found is not None else self._made(topic, partition)

    def _made(self, topic: Zxid, partition: int) -> Partition:
        return Partition(self._disk, f"{topic}-{partition}", self._segment_bytes_max)


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
