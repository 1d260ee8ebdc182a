"""The log read to peers: what is in memory at once, the rest from the disk in a thread, at the link's own pace."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from zablog.core.effects import Stream
from zablog.core.events import DigestRead, Link, Streamed
from zablog.core.messages import Propose
from zablog.core.zxid import ZERO, Zxid
from zablog.storage.errors import StorageError, Trimmed

if TYPE_CHECKING:
    from zablog.node.driver import Driver

STREAM_BYTES = 1 << 20
"""One Propose of a stream."""
STREAM_ROUND_BYTES = 16 << 20
"""After so much the core is told how far a stream has come: it counts as progress."""

Read = TypeVar("Read")


class Streams:
    """Performs the driver's effects that read the log; what they come to is an event."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def stream(self, effect: Stream) -> None:
        """What is in memory goes at once, so that a learner that has nearly caught up does; the rest at the link's own pace."""
        driver, after = self.driver, effect.after
        if driver.history.in_memory(after):
            while after < effect.upto:
                entries = driver.history.read(after, effect.upto, STREAM_BYTES)
                assert entries is not None, "the law that a stream reads our own log"
                after = entries.last
                if not driver.links.send(effect.link, Propose(effect.epoch, entries, ZERO)):
                    break
            if after == effect.upto:
                driver.events.append(Streamed(effect.link, after))
                return
        driver.nursery.start_soon(self.stream_slowly, effect, after, driver.generation)

    async def stream_slowly(self, effect: Stream, after: Zxid, generation: int) -> None:
        """One round of a stream: it ends with word of how far it came, or with its link or role."""
        driver, link, sent = self.driver, effect.link, 0
        while after < effect.upto and sent < STREAM_ROUND_BYTES:
            await driver.links.room(link)
            if not driver.wanted(link, generation):
                return
            if driver.history.in_memory(after):
                entries = driver.history.read(after, effect.upto, STREAM_BYTES)
            else:
                upto = min(effect.upto, driver.history.durable_last)
                entries = await self.from_disk(generation, partial(driver.history.storage.read, after, upto, STREAM_BYTES))
            if entries is None or not driver.wanted(link, generation):
                break
            driver.links.send(link, Propose(effect.epoch, entries, ZERO))
            after, sent = entries.last, sent + entries.size
        if driver.wanted(link, generation):
            driver.step(Streamed(link, after))

    async def digest(self, link: Link, zxid: Zxid, generation: int) -> None:
        driver = self.driver
        if not driver.wanted(link, generation):
            return
        if driver.history.in_memory(zxid):
            digest: int | None = driver.history.digest_at(zxid)
        else:
            digest = await self.from_disk(generation, partial(driver.history.storage.digest_at, zxid))
        if digest is not None and driver.wanted(link, generation):
            driver.step(DigestRead(link, zxid, digest))

    async def from_disk(self, generation: int, read: Callable[[], Read]) -> Read | None:
        """Read the log in a thread; it sees the disk alone, never the tail in memory, which is the event loop's.

        None if the log cannot be read: the node stops for it, unless the role has ended and the log was cut under the reader.
        """
        try:
            return await trio.to_thread.run_sync(read)
        except Trimmed:  # whom it was for has been dropped, and comes back for the snapshot
            return None
        except (StorageError, OSError) as error:
            if generation == self.driver.generation:
                self.driver.stop(f"the log cannot be read: {error}", error)
            return None
