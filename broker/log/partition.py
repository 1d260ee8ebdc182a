"""One partition on disk: its segments in order, each a file of bounded size with its index.

Appends are gathered and written by `flush`, one write a segment. What is not flushed cannot be read: `end` is the end of what can.
Nothing is synced here: the write-ahead log is the truth, and segments are made from it. What is durable, and what a checkpoint has
to see to, is counted in the indexes.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from google_crc32c import extend as crc32c

from broker.errors import Corrupt, OffsetOutOfRange
from broker.log.checksum import joined
from broker.log.cold import Cold
from broker.log.index import Index
from broker.log.kept import PartitionRow, SegmentRow, index_of, rows_of, segment_name
from broker.log.stored import PREFIX_BYTES, Place, head_of
from zablog.core.trail import Payload
from zablog.core.zxid import Zxid
from zablog.storage.disk import Disk

TIME_MAX: Final = 2**63
SEGMENT_BYTES_MAX: Final = 64 << 20
"""A segment that has reached this size takes no more batches."""
COLD_BYTES: Final = 1 << 20
"""So much of what is on disk alone is waited for at a time, if a batch is no larger: whoever asked for more has something sooner."""
JOIN_BYTES_MAX: Final = 4 << 10
"""Pieces that are smaller than this on average are copied together: the kernel takes longer over one more piece than the copy does."""
SUM_BYTES: Final = 128 << 10
"""From here on it takes more than twice as long to sum the bytes (6.5 and 3.1 µs); up to 64 KiB it is quicker."""
_AHEAD_BYTES: Final = 5
"""Of a batch from byte 16 on: its magic and its checksum, which is of all behind it."""


class SegmentLimits(NamedTuple):
    """When a segment takes no more batches."""

    bytes: int = SEGMENT_BYTES_MAX
    ms: int = TIME_MAX
    """How far the leader time of a batch may be from that of the segment's first."""


_SEALED: Final = SegmentLimits(0)


class Partition:
    """Use `Log`. For one thread: a flush changes file and index one after the other."""

    __slots__ = ("_dirty", "_disk", "_gathered", "_indexes", "_limits", "_sealed", "_stem", "first", "next")

    def __init__(
        self, disk: Disk, stem: str, segment_bytes_max: int = SEGMENT_BYTES_MAX, dirty: "dict[Index, Partition] | None" = None
    ) -> None:
        self._disk = disk
        self._stem = stem
        """How the names of its files begin."""
        self._indexes: list[Index] = []
        self._limits = SegmentLimits(segment_bytes_max)
        self._gathered: list[tuple[Place, int, Payload, SegmentLimits]] = []
        """Place, offset behind it, batch, and when it begins a segment."""
        self._sealed = False
        """The next batch begins a segment."""
        self.first = 0
        """The first offset that can be read."""
        self.next = 0
        """The offset that the next appended record gets."""
        self._dirty = dirty if dirty is not None else {}
        """Segments, of any partition, that are not durable to their end."""

    def restore(self, row: PartitionRow, tails: Mapping[str, int]) -> None:
        """Begin as a snapshot says. The files are as long as it says, and durable but for the tails, which begin at these places."""
        self.first, self.next = row.first, row.next
        for segment in row.segments:
            index = index_of(segment)
            index.synced = tails.get(self.name(index), index.size)
            self._indexes.append(index)
            if index.synced < index.size:
                self._dirty[index] = self

    def capture(self, topic: Zxid, partition: int) -> PartitionRow:
        """What has been flushed, as a snapshot says it."""
        for index in reversed(self._indexes):
            if index.captured == index.size:
                break
            index.captured = index.size
        rows = [
            SegmentRow(each.base_offset, each.base_time, each.end_offset, each.size, each.crc, each.base_zxid) for each in self._indexes
        ]
        return PartitionRow(topic, partition, self.first, self.end, tuple(rows))

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
        """Of the segments."""
        return [self.name(index) for index in self._indexes]

    def append(
        self, base_offset: int, records: int, zxid: Zxid, position: int, time: int, batch: Payload, limits: SegmentLimits | None = None
    ) -> None:
        """Gather a batch of so many records for the next `flush`. Apply has checked its header and given out its base offset.

        Whether it begins a segment hangs on the commands before it alone, so that segments are the same on every node.
        """
        assert base_offset == self.next, "the log holds the batches to which the state gave offsets, in that order, all of them"
        self.next = base_offset + records
        if self._sealed:
            self._sealed, limits = False, _SEALED
        self._gathered.append((Place(base_offset, zxid, position, time, len(batch)), self.next, batch, limits or self._limits))

    def seal(self) -> None:
        """Let the next batch begin a segment: all that is there is about to go, on some nodes before that batch is there, on some after."""
        self._sealed = True

    def flush(self) -> int:
        """Write what was gathered: one write a segment; how many bytes. An OSError is final: file and index may disagree after it."""
        gathered, self._gathered = self._gathered, []
        pieces: list[Payload] = []
        written = 0
        begin = self._indexes[-1].size if self._indexes else 0
        for place, end_offset, batch, limits in gathered:
            if not self._has_room(place, end_offset, limits):
                written += self._write(begin, pieces)
                pieces, begin = [], 0
                self._indexes.append(Index(place.base_offset, place.time))
                name = self.name(self._indexes[-1])
                try:
                    self._disk.create(name)
                except FileExistsError:  # whole or in part, of a transfer that was given up: it is not ours
                    self._disk.unlink(name)
                    self._disk.create(name)
            self._rows(self._indexes[-1]).append(place.base_offset, end_offset, place.zxid, place.time, PREFIX_BYTES + place.length)
            # The head repeats the batch's first 16 bytes, with base offset and leader epoch filled in.
            pieces += (head_of(place), memoryview(batch)[16:])
        return written + self._write(begin, pieces)

    def read(self, offset: int, bytes_max: int, wait: bool = True) -> Payload:
        """Stored batches end to end, from the one that holds `offset`: at least one, then as many as fit into `bytes_max`.

        Fewer where a segment ends; none at the end of the partition. Raises OffsetOutOfRange, Corrupt; Cold, but only if it is not to
        wait for the disk.
        """
        if not self.first <= offset <= self.end:
            text = f"offset {offset:,} is out of range: {self.first:,} is the first, and the next record gets {self.end:,}"
            raise OffsetOutOfRange(text, self.first, self.end)
        if offset == self.end:
            return b""
        index = self._rows(self._indexes[bisect_right(self._indexes, offset, key=_base_offset) - 1], wait)
        number = index.at_offset(offset)
        begin, end = index.row(number).begin, index.run(number, bytes_max)
        if not wait:
            return self._read_now(index, number, begin, end)
        stored = self._disk.read(self.name(index), begin, end - begin)
        if len(stored) != end - begin:
            raise Corrupt(f"segment {self.name(index)} has {begin + len(stored):,} bytes, and {end:,} were written")
        return stored

    def _read_now(self, index: Index, number: int, begin: int, end: int) -> Payload:
        """The batches from row `number` on that are in memory. Raises Cold where not even the first one is."""
        stored = self._disk.read_now(self.name(index), begin, end - begin)
        if len(stored) == end - begin:
            return stored
        whole = index.run(number, len(stored))
        if whole - begin > len(stored):
            raise Cold(self._disk, self.name(index), index, begin, min(end, index.run(number, COLD_BYTES)))
        return bytes(memoryview(stored)[: whole - begin])  # a copy: the rest of what there was room for must not live as long

    def offset_at_time(self, time: int, wait: bool = True) -> int:
        """The base offset of the first batch whose leader time is not below `time`; the end if there is none. Raises Corrupt, Cold."""
        for index in self._indexes[max(0, bisect_left(self._indexes, time, key=_base_time) - 1) :]:
            if (number := self._rows(index, wait).at_time(time)) < len(index):
                return max(self.first, index.row(number).base_offset)
        return self.end

    def offset_at_zxid(self, zxid: Zxid, wait: bool = True) -> int:
        """The base offset of the first batch whose zxid is not below `zxid`; the end if there is none. Raises Corrupt, Cold."""
        for index in self._indexes[max(0, bisect_left(self._indexes, zxid, key=_base_zxid) - 1) :]:
            if (number := self._rows(index, wait).at_zxid(zxid)) < len(index):
                return max(self.first, index.row(number).base_offset)
        return self.end

    def move(self, first: int) -> list[Index]:
        """Nothing below `first` is read from now on. The segments that hold nothing else are forgotten, and returned."""
        self.first = first
        gone = [index for index in self._indexes if index.end_offset <= first]
        self._indexes = self._indexes[len(gone) :]
        return gone

    @property
    def last_time(self) -> int | None:
        """Leader time of the last batch; None if there is none."""
        return self._rows(self._indexes[-1]).last_time if self._indexes else None

    @property
    def indexes(self) -> Sequence[Index]:
        return self._indexes

    def load_last_rows(self) -> None:
        """Raises Corrupt."""
        if self._indexes:
            self._rows(self._indexes[-1])

    def name(self, index: Index) -> str:
        """The file of a segment."""
        return segment_name(self._stem, index.base_offset)

    def _rows(self, index: Index, wait: bool = True) -> Index:
        """The index with its rows, read when they are needed for the first time."""
        if index.unread:
            if not wait:
                raise Cold(self._disk, self.name(index), index)
            index.adopt(rows_of(self._disk, self.name(index), index))
        return index

    def _has_room(self, place: Place, end_offset: int, limits: SegmentLimits) -> bool:
        if not self._indexes:
            return False
        index = self._indexes[-1]
        young = place.time - index.base_time <= limits.ms
        return young and index.size < limits.bytes and index.fits(end_offset, place.time)

    def _write(self, begin: int, pieces: list[Payload]) -> int:
        if not pieces:
            return 0
        size = sum(map(len, pieces))
        index = self._indexes[-1]
        if size < len(pieces) * JOIN_BYTES_MAX:
            together = b"".join(pieces)  # of many batches: no checksum of a batch is that of this
            pieces, crc = [together], crc32c(index.crc, together)
        else:
            crc = index.crc
            for piece in pieces:
                crc = crc32c(crc, bytes(piece)) if size < SUM_BYTES else _summed(crc, piece)
        self._disk.write(self.name(index), begin, pieces)
        index.crc = crc
        self._dirty[index] = self
        return size


def _summed(crc: int, piece: Payload) -> int:
    """The checksum of a segment with this piece, head or batch, behind what it is of now.

    A large piece is a batch from byte 16 on. Nobody proposes one whose own checksum has not been verified; so that is taken, and what may
    have become of the bytes since would be found in the segment.
    """
    if len(piece) < SUM_BYTES:
        return int(crc32c(crc, bytes(piece)))
    ahead = bytes(piece[:_AHEAD_BYTES])
    return joined(crc32c(crc, ahead), int.from_bytes(ahead[1:], "big"), len(piece) - _AHEAD_BYTES)


def _base_offset(index: Index) -> int:
    return index.base_offset


def _base_time(index: Index) -> int:
    return index.base_time


def _base_zxid(index: Index) -> Zxid:
    return index.base_zxid
