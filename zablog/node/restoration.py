"""A restorable application becomes what a snapshot says: at the start from our own disk, later from the leader's.

While a snapshot is on its way nothing is applied and no checkpoint is taken. Until the writer has put it in the place of our history
everything of ours stands whole, and a crash finds it so; from then on a crash finds the snapshot.
"""

from dataclasses import dataclass, field

import structlog
import trio

from zablog.core.events import Link, Staged
from zablog.core.trail import Mark
from zablog.core.zxid import ZERO
from zablog.node.application import Restorable
from zablog.node.applier import Applier
from zablog.node.driver import Driver
from zablog.node.transfer import DiskFailed, Fetcher, TransferFailed
from zablog.storage.storage import Storage
from zablog.transport.ends import BROKEN, broken
from zablog.transport.errors import HandshakeFailed
from zablog.transport.network import Network
from zablog.wire.errors import WireError

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
    fetching: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def restore_own(self) -> None:
        """At the start. Raises Corrupt."""
        snapshot = self.storage.snapshot
        if snapshot is None:
            await self.application.restore(ZERO, None)
            return
        raw = await trio.to_thread.run_sync(self.storage.read_snapshot)
        await self.application.restore(snapshot.mark.zxid, raw)

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
                    if self.applier.held:
                        self.applier.release()
        if reason is not None and self.driver.wanted(link, generation):
            log.warning("no snapshot came", node=node, peer=link.peer, zxid=str(mark.zxid), reason=reason)
            self.driver.drop(link, f"its snapshot at {mark.zxid} did not come: {reason}")

    async def fetch_and_install(self, link: Link, mark: Mark, generation: int) -> None:
        driver = self.driver
        async with self.network.fetching(link.peer) as (ends, reader):
            began = trio.current_time()
            fetcher = Fetcher(self.storage, self.application, mark)
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
                    except Exception as error:
                        driver.stop(f"the application could not restore the snapshot at {mark.zxid}: {error!r}", error)
                        return
                self.applier.release(mark.zxid)
