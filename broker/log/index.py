"""Where the batches of one segment are: one row a batch, in memory, found by bisection. Pure.

Offsets, zxids and leader times all grow from row to row (zxids and times may stay), so one set of rows serves every question. A
row costs 28 bytes: offsets and times are kept as distances from the segment's first.
"""

from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

from zablog.core.zxid import Zxid

DISTANCE_MAX = 2**32 - 1
"""What a row can hold: a segment ends before its offsets or times (49 days) reach further."""


class Row(NamedTuple):
    base_offset: int
    begin: int
    """Where its prefix begins in the segment's file."""
    end: int


class Index:
    """The rows of one segment. `size` is the length of the file that they describe."""

    __slots__ = ("_begins", "_counters", "_epochs", "_offsets", "_times", "base_offset", "base_time", "end_offset", "size")

    def __init__(self, base_offset: int, base_time: int) -> None:
        self.base_offset = base_offset
        self.base_time = base_time
        self.end_offset = base_offset
        """Behind the last record."""
        self.size = 0
        self._offsets = array("I")
        self._begins = array("I")
        self._epochs = array("I")
        self._counters = array("Q")
        self._times = array("I")

    def __len__(self) -> int:
        return len(self._begins)

    def base_zxid(self) -> Zxid:
        """Of the first row; there is one."""
        return Zxid(self._epochs[0], self._counters[0])

    def fits(self, end_offset: int, time: int) -> bool:
        """Could a batch that ends before `end_offset`, of leader time `time`, have a row here?"""
        return end_offset - self.base_offset <= DISTANCE_MAX and 0 <= time - self.base_time <= DISTANCE_MAX

    def append(self, base_offset: int, end_offset: int, zxid: Zxid, time: int, size: int) -> None:
        """The batch of these offsets now takes the next `size` bytes of the file."""
        assert base_offset == self.end_offset < end_offset, "a partition's offsets are given out without gaps"
        self._offsets.append(base_offset - self.base_offset)
        self._begins.append(self.size)
        self._epochs.append(zxid.epoch)
        self._counters.append(zxid.counter)
        self._times.append(time - self.base_time)
        self.end_offset = end_offset
        self.size += size

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
