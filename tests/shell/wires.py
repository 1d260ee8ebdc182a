"""Connections of the simulated world: byte streams with seeded delays, splits at any byte, stalls, cuts, and ends that fall silent.

They stand in for trio's `open_tcp_stream` and `open_tcp_listeners`, so the shipped code dials, listens and shakes hands as ever. Who
dials is told by a context variable, which trio hands on to every task that a node or a client starts.
"""

import errno
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from random import Random

import trio

UNREAD_BYTES_MAX = 64 << 10
"""So much may be under way one way; then the sender waits."""
SILENCE_SECONDS = 5.0
"""The kernel gives up an end whose bytes nobody acknowledged for so long (TCP_USER_TIMEOUT)."""

who: ContextVar[str] = ContextVar("who")
"""Which node or client the task belongs to."""


class Wire(trio.abc.Stream):
    """One end of a connection."""

    other: "Wire"

    def __init__(self, wires: "Wires", owner: str, peer: str) -> None:
        self.wires = wires
        self.owner = owner
        self.peer = peer
        self.arriving: deque[tuple[float, bytes]] = deque()
        """(when it is here, bytes); empty bytes are the end of the stream."""
        self.arriving_bytes = 0
        self.closed = False
        self.broken = False
        self.deaf = False
        """What is sent to this end vanishes."""
        self.changed = trio.lowlevel.ParkingLot()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        raw = bytes(data)
        while raw:
            while not self.closed and not self.broken and self.other.arriving_bytes > UNREAD_BYTES_MAX:
                await self.changed.park()
            self._insist()
            cut = len(raw)
            if self.wires.random.random() < 0.1:  # whoever is cancelled between the two has sent half a frame
                cut = self.wires.random.randrange(len(raw)) + 1
            self.other.take(raw[:cut])
            raw = raw[cut:]
            if raw:
                await trio.lowlevel.checkpoint()

    def take(self, piece: bytes) -> None:
        """The other end sends this to us."""
        if self.deaf or self.closed or self.broken:
            return
        due = trio.current_time() + self.wires.delay(self.peer, self.owner)
        if self.arriving:
            due = max(due, self.arriving[-1][0])
        self.arriving.append((due, piece))
        self.arriving_bytes += len(piece)
        self.changed.unpark_all()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            self._insist()
            if self.here:
                return self.read(max_bytes or UNREAD_BYTES_MAX)
            await self.arrival()

    @property
    def here(self) -> bool:
        """Is there something to be read, be it the end?"""
        return bool(self.arriving) and self.arriving[0][0] <= trio.current_time()

    async def arrival(self) -> None:
        """Until something may be here, or has changed."""
        with trio.move_on_at(self.arriving[0][0] if self.arriving else float("inf")):
            await self.changed.park()

    def read(self, size_max: int) -> bytes:
        """Some of what is here."""
        due, piece = self.arriving.popleft()
        if not piece:
            self.arriving.appendleft((due, piece))
            return piece
        size = min(size_max, len(piece))
        if size > 1 and self.wires.random.random() < 0.2:
            size = self.wires.random.randrange(1, size)
        if size < len(piece):
            self.arriving.appendleft((due, piece[size:]))
        self.arriving_bytes -= size
        self.other.changed.unpark_all()
        return piece[:size]

    def _insist(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("this end was closed")
        if self.broken:
            raise trio.BrokenResourceError("connection reset by peer")

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.wires.ends.pop(self, None)
            self.changed.unpark_all()
            self.other.take(b"")
            self.other.changed.unpark_all()

    def reset(self) -> None:
        """Both ends learn at once that the connection is gone."""
        for end in (self, self.other):
            end.broken = True
            end.changed.unpark_all()


class Listener(trio.abc.Listener[Wire]):
    """Where connections to one address come in."""

    def __init__(self, wires: "Wires", address: str) -> None:
        self.wires = wires
        self.address = address
        self.calls: deque[Wire] = deque()
        self.changed = trio.lowlevel.ParkingLot()
        self.socket = self
        """The shipped code asks a listener's socket for its name, and closes that."""

    async def accept(self) -> Wire:
        await trio.lowlevel.checkpoint()
        while not self.calls:
            if self.wires.listeners.get(self.address) is not self:
                raise trio.ClosedResourceError
            await self.changed.park()
        return self.calls.popleft()

    def getsockname(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def close(self) -> None:
        if self.wires.listeners.get(self.address) is self:
            del self.wires.listeners[self.address]
        for wire in self.calls:
            wire.close()
        self.calls.clear()
        self.changed.unpark_all()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class Wires:
    """All connections of a world, and what may happen to them."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.listeners: dict[str, Listener] = {}
        self.owners: dict[str, str] = {}
        """Who listens at an address."""
        self.ends: dict[Wire, None] = {}
        """Those that nobody has closed yet."""
        self.stalled: dict[tuple[str, str], float] = {}
        """(from, to): nothing arrives before that time."""
        self.parted: set[frozenset[str]] = set()
        """Pairs between which no connection can be made."""
        self.latency = random.choice((0.0005, 0.002, 0.01))
        self.pair: Callable[[str], tuple[Wire, Wire]] = self.plain_pair
        """Makes both ends of a connection to whoever is named."""

    def delay(self, source: str, target: str) -> float:
        """Seconds until what is sent now arrives."""
        wait = max(0.0, self.stalled.get((source, target), 0.0) - trio.current_time())
        return wait + self.latency * self.random.random()

    async def open_tcp_stream(self, host: str, port: int, **_: object) -> Wire:
        await trio.sleep(self.delay(who.get(), who.get()))
        listener = self.listeners.get(f"{host}:{port}")
        if listener is None or frozenset((who.get(), self.owners[listener.address])) in self.parted:
            raise OSError("nobody listens there")
        ours, theirs = self.pair(self.owners[listener.address])
        ours.other, theirs.other = theirs, ours
        self.ends[ours] = self.ends[theirs] = None
        listener.calls.append(theirs)
        listener.changed.unpark_all()
        return ours

    def plain_pair(self, owner: str) -> tuple[Wire, Wire]:
        return Wire(self, who.get(), owner), Wire(self, owner, who.get())

    async def open_tcp_listeners(self, port: int, *, host: str = "127.0.0.1") -> list[Listener]:
        await trio.lowlevel.checkpoint()
        address = f"{host}:{port}"
        if address in self.listeners:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        if not host.startswith("127."):
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        self.owners[address] = who.get()
        listener = self.listeners[address] = Listener(self, address)
        return [listener]

    # -- what happens to connections ----------------------------------------------------------------------------------------

    def between(self, *names: str) -> list[Wire]:
        """The connections that have all these at their ends: one end of each, oldest first."""
        found = [end for end in self.ends if set(names) <= {end.owner, end.peer}]
        return [end for end in found if end.owner < end.peer or end.other.closed]

    def cut(self, *names: str) -> None:
        for end in self.between(*names):
            end.reset()

    async def fall_silent(self, *names: str) -> None:
        """One end of each connection hears nothing any more; after a while the kernel gives up the rest."""
        ends = self.between(*names)
        for end in ends:
            self.random.choice((end, end.other)).deaf = True
        await trio.sleep(SILENCE_SECONDS)
        for end in ends:
            end.reset()

    def stall(self, source: str, target: str, seconds: float) -> None:
        self.stalled[source, target] = trio.current_time() + seconds

    def part(self, one: str, other: str) -> None:
        self.parted.add(frozenset((one, other)))
        self.cut(one, other)

    def heal(self) -> None:
        self.parted.clear()
        self.stalled.clear()
