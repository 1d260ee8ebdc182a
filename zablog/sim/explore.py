"""Bounded exploration: everything that can happen to a small ensemble of the shipped core, in every order, checked after every step.

Where the simulator draws schedules, the explorer takes them all: breadth first over the states of the whole ensemble, each visited once.
A state is what the nodes are (`zablog.sim.puppet`), what is on the links between them, what the checkers remember (their ghosts: the very
ones of `zablog.sim.invariants`), and what may still be spent of the bounds. The oracle that stands for the election may name any node
to any others at any time; links lose what is on them, at each end on its own; a crash keeps what is durable, and any first part of what
was being written. What a node does depends on its own state alone: so each of its steps is computed once and looked up from then on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar, cast

from zablog.core.effects import Send
from zablog.core.events import Link
from zablog.core.messages import AckEpoch, Message
from zablog.core.quorum import Configuration
from zablog.core.state import Following, Leading, Looking
from zablog.core.trail import Mark, Trail
from zablog.core.zxid import ZERO, PeerId, Zxid
from zablog.sim.freezing import copied
from zablog.sim.guarantees import Violation
from zablog.sim.invariants import Invariants
from zablog.sim.node import Node
from zablog.sim.puppet import (
    Broadcast,
    Connect,
    Die,
    Disconnect,
    Follow,
    Happening,
    Hear,
    Heartbeat,
    Lead,
    Notice,
    Platter,
    Puppet,
    Quit,
    Read,
    Start,
    Sync,
)
from zablog.sim.trace import words

T = TypeVar("T", bound=Hashable)


class Bounds(NamedTuple):
    """How often each may happen in one history."""

    proposals: int = 1
    crashes: int = 1
    elections: int = 2
    losses: int = 0
    """Links that break, and roles that are given up though their links are well."""

    def less(self, what: str) -> Bounds:
        return self._replace(**{what: getattr(self, what) - 1})


class Wire(NamedTuple):
    """A link between two nodes, the lower first: whether each end is open, and what is under way to each of them (numbers of messages)."""

    open: tuple[bool, bool] = (False, False)
    under_way: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def closed(self, end: int) -> Wire:
        """One end is closed: what was under way to it is lost. What the other end is still to hear, it may hear."""
        return Wire(replaced(self.open, end, False), replaced(self.under_way, end, ()))

    def sent(self, end: int, message: int) -> Wire:
        """A message to one end is under way, if anybody will be there."""
        return Wire(self.open, replaced(self.under_way, end, (*self.under_way[end], message))) if self.open[end] else self


def replaced(pair: tuple[T, T], end: int, value: T) -> tuple[T, T]:
    return (value, pair[1]) if end == 0 else (pair[0], value)


UP = Wire((True, True))


class Numbers(dict[Hashable, int]):
    """Values, numbered as they come."""

    def __init__(self) -> None:
        self.values_: list[Any] = []  # Any: what each number stands for

    def number(self, value: Hashable, stands_for: object = None) -> int:
        found = self.get(value)
        if found is None:
            found = self[value] = len(self.values_)
            self.values_.append(value if stands_for is None else stands_for)
        return found

    def __missing__(self, value: Hashable) -> int:
        raise KeyError(value)


class Judge(Invariants):
    """The checkers of the simulator, whose ghosts can be taken out and put back."""

    def deliveries(self, node: Node, begin: int, upto: Zxid) -> None:
        known = len(self.committed)
        self.delivered(node, begin)
        self.watermark_moved(node, upto, len(node.delivered) > known)

    @property
    def ghosts(self) -> Hashable:
        """What they remember, but for what is the same in each state."""
        histories = tuple((epoch, trail.base, tuple(trail.ends)) for epoch, trail in sorted(self.initial.items()))
        return (
            tuple(self.committed), histories,
            *(tuple(sorted(ghost.items())) for ghost in (self.committed_in, self.digests, self.counted, self.owner, self.fixed)),
        )  # fmt: skip

    @classmethod
    def remembering(cls, quorum: int, ghosts: Any) -> Judge:  # Any: what `ghosts` made
        judge = cls(quorum)
        committed, histories, *others = ghosts
        judge.committed = list(committed)
        judge.places = {zxid for zxid, _ in committed}
        judge.last_of = {zxid.epoch: zxid for zxid, _ in committed}
        judge.initial = {epoch: Trail(base, list(ends)) for epoch, base, ends in histories}
        judge.committed_in, judge.digests, judge.counted, judge.owner, judge.fixed = map(dict, others)
        judge.digest = judge.digests[committed[-1][0]] if committed else 0
        return judge

    def sending(self, node: Node, send: Send) -> None:
        """A promise counts once, whichever links there are: links have no names in a state."""
        match send.message:
            case AckEpoch(epoch, True):
                again = (node.id, epoch) in self.counted
                send = replace(send, link=Link(send.link.peer, int(again)))
        super().sending(node, send)


State = tuple[int, ...]
"""Numbers: of each node's value, of each pair's wire, of the ghosts, of the bounds that are left."""


class Step(NamedTuple):
    """What a node makes of something: its number afterwards, what it did to links (place, its end, message or -1), what is to be checked."""

    after: int
    links: tuple[tuple[int, int, int], ...]
    notices: int
    """Its number in `Explorer.notices`, -1 if there is nothing."""


def offers(puppet: Puppet) -> Iterator[tuple[Happening, str | None]]:
    """What may happen to a node whatever the others are, and which bound it takes from."""
    if puppet.peer is None:
        yield Start(), None
        return
    for written in range(len(puppet.queue) + 1):
        yield Die(written), "crashes"
    if puppet.queue:
        yield Sync(), None
    if puppet.reads:
        yield Read(), None
    if isinstance(puppet.peer.state.role, Following | Leading):
        yield Quit(), "losses"
    if isinstance(puppet.peer.state.role, Leading):
        yield Heartbeat(), None


@dataclass(slots=True)
class Exploration:
    """What was found."""

    nodes: int
    bounds: Bounds
    states: int = 0
    transitions: int = 0
    depth: int = 0
    """The length of the longest of the shortest histories that lead to a state."""
    complete: bool = False
    """Was every state within the bounds visited?"""
    seen: dict[str, int] = field(default_factory=dict)
    """How many transitions did what is worth knowing."""
    guarantee: str | None = None
    reason: str | None = None
    trace: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:  # Any: as JSON has it
        return {
            "nodes": self.nodes, **self.bounds._asdict(), "states": self.states, "transitions": self.transitions, "depth": self.depth,
            "complete": self.complete, "violations": int(self.guarantee is not None), "guarantee": self.guarantee, "reason": self.reason,
            **self.seen, "trace": self.trace,
        }  # fmt: skip


class Explorer:
    """The states of an ensemble of so many nodes, within the bounds."""

    def __init__(self, nodes: int, bounds: Bounds) -> None:
        self.bounds = bounds
        self.count = nodes
        self.configuration = Configuration(1, tuple(PeerId(id) for id in range(1, nodes + 1)))
        self.nodes, self.wires, self.messages, self.ghosts, self.left = Numbers(), Numbers(), Numbers(), Numbers(), Numbers()
        self.happenings, self.notices = Numbers(), Numbers()
        self.views: list[int] = []
        self.viewed = Numbers()
        self.steps: dict[tuple[int, int], Step] = {}
        self.judged: dict[tuple[int, ...], int] = {}
        self.rewired: dict[tuple[int, int, int], int] = {}
        self.menus: list[list[tuple[int, str | None]] | None] = []
        self.tally: Counter[int] = Counter()
        self.doing: list[tuple[int, Happening]] = []
        self.pairs = [(low, high) for low in range(nodes) for high in range(low + 1, nodes)]
        self.place = {pair: nodes + index for index, pair in enumerate(self.pairs)}
        self.ghost_at, self.left_at = nodes + len(self.pairs), nodes + len(self.pairs) + 1

    # -- numbers ------------------------------------------------------------------------------------------------------------

    def node(self, puppet: Puppet) -> int:
        number = self.nodes.number((puppet.id, puppet.value), puppet)
        if number == len(self.views):
            self.views.append(self.viewed.number(puppet.view))
            self.menus.append(None)
        return number

    def happening(self, what: Happening) -> int:
        return self.happenings.number((type(what), what), what)

    def start(self) -> State:
        """Everybody has been born, and nobody has been started."""
        nodes = [self.node(Puppet(id, self.configuration, Platter())) for id in self.configuration.voters]
        wires = [self.wires.number(Wire())] * len(self.pairs)
        return (*nodes, *wires, self.ghosts.number(Judge(0).ghosts), self.left.number(self.bounds))

    # -- one transition -----------------------------------------------------------------------------------------------------

    def take(self, state: list[int], index: int, number: int) -> None:
        """A node's step, and what follows for its links and the ghosts."""
        step = self.steps.get((state[index], number))
        if step is None:
            step = self.steps[state[index], number] = self.step(index, state[index], number)
        before, state[index] = state[index], step.after
        for place, end, message in step.links:
            state[place] = self.rewire(state[place], end, message)
        if step.notices >= 0:
            self.tally[step.notices] += 1
            views = [self.views[other] for other in state[: self.count]]
            key = (step.notices, state[self.ghost_at], *views)
            ghost = self.judged.get(key)
            if ghost is None:
                ghost = self.judged[key] = self.judge(state, index, before, step.notices)
            state[self.ghost_at] = ghost

    def step(self, index: int, node: int, number: int) -> Step:
        """Computed, once."""
        puppet = copied(self.nodes.values_[node])
        said, notices = puppet.happen(self.happenings.values_[number])
        links = []
        for peer, message in said:
            place, end = self.end(index, peer - 1)
            links.append((place, end, -1) if message is None else (place, 1 - end, self.messages.number((type(message), message), message)))
        after = self.node(puppet)
        noticed = self.notices.number((node, number), (puppet, notices)) if notices else -1
        return Step(after, tuple(links), noticed)

    def end(self, index: int, other: int) -> tuple[int, int]:
        """Where in a state the wire between two is, and which end is the first one's."""
        return (self.place[index, other], 0) if index < other else (self.place[other, index], 1)

    def rewire(self, wire: int, end: int, message: int) -> int:
        key = (wire, end, message)
        after = self.rewired.get(key)
        if after is None:
            old: Wire = self.wires.values_[wire]
            after = self.rewired[key] = self.wires.number(old.closed(end) if message < 0 else old.sent(end, message))
        return after

    def judge(self, state: list[int], index: int, before: int, noticed: int) -> int:
        """Show the checkers what the node did, as they remember what went before."""
        judge = Judge.remembering(self.count // 2 + 1, self.ghosts.values_[state[self.ghost_at]])
        puppet, notices = self.notices.values_[noticed]
        old: Puppet = self.nodes.values_[before]
        nodes = [self.nodes.values_[number] for number in state[: self.count]]
        nodes[index] = puppet
        judge.nodes = nodes
        judge.proposed = {bytes([number]) for number in range(1, self.bounds.proposals + 1)}
        puppet.end = old.log[-1].zxid if old.log else ZERO
        if old.peer is not None:
            judge.watermarks = {(old.id, old.life): old.peer.watermark}
        for checker, words in notices:
            getattr(judge, checker)(puppet, *words)
        return self.ghosts.number(judge.ghosts)

    # -- all transitions ----------------------------------------------------------------------------------------------------

    def menu(self, node: int) -> list[tuple[int, str | None]]:
        """What may happen to a node whatever the others are, and which bound it takes from."""
        menu = self.menus[node]
        if menu is None:
            puppet: Puppet = self.nodes.values_[node]
            menu = self.menus[node] = [(self.happening(what), cost) for what, cost in offers(puppet)]
        return menu

    def successors(self, state: State) -> Iterator[State]:
        """Every state that one transition leads to; `doing` tells which transition that is."""
        left: Bounds = self.left.values_[state[-1]]
        for index in range(self.count):
            for number, cost in self.menu(state[index]):
                if cost is None or getattr(left, cost) > 0:
                    yield from self.one(state, [(index, number)], cost)
            puppet: Puppet = self.nodes.values_[state[index]]
            if puppet.peer is None:
                continue
            role = puppet.peer.state.role
            if left.proposals and isinstance(role, Leading) and puppet.peer.room > 0:
                payload = bytes([self.bounds.proposals - left.proposals + 1])
                yield from self.one(state, [(index, self.happening(Broadcast(payload)))], "proposals")
            if isinstance(role, Looking):
                if left.elections and (index == 0 or left.elections < self.bounds.elections):  # whoever leads first is called 1
                    candidacy = self.bounds.elections - left.elections + 1
                    yield from self.one(state, [(index, self.happening(Lead(candidacy)))], "elections")
                for other in range(self.count):
                    if other != index and (left.elections or self.leads(state[other])):
                        yield from self.one(state, [(index, self.happening(Follow(PeerId(other + 1))))])
        for low, high in self.pairs:
            yield from self.on_wire(state, low, high, left)

    def leads(self, node: int) -> bool:
        peer = self.nodes.values_[node].peer
        return peer is not None and isinstance(peer.state.role, Leading)

    def on_wire(self, state: State, low: int, high: int, left: Bounds) -> Iterator[State]:
        place = self.place[low, high]
        wire: Wire = self.wires.values_[state[place]]
        for end, (index, other) in enumerate(((low, high), (high, low))):
            if wire.open[end]:
                peer = PeerId(other + 1)
                if wire.under_way[end]:
                    first, *rest = wire.under_way[end]
                    hear = self.happening(Hear(peer, self.messages.values_[first]))
                    yield from self.one(state, [(index, hear)], wire=(place, Wire(wire.open, replaced(wire.under_way, end, tuple(rest)))))
                cost = "losses" if wire.open[1 - end] else None
                if cost is None or left.losses:
                    yield from self.one(state, [(index, self.happening(Disconnect(peer)))], cost, (place, wire.closed(end)))
        if not all(wire.open) and all(self.nodes.values_[state[index]].running for index in (low, high)):
            steps = [(low, self.happening(Connect(PeerId(high + 1)))), (high, self.happening(Connect(PeerId(low + 1))))]
            yield from self.one(state, steps, wire=(place, UP))

    def one(
        self, state: State, steps: list[tuple[int, int]], cost: str | None = None, wire: tuple[int, Wire] | None = None
    ) -> Iterator[State]:
        self.doing = steps
        new = list(state)
        if cost is not None:
            new[-1] = self.left.number(self.left.values_[state[-1]].less(cost))
        if wire is not None:
            new[wire[0]] = self.wires.number(wire[1])
        for index, number in steps:
            self.take(new, index, number)
        yield tuple(new)

    # -- the search ---------------------------------------------------------------------------------------------------------

    def search(self, budget: int) -> Exploration:
        found = Exploration(self.count, self.bounds)
        start = self.start()
        seen: dict[State, State | None] = {start: None}
        frontier = [start]
        state = start
        try:
            while frontier and len(seen) < budget:
                beyond = []
                for state in frontier:
                    for after in self.successors(state):
                        found.transitions += 1
                        if after not in seen:
                            seen[after] = state
                            beyond.append(after)
                    if len(seen) >= budget:
                        break
                frontier = beyond
                found.depth += bool(beyond)
            found.complete = not frontier
        except AssertionError as error:
            found.guarantee = type(error).__name__
            found.reason = str(error)
        found.states = len(seen)
        return found
