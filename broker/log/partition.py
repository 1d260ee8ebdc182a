"""One partition on disk: its segments in order, each a file of bounded size with its index.

Appends are gathered and written by `flush`, one write a segment. What is not flushed cannot be read: `end` is the end of what can.
Nothing is synced here: the write-ahead log is the truth, and segments are made from it.
"""

from bisect import bisect_left, bisect_right
from typing import Final

from broker.errors import Corrupt, OffsetOutOfRange
from broker.log.index import Index
from broker.log.stored import PREFIX_BYTES, Place, head_of
from zablog.core.trail import Payload
from zablog.core.zxid import Zxid
from zablog.storage.disk import Disk

SEGMENT_BYTES_MAX: Final = 64 << 20
"""A segment that has reached this size takes no more batches."""
JOIN_BYTES_MAX: Final = 4 << 10
"""Pieces that are smaller than this on average are copied together: the kernel takes longer over one more piece than the copy does."""
SEGMENT_SUFFIX: Final = ".segment"


class Partition:
    """Use `Log`. For one thread: a flush changes file and index one after the other."""

    __slots__ = ("_disk", "_gathered", "_indexes", "_segment_bytes_max", "_stem", "first", "next")

    def __init__(self, disk: Disk, stem: str, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> None:
        self._disk = disk
        self._stem = stem
        """How the names of its files begin."""
        self._segment_bytes_max = segment_bytes_max
        self._indexes: list[Index] = []
        self._gathered: list[tuple[Place, int, Payload]] = []
        """Place, offset behind it, batch."""
        self.first = 0
        """The first offset that can be read."""
        self.next = 0
        """The offset that the next appended record gets."""

    @property
    def end(self) -> int:
        """The offset behind the last record that can be read."""
        return self._indexes[-1].end_offset if self._indexes else self.first

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(index.size for index in self._indexes)

    @property
    def files(self) -> list[str]:
        return [self._name(index) for index in self._indexes]

    def append(self, base_offset: int, records: int, zxid: Zxid, position: int, time: int, batch: Payload) -> None:
        """Gather a batch of so many records for the next `flush`. Apply has checked its header and given out its base offset."""
        assert base_offset == self.next, "the log holds the batches to which the state gave offsets, in that order, all of them"
        self.next = base_offset + records
        self._gathered.append((Place(base_offset, zxid, position, time, len(batch)), self.next, batch))

    def flush(self) -> None:
        """Write what was gathered: one write a segment. An OSError is final: file and index may disagree after it."""
        gathered, self._gathered = self._gathered, []
        pieces: list[Payload] = []
        begin = self._indexes[-1].size if self._indexes else 0
        for place, end_offset, batch in gathered:
            if not self._has_room(place, end_offset):
                self._write(begin, pieces)
                pieces, begin = [], 0
                self._indexes.append(Index(place.base_offset, place.time))
                self._disk.create(self._name(self._indexes[-1]))
            self._indexes[-1].append(place.base_offset, end_offset, place.zxid, place.time, PREFIX_BYTES + place.length)
            # The head repeats the batch's first 16 bytes, with base offset and leader epoch filled in.
            pieces += (head_of(place), memoryview(batch)[16:])
        self._write(begin, pieces)

    def read(self, offset: int, bytes_max: int) -> bytes:
        """Stored batches end to end, from the one that holds `offset`: at least one, then as many as fit into `bytes_max`.

        Fewer where a segment ends; none at the end of the partition. Raises OffsetOutOfRange, Corrupt.
        """
        if not self.first <= offset <= self.end:
            text = f"offset {offset:,} is out of range: {self.first:,} is the first, and the next record gets {self.end:,}"
            raise OffsetOutOfRange(text, self.first, self.end)
        if offset == self.end:
            return b""
        index = self._indexes[bisect_right(self._indexes, offset, key=_base_offset) - 1]
        number = index.at_offset(offset)
        begin, end = index.row(number).begin, index.run(number, bytes_max)
        stored = self._disk.read(self._name(index), begin, end - begin)
        if len(stored) != end - begin:
            raise Corrupt(f"segment {self._name(index)} has {begin + len(stored):,} bytes, and {end:,} were written")
        return stored

    def offset_at_time(self, time: int) -> int:
        """The base offset of the first batch whose leader time is not below `time`; the end if there is none."""
        for index in self._indexes[max(0, bisect_left(self._indexes, time, key=_base_time) - 1) :]:
            if (number := index.at_time(time)) < len(index):
                return index.row(number).base_offset
        return self.end

    def offset_at_zxid(self, zxid: Zxid) -> int:
        """The base offset of the first batch whose zxid is not below `zxid`; the end if there is none."""
        for index in self._indexes[max(0, bisect_left(self._indexes, zxid, key=Index.base_zxid) - 1) :]:
            if (number := index.at_zxid(zxid)) < len(index):
                return index.row(number).base_offset
        return self.end

    def unlink(self) -> None:
        """Remove every file; the partition is over."""
        for name in self.files:
            self._disk.unlink(name)
        self._indexes.clear()
        self._gathered.clear()

    def _has_room(self, place: Place, end_offset: int) -> bool:
        if not self._indexes:
            return False
        index = self._indexes[-1]
        return index.size < self._segment_bytes_max and index.fits(end_offset, place.time)

    def _write(self, begin: int, pieces: list[Payload]) -> None:
        if pieces:
            if sum(map(len, pieces)) < len(pieces) * JOIN_BYTES_MAX:
                pieces = [b"".join(pieces)]
            self._disk.write(self._name(self._indexes[-1]), begin, pieces)

    def _name(self, index: Index) -> str:
        return f"{self._stem}-{index.base_offset:020d}{SEGMENT_SUFFIX}"


def _base_offset(index: Index) -> int:
    return index.base_offset


def _base_time(index: Index) -> int:
    return index.base_time
