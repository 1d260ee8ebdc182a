"""The checkers of the simulator for states that are visited in no order of time: their ghosts can be taken out and put back."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from zablog.core.effects import Send
from zablog.core.events import Link
from zablog.core.messages import AckEpoch
from zablog.core.trail import Trail
from zablog.core.zxid import Zxid
from zablog.sim.invariants import Invariants
from zablog.sim.node import Node


class Judge(Invariants):
    """The checkers of the simulator, whose ghosts can be taken out and put back."""

    def __init__(self, quorum: int) -> None:
        super().__init__(quorum)
        self.owed: dict[int, Zxid] = {}
        """What the read that was asked at a node must see."""

    def read_begun(self, node: Node) -> None:
        self.owed[node.id] = self.read_asked()

    def read_answered(self, node: Node, upto: Zxid) -> None:
        self.read_ready(node, self.owed.pop(node.id), upto)

    def read_given_up(self, node: Node) -> None:
        del self.owed[node.id]

    def deliveries(self, node: Node, begin: int, upto: Zxid) -> None:
        """As `Node.deliver` has them checked."""
        known = len(self.committed)
        self.delivered(node, begin)
        self.watermark_moved(node, upto, len(node.delivered) > known)

    def sending(self, node: Node, send: Send) -> None:
        """A promise counts once, whatever the link: links have no names that last."""
        if isinstance(send.message, AckEpoch):
            again = (node.id, send.message.epoch) in self.counted
            send = replace(send, link=Link(send.link.peer, int(again)))
        super().sending(node, send)

    @property
    def ghosts(self) -> Hashable:
        """What they remember, as far as it is not the same in every state."""
        histories = tuple((epoch, trail.base, tuple(trail.ends)) for epoch, trail in sorted(self.initial.items()))
        ghosts = (self.committed_in, self.digests, self.counted, self.owner, self.fixed, self.owed)
        return (tuple(self.committed), histories, *(tuple(sorted(ghost.items())) for ghost in ghosts))

    @classmethod
    def remembering(cls, quorum: int, ghosts: Any) -> Judge:  # Any: what `ghosts` has made
        judge = cls(quorum)
        committed, histories, *others = ghosts
        judge.committed = list(committed)
        judge.places = {zxid for zxid, _ in committed}
        judge.last_of = {zxid.epoch: zxid for zxid, _ in committed}
        judge.initial = {epoch: Trail(base, list(ends)) for epoch, base, ends in histories}
        judge.committed_in, judge.digests, judge.counted, judge.owner, judge.fixed, judge.owed = map(dict, others)
        judge.digest = judge.digests[committed[-1][0]] if committed else 0
        return judge
