"""A leader that falls silent, in virtual time: whoever knows the next one is asked, and nobody is given up without cause.

The nodes are scripts behind memory streams; a stopped one takes what it is sent and says nothing, like a process that got SIGSTOP.
"""

import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio

from broker.client import connect
from broker.client.connection import OVERDUE_SECONDS, SILENCE_SECONDS, open_connection
from broker.errors import Code, ConnectionLost
from broker.pipe import Pipe
from broker.protocol import (
    AllocateProducer,
    ClusterMetadata,
    Failed,
    Fetch,
    FetchFrom,
    Metadata,
    NodeAddress,
    Ping,
    Ponged,
    Produce,
    Produced,
    ProducerAllocated,
    Request,
    Response,
    TopicEntry,
    decode_request,
    encode_response,
)
from broker.protocol.messages import Level
from zablog import Epoch, PeerId, Zxid
from zablog.wire.frames import FrameReader
from zablog.wire.handshake import Welcome, encode_handshake

ADDRESSES = {number: f"node{number}:7401" for number in (1, 2, 3)}


class Nodes:
    """Three of them. `leader` leads, as everyone knows who is not in `stopped`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.leader: int | None = 1
        self.stopped: set[int] = set()
        self.write_seconds = 0.0
        """What a write takes; everything else takes no time."""
        self.seen: Counter[tuple[int, str]] = Counter()
        """How many requests of each kind each node answered."""
        self.connections: Counter[int] = Counter()
        self._nursery = nursery
        self._goes_on = trio.Event()

    def go_on(self) -> None:
        """Nobody is stopped any more: what waited at them is answered."""
        self.stopped.clear()
        self._goes_on.set()
        self._goes_on = trio.Event()

    async def dial(self, host: str, port: int) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        number = int(host.removeprefix("node"))
        self.connections[number] += 1
        self._nursery.start_soon(self._serve, number, far)
        return near

    async def _answering(self, number: int) -> None:
        while number in self.stopped:
            await self._goes_on.wait()

    async def _serve(self, number: int, stream: trio.abc.Stream) -> None:
        reader = FrameReader()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while not reader.feed(await stream.receive_some()):
                pass
            await self._answering(number)
            for piece in encode_handshake(Welcome(1, "c" * 32, PeerId(number), "d" * 32)):
                await stream.send_all(piece)
            pipe = Pipe(stream)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipe.write)
                while frames := await pipe.burst():
                    await self._answering(number)
                    for frame in frames:
                        nursery.start_soon(self._answer, number, pipe, *decode_request(frame))
                nursery.cancel_scope.cancel()

    async def _answer(self, number: int, pipe: Pipe, id: int, request: Request) -> None:
        self.seen[number, type(request).__name__] += 1
        if isinstance(request, Produce):
            await trio.sleep(self.write_seconds)
            await self._answering(number)
        if (answer := self._word(number, request)) is not None:
            pipe.post(encode_response(id, answer))

    def _word(self, number: int, request: Request) -> Response | None:
        match request:
            case Ping():
                return Ponged()
            case Metadata():
                nodes = tuple(NodeAddress(PeerId(node), address) for node, address in ADDRESSES.items())
                leader = None if self.leader is None else PeerId(self.leader)
                return ClusterMetadata("c" * 32, PeerId(number), Epoch(1), leader, nodes, (TopicEntry(Zxid(1, 1), "orders", 1),))
            case Fetch():
                return None
            case _ if number != self.leader:
                return Failed(Code.NOT_LEADING, "this node does not lead")
            case AllocateProducer():
                return ProducerAllocated(Zxid(1, 2))
            case Produce():
                return Produced(Level.QUORUM, Zxid(1, 3), (0,) * len(request.parts))
            case _:
                raise AssertionError(f"no test asks for {request}")


@pytest.fixture
async def nodes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nodes]:
    async with trio.open_nursery() as nursery:
        nodes = Nodes(nursery)
        monkeypatch.setattr(trio, "open_tcp_stream", nodes.dial)
        yield nodes
        nursery.cancel_scope.cancel()


async def later(nodes: Nodes, seconds: float, leader: int) -> None:
    await trio.sleep(seconds)
    nodes.leader = leader


@pytest.mark.parametrize("election_seconds", [0.1, 0.6, 0.9, 1.7])
async def test_a_write_moves_to_the_next_leader_as_soon_as_there_is_one(
    autojump_clock: trio.testing.MockClock, nodes: Nodes, election_seconds: float
) -> None:
    async with connect(ADDRESSES[1], timeout=10) as zl, zl.producer() as out, trio.open_nursery() as nursery:
        await out.send("orders", b"before")
        began = trio.current_time()
        nodes.stopped.add(1)
        nodes.leader = None
        nursery.start_soon(later, nodes, election_seconds, 2)

        await out.send("orders", b"behind")

        # To notice takes two answers that are overdue, and looking at that now and then.
        assert trio.current_time() - began <= max(election_seconds, 3 * OVERDUE_SECONDS) + 2 * OVERDUE_SECONDS
    assert nodes.seen[2, "Produce"] == 1


@pytest.mark.parametrize("election_seconds", [0.1, 0.6, 0.9, 1.7])
async def test_a_search_is_not_held_up_by_a_node_that_hangs(
    autojump_clock: trio.testing.MockClock, nodes: Nodes, election_seconds: float
) -> None:
    nodes.stopped.add(1)
    nodes.leader = None
    began = trio.current_time()
    async with connect(",".join(ADDRESSES.values()), timeout=10) as zl, trio.open_nursery() as nursery:
        nursery.start_soon(later, nodes, election_seconds, 2)

        async with zl.producer() as out:
            await out.send("orders", b"a")

        assert trio.current_time() - began <= 2 * election_seconds + OVERDUE_SECONDS


async def test_a_slow_leader_that_answers_is_not_given_up(autojump_clock: trio.testing.MockClock, nodes: Nodes) -> None:
    nodes.write_seconds = 3 * SILENCE_SECONDS
    async with connect(ADDRESSES[1], timeout=20) as zl, zl.producer() as out:
        await out.send("orders", b"a")

    assert nodes.seen[1, "Produce"] == 1, "it was sent once"
    assert nodes.connections[1] == 1 and nodes.connections[2] == 0, "and nobody else was asked"


async def test_a_leader_that_hangs_while_nobody_else_leads_is_waited_for(autojump_clock: trio.testing.MockClock, nodes: Nodes) -> None:
    async with connect(ADDRESSES[1], timeout=20) as zl, zl.producer() as out, trio.open_nursery() as nursery:
        await out.send("orders", b"before")

        async def hang() -> None:
            nodes.stopped.add(1)
            await trio.sleep(SILENCE_SECONDS)
            nodes.go_on()

        nursery.start_soon(hang)
        await out.send("orders", b"meanwhile")

    assert nodes.seen[1, "Produce"] == 2
    assert nodes.connections[1] == 1, "the connection is the same"


@pytest.mark.parametrize("rest_seconds", [0.0, 0.4, 60.0])
async def test_a_node_is_silent_from_when_it_was_asked(autojump_clock: trio.testing.MockClock, nodes: Nodes, rest_seconds: float) -> None:
    """A node that nobody had asked for a minute was given up in half the time when it stood still for a moment."""
    async with connect(ADDRESSES[1], timeout=20) as zl, zl.producer() as out, trio.open_nursery() as nursery:
        await out.send("orders", b"before")
        await trio.sleep(rest_seconds)

        async def stand_still() -> None:
            nodes.stopped.add(1)
            await trio.sleep(1.8 * SILENCE_SECONDS)
            nodes.go_on()

        nursery.start_soon(stand_still)
        await out.send("orders", b"meanwhile")

    assert nodes.connections[1] == 1, "the connection is the same"


async def test_a_node_that_waits_for_data_to_come_is_asked_seldom_whether_it_is_there(
    autojump_clock: trio.testing.MockClock, nodes: Nodes
) -> None:
    async with trio.open_nursery() as nursery:
        link = await open_connection(nursery, ADDRESSES[1])
        link.post(Fetch([FetchFrom(Zxid(1, 1), 0, 0, 1)], 1, 10_000), lambda answer: None, patient=True)

        await trio.sleep(10 * SILENCE_SECONDS)

        assert 5 <= nodes.seen[1, "Ping"] <= 10
        nursery.cancel_scope.cancel()


async def test_a_busy_node_that_was_always_there_is_asked_more_and_more_rarely(
    autojump_clock: trio.testing.MockClock, nodes: Nodes
) -> None:
    nodes.write_seconds = 3 * OVERDUE_SECONDS
    async with connect(ADDRESSES[1], timeout=20) as zl, zl.producer() as out:
        for _ in range(40):
            await out.send("orders", b"a")

        assert nodes.seen[1, "Ping"] <= 10

        nodes.write_seconds = 0
        for _ in range(400):
            await out.send("orders", b"a")
            await trio.sleep(0.1)
        began = trio.current_time()
        nodes.stopped.add(1)
        nodes.leader = 2
        await out.send("orders", b"behind")
        assert trio.current_time() - began <= 5 * OVERDUE_SECONDS, "its being busy is forgotten"


async def test_nothing_wakes_up_for_a_connection_that_is_asked_nothing(autojump_clock: trio.testing.MockClock, nodes: Nodes) -> None:
    async with trio.open_nursery() as nursery:
        link = await open_connection(nursery, ADDRESSES[1])
        await trio.sleep(3 * OVERDUE_SECONDS)
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf

        nodes.stopped.add(1)
        with pytest.raises(ConnectionLost):
            await link.call(Ping())

        nursery.cancel_scope.cancel()
