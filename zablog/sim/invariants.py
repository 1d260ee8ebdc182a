"""Every guarantee of `zablog.sim.guarantees`, checked after every step against what has happened so far.

Ghost state: `committed` is G, everything any node ever delivered, in order; `digests` is B, the running digest of every entry that was ever
broadcast; `node.delivered` is D[n], `node.image` is dur(n); `owner` tells which candidacy established which epoch.
Checks look at what a step changed, never at whole logs: a place in a log stands for everything before it, since LogMatching holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import google_crc32c

from zablog.core.effects import DurableEffect, Install, RoleChanged, Send, Truncate
from zablog.core.events import Link
from zablog.core.messages import Ack, AckEpoch, AckNewLeader, AckSnap, Commit, NewEpoch, Notification, Ping, Pong, Propose
from zablog.core.state import Following, Leading, Phase
from zablog.core.trail import Entries, Mark, Trail, extend_digest
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.sim.disk import SimDisk
from zablog.sim.guarantees import (
    CommitQuorum,
    CommittedKept,
    Contiguity,
    CwSane,
    Diverged,
    DurableBeforeAck,
    GlobalOrder,
    Integrity,
    LeaderComplete,
    Legal,
    LinearizableReads,
    LocalOrder,
    LogMatching,
    NoStaleAck,
    OneCandidate,
    PrimaryIntegrity,
    ProcessConsistency,
    PromiseMono,
    RestartFidelity,
    SingleLeader,
    SnapshotExact,
    TotalOrder,
)
from zablog.sim.image import Image
from zablog.storage.snapshots import Part
from zablog.storage.storage import Storage

if TYPE_CHECKING:
    from zablog.sim.node import Node

Candidacy = tuple[int, int, int]
"""A node, its life, and the generation of its role."""


class Invariants:
    """All of them, with the ghosts they look at."""

    def __init__(self, quorum: int) -> None:
        self.quorum = quorum
        self.nodes: list[Node] = []
        """In the order of their numbers, from 1."""
        self.committed: list[tuple[Zxid, bytes]] = []
        self.places: set[Zxid] = set()
        """The zxids of `committed`; asked for membership only."""
        self.digest = 0
        """The running digest of `committed`."""
        self.committed_in: dict[int, Zxid] = {}
        """The last entry committed in the reign of each epoch."""
        self.last_of: dict[int, Zxid] = {}
        """The last entry of each epoch that was delivered."""
        self.digests: dict[Zxid, int] = {ZERO: 0}
        self.proposed: set[bytes] = set()
        self.counted: dict[tuple[int, Epoch], Link] = {}
        self.owner: dict[Epoch, Candidacy] = {}
        self.fixed: dict[Epoch, Zxid] = {}
        """The end of the initial history of each epoch that got one."""
        self.initial: dict[Epoch, Trail] = {}
        """The initial histories of established epochs."""
        self.watermarks: dict[tuple[int, int], Zxid] = {}
        self.under_way: dict[int, Sequence[DurableEffect]] = {}
        self.rotted: set[int] = set()
        """Nodes whose last synced batch rotted, and that have not been given it back yet."""
        self.suspect: set[int] = set()
        """Nodes that recovered with a suspect tail, and have not been repaired yet."""
        self.faulty: set[int] = set()
        """Nodes whose log rotted before its end, and that have not started since."""
        self.decayed: set[int] = set()
        """Nodes whose application's files rotted, and have not been found whole since."""
        self.states_mended = self.parts = self.parts_kept = self.parts_anew = 0
        """Of an application's files: restored from a peer; fetched; of these, some of it was here; what was here was damaged."""
        self.mended = {"own snapshot": 0, "entries": 0, "a peer's snapshot": 0}
        """What put such logs right, and how often."""
        self.reads = 0
        """Linearizable reads that were answered."""
        self.checkpoints = self.snapshots = 0
        self.pieces = self.resumptions = self.superseded = self.anew = self.unread = 0
        """Of snapshots on their way, see the report."""
        self.pulls_begun = self.pulls = 0
        """Prospective leaders that set out to take a follower's history, and those that have it."""
        self.elections = self.truncations = self.suspects = self.repairs = 0

    # -- what nodes write ---------------------------------------------------------------------------------------------------

    def appended(self, node: Node, entries: Entries) -> None:
        """Contiguity, LogMatching, ProcessConsistency. `node.end` is where its log ended before."""
        first, prev = entries.first, entries.prev
        follows = first.counter == prev.counter + 1 if first.epoch == prev.epoch else (first.epoch > prev.epoch and first.counter == 1)
        if prev != node.end or not follows or prev not in self.digests:
            raise Contiguity(f"node {node.id} appends {first} after {prev}, its log ends at {node.end}")
        digest = self.digests[prev]
        zxid = prev
        for step, payload in enumerate(entries.payloads):
            digest = extend_digest(digest, zxid, first, (payload,))
            zxid = first.after(step)
            if self.digests.setdefault(zxid, digest) != digest:
                raise LogMatching(f"node {node.id} appends {zxid} with another history than was seen before")
        if digest != entries.digest:
            raise LogMatching(f"node {node.id} appends {zxid} with a digest that is not its own")
        node.end = zxid
        self.consistent(node, node.end)

    def consistent(self, node: Node, end: Zxid) -> None:
        """ProcessConsistency."""
        role = node.peer.state.role
        if not (isinstance(role, Following) and role.acked):
            return
        leader = self.nodes[role.leader - 1]
        leads = leader.running and isinstance(leading := leader.peer.state.role, Leading) and leading.epoch == role.epoch
        if leads and not self.holds(leader.peer.state.trail, end):
            raise ProcessConsistency(f"follower {node.id} has {end}, its leader {leader.id} of epoch {role.epoch} has not")

    def truncated(self, node: Node, mark: Mark) -> None:
        """CommittedKept: what was committed in an earlier epoch than the one that orders the cut."""
        self.truncations += 1
        role = node.peer.state.role
        ordered_in = role.epoch if isinstance(role, Following) and role.epoch is not None else node.image.accepted
        for epoch, last in self.committed_in.items():
            place = node.image.trail.floor(last)
            if epoch < ordered_in and place > mark.zxid and place in self.places:
                raise CommittedKept(f"node {node.id} is to cut above {mark.zxid} in epoch {ordered_in}; {place} was committed in {epoch}")
        node.end = mark.zxid

    def holds(self, trail: Trail, zxid: Zxid) -> bool:
        """Is this place in the log, or under the snapshot that the log goes on from?"""
        return zxid in trail or (zxid < trail.base.zxid and (zxid in self.places or zxid == ZERO))

    def restored(self, node: Node, mark: Mark) -> None:
        """SnapshotExact: the state at a place is what everything committed through there makes, no less and no more."""
        if mark.zxid not in self.places or self.digests[mark.zxid] != mark.digest:
            raise SnapshotExact(f"node {node.id} has a snapshot at {mark.zxid}, which is not a committed place")
        if node.delivered != self.committed[: len(node.delivered)] or node.delivered[-1][0] != mark.zxid:
            raise SnapshotExact(f"node {node.id} has a snapshot at {mark.zxid} that is not the state there")
        self.committed[: len(node.delivered)] = node.delivered  # the very same ones, which the next snapshot is quickly compared with

    def installed(self, node: Node, mark: Mark) -> None:
        """A leader's snapshot takes the place of everything."""
        self.snapshots += 1
        self.restored(node, mark)
        node.end = mark.zxid

    def part_taken(self, node: Node, files: SimDisk, part: Part) -> None:
        """SnapshotExact, for what an application keeps in files: whatever was here of it before."""
        if google_crc32c.value(bytes(files.file(part.name).now[: part.length])) != part.crc:
            raise SnapshotExact(f"node {node.id} takes {part.name} for what a snapshot says of it, and it is not")

    def remembered(self, node: Node, before: Image) -> None:
        """PromiseMono, after each change of a disk."""
        image = node.image
        if image.accepted < before.accepted or image.current < before.current or image.current > image.accepted:
            raise PromiseMono(
                f"the disk of node {node.id} goes from {before.accepted}, {before.current} to {image.accepted}, {image.current} "
                "(acceptedEpoch, currentEpoch)"
            )

    def wrote(self, node: Node) -> None:
        """CommittedKept, after each change of a disk."""
        if node.storage.suspect is None:
            self.rotted.discard(node.id)
            if node.id in self.suspect:
                self.suspect.remove(node.id)
                self.repairs += 1
        if self.committed:
            zxid = self.committed[-1][0]
            holders = [other.id for other in self.nodes if self.holds(other.image.trail, zxid)]
            if len(holders) < self.quorum - len(self.rotted):
                raise CommittedKept(f"{zxid} is committed, and left on the disks of {holders} only")

    def interrupted(self, node: Node, effects: Sequence[DurableEffect]) -> None:
        """The process died within these: each of them may have happened or not."""
        self.under_way[node.id] = effects

    def recovered(self, node: Node, storage: Storage) -> None:
        """PromiseMono, RestartFidelity, CwSane."""
        image = node.image
        if storage.accepted < image.accepted or storage.current < image.current:
            raise PromiseMono(f"node {node.id} has forgotten that it promised {image.accepted}, {image.current}")
        cut = any(isinstance(effect, Truncate | Install) for effect in self.under_way.pop(node.id, ()))
        if node.id in self.rotted:
            image = Image(image.accepted, image.current, storage.trail)  # what the rotten batch held is missing, and the mark says so
        self.faulty.discard(node.id)
        # What a peer's snapshot covers was committed, and is in it, or will never be.
        if not cut and image.trail.last > node.replaced and not self.holds(storage.trail, image.trail.last):
            raise RestartFidelity(f"node {node.id} had {image.trail.last} on disk and recovers {storage.trail.last}")
        if self.digests.get(storage.trail.last) != storage.trail.digest:
            raise RestartFidelity(f"node {node.id} recovers {storage.trail.last} with another digest than it was broadcast with")
        if storage.watermark != ZERO and storage.watermark not in self.places:
            raise CwSane(f"node {node.id} recovers the hint that {storage.watermark} is committed, which it is not")
        if storage.suspect is not None and node.id not in self.suspect:
            self.suspect.add(node.id)
            self.suspects += 1

    def state_damaged(self, node: Node, words: str) -> None:
        """RestartFidelity: what an application has written is there, unless the disk has rotted."""
        if node.id not in self.decayed:
            raise RestartFidelity(f"the files of node {node.id} are damaged, and no disk has rotted: {words}")

    def unrecoverable(self, node: Node, error: Exception) -> None:
        raise RestartFidelity(f"node {node.id} cannot recover: {error}")

    # -- what nodes say -----------------------------------------------------------------------------------------------------

    def sending(self, node: Node, send: Send) -> None:
        """DurableBeforeAck, NoStaleAck, OneCandidate."""
        image = node.image
        match send.message:
            case Propose() | Commit() | Ping() | Pong():
                pass  # most of what is said, and nothing of it about the sender's own disk
            case Notification(accepted=accepted, self_vote=vote):
                if (
                    accepted > image.accepted
                    or vote.current > image.current
                    or (not self.holds(image.trail, vote.last) and not node.just_cut)
                ):
                    raise DurableBeforeAck(
                        f"node {node.id} stands for election with {accepted}, {vote.current}, {vote.last}; "
                        f"its disk has {image.accepted}, {image.current}, {image.trail.last}"
                    )
            case NewEpoch(epoch):
                if image.accepted < epoch:
                    raise DurableBeforeAck(f"node {node.id} names epoch {epoch}, its own disk has promised {image.accepted} (W1)")
            case AckEpoch(epoch, counted, current, last):
                if image.accepted < epoch or image.current < current or not self.holds(image.trail, last):
                    raise DurableBeforeAck(
                        f"node {node.id} acknowledges epoch {epoch} with history {current}, {last}; "
                        f"its disk has {image.accepted}, {image.current}, {image.trail.last}"
                    )
                if counted and self.counted.setdefault((node.id, epoch), send.link) != send.link:
                    raise OneCandidate(f"node {node.id} counts on two links in epoch {epoch}: {send.link}, {self.counted[node.id, epoch]}")
                self.not_stale(node, epoch)
            case AckNewLeader(epoch, last):
                if image.current != epoch or not self.holds(image.trail, last):
                    raise DurableBeforeAck(f"node {node.id} acknowledges NEWLEADER {epoch} at {last}, its disk ends at {image.trail.last}")
                if epoch in self.fixed and not self.holds(image.trail, self.fixed[epoch]):
                    raise DurableBeforeAck(f"node {node.id} acknowledges NEWLEADER {epoch} without its initial history")
                self.not_stale(node, epoch)
                self.consistent(node, last)
            case Ack(epoch, zxid) | AckSnap(epoch, zxid):
                if not self.holds(image.trail, zxid):
                    raise DurableBeforeAck(f"node {node.id} acknowledges {zxid}, its disk ends at {image.trail.last}")
                self.not_stale(node, epoch)
            case _:
                pass

    def not_stale(self, node: Node, epoch: Epoch) -> None:
        if node.image.accepted > epoch:
            raise NoStaleAck(f"node {node.id} acknowledges in epoch {epoch}, but has promised {node.image.accepted}")

    def outlived(self, node: Node, send: Send) -> None:
        """Legal: the gate released what an ended role had to say."""
        raise Legal(f"node {node.id} sends {send.message} to {send.link.peer}, though the role that had it to say has ended (W12)")

    def role_changed(self, node: Node, role: RoleChanged) -> None:
        """Legal, DurableBeforeAck, SingleLeader, CommitQuorum, LeaderComplete, PrimaryIntegrity."""
        if "illegal" in role.reason:
            raise Legal(f"node {node.id}: {role.reason}")
        state = node.peer.state
        leading = state.role
        if isinstance(leading, Leading) and leading.pull is not None:
            self.pulls_begun += role.phase == "discovery"
            self.pulls += role.phase == "sync"
        if not isinstance(leading, Leading) or leading.initial is None or role.generation != state.generation:
            return
        epoch = role.epoch if role.phase == "broadcast" else leading.epoch
        assert epoch is not None, "the law that an initial history is that of an epoch"
        self.fixed.setdefault(epoch, leading.initial)
        if role.phase == "sync":
            self.fixes(node, epoch, leading.initial)
            self.begun(node, epoch)
        if leading.phase is Phase.BROADCAST and role.phase == "broadcast":
            self.established(node, epoch, leading.initial)

    def fixes(self, node: Node, epoch: Epoch, initial: Zxid) -> None:
        """DurableBeforeAck: what an epoch begins with is on its leader's disk before anybody hears of it (W8)."""
        if not self.holds(node.image.trail, initial):
            raise DurableBeforeAck(f"node {node.id} begins epoch {epoch} with history through {initial}, which its disk lacks (W8)")

    def begun(self, node: Node, epoch: Epoch) -> None:
        """A prospective leader says that a quorum has promised its epoch: from here on its history is the one that others are cut to."""
        candidacy = (node.id, node.life, node.generation)
        if self.owner.setdefault(epoch, candidacy) != candidacy:
            raise SingleLeader(f"epoch {epoch} is begun by node {node.id} and by {self.owner[epoch]}")
        for earlier, last in self.committed_in.items():
            if earlier < epoch and not self.holds(node.peer.state.trail, last):
                raise LeaderComplete(f"node {node.id} begins epoch {epoch} without {last}, which was committed in epoch {earlier}")

    def established(self, node: Node, epoch: Epoch, initial: Zxid) -> None:
        """A leader says that a quorum is bound to its epoch."""
        self.elections += 1
        trail = node.peer.state.trail
        self.begun(node, epoch)
        bound = [other.id for other in self.nodes if other.image.current >= epoch and self.holds(other.image.trail, initial)]
        if len(bound) < self.quorum - len(self.rotted):
            raise CommitQuorum(f"epoch {epoch} is established with history through {initial}, and on the disks of {bound} only")
        for earlier, last in self.last_of.items():
            if earlier < epoch and not self.holds(trail, last):
                raise PrimaryIntegrity(f"epoch {epoch} begins without {last}, which was delivered")
        self.initial[epoch] = trail.copy()

    def dropped(self, node: Node, reason: str) -> None:
        if "illegal" in reason:
            raise Legal(f"node {node.id}: {reason}")

    def halted(self, node: Node, reason: str) -> None:
        raise Diverged(f"node {node.id}: {reason}")

    # -- what nodes deliver -------------------------------------------------------------------------------------------------

    def delivered(self, node: Node, begin: int) -> None:
        """TotalOrder, and what `first_delivered` checks, of all that the node has delivered from `begin` on."""
        end = min(len(node.delivered), len(self.committed))
        if node.delivered[begin:end] != self.committed[begin:end]:
            index = next(index for index in range(begin, end) if node.delivered[index] != self.committed[index])
            zxid, other = node.delivered[index][0], self.committed[index][0]
            raise TotalOrder(f"node {node.id} delivers {zxid} as number {index}, others delivered {other}")
        for zxid, payload in node.delivered[max(begin, end) :]:
            self.first_delivered(node, zxid, payload)

    def first_delivered(self, node: Node, zxid: Zxid, payload: bytes) -> None:
        """Integrity, LocalOrder, GlobalOrder, PrimaryIntegrity: nobody has delivered this before."""
        last = self.committed[-1][0] if self.committed else ZERO
        if zxid.epoch < last.epoch:
            raise GlobalOrder(f"node {node.id} delivers {zxid} after {last}")
        if payload not in self.proposed or zxid <= last:
            raise Integrity(f"node {node.id} delivers {zxid} after {last}")
        self.digest = extend_digest(self.digest, last, zxid, (payload,))
        if zxid.counter != (last.counter + 1 if zxid.epoch == last.epoch else 1) or self.digests.get(zxid) != self.digest:
            raise LocalOrder(f"node {node.id} delivers {zxid} after {last}, not as epoch {zxid.epoch} broadcast it")
        for epoch, trail in self.initial.items():
            if epoch > zxid.epoch and not self.holds(trail, zxid):
                raise PrimaryIntegrity(f"{zxid} is delivered first by node {node.id}, but is not in the initial history of epoch {epoch}")
        self.committed.append((zxid, payload))
        self.places.add(zxid)
        self.last_of[zxid.epoch] = zxid

    def watermark_moved(self, node: Node, watermark: Zxid, news: bool) -> None:
        """CwSane; and CommitQuorum, if some of what was delivered is `news` to everybody."""
        if watermark < self.watermarks.get((node.id, node.life), ZERO):
            raise CwSane(f"the watermark of node {node.id} goes back to {watermark}")
        self.watermarks[node.id, node.life] = watermark
        if watermark != ZERO and watermark not in self.places:
            raise CwSane(f"the watermark {watermark} of node {node.id} is not the place of anything committed")
        if news:
            role = node.peer.state.role
            epoch = (
                role.epoch if isinstance(role, Leading | Following) and role.phase is Phase.BROADCAST and role.epoch else watermark.epoch
            )
            self.committed_in[epoch] = watermark
            holders = [other.id for other in self.nodes if other.image.current >= epoch and self.holds(other.image.trail, watermark)]
            if len(holders) < self.quorum - len(self.rotted):
                raise CommitQuorum(f"{watermark} is committed in epoch {epoch}, and on the disks of {holders} only")

    def read_asked(self) -> Zxid:
        """What was committed before a read is asked: it must see that."""
        return self.committed[-1][0] if self.committed else ZERO

    def read_ready(self, node: Node, owed: Zxid, upto: Zxid) -> None:
        """LinearizableReads."""
        self.reads += 1
        if upto < owed:
            raise LinearizableReads(f"node {node.id} answers a read with what was committed through {upto}; {owed} was before it was asked")

    def after_step(self, node: Node) -> None:
        """CwSane: what is known to be committed has been delivered, neither less nor more."""
        applied = node.delivered[-1][0] if node.delivered else ZERO
        if node.peer.state.watermark != applied:
            raise CwSane(f"node {node.id} has a watermark {node.peer.state.watermark} and has delivered through {applied}")
