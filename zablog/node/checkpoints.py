"""Checkpoints of a restorable application: its state is written down now and then, and the log below it is let go of.

A checkpoint runs beside everything else. The state is captured between two commands; the application encodes it in slices; one thread
writes the file; the log's writer makes the manifest name it, between two commits. Only then does log go, and what only the older
snapshot needed.
"""

from dataclasses import dataclass, field

import structlog
import trio

from zablog.core.events import Checkpointed
from zablog.core.state import Following, Leading
from zablog.core.trail import Mark
from zablog.core.zxid import Zxid
from zablog.node.application import Restorable
from zablog.node.applier import Applier
from zablog.node.config import NodeConfig
from zablog.node.driver import Driver
from zablog.node.errors import NodeStopped
from zablog.node.transfer import Sender
from zablog.storage.errors import StorageError
from zablog.storage.manifest import Snapshot
from zablog.storage.snapshots import write_snapshot
from zablog.storage.storage import Storage

LOOK_SECONDS = 0.1
"""How often it is looked whether a checkpoint is due."""
WANTED_AFTER_SECONDS = 1.0
WANTED_AFTER_TIMES = 5
"""From one checkpoint to the next that is taken for somebody it takes so long at least, and so many times as long as the last one took."""
WANTED_WAIT_SECONDS = 10.0
"""So long somebody is kept who wants one: less than a peer waits for an answer."""

log = structlog.get_logger("zablog.node")


@dataclass
class Checkpoints:
    """`run` is a task of the node's nursery. `turn` keeps a checkpoint and the fetch of a snapshot apart."""

    config: NodeConfig
    storage: Storage
    driver: Driver
    applier: Applier
    application: Restorable
    sender: Sender
    turn: trio.Lock
    taken: int = 0
    last_seconds: float = 0.0
    """How long the last one took."""
    began: float = field(default_factory=trio.current_time)
    wanted: trio.Event | None = None
    """A peer needs our state as it is now; set once there is a checkpoint of it, or there can be none."""

    async def run(self) -> None:
        """For ever. What fails here is the disk, and stops the node."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            if self.due():
                async with self.turn:
                    if self.due():
                        wanted, self.wanted = self.wanted, None
                        await self.take_or_stop()
                        if wanted is not None:
                            wanted.set()
            elif self.wanted is not None and not self.lacking:
                self.wanted.set()
                self.wanted = None

    @property
    def behind(self) -> Zxid:
        """The place of the last one."""
        last = self.storage.snapshot
        return last.mark.zxid if last else self.storage.wal.trail.base.zxid

    @property
    def lacking(self) -> bool:
        """Is there a state of which there is no checkpoint, and can be one? A damaged one is none: a peer's will take its place."""
        damaged = self.application.damaged is not None and len(self.storage.identity.members) > 1
        return not damaged and not self.applier.held and self.applier.applied > self.behind

    def due(self) -> bool:
        """Has so much been applied since the last one, or so long ago, or does somebody want it?"""
        if not self.lacking:
            return False
        age, soon = trio.current_time() - self.began, max(WANTED_AFTER_SECONDS, WANTED_AFTER_TIMES * self.last_seconds)
        if age >= self.config.checkpoint_seconds or (self.wanted is not None and age >= soon):
            return True
        return self.storage.wal.bytes_above(self.behind) >= self.config.checkpoint_bytes

    async def fresh(self, least: Zxid) -> None:
        """For a peer whose own state is damaged, and may be further than our last checkpoint: where nobody writes, none would ever follow.

        Waits for one at `least` or above, if so much is applied here, but not for ever. Cancelled, it leaves it to be taken.
        """
        last = self.storage.snapshot
        if (last is None or last.mark.zxid < least) and self.applier.applied >= least and self.lacking:
            if self.wanted is None:
                self.wanted = trio.Event()
            with trio.move_on_after(WANTED_WAIT_SECONDS):
                await self.wanted.wait()

    async def take_or_stop(self) -> None:
        try:
            await self.take()
        except (OSError, StorageError) as error:
            self.driver.stop(f"the disk failed during a checkpoint: {error}", error)
            await trio.sleep_forever()
        except NodeStopped:  # whoever ended the node has said why
            await trio.sleep_forever()

    async def take(self) -> None:
        """One checkpoint, from capture to the trimmed log."""
        self.began = began = trio.current_time()
        capture, zxid = self.application.capture(), self.applier.applied
        while self.driver.history.durable_last < zxid:  # a follower may know of a commit before its own disk is through
            self.driver.insist()
            await self.driver.advanced.park()
        pieces = await capture.encode()
        digest = await trio.to_thread.run_sync(self.storage.digest_at, zxid)
        snapshot = await trio.to_thread.run_sync(write_snapshot, self.storage.disk, Mark(zxid, digest), pieces, self.storage.snapshot)
        length = snapshot.length
        del pieces
        await self.name(snapshot)
        await capture.durable()
        self.taken += 1
        self.last_seconds = trio.current_time() - began
        log.info(
            "checkpoint",
            node=self.storage.identity.node,
            zxid=str(zxid),
            bytes=length,
            seconds=round(self.last_seconds, 3),
            log_begins=str(self.storage.wal.trail.base.zxid),
        )

    async def name(self, snapshot: Snapshot) -> None:
        """Let the manifest name it, and the log begin as late as it may; then the core hears of both. Raises NodeStopped."""
        switched = False
        token = trio.lowlevel.current_trio_token()
        watermark = self.driver.peer.state.watermark
        keep_above = self.pinned(snapshot.mark.zxid)

        def switch() -> None:
            """The writer's thread."""
            self.storage.watermark = max(self.storage.watermark, watermark)
            self.storage.checkpoint(snapshot, self.config.keep_bytes, keep_above)
            token.run_sync_soon(done)

        def done() -> None:
            nonlocal switched
            switched = True
            self.driver.wake()

        assert self.driver.writer is not None, "the law that the writer lives as long as its node"
        self.driver.writer.ask(switch)
        while not switched:  # a writer that fails does nothing more, and says so by ending the node
            self.driver.insist()
            await self.driver.advanced.park()
        self.driver.step(Checkpointed(snapshot.mark, self.storage.wal.trail.base))

    def pinned(self, upto: Zxid) -> Zxid:
        """The log above this is wanted by peers that are read to, or fetch a snapshot, unless that is too much."""
        places = [upto, *self.sender.wanted.values()]
        role = self.driver.peer.state.role
        if isinstance(role, Leading):
            reached = (learner.position if learner.position is not None else learner.after for learner in role.learners.values())
            places += [place for place in reached if place is not None]
        elif isinstance(role, Following) and role.met is not None and not role.repaired:  # our history is read to the leader
            places.append(role.given or role.met)
        lowest = min(places)
        return lowest if self.storage.wal.bytes_above(lowest) <= self.config.pin_bytes else upto
