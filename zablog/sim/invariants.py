"""What must be true after every step: a class for each guarantee (zab-protocol, section 5).

Ghost state: `committed` is G, everything any node ever delivered, in order; `digests` is B, the running digest of every entry that was ever
broadcast; `owner` tells who established which epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zablog.core.effects import DurableEffect, RoleChanged, Send, Truncate
from zablog.core.messages import Ack, AckEpoch, AckNewLeader
from zablog.core.state import Leading, Phase
from zablog.core.trail import Entries, Mark, Trail, extend_digest
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.sim.image import Image
from zablog.storage.storage import Storage

if TYPE_CHECKING:
    from zablog.sim.node import Node


class Violation(AssertionError):
    """A guarantee was broken."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{type(self).__name__}: {reason}")


class PromiseMono(Violation):
    """acceptedEpoch and currentEpoch on disk never decrease."""


class OneCandidate(Violation):
    """A node's promise of an epoch counts for one candidate."""


class SingleLeader(Violation):
    """At most one process ever establishes an epoch."""


class DurableBeforeAck(Violation):
    """What an acknowledgement says is on disk before it is sent."""


class NoStaleAck(Violation):
    """No acknowledgement of an epoch is sent above which something was promised."""


class CommitQuorum(Violation):
    """When the watermark passes an entry, a quorum has it on disk, bound to the epoch."""


class LeaderComplete(Violation):
    """An established leader has everything that was ever committed."""


class CommittedKept(Violation):
    """A committed entry stays on the disks of a quorum."""


class TotalOrder(Violation):
    """Everybody delivers the same entries in the same order (prefix, agreement, total order)."""


class Integrity(Violation):
    """Only what was broadcast is delivered, once, in ascending order."""


class PrimaryOrder(Violation):
    """Entries of an epoch are delivered as broadcast, epochs in order; nothing of an older epoch appears beside the initial history."""


class LogMatching(Violation):
    """The same zxid in two logs means the same history up to there."""


class CwSane(Violation):
    """The watermark never goes back in a life, and names something committed."""


class RestartFidelity(Violation):
    """What is recovered is what was durable."""


class Legal(Violation):
    """No message comes out of its phase."""


class Diverged(Violation):
    """A healthy node must not halt."""


class Liveness(Violation):
    """Once faults are healed, an epoch is established and writes commit."""


class Invariants:
    """All of them, with the ghosts they look at."""

    def __init__(self, quorum: int) -> None:
        self.quorum = quorum
        self.nodes: list[Node] = []
        self.committed: list[tuple[Zxid, bytes]] = []
        self.digests: dict[Zxid, int] = {ZERO: 0}
        self.proposed: set[bytes] = set()
        self.counted: dict[tuple[int, Epoch], int] = {}
        self.owner: dict[Epoch, tuple[int, int]] = {}
        self.initial: dict[Epoch, Trail] = {}
        self.latest = Epoch(0)
        self.watermarks: dict[tuple[int, int], Zxid] = {}
        self.under_way: dict[int, Sequence[DurableEffect]] = {}
        self.rotted: set[int] = set()
        """Nodes whose last synced batch rotted, and that have not been given it back yet."""
        self.elections = self.truncations = self.suspects = 0

    # -- what nodes do ------------------------------------------------------------------------------------------------------

    def appended(self, node: Node, entries: Entries) -> None:
        """LogMatching: an entry's running digest is the same wherever it stands."""
        digest = self.digests[entries.prev]
        for step, payload in enumerate(entries.payloads):
            zxid = entries.first.after(step)
            digest = extend_digest(digest, entries.prev if step == 0 else entries.first, entries.first, (payload,))
            if self.digests.setdefault(zxid, digest) != digest:
                raise LogMatching(f"node {node.id} appends {zxid} with another history than was seen before")
        if digest != entries.digest:
            raise LogMatching(f"node {node.id} appends {entries.last} with a digest that is not its own")

    def truncated(self, node: Node, mark: Mark) -> None:
        self.truncations += 1

    def sending(self, node: Node, send: Send) -> None:
        """DurableBeforeAck, NoStaleAck, OneCandidate."""
        image = node.image
        match send.message:
            case AckEpoch(epoch, counted):
                if image.accepted < epoch:
                    raise DurableBeforeAck(f"node {node.id} acknowledges epoch {epoch}, its disk has promised {image.accepted}")
                if counted and self.counted.setdefault((node.id, epoch), send.link.peer) != send.link.peer:
                    raise OneCandidate(f"node {node.id} counts for {send.link.peer} and another in epoch {epoch}")
            case AckNewLeader(epoch, last):
                if image.current != epoch or last not in image.trail:
                    raise DurableBeforeAck(f"node {node.id} acknowledges NEWLEADER {epoch} at {last}, its disk ends at {image.trail.last}")
                if epoch in self.initial and self.initial[epoch].last not in image.trail:
                    raise DurableBeforeAck(f"node {node.id} acknowledges NEWLEADER {epoch} without its initial history")
            case Ack(epoch, zxid):
                if zxid not in image.trail:
                    raise DurableBeforeAck(f"node {node.id} acknowledges {zxid}, its disk ends at {image.trail.last}")
                if image.accepted > epoch:
                    raise NoStaleAck(f"node {node.id} acknowledges in epoch {epoch}, but has promised {image.accepted}")
            case _:
                pass

    def role_changed(self, node: Node, role: RoleChanged) -> None:
        """SingleLeader, LeaderComplete."""
        if "illegal" in role.reason:
            raise Legal(f"node {node.id}: {role.reason}")
        state = node.peer.state
        leading = state.role
        if not (isinstance(leading, Leading) and leading.phase is Phase.BROADCAST and role.phase == "broadcast"):
            return
        epoch = role.epoch
        self.elections += 1
        if self.owner.setdefault(epoch, (node.id, node.life)) != (node.id, node.life):
            raise SingleLeader(f"epoch {epoch} is established by node {node.id} and by {self.owner[epoch]}")
        self.initial[epoch] = state.trail.copy()
        self.latest = max(self.latest, epoch)
        if self.committed and epoch == self.latest and self.committed[-1][0] not in state.trail:
            raise LeaderComplete(f"leader {node.id} of epoch {epoch} lacks {self.committed[-1][0]}, which is committed")

    def dropped(self, node: Node, reason: str) -> None:
        if "illegal" in reason:
            raise Legal(f"node {node.id}: {reason}")

    def halted(self, node: Node, reason: str) -> None:
        raise Diverged(f"node {node.id}: {reason}")

    def delivered(self, node: Node, index: int) -> None:
        """TotalOrder, Integrity, PrimaryOrder."""
        zxid, payload = node.delivered[index]
        if index < len(self.committed):
            if self.committed[index] != (zxid, payload):
                raise TotalOrder(f"node {node.id} delivers {zxid} as number {index}, others delivered {self.committed[index][0]}")
            return
        last = self.committed[-1][0] if self.committed else ZERO
        if payload not in self.proposed or zxid <= last:
            raise Integrity(f"node {node.id} delivers {zxid} after {last}")
        if (zxid.epoch == last.epoch and zxid.counter != last.counter + 1) or (zxid.epoch > last.epoch and zxid.counter != 1):
            raise PrimaryOrder(f"node {node.id} delivers {zxid} after {last}")
        for epoch, trail in self.initial.items():
            if epoch > zxid.epoch and zxid not in trail:
                raise PrimaryOrder(f"{zxid} is delivered first by node {node.id}, but is not in the initial history of epoch {epoch}")
        self.committed.append((zxid, payload))
        self.kept(zxid)

    def watermark_moved(self, node: Node, watermark: Zxid) -> None:
        """CommitQuorum, CwSane."""
        if watermark < self.watermarks.get((node.id, node.life), ZERO):
            raise CwSane(f"the watermark of node {node.id} goes back to {watermark}")
        self.watermarks[node.id, node.life] = watermark
        if watermark > ZERO and (not self.committed or watermark > self.committed[-1][0]):
            raise CwSane(f"the watermark {watermark} of node {node.id} is above everything committed")

    def kept(self, zxid: Zxid) -> None:
        """A quorum of disks has it."""
        holders = [node.id for node in self.nodes if zxid in node.image.trail and node.image.current >= zxid.epoch]
        if len(holders) < self.quorum - len(self.rotted):
            raise CommitQuorum(f"{zxid} is committed, and on the disks of {holders} only")

    def wrote(self, node: Node) -> None:
        """CommittedKept, after each change of a disk."""
        if node.storage.suspect is None:
            self.rotted.discard(node.id)
        if self.committed:
            zxid = self.committed[-1][0]
            holders = [other.id for other in self.nodes if zxid in other.image.trail]
            if len(holders) < self.quorum - len(self.rotted):
                raise CommittedKept(f"{zxid} is committed, and left on the disks of {holders} only")

    def interrupted(self, node: Node, effects: Sequence[DurableEffect]) -> None:
        """The process died within these: each of them may have happened or not."""
        self.under_way[node.id] = effects

    def recovered(self, node: Node, storage: Storage) -> None:
        """PromiseMono, RestartFidelity, CommittedKept."""
        image = node.image
        if storage.accepted < image.accepted or storage.current < image.current:
            raise PromiseMono(f"node {node.id} has forgotten that it promised {image.accepted}, {image.current}")
        cut = any(isinstance(effect, Truncate) for effect in self.under_way.pop(node.id, ()))
        if node.id in self.rotted:
            image = Image(image.accepted, image.current, storage.trail)  # what the rotten batch held is missing, and the mark says so
        if not cut and image.trail.last not in storage.trail:
            raise RestartFidelity(f"node {node.id} had {image.trail.last} on disk and recovers {storage.trail.last}")
        if self.digests.get(storage.trail.last) != storage.trail.digest:
            raise RestartFidelity(f"node {node.id} recovers {storage.trail.last} with another digest than it was broadcast with")
        if storage.suspect is not None:
            self.suspects += 1

    def after_step(self, node: Node) -> None:
        state = node.peer.state
        if state.watermark > ZERO and not node.delivered:
            raise CwSane(f"node {node.id} has a watermark {state.watermark} and delivered nothing")
