"""A restorable application becomes what a snapshot says: at the start from our own disk, later from the leader's.

While a snapshot is on its way nothing is applied and no checkpoint is taken. Until the writer has put it in the place of our history
everything of ours stands whole, and a crash finds it so; from then on a crash finds the snapshot.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
import trio

from zablog.core.events import Link, Staged
from zablog.core.trail import Mark
from zablog.core.zxid import ZERO
from zablog.node.application import Restorable
from zablog.node.applier import Applier
from zablog.node.driver import Driver
from zablog.node.errors import NodeStopped
from zablog.node.transfer import DiskFailed, Fetcher, TransferFailed
from zablog.storage.errors import Corrupt
from zablog.storage.manifest import Snapshot
from zablog.storage.storage import Storage
from zablog.transport.ends import BROKEN, broken
from zablog.transport.errors import HandshakeFailed
from zablog.transport.network import Network
from zablog.wire.errors import WireError
from zablog.wire.transfer import Ask, Seek

MEND_SECONDS = 0.2
"""Between two tries to have a damaged state restored by a peer."""

log = structlog.get_logger("zablog.node")


@dataclass
class Restoration:
    """One for the node."""

    storage: Storage
    driver: Driver
    applier: Applier
    application: Restorable
    network: Network
    turn: trio.Lock
    """Held while a snapshot is fetched or a checkpoint taken."""
    name: Callable[[Snapshot], Awaitable[None]]
    """Let the manifest name a snapshot of a place of our own log."""
    missing: str | None = None
    """Why the application is not what it was: until it is restored from a peer, nothing is applied."""
    fetching: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def restore_own(self) -> None:
        """At the start. What is damaged is restored from a peer later; see `mend`."""
        snapshot = self.storage.snapshot
        if snapshot is None:
            await self.application.restore(ZERO, None)
            return
        try:
            raw = await trio.to_thread.run_sync(self.storage.read_snapshot)
            await self.application.restore(snapshot.mark.zxid, raw)
        except Corrupt as error:
            if len(self.storage.identity.members) == 1:
                raise
            self.missing = str(error)
            self.applier.hold()
            log.error("the state is damaged; a peer's will be taken", node=self.storage.identity.node, reason=self.missing)

    async def mend(self) -> None:
        """For ever: when the application is damaged, restore it from a peer's snapshot of a place of our own log, and go on from there.

        Our log is whole, so our votes stand all the while.
        """
        told = ""
        while True:
            await trio.sleep(MEND_SECONDS)
            damage = self.missing or self.application.damaged
            if damage is None:
                continue
            for link in sorted(self.driver.live_links, key=lambda link: link.peer):
                async with self.turn:
                    try:
                        await self.restore_from(link)
                        self.missing = None
                        log.warning("restored from a peer", node=self.storage.identity.node, peer=link.peer, damage=damage)
                        break
                    except DiskFailed as error:
                        self.driver.stop(f"the disk failed while the state was being restored: {error}", error)
                        await trio.sleep_forever()
                    except NodeStopped:  # whoever ended the node has said why
                        await trio.sleep_forever()
                    except (TransferFailed, HandshakeFailed, WireError, Corrupt, trio.TooSlowError, *BROKEN) as error:
                        if str(error) != told:
                            told = str(error)
                            log.warning("not restored", node=self.storage.identity.node, peer=link.peer, reason=told)
                    finally:
                        if self.missing is None and self.applier.held:
                            self.applier.release()

    async def restore_from(self, link: Link) -> None:
        """One try. Raises what a transfer raises, and Corrupt."""
        async with self.network.fetching(link.peer) as (ends, reader):
            own, base = self.storage.snapshot, self.driver.peer.state.trail.base.zxid
            least = max(base, own.mark.zxid) if own is not None else base
            snapshot, raw = await Fetcher(self.storage, self.application, Seek(least), self.holds_for).run(ends, reader)
        zxid, digest = snapshot.mark
        if await trio.to_thread.run_sync(self.storage.digest_at, zxid) != digest:
            raise TransferFailed(f"its snapshot at {zxid} is of another history than ours")
        with trio.CancelScope(shield=True):
            await self.name(snapshot)
            await self.application.restore(zxid, raw)
            self.applier.release(zxid)

    def holds_for(self, mark: Mark) -> bool:
        """Is this a committed place of our own log, not below its beginning or our own snapshot? Then nothing is applied from now on.

        Not sooner: a leader that waits for its peers to have a snapshot goes on leading.
        """
        state = self.driver.peer.state
        if mark.zxid not in state.trail or mark.zxid > min(state.watermark, self.driver.history.durable_last):
            return False
        self.applier.hold()
        return True

    def begin(self, link: Link, mark: Mark) -> None:
        """The core wants the leader's snapshot."""
        self.give_up()
        self.fetching = trio.CancelScope()
        self.driver.nursery.start_soon(self.fetch, link, mark, self.driver.generation, self.fetching)

    def give_up(self) -> None:
        """The role for which it was wanted has ended."""
        self.fetching.cancel()

    async def fetch(self, link: Link, mark: Mark, generation: int, scope: trio.CancelScope) -> None:
        """Fetch it and have it installed; or drop the link, so that it is offered again."""
        node = self.storage.identity.node
        reason: str | None = None
        with scope:
            async with self.turn:
                self.applier.hold()
                try:
                    await self.fetch_and_install(link, mark, generation)
                except DiskFailed as error:
                    self.driver.stop(f"the disk failed while a snapshot was being fetched: {error}", error)
                except (TransferFailed, HandshakeFailed, WireError) as error:
                    reason = str(error)
                except trio.TooSlowError:
                    reason = "the leader did not answer in time"
                except BROKEN as error:
                    reason = broken(error)
                finally:
                    if self.missing is None and self.applier.held:
                        self.applier.release()
        if reason is not None and self.driver.wanted(link, generation):
            log.warning("no snapshot came", node=node, peer=link.peer, zxid=str(mark.zxid), reason=reason)
            self.driver.drop(link, f"its snapshot at {mark.zxid} did not come: {reason}")

    async def fetch_and_install(self, link: Link, mark: Mark, generation: int) -> None:
        driver = self.driver
        async with self.network.fetching(link.peer) as (ends, reader):
            began = trio.current_time()
            fetcher = Fetcher(self.storage, self.application, Ask(mark))
            snapshot, raw = await fetcher.run(ends, reader)
            if not driver.wanted(link, generation):
                return
            log.info(
                "snapshot fetched",
                node=self.storage.identity.node,
                peer=link.peer,
                zxid=str(mark.zxid),
                fetched_bytes=fetcher.fetched_bytes,
                kept_bytes=fetcher.kept_bytes,
                seconds=round(trio.current_time() - began, 3),
            )
            self.storage.staged = snapshot
            driver.step(Staged(link, mark))
            if driver.installing is None:
                return  # the core had given it up
            # From here on there is no way back, whatever becomes of the link and the role.
            with trio.CancelScope(shield=True):
                while driver.installing is not None and driver.ended is None:
                    await driver.advanced.park()
            if driver.ended is None:
                with trio.CancelScope(shield=True):
                    try:
                        await self.application.restore(mark.zxid, raw)
                    except NodeStopped:
                        raise
                    except Exception as error:
                        driver.stop(f"the application could not restore the snapshot at {mark.zxid}: {error!r}", error)
                        return
                self.missing = None
                self.applier.release(mark.zxid)
