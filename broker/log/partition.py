"""One partition on disk: its segments in order, each a file of bounded size with its index.

Appends are gathered and written by `flush`, one write a segment. What is not flushed cannot be read: `end` is the end of what can.
Nothing is synced here; the write-ahead log is the truth, and segments are made from it.
"""

from bisect import bisect_right
from typing import Final

from broker.errors import OffsetOutOfRange
from broker.log.index import Index
from broker.log.stored import PREFIX_BYTES, Place, head_of
from zablog.core.trail import Payload
from zablog.core.zxid import Zxid
from zablog.storage.disk import Disk

SEGMENT_BYTES_MAX: Final = 64 << 20
"""A segment that has reached this size takes no more batches."""


class Partition:
    """Use `Log`. Not safe for several threads."""

    __slots__ = ("_disk", "_gathered", "_gathered_at", "_indexes", "_stem", "_time", "first", "segment_bytes_max")

    def __init__(self, disk: Disk, stem: str, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> None:
        self._disk = disk
        self._stem = stem
        """The beginning of its files' names."""
        self.segment_bytes_max = segment_bytes_max
        self.first = 0
        """The first offset that can be read."""
        self._indexes: list[Index] = []
        self._gathered: list[Payload] = []
        self._gathered_at = 0
        """What the next flush writes, and where in the last segment."""
        self._time = 0

    @property
    def end(self) -> int:
        """The offset behind the last record that can be read."""
        return self._indexes[-1].end_offset if self._indexes else self.first

    @property
    def bytes(self) -> int:
        return sum(index.size for index in self._indexes)

    @property
    def files(self) -> list[str]:
        return [self._name(index) for index in self._indexes]

    def append(self, base_offset: int, records: int, zxid: Zxid, position: int, time: int, batch: Payload) -> None:
        """Gather one batch for the next `flush`. Its base offset is the partition's end; its header was checked at apply."""
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError

    def _name(self, index: Index) -> str:
        return f"{self._stem}-{index.base_offset:020d}.segment"
