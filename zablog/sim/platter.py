"""The disk of a puppet: what a crash leaves, as a value. One durable operation makes another of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from zablog.core.effects import Append, DurableEffect, Install, SaveEpochs, Truncate
from zablog.core.trail import ORIGIN, Entries, Mark, Trail
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.sim.image import Image


class Entry(NamedTuple):
    """One entry of a log, with the running digest through it."""

    zxid: Zxid
    payload: bytes
    digest: int


Log = tuple[Entry, ...]
Content = tuple[tuple[Zxid, bytes], ...]
"""The state at some place: all that was delivered through there."""


@dataclass(frozen=True, slots=True)
class Platter:
    """What a crash leaves: promises, a snapshot at `base`, and the log above it.

    `hint` is known to be committed, as of the last batch that was written.
    """

    accepted: Epoch
    current: Epoch
    log: Log = ()
    hint: Zxid = ZERO
    base: Mark = ORIGIN
    content: Content = ()

    def after(self, effect: DurableEffect, watermark: Zxid, staged: Content) -> Platter:
        """One durable operation later."""
        match effect:
            case Append(_, entries):
                known = min(watermark, entries.last) if watermark.epoch <= entries.last.epoch else self.hint  # as `Storage.hint`
                return replace(self, log=extended(self.log, entries), hint=known)
            case Truncate(_, mark):
                return replace(self, log=cut(self.log, mark))
            case SaveEpochs(_, accepted, current):
                return replace(self, accepted=accepted, current=current)
            case Install(_, mark):
                return replace(self, log=(), hint=mark.zxid, base=mark, content=staged)

    @property
    def snapshot(self) -> Mark | None:
        return self.base if self.content else None

    def checkpointed(self, mark: Mark, content: Content) -> Platter:
        """With a snapshot, and without the log below it."""
        return replace(self, log=above(self.log, mark), hint=max(self.hint, mark.zxid), base=mark, content=content)


def extended(log: Log, entries: Entries) -> Log:
    """Entries come one at a time, so that each has its own digest."""
    (payload,) = entries.payloads
    return (*log, Entry(entries.last, bytes(payload), entries.digest))


def cut(log: Log, mark: Mark) -> Log:
    return tuple(entry for entry in log if entry.zxid <= mark.zxid)


def above(log: Log, mark: Mark) -> Log:
    return tuple(entry for entry in log if entry.zxid > mark.zxid)


def trail_of(base: Mark, log: Log) -> Trail:
    trail = Trail(base)
    for entry in log:
        trail.append(Entries(entry.zxid, trail.last, (entry.payload,), entry.digest))
    return trail


@lru_cache(10_000)
def image_of(disk: Platter) -> Image:
    """As checkers look at it; nobody changes it."""
    return Image(disk.accepted, disk.current, trail_of(disk.base, disk.log))
