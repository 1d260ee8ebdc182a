"""What a client does when a node misbehaves: a node with a script instead of a cluster behind it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from broker.client import connect, connection
from broker.client.cluster import READS_VERSION
from broker.client.connection import open_connection
from broker.errors import Code, ConnectionLost, NoQuorum, OutcomeUnknown, ProducerLost
from broker.pipe import Pipe
from broker.protocol import (
    AllocateProducer,
    Applied,
    ClusterMetadata,
    CreateTopic,
    Failed,
    Metadata,
    NodeAddress,
    Ping,
    Ponged,
    Produce,
    Produced,
    ProducerAllocated,
    ReadIndex,
    ReadIndexed,
    Request,
    Response,
    Status,
    TopicEntry,
    WaitApplied,
    decode_request,
    encode_response,
)
from broker.protocol.messages import Level
from zablog import Epoch, PeerId, Zxid
from zablog.wire.frames import Frame, FrameReader, pieces
from zablog.wire.handshake import Welcome, encode_handshake

Script = Callable[[int, Request], Response | None]
"""The answer to a request, or none."""

TOPIC = TopicEntry(Zxid(1, 1), "orders", 1)


class ScriptedNode:
    """Leads, knows one topic, hands out producer ids; everything else is the script's."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.version = 1
        """Of the protocol; from 2 on it is asked how far the log is confirmed."""
        self.address = ""
        self.requests: list[tuple[int, Request]] = []
        self.streams: list[trio.SocketStream] = []
        self.raw: Callable[[trio.SocketStream], Awaitable[None]] | None = None

    async def serve(self, stream: trio.SocketStream) -> None:
        reader = FrameReader()
        while not reader.feed(await stream.receive_some()):
            pass
        for piece in encode_handshake(Welcome(self.version, "c" * 32, PeerId(1), "d" * 32)):
            await stream.send_all(piece)
        self.streams.append(stream)
        if self.raw is not None:
            await self.raw(stream)
            return
        pipe = Pipe(stream)
        try:
            while frames := await pipe.burst():
                for frame in frames:
                    number, request = decode_request(frame)
                    self.requests.append((number, request))
                    answer = self.script(number, request) or self.habit(request)
                    if answer is not None:
                        pipe.post(encode_response(number, answer))
                        await pipe.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass

    def habit(self, request: Request) -> Response | None:
        match request:
            case Metadata():
                nodes = (NodeAddress(PeerId(1), self.address),)
                return ClusterMetadata("c" * 32, PeerId(1), Epoch(1), PeerId(1), nodes, (TOPIC,))
            case AllocateProducer():
                return ProducerAllocated(Zxid(1, len(self.requests)))
            case _:
                return None


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[ScriptedNode]:
    node = ScriptedNode(script)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        node.address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.start_soon(trio.serve_listeners, node.serve, [listener])
        yield node
        nursery.cancel_scope.cancel()


def never(number: int, request: Request) -> Response | None:
    return None


async def test_a_node_that_answered_and_then_says_nothing_is_no_absent_cluster() -> None:
    """The time may be over while another round is asking: what the rounds before it heard still stands."""
    asked = 0

    def script(number: int, request: Request) -> Response | None:
        nonlocal asked
        asked += 1
        nodes = (NodeAddress(PeerId(1), node.address),)
        return ClusterMetadata("c" * 32, PeerId(1), Epoch(1), None, nodes, ()) if asked < 3 else None

    async with scripted(script) as node:
        node.habit = lambda request: None  # type: ignore[method-assign]  # this one says nothing unless the script does
        async with connect(node.address, timeout=0.3) as zl:
            with pytest.raises(NoQuorum) as caught:
                await zl.create_topic("orders")

    assert asked >= 3
    assert [(attempt.address, attempt.cause) for attempt in caught.value.attempts] == [(node.address, "node 1 knows no leader")]


async def test_a_topic_is_looked_up_where_a_quorum_confirms_and_as_far() -> None:
    """A leader that was deposed, and does not know it yet, would say that there is no topic that another client has just made."""
    confirmed, applied = Zxid(2, 7), [Zxid(2, 5), Zxid(2, 8)]
    answers: list[Response] = [Failed(Code.NOT_LEADING, "no quorum confirms it"), ReadIndexed(confirmed)]

    def script(number: int, request: Request) -> Response | None:
        match request:
            case ReadIndex():
                return answers.pop(0)
            case WaitApplied(zxid):
                assert zxid == confirmed
                return Applied(applied.pop(0))
        return None

    async with scripted(script) as node:
        node.version = READS_VERSION
        async with connect(node.address, timeout=2) as zl:
            assert [entry.name for entry in await zl.list_topics()] == ["orders"]

    assert not answers and not applied
    assert isinstance(node.requests[-1][1], Metadata) and isinstance(node.requests[-2][1], WaitApplied)


async def test_the_late_answer_to_a_cancelled_call_is_nobodys() -> None:
    late: list[int] = []

    def script(number: int, request: Request) -> Response | None:
        if isinstance(request, Status):
            late.append(number)
        return Ponged() if isinstance(request, Ping) else None

    async with scripted(script) as node, trio.open_nursery() as nursery:
        link = await open_connection(nursery, node.address)
        with trio.move_on_after(0.01):
            await link.call(Status())
        for piece in encode_response(late[0], Failed("internal", "too late")):
            await node.streams[0].send_all(piece)

        assert await link.call(Ping()) == Ponged()
        nursery.cancel_scope.cancel()


async def test_a_node_that_falls_silent_while_it_owes_an_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SILENCE_SECONDS", 0.02)
    async with scripted(never) as node, trio.open_nursery() as nursery:
        link = await open_connection(nursery, node.address)

        with pytest.raises(ConnectionLost, match="has said nothing for"):
            await link.call(Status())

        with pytest.raises(ConnectionLost):
            await link.call(Ping())
        nursery.cancel_scope.cancel()


async def test_a_node_that_talks_nonsense_is_given_up() -> None:
    async def nonsense(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with scripted(never) as node, trio.open_nursery() as nursery:
        node.raw = nonsense
        link = await open_connection(nursery, node.address)
        with pytest.raises(ConnectionLost, match="does not speak our protocol"):
            await link.call(Ping())
        nursery.cancel_scope.cancel()


async def test_an_answer_that_is_no_answer_ends_the_connection() -> None:
    async def unknown_kind(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"".join(pieces(Frame(99, b"12345678"))))

    async with scripted(never) as node, trio.open_nursery() as nursery:
        node.raw = unknown_kind
        link = await open_connection(nursery, node.address)
        with pytest.raises(ConnectionLost, match="does not speak our protocol"):
            await link.call(Ping())
        nursery.cancel_scope.cancel()


async def test_unanswered_requests_are_sent_again_in_order_on_the_next_connection() -> None:
    seen: list[tuple[int, int]] = []

    def script(number: int, request: Request) -> Response | None:
        if not isinstance(request, Produce):
            return None
        seen.append((len(node.streams), request.turn.sequence))
        if len(node.streams) == 1:
            if request.turn.sequence == 1:
                node.streams[0].socket.shutdown(trio.socket.SHUT_RDWR)
            return None
        return Produced(Level.QUORUM, Zxid(1, 10), tuple(10 * request.turn.sequence + part for part in range(len(request.parts))))

    async with scripted(script) as node, connect(node.address) as zl, zl.producer() as out:
        pendings = []
        for value in (b"a", b"b", b"c"):
            pendings.append(await out.submit("orders", value, key=None))
            # So large that each is a request of its own.
            pendings.append(await out.submit("orders", bytes(300_000)))
        receipts = [await pending.wait() for pending in pendings]

    first = [sequence for stream, sequence in seen if stream == 1]
    again = [sequence for stream, sequence in seen if stream == 2]
    assert first == sorted(first)
    assert again[: len(first)] == first, "all that was unanswered, in order"
    assert [receipt.offset for receipt in receipts] == sorted(receipt.offset for receipt in receipts)


async def test_a_producer_that_the_cluster_forgot_tells_all_who_wait_that_it_may_be_written() -> None:
    def script(number: int, request: Request) -> Response | None:
        return (
            Failed("unknown_producer", "producer 1.2 is not known (any longer)", maybe_written=True)
            if isinstance(request, Produce)
            else None
        )

    async with scripted(script) as node, connect(node.address) as zl, zl.producer() as out:
        with pytest.raises(ProducerLost) as caught:
            await out.send("orders", b"a")
        assert caught.value.maybe_written
        with pytest.raises(ProducerLost):
            await out.send("orders", b"b")


async def test_a_write_that_is_never_answered_ends_in_outcome_unknown_and_the_next_in_no_quorum() -> None:
    def script(number: int, request: Request) -> Response | None:
        return Ponged() if isinstance(request, Ping) else None

    async with scripted(script) as node, connect(node.address, timeout=0.1) as zl, zl.producer() as out:
        with pytest.raises(OutcomeUnknown) as caught:
            await out.send("orders", b"a")
        assert caught.value.maybe_written
        assert caught.value.attempts[0].address == node.address


async def test_a_change_refused_because_the_node_does_not_lead_was_surely_not_made() -> None:
    def script(number: int, request: Request) -> Response | None:
        return Failed("not_leading", "this node does not lead") if isinstance(request, CreateTopic) else None

    async with scripted(script) as node, connect(node.address, timeout=0.1) as zl:
        with pytest.raises(NoQuorum) as caught:
            await zl.create_topic("audit")
        assert not caught.value.maybe_written
