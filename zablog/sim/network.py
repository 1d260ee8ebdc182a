"""The simulated network: one link a pair, FIFO in each direction, delayed, cut, or dead in one direction. The shipped codec in between."""

from collections.abc import Callable
from dataclasses import dataclass, field

from zablog.core.events import Link
from zablog.core.messages import Message
from zablog.core.zxid import PeerId
from zablog.sim.schedule import Schedule
from zablog.wire.codec import decode, encode
from zablog.wire.frames import BUFFER_BYTES_MIN, FRAME_BYTES_MAX, FrameReader

RECONNECT = (1_000, 60_000)
NOTICE = (100, 20_000)
"""How long an end takes to notice that its link is gone."""


@dataclass(slots=True)
class Wire:
    """One link: who its ends are, and what is on the way to each of them, with a reader of frames."""

    generation: int
    ends: tuple[int, int]
    readers: dict[int, FrameReader] = field(default_factory=dict)
    waiting: dict[int, list[bytes]] = field(default_factory=dict)
    due: dict[int, int] = field(default_factory=dict)


class Network:
    """`up`, `down` and `received` are called with (node, link, …)."""

    def __init__(
        self,
        schedule: Schedule,
        nodes: list[int],
        alive: Callable[[int], bool],
        up: Callable[[int, Link], None],
        down: Callable[[int, Link], None],
        received: Callable[[int, Link, list[Message]], None],
    ) -> None:
        self.schedule = schedule
        self.nodes = nodes
        self.alive, self.up, self.down, self.received = alive, up, down, received
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

    def connect_all(self) -> None:
        """Let every pair without a link try again soon."""
        for index, low in enumerate(self.nodes):
            for high in self.nodes[index + 1 :]:
                self.connect_soon(low, high)

    def connect_soon(self, low: int, high: int) -> None:
        if (low, high) not in self.connecting and (low, high) not in self.wires:
            self.connecting.add((low, high))
            self.schedule.at(self.schedule.random.randint(*RECONNECT), self.connect, low, high)

    def connect(self, low: int, high: int) -> None:
        self.connecting.discard((low, high))
        if (low, high) in self.wires:
            return
        reachable = (low, high) not in self.blocked and (high, low) not in self.blocked
        if not (reachable and self.alive(low) and self.alive(high)):
            if self.alive(low) or self.alive(high):
                self.connect_soon(low, high)
            return
        self.generation += 1
        wire = Wire(self.generation, (low, high))
        for end in wire.ends:
            wire.readers[end] = FrameReader(FRAME_BYTES_MAX, BUFFER_BYTES_MIN)
            wire.waiting[end] = []
            wire.due[end] = 0
        self.wires[low, high] = wire
        self.schedule.say(f"{low} and {high} are connected")
        self.up(low, Link(PeerId(high), wire.generation))
        if self.wires.get((low, high)) is wire:
            self.up(high, Link(PeerId(low), wire.generation))

    def send(self, sender: int, link: Link, message: Message) -> None:
        pair = (min(sender, link.peer), max(sender, link.peer))
        wire = self.wires.get(pair)
        if wire is None or wire.generation != link.generation:
            return
        stream = b"".join(encode(message))
        if (sender, link.peer) in self.blocked:
            wire.waiting[link.peer].append(stream)
        else:
            self.transmit(wire, link.peer, stream)

    def transmit(self, wire: Wire, receiver: int, stream: bytes) -> None:
        due = self.schedule.now + self.schedule.random.randint(*self.delay)
        if self.late:
            due += self.schedule.random.randint(0, sum(self.late.get(end, 0) for end in wire.ends))
        due = max(due, wire.due[receiver])
        wire.due[receiver] = due
        self.schedule.at(due - self.schedule.now, self.arrive, wire, receiver, stream)

    def arrive(self, wire: Wire, receiver: int, stream: bytes) -> None:
        if self.wires.get(wire.ends) is not wire:
            return
        sender = wire.ends[0] if receiver == wire.ends[1] else wire.ends[1]
        messages = [decode(frame) for frame in wire.readers[receiver].feed(stream)]
        self.received(receiver, Link(PeerId(sender), wire.generation), messages)

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
            self.schedule.at(self.schedule.random.randint(*NOTICE), self.down, end, link)

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
            self.schedule.at(self.schedule.random.randint(*NOTICE), self.down, end, link)
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
