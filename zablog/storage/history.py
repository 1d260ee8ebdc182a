"""The log as the node reads it: what was appended lately from memory, the rest from disk.

Entries enter when the core emits them, before they are durable; what is not durable yet stays in memory in any case.
"""

from bisect import bisect_right
from collections import deque
from operator import itemgetter

from zablog.core.trail import Entries, Mark, extend_digest
from zablog.core.zxid import Zxid
from zablog.storage.errors import Trimmed
from zablog.storage.runs import part, slice_run
from zablog.storage.storage import Storage

FIRST = itemgetter(0)
"""The first zxid of a run: where it ends would have to be made anew for each comparison."""


class History:
    """A tail in memory over the log on disk. `memory_bytes` bounds the durable part of the tail."""

    def __init__(self, storage: Storage, memory_bytes: int = 16 << 20) -> None:
        self.storage = storage
        self.memory_bytes = memory_bytes
        self.tail: deque[Entries] = deque()
        self.bytes = 0
        self.durable_last = self.begin = storage.wal.trail.last
        """`begin`: everything above it is in memory."""
        self.begin_digest = storage.wal.trail.digest
        self.base = storage.wal.trail.base.zxid
        """Nothing below is ours to give: a snapshot has taken its place, on disk or before long."""

    def append(self, entries: Entries) -> None:
        """The core has emitted these; they continue the history."""
        self.tail.append(entries)
        self.bytes += entries.size

    def truncate(self, mark: Mark) -> None:
        """The core has given up everything above `mark`."""
        while self.tail and self.tail[-1].last > mark.zxid:
            entries = self.tail.pop()
            self.bytes -= entries.size
            if entries.first <= mark.zxid:
                kept = part(entries, Mark(entries.prev, self.digest_before(entries)), mark.zxid)
                self.tail.append(kept)
                self.bytes += kept.size
        if not self.tail and self.begin > mark.zxid:
            self.begin, self.begin_digest = mark.zxid, mark.digest
        self.durable_last = min(self.durable_last, mark.zxid)

    def install(self, mark: Mark) -> None:
        """The core has put a snapshot in the place of everything."""
        self.tail.clear()
        self.bytes = 0
        self.begin, self.begin_digest = mark
        self.base = mark.zxid

    def digest_before(self, entries: Entries) -> int:
        """The running digest before a run of the tail that has just been taken off its end, or stands in it."""
        before = [run.digest for run in self.tail if run.last == entries.prev]
        return before[0] if before else self.begin_digest

    def durable(self, last: Zxid) -> None:
        """Everything through `last` is on disk: memory may forget it."""
        self.durable_last = max(self.durable_last, last)
        while self.tail and self.bytes > self.memory_bytes and self.tail[0].last <= self.durable_last:
            entries = self.tail.popleft()
            self.bytes -= entries.size
            self.begin, self.begin_digest = entries.last, entries.digest

    def in_memory(self, after: Zxid) -> bool:
        """Is everything above `after` in memory?"""
        return after >= self.begin

    def read(self, after: Zxid, upto: Zxid, bytes_max: int) -> Entries | None:
        """The next entries above `after`, not above `upto`: of one epoch, at least one, about `bytes_max` bytes. None: there are none.

        Reads the disk, hence blocks, unless `in_memory(after)`.
        """
        if after < self.base:
            raise Trimmed(f"the log begins at {self.base}: what stood between {after} and that is in the snapshot")
        if not self.in_memory(after):
            return self.storage.read(after, min(upto, self.durable_last), bytes_max)
        row = bisect_right(self.tail, after, key=FIRST)
        if row and self.tail[row - 1].last > after:
            row -= 1
        if row == len(self.tail) or self.tail[row].first > upto:
            return None
        entries = self.tail[row]
        digest = self.tail[row - 1].digest if row else self.begin_digest
        return slice_run(entries, Mark(entries.prev, digest), after, upto, bytes_max)

    def digest_at(self, zxid: Zxid) -> int:
        """The running digest at `zxid`, a place of the history. Reads the disk unless it is in memory."""
        if zxid == self.begin:
            return self.begin_digest
        if zxid < self.base:
            raise Trimmed(f"the log begins at {self.base}: {zxid} is in the snapshot")
        if zxid < self.begin:
            return self.storage.digest_at(zxid)
        row = bisect_right(self.tail, zxid, key=lambda run: run.last)
        if row and self.tail[row - 1].last == zxid:
            return self.tail[row - 1].digest
        entries = self.tail[row]
        digest = self.tail[row - 1].digest if row else self.begin_digest
        count = zxid.counter - entries.first.counter + 1
        return extend_digest(digest, entries.prev, entries.first, entries.payloads[:count])
