"""The simulated network: one link a pair, FIFO in each direction, delayed, cut, or dead in one direction. The shipped codec in between."""

from dataclasses import dataclass, field
from itertools import combinations
from typing import Protocol

from zablog.core.events import Link
from zablog.core.messages import Message
from zablog.core.zxid import PeerId
from zablog.sim.schedule import Schedule
from zablog.wire.codec import decode, encode
from zablog.wire.frames import BUFFER_BYTES_MIN, FRAME_BYTES_MAX, FrameReader

RECONNECT = (1_000, 60_000)
NOTICE = (100, 20_000)
"""How long an end takes to notice that its link is gone."""
KNOWN_MAX = 500


class End(Protocol):
    """What is at the ends of links."""

    running: bool

    def link_up(self, link: Link) -> None: ...

    def link_down(self, link: Link) -> None: ...

    def received(self, link: Link, messages: list[Message]) -> None: ...


@dataclass(slots=True)
class Wire:
    """One link: who its ends are, and what is on the way to each of them, with a reader of frames."""

    generation: int
    ends: tuple[int, int]
    links: dict[int, Link]
    """As each end knows it."""
    readers: dict[int, FrameReader] = field(default_factory=dict)
    waiting: dict[int, list[bytes]] = field(default_factory=dict)
    due: dict[int, int] = field(default_factory=dict)


class Network:
    """Between `nodes`, by their numbers: whoever makes the network puts them in."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.nodes: dict[int, End] = {}
        self.wires: dict[tuple[int, int], Wire] = {}
        self.connecting: set[tuple[int, int]] = set()
        self.blocked: set[tuple[int, int]] = set()
        """(from, to): nothing arrives in this direction."""
        self.apart: set[tuple[int, int]] = set()
        """What of it stays so when everything else works again."""
        self.delay = (50, 1_000)
        self.unheard: list[tuple[int, Link]] = []
        """(an end, its link): gone, and that cannot be heard there."""
        self.late: dict[int, int] = {}
        """Nodes that are slow, and by how many microseconds a message to or from them is late at most."""
        self.generation = 0
        self.said: Message | None = None
        """What was said last, and as which bytes: most is said to several at once."""
        self.stream = b""
        self.known: dict[bytes, list[Message]] = {}
        """What was heard lately, by its bytes: nobody changes a message, so who hears the same may share it."""

    def connect_all(self) -> None:
        """Let every pair without a link try again soon."""
        for low, high in combinations(self.nodes, 2):
            self.connect_soon(low, high)

    def connect_soon(self, low: int, high: int) -> None:
        if (low, high) not in self.connecting and (low, high) not in self.wires:
            self.connecting.add((low, high))
            self.schedule.at(self.schedule.between(*RECONNECT), self.connect, low, high)

    def connect(self, low: int, high: int) -> None:
        self.connecting.discard((low, high))
        if (low, high) in self.wires:
            return
        one, other = self.nodes[low], self.nodes[high]
        reachable = (low, high) not in self.blocked and (high, low) not in self.blocked
        if not (reachable and one.running and other.running):
            if one.running or other.running:
                self.connect_soon(low, high)
            return
        self.generation += 1
        links = {low: Link(PeerId(high), self.generation), high: Link(PeerId(low), self.generation)}
        wire = Wire(self.generation, (low, high), links)
        for end in wire.ends:
            wire.readers[end] = FrameReader(FRAME_BYTES_MAX, BUFFER_BYTES_MIN)
            wire.waiting[end] = []
            wire.due[end] = 0
        self.wires[low, high] = wire
        self.schedule.say(f"{low} and {high} are connected")
        one.link_up(links[low])
        if self.wires.get((low, high)) is wire:
            other.link_up(links[high])

    def send(self, sender: int, link: Link, message: Message) -> None:
        receiver, generation = link
        wire = self.wires.get((sender, receiver) if sender < receiver else (receiver, sender))
        if wire is None or wire.generation != generation:
            return
        if message is not self.said:
            self.said, self.stream = message, b"".join(encode(message))
        if (sender, receiver) in self.blocked:
            wire.waiting[receiver].append(self.stream)
        else:
            self.transmit(wire, receiver, self.stream)

    def transmit(self, wire: Wire, receiver: int, stream: bytes) -> None:
        now = self.schedule.now
        due = now + self.schedule.between(*self.delay)
        if self.late:
            due += self.schedule.between(0, sum(self.late.get(end, 0) for end in wire.ends))
        due = max(due, wire.due[receiver])
        wire.due[receiver] = due
        self.schedule.at(due - now, self.arrive, wire, receiver, stream)

    def arrive(self, wire: Wire, receiver: int, stream: bytes) -> None:
        if self.wires.get(wire.ends) is not wire:
            return
        messages = self.known.get(stream)
        if messages is None:
            messages = [decode(frame) for frame in wire.readers[receiver].feed(stream)]
            if len(self.known) == KNOWN_MAX:
                self.known.clear()
            self.known[stream] = messages
        self.nodes[receiver].received(wire.links[receiver], messages)

    def passes(self, one: int, other: int) -> bool:
        """Do they hear each other?"""
        return one != other and not {(one, other), (other, one)} & self.blocked

    def cut(self, low: int, high: int) -> None:
        """The link is gone, and what was on the way with it; each end notices in its own time."""
        wire = self.wires.pop((low, high), None)
        if wire is not None:
            for end, other in ((low, high), (high, low)):
                self.tell(other, end, wire.generation)
            self.connect_soon(low, high)

    def drop(self, node: int, link: Link) -> None:
        """An end closes the link: it forgets it at once, the other end notices later."""
        pair = (min(node, link.peer), max(node, link.peer))
        wire = self.wires.get(pair)
        if wire is not None and wire.generation == link.generation:
            del self.wires[pair]
            self.tell(node, link.peer, wire.generation)
            self.connect_soon(*pair)

    def tell(self, gone: int, end: int, generation: int) -> None:
        """An end will notice that its link is gone: from the other end, so not while nothing arrives from there."""
        link = Link(PeerId(gone), generation)
        if (gone, end) in self.blocked:
            self.unheard.append((end, link))
        else:
            self.schedule.at(self.schedule.between(*NOTICE), self.nodes[end].link_down, link)

    def isolate(self, node: int) -> None:
        """The process is gone, and its links with it."""
        for pair in sorted(self.wires):
            if node in pair:
                self.cut(*pair)

    def hasten(self, node: int) -> None:
        """A slow node is as fast as the others again."""
        self.late.pop(node, None)

    def separate(self, pairs: set[tuple[int, int]]) -> None:
        """From now on these never reach each other, whatever heals; with none, everybody can reach everybody again."""
        self.apart = pairs | {(high, low) for low, high in pairs}
        self.heal()
        for pair in sorted(self.wires):
            if pair in self.apart:
                self.cut(*pair)

    def heal(self) -> None:
        """Everybody reaches everybody again who is not apart; what waited behind a dead direction arrives late, or its link is reset."""
        self.blocked = set(self.apart)
        unheard, self.unheard = self.unheard, []
        for end, link in unheard:
            if (link.peer, end) in self.apart:
                self.unheard.append((end, link))
                continue
            self.schedule.at(self.schedule.between(*NOTICE), self.nodes[end].link_down, link)
        for pair in sorted(self.wires):
            wire = self.wires[pair]
            if pair in self.apart:
                continue
            if any(wire.waiting.values()) and self.schedule.random.random() < 0.5:
                self.cut(*pair)
                continue
            for end in wire.ends:
                waiting, wire.waiting[end] = wire.waiting[end], []
                for stream in waiting:
                    self.transmit(wire, end, stream)
        self.connect_all()
