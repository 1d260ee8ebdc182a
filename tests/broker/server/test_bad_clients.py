"""What a client must not do ends its own connection, in words, and nothing else."""

import random
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from broker.client import connect
from broker.client.connection import open_connection
from broker.errors import ConnectionLost
from broker.protocol import (
    AllocateProducer,
    Failed,
    Fetch,
    FetchFrom,
    Level,
    Ping,
    Ponged,
    Produce,
    Produced,
    ProducerAllocated,
    decode_response,
    encode_request,
)
from broker.records import Record, encode_batch
from broker.server.config import Limits
from broker.state import Part, Turn
from tests.broker.ensemble import Ensemble, open_ensemble
from zablog.wire.frames import Frame, FrameReader, pieces
from zablog.wire.handshake import CLIENT_VERSIONS, Hello, Purpose, encode_handshake

HELLO = b"".join(encode_handshake(Hello(CLIENT_VERSIONS, Purpose.CLIENT)))


async def dial(address: str) -> trio.SocketStream:
    host, _, port = address.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def shake_hands(stream: trio.SocketStream) -> None:
    await stream.send_all(HELLO)
    reader = FrameReader()
    while not reader.feed(await stream.receive_some()):
        pass


async def rest_of(stream: trio.SocketStream) -> bytes:
    """Everything until the other side closes."""
    received = b""
    with suppress(trio.BrokenResourceError):
        async for some in stream:
            received += some
    return received


async def still_serves(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("well", exist_ok=True)
        async with zl.producer() as out:
            await out.send("well", b"x")


@pytest.mark.parametrize("seed", range(2))
async def test_noise_on_the_port_harms_nobody(ensemble: Ensemble, seed: int) -> None:
    dice = random.Random(seed)
    for prefix in (b"", HELLO, HELLO[:10], b"GET / HTTP/1.1\r\n\r\n", None) * 10:
        with trio.move_on_after(5) as patience:
            async with await dial(ensemble.all_addresses[1]) as stream:
                if prefix is None:
                    await shake_hands(stream)
                with suppress(trio.BrokenResourceError):
                    await stream.send_all((prefix or b"") + dice.randbytes(dice.choice([1, 100, 20_000])))
                    await stream.send_eof()
                await rest_of(stream)
        assert not patience.cancelled_caught, "the node closes what it does not understand"

    await still_serves(ensemble)


async def test_a_frame_that_is_no_request_is_answered_with_an_error_frame(ensemble: Ensemble) -> None:
    async with await dial(ensemble.all_addresses[1]) as stream:
        await shake_hands(stream)
        await stream.send_all(b"".join(pieces(Frame(99, b"what?"))))
        frames = FrameReader(limit=1 << 20).feed(await rest_of(stream))

    number, answer = decode_response(frames[-1])
    assert number == 0
    assert isinstance(answer, Failed)
    assert answer.code == "bad_request"
    await still_serves(ensemble)


async def test_a_batch_with_a_flipped_bit_is_not_proposed(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl, trio.open_nursery() as nursery:
        topic = await zl.create_topic("orders")
        leader = await ensemble.leader()
        connection = await open_connection(nursery, ensemble.all_addresses[leader.node.identity.node])
        allocated = await connection.call(AllocateProducer())
        assert isinstance(allocated, ProducerAllocated)
        batch = bytearray(encode_batch([Record(b"hello")]))
        batch[-3] ^= 1
        with pytest.raises(ConnectionLost, match="checksum"):
            await connection.call(Produce(Turn(allocated.producer, 0, 1, 1), Level.QUORUM, [Part(topic.id, 0, batch)]))

        assert (await zl.describe_topic("orders")).partitions[0].end == 0
        nursery.cancel_scope.cancel()


async def test_a_request_repeated_on_another_connection_is_answered_alike_and_not_carried_out_again(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl, trio.open_nursery() as nursery:
        topic = await zl.create_topic("orders")
        leader = await ensemble.leader()
        address = ensemble.all_addresses[leader.node.identity.node]
        first, second = await open_connection(nursery, address), await open_connection(nursery, address)
        allocated = await first.call(AllocateProducer())
        assert isinstance(allocated, ProducerAllocated)
        request = Produce(Turn(allocated.producer, 0, 1, 1), Level.QUORUM, [Part(topic.id, 0, encode_batch([Record(b"hello")]))])

        answers = [await first.call(request), await second.call(request), await first.call(request)]

        assert isinstance(answers[0], Produced)
        assert answers[0] == answers[1] == answers[2]
        assert (await zl.describe_topic("orders")).partitions[0].end == 1
        nursery.cancel_scope.cancel()


async def test_a_node_that_does_not_lead_says_who_does(ensemble: Ensemble) -> None:
    leader = (await ensemble.leader()).node.identity.node
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        other = next(number for number in ensemble.all_addresses if number != leader)
        async with zl.consumer("orders", start="earliest", stop="end", node=other) as inbox:
            assert await inbox.next_batch() is None  # so the other node has come as far as the topic
    async with trio.open_nursery() as nursery:
        connection = await open_connection(nursery, ensemble.all_addresses[other])
        answer = await connection.call(AllocateProducer())
        assert isinstance(answer, Failed)
        assert (answer.code, answer.leader, answer.leader_address) == ("not_leading", leader, ensemble.all_addresses[leader])
        nursery.cancel_scope.cancel()


async def test_a_client_that_does_not_read_its_answers_slows_nobody_else(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer() as out:
            await out.send_many("orders", [bytes(100_000)] * 50)
    leader = await ensemble.leader()
    address = ensemble.all_addresses[leader.node.identity.node]
    topic = next(iter(leader.application.state.topics))
    fetch = Fetch([FetchFrom(topic, 0, 0, 8 << 20)], 8 << 20)
    async with await dial(address) as stream:
        await shake_hands(stream)
        with trio.move_on_after(0.3):
            for number in range(1, 10_000):
                await stream.send_all(b"".join(encode_request(number, fetch)))

        await still_serves(ensemble)
        async with trio.open_nursery() as nursery:
            connection = await open_connection(nursery, address)
            assert await connection.call(Ping()) == Ponged()
            nursery.cancel_scope.cancel()


async def test_more_clients_than_a_node_may_serve_are_turned_away_in_words(tmp_path: Path) -> None:
    async with open_ensemble(tmp_path, limits=Limits(connections=1)) as ensemble, trio.open_nursery() as nursery:
        first = await open_connection(nursery, ensemble.all_addresses[1])
        assert await first.call(Ping()) == Ponged()
        second = await open_connection(nursery, ensemble.all_addresses[1])
        with pytest.raises(ConnectionLost, match="serves 1 clients"):
            await second.call(Ping())
        assert await first.call(Ping()) == Ponged()
        nursery.cancel_scope.cancel()
