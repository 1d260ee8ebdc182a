"""What of the segments stays in memory: the newest bytes, which consumers read; older ones make room for them.

The system would keep everything it was given to write until memory is short, three copies of it where three nodes share a machine,
and pay for each new page with one that somebody else might still want.
"""

from collections import deque
from typing import Final, NamedTuple

WARM_BYTES: Final = 256 << 20
RANGES_MAX: Final = 10_000
"""What is counted apart. Of a hundred thousand partitions that grow by a few bytes each, less than `WARM_BYTES` stays."""


class Range(NamedTuple):
    """Bytes of a file."""

    name: str
    begin: int
    end: int


class Warm:
    """In the order in which they became durable."""

    __slots__ = ("_bytes", "_bytes_max", "_ranges")

    def __init__(self, bytes_max: int = WARM_BYTES) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._ranges: deque[Range] = deque()

    def add(self, name: str, begin: int, end: int) -> list[Range]:
        """These became durable just now; which ones are no longer among the newest."""
        self._ranges.append(Range(name, begin, end))
        self._bytes += end - begin
        old: list[Range] = []
        while self._bytes > self._bytes_max or len(self._ranges) > RANGES_MAX:
            old.append(self._ranges.popleft())
            self._bytes -= old[-1].end - old[-1].begin
        return old
