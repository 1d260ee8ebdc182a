"""A mesh over memory streams: the clock is virtual, so every timeout and backoff of the network costs a test nothing."""

from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from zablog.core.events import Link
from zablog.core.messages import Message
from zablog.core.zxid import PeerId
from zablog.transport.greeting import Contact, Self
from zablog.transport.network import Callbacks, Network, open_network


class Recorder:
    """Everything a network called back, in order; `until` waits for something of it."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self._changed = trio.Event()
        self.callbacks = Callbacks(
            lambda link: self._note("up", link),
            lambda link, messages: self._note("received", link, *messages),
            lambda link, reason: self._note("down", link, reason),
            on_refused=lambda peer, address, reason: self._note("refused", peer, address, reason),
        )

    def _note(self, *event: object) -> None:
        self.events.append(event)
        self._changed.set()

    def of(self, kind: str) -> list[tuple[object, ...]]:
        return [event[1:] for event in self.events if event[0] == kind]

    async def until(self, kind: str, count: int = 1) -> tuple[object, ...]:
        """The `count`-th event of this kind, once it has happened."""
        while len(self.of(kind)) < count:
            self._changed = trio.Event()
            await self._changed.wait()
        return self.of(kind)[count - 1]

    async def link(self, count: int = 1) -> Link:
        (link,) = await self.until("up", count)
        assert isinstance(link, Link)
        return link

    async def messages(self, count: int) -> list[Message]:
        """The first `count` messages, whatever bursts they came in."""
        while len(found := [message for event in self.of("received") for message in event[1:]]) < count:
            await self.until("received", len(self.of("received")) + 1)
        return found  # type: ignore[return-value]  # what `on_received` was called with


class Mesh:
    """Nodes by address. What is dialled at an address in `hanging` never answers."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.networks: dict[str, Network] = {}
        self.hanging: set[str] = set()
        self.streams: list[tuple[trio.abc.Stream, trio.abc.Stream]] = []
        self.dialled: list[float] = []

    async def connect(self, address: str) -> trio.abc.Stream:
        self.dialled.append(trio.current_time())
        if address in self.hanging:
            await trio.sleep_forever()
        if address not in self.networks:
            raise OSError("nobody listens there")
        ours, theirs = trio.testing.memory_stream_pair()
        self.streams.append((ours, theirs))
        self.nursery.start_soon(self.networks[address].accept, theirs)
        return ours

    async def node(self, number: int, members: int = 3, **self_overrides: object) -> tuple[Network, Recorder]:
        """A started network of node `number`; other ideas of who it is by keyword."""
        me = Self(**{"cluster": "c1", "node": PeerId(number), "incarnation": f"i{number}", **self_overrides})  # type: ignore[arg-type]
        network = await self.nursery.start(self._run, me, members)
        recorder = Recorder()
        self.networks[f"node-{number}:1"] = network
        network.start(recorder.callbacks)
        return network, recorder

    async def _run(self, me: Self, members: int, task_status: trio.TaskStatus[Network]) -> None:
        """A network's nursery belongs to the task that opened it."""
        async with open_network(None, me, contacts(members), connect=self.connect, random=Random(me.node)) as network:
            task_status.started(network)
            await trio.sleep_forever()


def contacts(members: int) -> list[Contact]:
    return [Contact(PeerId(n), f"i{n}", (f"node-{n}:1",)) for n in range(1, members + 1)]


@asynccontextmanager
async def open_mesh() -> AsyncIterator[Mesh]:
    async with trio.open_nursery() as nursery:
        yield Mesh(nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    """A test asks for `autojump_clock` beside it: pytest-trio looks for a clock among the test's own arguments only."""
    async with open_mesh() as opened:
        yield opened


@pytest.fixture
def log() -> Iterator[list[MutableMapping[str, Any]]]:
    """The log's lines. They are structlog's own dictionaries, hence Any."""
    with structlog.testing.capture_logs() as captured:
        yield captured
