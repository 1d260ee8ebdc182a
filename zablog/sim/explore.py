"""Bounded exploration: everything that can happen to a small ensemble of the shipped core, in every order, checked after every step.

Where the simulator draws schedules, the explorer takes them all: breadth first over the states of the whole ensemble, each visited once.
A state is what the nodes are (`zablog.sim.puppet`), what is on the links between them, what the checkers remember (their ghosts: the very
ones of `zablog.sim.invariants`), and what is left of the bounds. The oracle that stands for the election may name any node to any others
at any time. A link breaks at each end for itself: what was under way to that end is lost, what the other end is still to hear it may hear.
A crash keeps what is durable, and any first part of what was being written.

What a node makes of something depends on nothing but itself. So each of its steps is computed once, by the shipped code, and looked up
from then on; a state of the whole is a few numbers, of things that are kept in tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from zablog.core.effects import RoleChanged, Send
from zablog.core.messages import HistoryQuery, Message
from zablog.core.quorum import Configuration
from zablog.core.state import Following, Leading, Looking, Phase
from zablog.core.trail import Mark
from zablog.core.zxid import Epoch, PeerId
from zablog.sim.freezing import copied
from zablog.sim.guarantees import Violation
from zablog.sim.happenings import (
    Ask,
    Broadcast,
    Checkpoint,
    Connect,
    Die,
    Disconnect,
    Fetch,
    Follow,
    Happening,
    Hear,
    Heartbeat,
    Lead,
    Quit,
    Read,
    Start,
    Sync,
)
from zablog.sim.judge import Judge
from zablog.sim.node import Node
from zablog.sim.platter import Content, Platter
from zablog.sim.puppet import Notice, Puppet
from zablog.sim.simulate import uncollected

T = TypeVar("T")


class Bounds(NamedTuple):
    """How often each may happen in one history."""

    proposals: int = 2
    crashes: int = 2
    elections: int = 3
    """How often a node is named to itself; to others it may be named again and again."""
    losses: int = 1
    """Links that break by themselves, and roles that are given up though their links are well."""
    checkpoints: int = 0
    """After each, the log begins where the snapshot stands."""
    reads: int = 0
    """Linearizable ones, asked at whoever says that it leads."""

    def less(self, what: str) -> Bounds:
        return self._replace(**{what: getattr(self, what) - 1})


class Wire(NamedTuple):
    """A link between two nodes, the lower first: whether each end is open, and what is under way to it (numbers of messages)."""

    open: tuple[bool, bool] = (False, False)
    under_way: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def closed(self, end: int) -> Wire:
        return Wire(replaced(self.open, end, False), replaced(self.under_way, end, ()))

    def sent(self, end: int, message: int) -> Wire:
        """A message to one end is under way, if anybody will be there."""
        return Wire(self.open, replaced(self.under_way, end, (*self.under_way[end], message))) if self.open[end] else self

    def heard(self, end: int) -> Wire:
        return Wire(self.open, replaced(self.under_way, end, self.under_way[end][1:]))


def replaced(pair: tuple[T, T], end: int, value: T) -> tuple[T, T]:
    return (value, pair[1]) if end == 0 else (pair[0], value)


UP: Final = Wire((True, True))
CLOSED: Final = -1
"""In the place of a message's number: the link is closed."""
State = tuple[int, ...]
"""Numbers: of each node, of each pair's wire, of the ghosts, of the bounds that are left."""


class Numbers(Generic[T]):
    """Things, numbered as they come; those of equal value are one."""

    def __init__(self) -> None:
        self.known: dict[Hashable, int] = {}
        self.things: list[T] = []

    def of(self, thing: T, value: Hashable = None) -> int:
        """`value` stands for the thing, unless it stands for itself."""
        value = thing if value is None else value
        number = self.known.get(value)
        if number is None:
            number = self.known[value] = len(self.things)
            self.things.append(thing)
        return number


class Option(NamedTuple):
    """A transition: which nodes make a step of what (numbers), what is left of the bounds, which wire changes before (place 0: none)."""

    steps: tuple[tuple[int, int], ...]
    left: int
    place: int = 0
    wire: int = 0
    leader: int | None = None
    """Only if this node leads."""


class Step(NamedTuple):
    """What a node makes of something: its number then, what it does to wires (place, end, message), what is to be checked (-1: nothing)."""

    after: int
    wires: tuple[tuple[int, int, int], ...]
    notices: int


@dataclass(slots=True)
class Exploration:
    """What was found."""

    nodes: int
    bounds: Bounds
    states: int = 0
    transitions: int = 0
    depth: int = 0
    """How many transitions away the farthest state is."""
    complete: bool = False
    """Was every state within the bounds visited?"""
    counts: Counter[str] = field(default_factory=Counter)
    """How many transitions saw what is worth knowing."""
    guarantee: str | None = None
    """The class of the error that ended the search."""
    trace: list[str] = field(default_factory=list)
    """The shortest history that leads there; the last line is the error."""

    def to_json(self) -> dict[str, Any]:  # Any: as JSON has it
        return {
            "nodes": self.nodes,
            **self.bounds._asdict(),
            "states": self.states,
            "transitions": self.transitions,
            "depth": self.depth,
            "complete": self.complete,
            **{what: self.counts[what] for what in SIGHTS},
            "violations": int(self.guarantee is not None),
            "guarantee": self.guarantee,
            "trace": self.trace,
        }


SIGHTS: Final = ("established", "deliveries", "pulls", "truncations", "snapshots", "answers")


def sights(notices: list[Notice]) -> Iterator[str]:
    for notice in notices:
        match notice.checker, notice.words:
            case "role_changed", (RoleChanged(role="leading", phase="broadcast"),):
                yield "established"
            case "deliveries", _:
                yield "deliveries"
            case "sending", (Send(_, HistoryQuery()),):
                yield "pulls"
            case "truncated", _:
                yield "truncations"
            case "installed", _:
                yield "snapshots"
            case "read_answered", _:
                yield "answers"


class Explorer:
    """The states of an ensemble of so many nodes, within the bounds. `aged`: all are of epoch 1 already, and its history was empty."""

    def __init__(self, nodes: int, bounds: Bounds, aged: bool = False) -> None:
        self.count = nodes
        self.bounds = bounds
        self.aged = aged
        self.configuration = Configuration(1, tuple(PeerId(id) for id in range(1, nodes + 1)))
        pairs = [(low, high) for low in range(nodes) for high in range(low + 1, nodes)]
        self.place = {pair: nodes + at for at, pair in enumerate(pairs)}
        """Where in a state the wire between two nodes is."""
        self.nodes: Numbers[Puppet] = Numbers()
        self.running: list[bool] = []
        self.leading: list[bool] = []
        self.view: list[int] = []
        """Of each number of a node: whether it runs, whether it leads, and what other nodes' checkers see of it."""
        self.views: Numbers[Hashable] = Numbers()
        self.wires: Numbers[Wire] = Numbers()
        self.messages: Numbers[Message] = Numbers()
        self.ghosts: Numbers[Any] = Numbers()  # Any: see Judge
        self.left: Numbers[Bounds] = Numbers()
        self.happenings: Numbers[Happening] = Numbers()
        self.contents: dict[Mark, Content] = {}
        """Of all snapshots there ever were."""
        self.steps: dict[tuple[int, int], Step] = {}
        self.notices: list[tuple[Puppet, Puppet, list[Notice], list[str]]] = []
        """Of the steps that are to be checked: the node before and after, what checkers are shown, what is worth counting."""
        self.met: Counter[int] = Counter()
        """How often each of these was met."""
        self.judged: dict[tuple[int, ...], int] = {}
        self.rewired: dict[tuple[int, int, int], int] = {}
        self.node_options: dict[tuple[int, int], list[Option]] = {}
        self.wire_options: dict[tuple[int, int, int], list[Option]] = {}

    # -- the search -----------------------------------------------------------------------------------------------------------

    def search(self, budget: int, step: Callable[[int], None] = lambda states: None) -> Exploration:
        """Visit the states, the near ones first, until there is no other, or so many have been found, or something is broken.

        `step` is told how many more were found.
        """
        found = Exploration(self.count, self.bounds)
        frontier = [self.start()]
        seen: dict[State, State | None] = {frontier[0]: None}
        with uncollected():
            while frontier and len(seen) < budget and found.guarantee is None:
                beyond: list[State] = []
                for state in frontier:
                    if len(seen) >= budget:
                        break
                    for option in self.options(state):
                        try:
                            after = self.after(state, option)
                        except Exception as error:
                            found.guarantee = type(error).__name__
                            found.trace = [*self.trace(seen, state, option), f"!! {error if isinstance(error, Violation) else repr(error)}"]
                            break
                        found.transitions += 1
                        if after not in seen:
                            seen[after] = state
                            beyond.append(after)
                    if found.guarantee is not None:
                        break
                else:
                    found.complete = not beyond
                    found.depth += bool(beyond)
                frontier = beyond
                step(len(beyond))
        found.states = len(seen)
        for number, times in self.met.items():
            for sight in self.notices[number][3]:
                found.counts[sight] += times
        return found

    def start(self) -> State:
        """Everybody has been born, and nobody has been started."""
        epoch = Epoch(int(self.aged))
        nodes = [self.node(Puppet(id, self.configuration, Platter(epoch, epoch))) for id in self.configuration.voters]
        wires = [self.wires.of(Wire())] * len(self.place)
        return (*nodes, *wires, self.ghosts.of(Judge(0).ghosts), self.left.of(self.bounds))

    def node(self, puppet: Puppet) -> int:
        number = self.nodes.of(puppet, (puppet.id, puppet.value))
        if number == len(self.view):
            self.running.append(puppet.running)
            self.leading.append(puppet.peer is not None and isinstance(puppet.peer.state.role, Leading))
            self.view.append(self.views.of(puppet.view))
        return number

    # -- what may happen ------------------------------------------------------------------------------------------------------

    def options(self, state: State) -> Iterator[Option]:
        """All that may happen in a state."""
        left = state[-1]
        for node in state[: self.count]:
            options = self.node_options.get((node, left))
            if options is None:
                options = self.node_options[node, left] = [*self.options_of_node(self.nodes.things[node], left)]
            for option in options:
                if option.leader is None or self.leading[state[option.leader]]:
                    yield option
        for (low, high), place in self.place.items():
            key = (place, state[place], left)
            options = self.wire_options.get(key)
            if options is None:
                options = self.wire_options[key] = [*self.options_of_wire(low, high, state[place], left)]
            for option in options:
                if len(option.steps) == 1 or (self.running[state[low]] and self.running[state[high]]):
                    yield option

    def options_of_node(self, puppet: Puppet, left: int) -> Iterator[Option]:
        """What may happen to a node whatever the wires are."""
        index, rest = puppet.id - 1, self.left.things[left]

        def option(what: Happening, cost: str | None = None, leader: int | None = None) -> Iterator[Option]:
            if cost is None or getattr(rest, cost) > 0:
                yield Option(((index, self.happening(what)),), left if cost is None else self.left.of(rest.less(cost)), leader=leader)

        if puppet.peer is None:
            yield from option(Start())
            return
        role = puppet.peer.state.role
        for written in range(len(puppet.queue) + 1):
            yield from option(Die(written), "crashes")
        for written in range(1, len(puppet.queue) + 1):
            yield from option(Sync(written))
        for peer in sorted({read.link.peer for read in puppet.reads}):
            yield from option(Read(peer))
        if puppet.may_checkpoint:
            yield from option(Checkpoint(), "checkpoints")
        if puppet.offer is not None:
            yield from option(Fetch(self.contents[puppet.offer.mark]))
        if isinstance(role, Following | Leading):
            yield from option(Quit(), "losses")
        if isinstance(role, Leading):
            yield from option(Heartbeat())
            if puppet.peer.room > 0:
                yield from option(Broadcast(bytes([self.bounds.proposals - rest.proposals + 1])), "proposals")
            if role.phase is Phase.BROADCAST and not puppet.reading:
                yield from option(Ask(), "reads")
        if isinstance(role, Looking):
            if index == 0 or rest.elections < self.bounds.elections:  # numbers are names only: the first to lead is called 1
                yield from option(Lead(self.bounds.elections - rest.elections + 1), "elections")
            for other in range(self.count):
                if other != index:  # who does not lead now may do so later, as long as there are elections
                    yield from option(Follow(PeerId(other + 1)), leader=None if rest.elections else other)

    def options_of_wire(self, low: int, high: int, number: int, left: int) -> Iterator[Option]:
        """What may happen on a wire whatever its nodes are."""
        place, wire, rest = self.place[low, high], self.wires.things[number], self.left.things[left]
        for end, (index, other) in enumerate(((low, high), (high, low))):
            if not wire.open[end]:
                continue
            peer = PeerId(other + 1)
            if wire.under_way[end]:
                hear = Hear(peer, self.messages.things[wire.under_way[end][0]])
                yield Option(((index, self.happening(hear)),), left, place, self.wires.of(wire.heard(end)))
            if not wire.open[1 - end] or rest.losses:
                after = self.left.of(rest.less("losses")) if wire.open[1 - end] else left
                yield Option(((index, self.happening(Disconnect(peer))),), after, place, self.wires.of(wire.closed(end)))
        if not all(wire.open):
            ends = ((low, self.happening(Connect(PeerId(high + 1)))), (high, self.happening(Connect(PeerId(low + 1)))))
            yield Option(ends, left, place, self.wires.of(UP))

    def happening(self, what: Happening) -> int:
        return self.happenings.of(what, (type(what), what))

    # -- one transition -------------------------------------------------------------------------------------------------------

    def after(self, state: State, option: Option) -> State:
        """The state that an option leads to. Raises what the core or the checkers have against it."""
        new = list(state)
        new[-1] = option.left
        if option.place:
            new[option.place] = option.wire
        for index, number in option.steps:
            before = new[index]
            step = self.steps.get((before, number))
            if step is None:
                step = self.steps[before, number] = self.step(index, before, number)
            new[index] = step.after
            for place, end, message in step.wires:
                new[place] = self.rewire(new[place], end, message)
            if step.notices >= 0:
                self.met[step.notices] += 1
                key = (step.notices, new[-2], *[self.view[node] for node in new[: self.count]])
                ghosts = self.judged.get(key)
                if ghosts is None:
                    ghosts = self.judged[key] = self.judge(new, index, step.notices)
                new[-2] = ghosts
        return tuple(new)

    def step(self, index: int, node: int, number: int) -> Step:
        """By the shipped code."""
        before, what = self.nodes.things[node], self.happenings.things[number]
        puppet = copied(before)
        said, notices = puppet.happen(what)
        self.contents[puppet.disk.base] = puppet.disk.content
        wires = []
        for peer, message in said:
            other = peer - 1
            place = self.place[min(index, other), max(index, other)]
            end = int(index > other)
            wires.append((place, end, CLOSED) if message is None else (place, 1 - end, self.messages.of(message)))
        if notices:
            self.notices.append((before, puppet, notices, [*sights(notices)]))
        return Step(self.node(puppet), tuple(wires), len(self.notices) - 1 if notices else -1)

    def rewire(self, wire: int, end: int, message: int) -> int:
        key = (wire, end, message)
        after = self.rewired.get(key)
        if after is None:
            old = self.wires.things[wire]
            after = self.rewired[key] = self.wires.of(old.closed(end) if message == CLOSED else old.sent(end, message))
        return after

    def judge(self, state: list[int], index: int, noticed: int) -> int:
        """Show the checkers what a node did, as they remember what went before; what they remember then."""
        before, puppet, notices, _ = self.notices[noticed]
        judge = Judge.remembering(self.count // 2 + 1, self.ghosts.things[state[-2]])
        puppets = [self.nodes.things[number] for number in state[: self.count]]
        puppets[index] = puppet
        judge.nodes = cast(list[Node], puppets)  # a puppet has what checkers look at
        judge.proposed = {bytes([number]) for number in range(1, self.bounds.proposals + 1)}
        if before.peer is not None:
            puppet.end = before.peer.last
            judge.watermarks = {(before.id, before.life): before.peer.watermark}
        delivered = puppet.delivered
        for checker, words, count in notices:
            puppet.delivered = delivered[:count]
            getattr(judge, checker)(puppet, *words)
        puppet.delivered = delivered
        return self.ghosts.of(judge.ghosts)

    # -- the trace ------------------------------------------------------------------------------------------------------------

    def trace(self, seen: dict[State, State | None], last: State, option: Option) -> list[str]:
        """The shortest history that leads to what `option` does in the `last` state, in the words of the simulator's trace."""
        path = [last]
        while (before := seen[path[-1]]) is not None:
            path.append(before)
        lines: list[str] = []
        for state, after in pairwise(reversed(path)):
            self.tell(state, next(option for option in self.options(state) if self.after(state, option) == after), lines)
        self.tell(last, option, lines)
        return lines

    def tell(self, state: State, option: Option, lines: list[str]) -> None:
        for index, number in option.steps:
            with suppress(Exception):  # that is the last line
                copied(self.nodes.things[state[index]]).happen(self.happenings.things[number], lines)
