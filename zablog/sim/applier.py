"""What a simulated node does with what is delivered, if it has an application: applies it, takes checkpoints, restores what is damaged.

The twin of `zablog.node.applier`, `checkpoints` and `restoration`, in virtual time. The application's files lie on the node's disk, so
between any two operations of it the process may die or the power fail. A checkpoint is under way for a while, with commands applied
meanwhile; while a snapshot is being fetched, or waits to be installed, nothing is applied.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator
from typing import TYPE_CHECKING

import google_crc32c

from zablog.core.events import Checkpointed
from zablog.core.trail import Mark
from zablog.core.zxid import ZERO, Zxid
from zablog.sim.application import Application, Work
from zablog.sim.disk import PowerLost
from zablog.sim.snapshots import application_of, bytes_of
from zablog.storage.errors import Corrupt, StorageError, StorageFailed
from zablog.storage.snapshots import Unlike, gathered, write_snapshot

if TYPE_CHECKING:
    from zablog.sim.node import Node

LOOK = 20_000
"""So often it is looked whether there is something to flush, to verify or to mend."""
LATER = 10_000
FILES = "topics"
"""The directory of an application's files, below the node's."""
STEPS_MAX = 8
"""So many steps of a checkpoint are done in one go at most."""
KEEP_BYTES = (0, 0, 500, 100_000)

Steps = Generator[Work | None, None, None]


class Applier:
    """That of one life. So many of `node.delivered` are applied."""

    def __init__(self, node: Node, application: Application) -> None:
        self.node = node
        self.life = node.life
        self.schedule, self.random = node.schedule, node.random
        self.application = application
        self.applied = 0
        self.missing: str | None = None
        """Why the application is not what it was: nothing is applied, and nobody served, before it is restored from a peer."""
        self.installing: tuple[int, int, bytes] | None = None
        """A snapshot that takes the place of everything once it is durable: the token, how much it delivers, the application's part."""
        self.taking = False
        """Is a checkpoint under way?"""

    @property
    def alive(self) -> bool:
        return self.node.running and self.node.life == self.life

    @property
    def fetching(self) -> bool:
        transfer = self.node.transfer
        return transfer is not None and transfer.begun and transfer.wanted

    @property
    def held(self) -> bool:
        """Nothing is applied now."""
        return self.missing is not None or self.installing is not None or self.fetching

    @property
    def busy(self) -> bool:
        """Checkpoints and fetches take turns."""
        return self.taking or self.installing is not None or self.fetching

    @property
    def idle(self) -> bool:
        """Is there nothing to be done?"""
        return not self.held and self.application.damaged is None and self.applied == len(self.node.delivered)

    # -- from the node ------------------------------------------------------------------------------------------------------

    def begin(self, raw: bytes | None) -> None:
        """At the start of a life: our own snapshot, if there is one. Raises OSError, PowerLost."""
        delivered = self.node.delivered
        self.schedule.at(self.random.randint(1, LOOK), self.look)
        try:
            self.restore(len(delivered), application_of(raw) if raw is not None else None)
        except Corrupt as error:
            self.node.invariants.state_damaged(self.node, str(error))
            self.missing = str(error)
            self.schedule.say(f"{self.node.id} has a damaged state: {error}")

    def install(self, token: int, raw: bytes) -> None:
        """The leader's snapshot takes the place of our log; ours stays whole until that is durable."""
        self.installing = (token, len(self.node.delivered), raw)

    def durable(self, token: int) -> None:
        if self.installing is not None and token >= self.installing[0]:
            self.schedule.at(self.random.randint(1, 5_000), self.installed)

    def installed(self) -> None:
        if not self.alive or self.installing is None:
            return
        if self.node.paused is not None:
            self.schedule.at(LATER, self.installed)
            return
        _, count, raw = self.installing
        try:
            if not self.on_disk(lambda: self.restore(count, raw)):
                return
        except Corrupt as error:
            self.node.invariants.state_damaged(self.node, str(error))
            self.schedule.say(f"{self.node.id} stops: the snapshot cannot be restored: {error}")
            self.node.die(power_loss=False)
            return
        self.installing = self.missing = None
        self.on_disk(self.catch_up)

    def catch_up(self) -> None:
        """Apply what is delivered. Raises OSError, PowerLost."""
        delivered = self.node.delivered
        if self.held or self.applied == len(delivered):
            return
        while self.applied < len(delivered):
            self.application.apply(*delivered[self.applied])
            self.applied += 1
        self.application.applied()

    def restore(self, count: int, raw: bytes | None) -> None:
        """Become what was captured after so many deliveries. Raises Corrupt, OSError, PowerLost."""
        self.application.restore(self.node.delivered[count - 1][0] if count else ZERO, raw)
        self.applied = count
        self.application.settle()
        if (words := self.application.check(restored=True)) is not None:
            self.node.invariants.state_damaged(self.node, words)

    def on_disk(self, work: Work) -> bool:
        """Whatever fails there is the end of this life: True if nothing did."""
        try:
            work()
        except PowerLost:
            self.node.die(self.node.troubles.power_fails)
        except FileExistsError as error:  # no disk says that by itself
            raise AssertionError(f"the law that who makes a file knows that it is not there: {error}") from error
        except (OSError, StorageFailed) as error:
            self.schedule.say(f"{self.node.id} stops: {error}")
            self.node.die(power_loss=False)
        return self.alive

    # -- now and then -------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Apply what had to wait, flush, scrub, mend."""
        if not self.alive:
            return
        self.schedule.at(LOOK, self.look)
        if self.node.paused is not None or not self.on_disk(self.catch_up):
            return
        if not self.busy and self.missing is None and self.random.random() < 0.3:
            for work in self.application.flush():
                if work is not None and not self.on_disk(work):
                    return
        if self.missing is None and self.random.random() < 0.2:
            if not self.on_disk(self.application.settle):
                return
            self.scrub()
        if not self.busy and (self.missing or self.application.damaged) is not None:
            self.mend()

    def scrub(self) -> None:
        """Are the files still what was written?"""
        words = self.application.check()
        if words is None and self.application.damaged is None and self.named_is_whole():
            self.node.invariants.decayed.discard(self.node.id)
        elif words is not None:
            self.node.invariants.state_damaged(self.node, words)
            self.application.damaged = words

    def named_is_whole(self) -> bool:
        """What was let go of since the last checkpoint is of no use but to a restart, which may find the rot in it."""
        snapshot, files = self.node.storage.snapshot, self.application.disk
        if snapshot is None:
            return True
        parts = self.application.parts(application_of(bytes(self.node.disk.file(snapshot.name).now)))
        return all(
            files.exists(part.name) and google_crc32c.value(bytes(files.file(part.name).now[: part.length])) == part.crc for part in parts
        )

    # -- checkpoints --------------------------------------------------------------------------------------------------------

    def take(self) -> bool:
        """Begin a checkpoint of everything applied. False if there is nothing to be said, or no time for it."""
        last = self.node.storage.snapshot
        if self.busy or self.held or self.application.damaged or not self.applied or (last is not None and self.end <= last.mark.zxid):
            return False
        self.taking = True
        self.go_on(self.checkpoint(), self.random.choice((300, 3_000, 3_000, 30_000)))
        return True

    @property
    def end(self) -> Zxid:
        return self.node.delivered[self.applied - 1][0]

    def go_on(self, steps: Steps, micros: int) -> None:
        """Some more steps of a checkpoint, and then the others."""
        if not self.alive:
            return
        if self.node.paused is None:
            for _ in range(self.random.randint(1, STEPS_MAX)):
                if not self.on_disk(lambda: self.step(steps)):
                    return
                if not self.taking:
                    return
        self.schedule.at(self.random.randint(1, micros), self.go_on, steps, micros)

    def step(self, steps: Steps) -> None:
        try:
            work = next(steps)
        except StopIteration:
            self.taking = False
        else:
            if work is not None:
                work()

    def checkpoint(self) -> Steps:
        node, storage, count, zxid = self.node, self.node.storage, self.applied, self.end
        capture = self.application.capture()
        pieces = yield from capture.encoded()
        while zxid not in storage.wal.trail:  # a follower may know of a commit before its own disk is through
            yield None
        mark = Mark(zxid, storage.digest_at(zxid))
        raw = bytes_of(node.delivered[:count], b"".join(pieces))
        written = write_snapshot(storage.disk, mark, [raw], storage.snapshot)
        yield None

        def switch() -> None:
            storage.watermark = max(storage.watermark, zxid)
            storage.checkpoint(written, self.random.choice(KEEP_BYTES))

        if node.on_disk(switch):
            node.invariants.checkpoints += 1
            self.schedule.say(f"{node.id} has a checkpoint at {zxid}, its log begins at {storage.trail.base.zxid}")
            node.step(Checkpointed(mark, storage.trail.base))
            yield None
            yield capture.over

    # -- restoring from a peer ----------------------------------------------------------------------------------------------

    def mend(self) -> None:
        """Restore the state from the snapshot of a peer at a place of our own log, and go on from there. Our log is whole all the while."""
        node = self.node
        peers = [peer for peer in node.invariants.nodes if peer is not node and reachable(node, peer) and self.of_use(peer)]
        if not peers:
            self.want_checkpoints()
            return
        peer = self.random.choice(peers)
        snapshot = peer.storage.snapshot
        assert snapshot is not None, "the law that what is of use is there"
        zxid = snapshot.mark.zxid
        try:
            raw = peer.storage.read_snapshot()
        except (StorageError, OSError):
            node.invariants.unread += 1
            return

        def work() -> None:
            if node.storage.digest_at(zxid) != snapshot.mark.digest:
                raise Unlike(f"its snapshot at {zxid} is of another history than ours")
            take_parts(node, peer, raw)
            written = write_snapshot(node.storage.disk, snapshot.mark, [raw], node.storage.snapshot)
            node.storage.watermark = max(node.storage.watermark, zxid)
            node.storage.checkpoint(written, 0)
            self.restore(bisect_left(node.delivered, (zxid, b"")) + 1, application_of(raw))
            self.missing = None
            node.invariants.states_mended += 1
            self.schedule.say(f"{node.id} restores its state from {peer.id}, at {zxid}")

        try:
            if node.on_disk(work):
                node.step(Checkpointed(snapshot.mark, node.storage.trail.base))
        except Unlike as error:
            self.schedule.say(f"{node.id} does not restore its state from {peer.id}: {error}")

    def want_checkpoints(self) -> None:
        """Of peers that have applied as much as our own snapshot holds, and whose last one holds less."""
        own = self.node.storage.snapshot
        least = own.mark.zxid if own is not None else self.node.storage.trail.base.zxid
        for peer in self.node.invariants.nodes:
            if peer is self.node or not reachable(self.node, peer) or peer.applier is None or not peer.applier.applied:
                continue
            last = peer.storage.snapshot
            if (last is None or last.mark.zxid < least) and peer.applier.end >= least:
                peer.applier.take()

    def of_use(self, peer: Node) -> bool:
        """Is its snapshot a committed place of our own log, with everything above it still there, and no step back behind our own?"""
        snapshot, own, trail = peer.storage.snapshot, self.node.storage.snapshot, self.node.storage.wal.trail
        if snapshot is None:
            return False
        zxid = snapshot.mark.zxid
        committed = zxid in trail and bool(self.node.delivered) and zxid <= self.node.delivered[-1][0]
        return committed and zxid >= trail.base.zxid and (own is None or zxid >= own.mark.zxid)


def reachable(node: Node, peer: Node) -> bool:
    return peer.running and peer.paused is None and node.network.passes(node.id, peer.id)


def take_parts(node: Node, peer: Node, raw: bytes) -> None:
    """What we lack of the files of a peer's snapshot, in one go. Raises Unlike where the peer is no help, OSError for our own disk."""
    if node.application is None or peer.application is None:
        return
    files = node.application.files
    for part in node.application.parts(application_of(raw)):
        for want in gathered(files, part):
            try:
                data = peer.application.files.read(part.name, want.begin, part.length - want.begin)
            except OSError as error:
                raise Unlike(f"node {peer.id} cannot read {part.name}: {error}") from error
            if len(data) != part.length - want.begin:
                raise Unlike(f"{part.name} of node {peer.id} ends before {part.length}")
            files.write(want.file, want.begin, [data])
            node.invariants.parts += 1
            node.invariants.parts_kept += want.begin > 0
            node.invariants.parts_anew += want.file != part.name
        node.invariants.part_taken(node, node.application.disk, part)
    files.sync_names()
