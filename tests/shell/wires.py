"""Connections in virtual time: seeded delays, bytes cut at any place, whole directions that stall, ends that die with or without a word."""

import errno
from collections import deque
from collections.abc import Callable
from random import Random
from types import SimpleNamespace

import trio

BUFFERED_MAX = 256 << 10
"""What a sender may be ahead: the kernels' buffers."""
GIVEN_UP_SECONDS = 1.0
"""A connection is attempted for so long across a cut."""


class Way:
    """One direction of a connection."""

    def __init__(self, net: "Net", source: str, target: str) -> None:
        self.net, self.source, self.target = net, source, target
        self.flying: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.ended = False
        """The sender has closed it."""
        self.reset = False
        self.changed = trio.Event()

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while self.size > BUFFERED_MAX and not self.reset:
            await self.changed.wait()
        if self.reset or self.ended:
            raise trio.BrokenResourceError("the connection is gone")
        last = self.flying[-1][0] if self.flying else 0.0
        self.flying.append((max(last, trio.current_time() + self.net.delay()), bytes(data)))
        self.size += len(data)
        self.wake()

    async def receive(self, most: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self.reset:
                raise trio.BrokenResourceError("connection reset")
            wait = float("inf")
            if not self.net.stalled(self.source, self.target):
                if self.flying:
                    wait = self.flying[0][0] - trio.current_time()
                    if wait <= 0:
                        return self.take(most)
                elif self.ended:
                    return b""
            with trio.move_on_after(wait):
                await self.changed.wait()

    def take(self, most: int) -> bytes:
        """What has arrived, or some of it: a stream knows no messages."""
        due, data = self.flying.popleft()
        count = min(most, len(data))
        if self.net.random.random() < 0.1:
            count = self.net.random.randint(1, count)
        if count < len(data):
            self.flying.appendleft((due, data[count:]))
        self.size -= count
        self.wake()
        return data[:count]


class End(trio.abc.Stream):
    """One end of a connection."""

    def __init__(self, out: Way, back: Way) -> None:
        self.out, self.back, self.closed, self.dead = out, back, False, False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.closed:
            raise trio.ClosedResourceError
        await self.out.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self.closed:
            raise trio.ClosedResourceError
        return await self.back.receive(max_bytes or 65536)

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            if not self.dead:
                self.out.ended = True
                self.out.wake()
                self.back.reset = True
                self.back.wake()
        await trio.lowlevel.checkpoint()


class Door(trio.abc.Listener[End]):
    """Where a node listens."""

    def __init__(self, net: "Net", address: str) -> None:
        self.net, self.address = net, address
        host, _, port = address.rpartition(":")
        self.socket = SimpleNamespace(getsockname=lambda: (host, int(port)), close=self.close)
        self.waiting, self.knocking = trio.open_memory_channel[End](100)

    async def accept(self) -> End:
        try:
            return await self.knocking.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError from None

    def close(self) -> None:
        if self.net.doors.get(self.address) is self:
            del self.net.doors[self.address]
        self.waiting.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class Net:
    """All connections of a world. Places are named: nodes by their address, clients by a name of theirs."""

    def __init__(self, random: Random, say: Callable[[str], None]) -> None:
        self.random, self.say = random, say
        self.doors: dict[str, Door] = {}
        self.ends: list[tuple[str, str, End, End]] = []
        self.cut: set[tuple[str, str]] = set()
        self.slow = 1.0

    def delay(self) -> float:
        return self.slow * self.random.choice((0.0001, 0.0001, 0.0003, 0.001, 0.01 if self.random.random() < 0.1 else 0.0002))

    def stalled(self, source: str, target: str) -> bool:
        return (source, target) in self.cut or ("*", target) in self.cut or (source, "*") in self.cut

    def set_cut(self, *pairs: tuple[str, str]) -> None:
        self.cut = set(pairs)
        for _, _, one, _ in self.ends:
            one.out.wake()
            one.back.wake()

    def listen(self, address: str) -> Door:
        door = self.doors[address] = Door(self, address)
        return door

    async def dial(self, source: str, address: str) -> End:
        await trio.sleep(self.delay())
        door = self.doors.get(address)
        if door is not None and (self.stalled(source, address) or self.stalled(address, source)):
            await trio.sleep(GIVEN_UP_SECONDS)
            raise OSError(errno.ETIMEDOUT, "timed out")
        if door is None:
            raise OSError(errno.ECONNREFUSED, "connection refused")
        there, back = Way(self, source, address), Way(self, address, source)
        ours, theirs = End(there, back), End(back, there)
        try:
            door.waiting.send_nowait(theirs)
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            raise OSError(errno.ECONNREFUSED, "connection refused") from None
        self.ends = [row for row in self.ends if not (row[2].closed and row[3].closed)]
        self.ends.append((source, address, ours, theirs))
        return ours

    def break_off(self, place: str, silently: bool) -> None:
        """A machine is gone: its connections end, or say nothing any more until the machine is back."""
        for source, target, ours, theirs in self.ends:
            if place in (source, target):
                mine = ours if source == place else theirs
                mine.dead = True
                if not silently:
                    self.forget(ours, theirs)

    def come_back(self, place: str) -> None:
        """What was connected to the machine's earlier life is reset."""
        for source, target, ours, theirs in self.ends:
            if place in (source, target) and (ours.dead or theirs.dead):
                self.forget(ours, theirs)

    def forget(self, *ends: End) -> None:
        for end in ends:
            end.out.reset = True
            end.out.wake()
