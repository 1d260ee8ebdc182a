"""A log described by where it has been: the history in memory, without its payloads.

Counters are contiguous within an epoch, so a base and one row an epoch say exactly which zxids a log holds. That is enough for
every question of synchronization: membership, the truncation point, the range of a DIFF. Memory does not grow with the log.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from xxhash import xxh3_64_intdigest

from zablog.core.zxid import ZERO, Zxid

Payload = bytes | bytearray | memoryview


class _Run(NamedTuple):
    first: Zxid
    prev: Zxid
    payloads: Sequence[Payload]
    digest: int
    last: Zxid
    size: int


class Entries(_Run):
    """A run of successive log entries of one epoch: what is proposed, appended, streamed and stored together.

    `prev` is the zxid of the entry before `first` (an epoch boundary cannot be told from a gap without it). `digest` is the
    running digest of the whole history through the last of these entries. `last` (a zxid) and `size` (payload bytes) follow from the rest;
    each is asked for a dozen times, so they are worked out once.
    """

    __slots__ = ()

    def __new__(cls, first: Zxid, prev: Zxid, payloads: Sequence[Payload], digest: int) -> Self:
        last = Zxid(first.epoch, first.counter + len(payloads) - 1)
        return tuple.__new__(cls, (first, prev, payloads, digest, last, sum(map(len, payloads))))

    def __getnewargs__(self) -> tuple[Zxid, Zxid, Sequence[Payload], int]:  # of the constructor, not of the tuple
        return self[:4]

    def _replace(self, **changes: Any) -> Self:  # Any: as the named tuple has it
        given = {"first": self.first, "prev": self.prev, "payloads": self.payloads, "digest": self.digest}
        return type(self)(**{**given, **changes})


def extend_digest(digest: int, prev: Zxid, first: Zxid, payloads: Iterable[Payload]) -> int:
    """The running digest (64 bits) after `payloads`, given the one at `prev`.

    Each payload is hashed with the digest so far as its seed; the first entry of an epoch folds the epoch's number in, so
    that equal payloads under other zxids give another digest.
    """
    if first.epoch != prev.epoch:
        digest = xxh3_64_intdigest(first.epoch.to_bytes(8, "big"), digest)
    for payload in payloads:
        digest = xxh3_64_intdigest(payload, digest)
    return digest


class Mark(NamedTuple):
    """A place in a history and the running digest there."""

    zxid: Zxid
    digest: int


ORIGIN: Final = Mark(ZERO, 0)
"""Where every history begins."""


@dataclass(slots=True)
class Trail:
    """`base` is where the log begins (its zxid is not an entry of the log); `ends` the last entry of each epoch, ascending."""

    base: Mark = ORIGIN
    ends: list[Mark] = field(default_factory=list)
    last: Zxid = field(init=False)
    """The zxid of the last entry, or of the base. Kept, since nothing is asked for as often."""

    def __post_init__(self) -> None:
        self.last = self.ends[-1].zxid if self.ends else self.base.zxid

    @property
    def end(self) -> Mark:
        """The last entry, or the base, and the running digest there."""
        return self.ends[-1] if self.ends else self.base

    @property
    def digest(self) -> int:
        """The running digest at `last`."""
        return self.ends[-1].digest if self.ends else self.base.digest

    def follows(self, entries: Entries) -> bool:
        """Do these entries continue this very history: no gap, no overlap, and the digest they claim?"""
        first, last = entries.first, self.last
        contiguous = (first.epoch == last.epoch and first.counter == last.counter + 1) or (first.epoch > last.epoch and first.counter == 1)
        return (
            contiguous
            and bool(entries.payloads)
            and entries.prev == last
            and extend_digest(self.digest, last, first, entries.payloads) == entries.digest
        )

    def append(self, entries: Entries) -> None:
        """Move the end. The caller has checked `follows`, or made the entries itself."""
        mark = Mark(entries.last, entries.digest)
        if self.ends and self.ends[-1].zxid.epoch == mark.zxid.epoch:
            self.ends[-1] = mark
        else:
            self.ends.append(mark)
        self.last = mark.zxid

    def __contains__(self, zxid: Zxid) -> bool:
        """Is there an entry of this zxid, or is it the base?"""
        base, last = self.base.zxid, self.last
        if zxid.epoch == last.epoch and zxid.counter <= last.counter:  # nearly always it is the last epoch that is asked for
            return zxid.counter >= base.counter if base.epoch == zxid.epoch else zxid.counter > 0
        return zxid == base or (zxid > base and zxid.counter > 0 and self.floor(zxid) == zxid)

    def floor(self, zxid: Zxid) -> Zxid:
        """The largest place of this history, base included, that is not above `zxid` (which is not below the base)."""
        row = bisect_left(self.ends, zxid.epoch, key=lambda mark: mark.zxid.epoch)
        if row < len(self.ends) and self.ends[row].zxid.epoch == zxid.epoch:
            first = self.base.zxid.counter + 1 if self.base.zxid.epoch == zxid.epoch else 1
            if zxid.counter >= first:
                return min(zxid, self.ends[row].zxid)
        return self.ends[row - 1].zxid if row else self.base.zxid

    def digest_at(self, zxid: Zxid) -> int | None:
        """The running digest there if it is known without the disk: at the base and at the last entry of each epoch."""
        if zxid == self.base.zxid:
            return self.base.digest
        row = bisect_left(self.ends, zxid.epoch, key=lambda mark: mark.zxid.epoch)
        if row < len(self.ends) and self.ends[row].zxid == zxid:
            return self.ends[row].digest
        return None

    def truncate(self, mark: Mark) -> None:
        """Forget everything above `mark`, a place of this history."""
        while self.ends and self.ends[-1].zxid > mark.zxid:
            self.ends.pop()
        self.last = self.ends[-1].zxid if self.ends else self.base.zxid
        if mark.zxid > self.last:
            self.ends.append(mark)
            self.last = mark.zxid

    def rebase(self, mark: Mark) -> None:
        """Let the log begin at `mark`, a place of this history."""
        assert mark.zxid in self, "the law that a log begins at a place of its history"
        ends = [end for end in self.ends if end.zxid > mark.zxid]
        self.base = mark  # first: a reader in another thread that misses an end sees that it was let go of
        self.ends = ends

    def copy(self) -> "Trail":
        return Trail(self.base, list(self.ends))
