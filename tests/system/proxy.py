"""The network between real servers, in our hands: a proxy for each pair of nodes, which needs no root.

Between the first and the last node they speak TCP, between the others through Unix sockets, as on one machine nodes do.

A way (from, to) that is cut carries nothing from then on, and says nothing about it: bytes wait, connections stay open, new ones are
accepted and hear nothing. One way cut is a one-way drop; both ways of all pairs of a node are a split. Healed, what waited arrives late,
as after TCP's own repetitions; or the connections break, as they do when the other side has given up meanwhile.
"""

from collections.abc import Iterable
from typing import NamedTuple

import trio

from zablog.transport import unix

PIECE_BYTES = 1 << 16


class Way(NamedTuple):
    sender: int
    receiver: int


class Proxies:
    """All pairs. The node with the higher number dials the other, so `ports[high, low]` is where `high` finds `low`."""

    def __init__(self, addresses: dict[int, tuple[str, int]]) -> None:
        self.addresses = addresses
        self.ports: dict[tuple[int, int], int] = {}
        self._cut: set[Way] = set()
        self._healed = trio.Event()
        self._connections: dict[trio.CancelScope, tuple[int, int]] = {}

    async def start(self, nursery: trio.Nursery) -> None:
        for high in self.addresses:
            for low in self.addresses:
                if low < high:
                    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
                    self.ports[high, low] = listener.socket.getsockname()[1]
                    beside = None if high - low > 1 else unix.listen_beside(listener)
                    for each in (listener, beside):
                        if each is not None:
                            nursery.start_soon(self._accept, each, high, low)

    def cut(self, ways: Iterable[Way]) -> None:
        self._cut.update(ways)

    def heal(self, break_connections: bool) -> None:
        pairs = {(max(way), min(way)) for way in self._cut}
        self._cut.clear()
        self._healed.set()
        self._healed = trio.Event()
        if break_connections:
            for scope in [scope for scope, pair in self._connections.items() if pair in pairs]:
                scope.cancel()

    async def _accept(self, listener: trio.SocketListener, high: int, low: int) -> None:
        async def connection(dialled: trio.abc.Stream) -> None:
            with trio.CancelScope() as scope:
                self._connections[scope] = (high, low)
                try:
                    dial = trio.open_tcp_stream if high - low > 1 else unix.dial
                    async with await dial(*self.addresses[low]) as target, trio.open_nursery() as nursery:
                        nursery.start_soon(self._pump, dialled, target, Way(high, low), nursery.cancel_scope)
                        nursery.start_soon(self._pump, target, dialled, Way(low, high), nursery.cancel_scope)
                except OSError:
                    pass  # nobody listens there: the caller is told by the end of its connection
                finally:
                    del self._connections[scope]

        await trio.serve_listeners(connection, [listener])

    async def _pump(self, source: trio.abc.Stream, target: trio.abc.Stream, way: Way, connection: trio.CancelScope) -> None:
        try:
            while True:
                piece = await source.receive_some(PIECE_BYTES)
                while way in self._cut:
                    await self._healed.wait()
                if not piece:
                    break
                await target.send_all(piece)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        connection.cancel()


def one_way(sender: int, receiver: int) -> list[Way]:
    return [Way(sender, receiver)]


def split(alone: int, nodes: Iterable[int]) -> list[Way]:
    """`alone` on one side, the others on the other."""
    return [way for other in nodes if other != alone for way in (Way(alone, other), Way(other, alone))]
