"""Where the batches of one segment are: one row a batch, in memory, found by bisection. Pure.

Offsets, zxids and leader times all grow from row to row (zxids and times may stay), so one set of rows serves every question. A
row costs 24 bytes: offsets and times are kept as distances from the segment's first.

On disk the rows stand in chunks, each with the place where the next begins and a checksum. They are a help, never the truth: whatever
is missing or damaged there is made again from the segment, which describes itself.
"""

from array import array
from bisect import bisect_left, bisect_right
from struct import Struct
from sys import byteorder
from typing import Final, NamedTuple

from google_crc32c import value as crc32c

from zablog.core.zxid import ZERO, Zxid

DISTANCE_MAX = 2**32 - 1
"""What a row can hold: a segment ends before its offsets or times (49 days) reach further."""


_CHUNK: Final = Struct(">IIIQQI")
"""Check, rows, the segment's bytes behind the last of them, the offset there, the base offset of the segment, which byte order."""
_CHECK: Final = Struct(">I")
_NUMBER: Final = Struct("=I")
CHUNK_HEAD_BYTES: Final = _CHUNK.size
ROW_BYTES: Final = 24
_ORDER: Final = {"little": 0x5A31584C, "big": 0x5A315842}[byteorder]


class Row(NamedTuple):
    base_offset: int
    begin: int
    """Where its prefix begins in the segment's file."""
    end: int


class Index:
    """The rows of one segment. `size` is the length of the file that they describe."""

    __slots__ = (
        "_begins",
        "_counters",
        "_epochs",
        "_offsets",
        "_times",
        "base_offset",
        "base_time",
        "base_zxid",
        "captured",
        "crc",
        "end_offset",
        "indexed",
        "size",
        "synced",
        "unread",
    )

    def __init__(self, base_offset: int, base_time: int) -> None:
        self.base_offset = base_offset
        self.base_time = base_time
        self.end_offset = base_offset
        """Behind the last record."""
        self.size = 0
        self.crc = 0
        """CRC-32C of the file."""
        self.synced = 0
        """So much of the file is durable."""
        self.captured = 0
        """So much of the file is in the last capture."""
        self.indexed = 0
        """So many rows stand on disk."""
        self.base_zxid = ZERO
        """Of the first row."""
        self.unread = False
        """The rows are still on disk alone: they are read when they are needed."""
        self._offsets = array("I")
        self._begins = array("I")
        self._epochs = array("I")
        self._counters = array("Q")
        self._times = array("I")

    def __len__(self) -> int:
        return len(self._begins)

    def fits(self, end_offset: int, time: int) -> bool:
        """Could a batch that ends before `end_offset`, of leader time `time`, have a row here?"""
        return end_offset - self.base_offset <= DISTANCE_MAX and 0 <= time - self.base_time <= DISTANCE_MAX

    def append(self, base_offset: int, end_offset: int, zxid: Zxid, time: int, size: int) -> None:
        """The batch of these offsets now takes the next `size` bytes of the file."""
        assert base_offset == self.end_offset < end_offset, "a partition's offsets are given out without gaps"
        self.found(base_offset, zxid, time, size)
        self.end_offset = end_offset

    def found(self, base_offset: int, zxid: Zxid, time: int, size: int) -> None:
        """A batch begins where the last one ends; where its own offsets end is not known yet."""
        if not self.size:
            self.base_zxid = zxid
        self._offsets.append(base_offset - self.base_offset)
        self._begins.append(self.size)
        self._epochs.append(zxid.epoch)
        self._counters.append(zxid.counter)
        self._times.append(time - self.base_time)
        self.size += size

    @property
    def last_time(self) -> int:
        """Leader time of the last row; there is one."""
        return self.base_time + self._times[-1]

    def last_place(self) -> tuple[int, Zxid, int]:
        """Base offset, zxid and leader time of the last row; there is one."""
        return self.base_offset + self._offsets[-1], Zxid(self._epochs[-1], self._counters[-1]), self.last_time

    def row(self, number: int) -> Row:
        begins = self._begins
        end = begins[number + 1] if number + 1 < len(begins) else self.size
        return Row(self.base_offset + self._offsets[number], begins[number], end)

    def at_offset(self, offset: int) -> int:
        """The number of the row whose batch holds `offset`, which lies within the segment."""
        return bisect_right(self._offsets, offset - self.base_offset) - 1

    def at_time(self, time: int) -> int:
        """The number of the first row whose leader time is not below `time`; `len` if there is none."""
        return bisect_left(self._times, max(0, time - self.base_time))

    def at_zxid(self, zxid: Zxid) -> int:
        """The number of the first row whose zxid is not below `zxid`; `len` if there is none."""
        epochs, counters = self._epochs, self._counters
        first, last = bisect_left(epochs, zxid.epoch), bisect_right(epochs, zxid.epoch)
        return bisect_left(counters, zxid.counter, first, last)

    def run(self, number: int, bytes_max: int) -> int:
        """The end, in the file, of as many whole batches from row `number` on as fit into `bytes_max`; at least one."""
        limit = self._begins[number] + bytes_max
        if self.size <= limit:
            return self.size
        following = bisect_right(self._begins, limit, number + 1) - 1
        return self._begins[following] if following > number else self.row(number).end

    @property
    def indexed_size(self) -> int:
        """So many bytes of the segment have their rows on disk."""
        return self._begins[self.indexed] if self.indexed < len(self._begins) else self.size

    # -- on disk ------------------------------------------------------------------------------------------------------------

    def chunk(self) -> bytes:
        """The rows that do not stand on disk yet, which they do from now on."""
        first, self.indexed = self.indexed, len(self._begins)
        columns = b"".join(
            [column[first:].tobytes() for column in (self._counters, self._offsets, self._begins, self._epochs, self._times)]
        )
        head = _CHUNK.pack(0, self.indexed - first, self.size, self.end_offset, self.base_offset, _ORDER)
        return _CHECK.pack(crc32c(head[4:] + columns)) + head[4:] + columns

    def take_chunks(self, raw: bytes, size_max: int) -> int:
        """Append the rows of these chunks, up to `size_max` bytes of the segment; how many bytes of `raw` were whole and of use.

        Each must go on where the one before it ends: two writers may have put theirs there in another order, or the same rows twice.
        """
        at = 0
        while len(raw) - at >= CHUNK_HEAD_BYTES:
            check, rows, size, end_offset, base_offset, order = _CHUNK.unpack_from(raw, at)
            end = at + CHUNK_HEAD_BYTES + rows * ROW_BYTES
            if end > len(raw) or check != crc32c(raw[at + 4 : end]):
                break
            if not rows or base_offset != self.base_offset or order != _ORDER or not self.size < size <= size_max:
                break
            begin = at + CHUNK_HEAD_BYTES
            first_offset, first_begin = (_NUMBER.unpack_from(raw, begin + rows * before)[0] for before in (8, 12))
            if (first_offset, first_begin) != (self.end_offset - self.base_offset, self.size):
                break
            for column in (self._counters, self._offsets, self._begins, self._epochs, self._times):
                column.frombytes(raw[begin : begin + rows * column.itemsize])
                begin += rows * column.itemsize
            self.size, self.end_offset, at = size, end_offset, end
        self.indexed = len(self._begins)
        return at

    def adopt(self, other: "Index") -> None:
        """The rows that were read from disk."""
        assert other.size == self.size and other.end_offset == self.end_offset, "the rows of a segment describe all of it"
        self._offsets, self._begins, self._epochs = other._offsets, other._begins, other._epochs
        self._counters, self._times = other._counters, other._times
        self.indexed = other.indexed
        self.unread = False
