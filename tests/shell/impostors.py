"""Who answers where a node is looked for, and is none: noise, another cluster, another build that answers something else.

Members do not link to one. A client says what it met, and is not misled; with the right addresses beside it finds its cluster.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

import trio

import broker
from broker.client.session import open_session
from broker.pipe import Pipe
from broker.protocol import (
    AllocateProducer,
    AlterTopic,
    Applied,
    ClusterMetadata,
    CreateTopic,
    DeleteTopic,
    DescribeTopics,
    Failed,
    Fetch,
    Fetched,
    FetchedPartition,
    FetchStatus,
    Metadata,
    NodeAddress,
    OffsetFound,
    Offsets,
    OffsetsFound,
    Ponged,
    Produce,
    ProducerAllocated,
    ReadIndex,
    ReadIndexed,
    Request,
    Response,
    SetLimits,
    Status,
    TopicEntry,
    WaitApplied,
    decode_request,
    encode_response,
)
from broker.state.commands import FOR_EVER
from tests.shell.administration import TOPIC, raising
from tests.shell.faults import revive
from tests.shell.strangers import FOREIGN
from tests.shell.wires import Wire, who
from tests.shell.world import CLUSTER, NODES, World, address_of
from zablog import Epoch, PeerId, Zxid
from zablog.wire import WireError
from zablog.wire.frames import FrameReader, pieces
from zablog.wire.handshake import (
    CLIENT_VERSIONS,
    Handshake,
    Hello,
    Purpose,
    Refusal,
    Refused,
    Versions,
    Welcome,
    decode_handshake,
    encode_handshake,
)

ADDRESS = "127.0.0.1:7009"
ENTRY = TopicEntry(Zxid(1, 1), TOPIC, 1)
PATIENCE_SECONDS = 1.0
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, WireError)

GO_AWAY = Refused(Refusal.NOT_HERE, "go away")

Manner = Callable[[Wire], Awaitable[None]]


async def listen(world: World, address: str, manner: Manner) -> None:
    """For ever."""
    who.set("impostor")
    host, _, port = address.rpartition(":")

    async def serve(wire: Wire) -> None:
        with suppress(*BROKEN):
            await manner(wire)

    await trio.serve_listeners(serve, await world.wires.open_tcp_listeners(int(port), host=host))


async def hear_hello(wire: Wire) -> tuple[Handshake | None, FrameReader]:
    """The caller's Hello, if one came, and what reads on behind it."""
    reader = FrameReader()
    while piece := await wire.receive_some():
        if frames := reader.feed(piece):
            reader.admit()
            return decode_handshake(frames[0]), reader
    return None, reader


def saying(word: Handshake, to_clients: bool = True) -> Manner:
    """Answers every Hello so. A client believes whoever says that he is a node of its cluster; so not all of them are told."""

    async def manner(wire: Wire) -> None:
        hello, _ = await hear_hello(wire)
        told = to_clients or (isinstance(hello, Hello) and hello.purpose is not Purpose.CLIENT)
        await wire.send_all(b"".join(encode_handshake(word if told else GO_AWAY)))
        await trio.sleep(0.2)

    return manner


async def say_nothing(wire: Wire) -> None:
    """Hangs up as soon as it was called."""
    await hear_hello(wire)


async def babble(wire: Wire) -> None:
    await wire.send_all(bytes(range(200)))


def welcome(node: int, version: int = 1, cluster: str = CLUSTER, incarnation: int | None = None) -> Welcome:
    return Welcome(version, cluster, PeerId(node), f"{incarnation or node:032x}")


# -- among the members ------------------------------------------------------------------------------------------------------


async def stand_in(world: World, dice: Random) -> None:
    """A fault: while a node is down somebody else listens at its address."""
    number = dice.choice(NODES[:-1])  # the last one calls the others, and is called by nobody
    host = world.hosts[number]
    if not host.ended.is_set():
        await world.kill(number, power_loss=False)
    manners = [
        saying(welcome(number, version=9), to_clients=False),
        saying(welcome(number, cluster="d" * 32), to_clients=False),
        saying(welcome(3 - number), to_clients=False),
        saying(welcome(number, incarnation=77), to_clients=False),
        saying(GO_AWAY),
        saying(Hello(Versions(1, 1), Purpose.PEER)),
        say_nothing,
        babble,
    ]

    async def manner(wire: Wire) -> None:
        await dice.choice(manners)(wire)

    with trio.move_on_after(1.5):
        await listen(world, address_of(number), manner)
    who.set("story")
    for other in world.hosts.values():
        linked = other.server is not None and other.server.node.status().links
        assert not linked or number not in linked, f"{other.name} took an impostor for node {number}"
    await revive(world, number)


# -- before a client --------------------------------------------------------------------------------------------------------


def habit(request: Request) -> Response:
    """What a leader of one topic, alone in its cluster, might say."""
    match request:
        case Metadata():
            return ClusterMetadata(CLUSTER, PeerId(1), Epoch(1), PeerId(1), (NodeAddress(PeerId(1), ADDRESS),), (ENTRY,))
        case AllocateProducer():
            return ProducerAllocated(Zxid(1, 2))
        case ReadIndex():
            return ReadIndexed(Zxid(1, 3))
        case WaitApplied(zxid, _):
            return Applied(zxid)
        case Offsets(queries):
            return OffsetsFound(tuple(OffsetFound(FetchStatus.OK, 0) for _ in queries), Zxid(1, 3))
        case _:
            return Ponged()


def answering(answer: Callable[[Request], Response | None], version: int = CLIENT_VERSIONS.highest) -> Manner:
    """A node that leads, shakes hands, and answers by a rule of its own, or else by habit."""

    async def manner(wire: Wire) -> None:
        _, reader = await hear_hello(wire)
        await wire.send_all(b"".join(encode_handshake(welcome(1, version))))
        pipe = Pipe(wire, reader=reader)
        while frames := await pipe.burst():
            for frame in frames:
                number, request = decode_request(frame)
                pipe.post(encode_response(number, answer(request) or habit(request)))
                await pipe.flush()

    return manner


def always(kind: type[Request], response: Response) -> Manner:
    return answering(lambda request: response if isinstance(request, kind) else None)


def fetched(status: FetchStatus, count: int = 1) -> Fetched:
    return Fetched(Zxid(1, 3), [FetchedPartition(status, 0, 5, b"")] * count)


async def read_one(zl: broker.Client) -> None:
    async with zl.consumer(TOPIC, start="earliest") as inbox:
        await inbox.next_batch()


async def send_one(zl: broker.Client) -> None:
    async with zl.producer() as out:
        await out.send(TOPIC, b"to nobody")


async def open_one(zl: broker.Client) -> None:
    async with zl.producer():
        pass


Use = Callable[[broker.Client], Awaitable[object]]
FAILED = Failed("never_heard_of", "a later build's refusal")
Error = type[broker.BrokerError] | tuple[type[broker.BrokerError], ...]
WRONG: tuple[tuple[Manner, Error, Use], ...] = (
    (always(CreateTopic, Ponged()), broker.InternalError, lambda zl: zl.create_topic(TOPIC)),
    (always(AlterTopic, Ponged()), broker.InternalError, lambda zl: zl.alter_topic(TOPIC, FOR_EVER)),
    (always(DeleteTopic, Ponged()), broker.InternalError, lambda zl: zl.delete_topic(TOPIC)),
    (always(DescribeTopics, Ponged()), broker.InternalError, lambda zl: zl.describe_topic(TOPIC)),
    (always(SetLimits, Ponged()), broker.InternalError, lambda zl: zl.set_limits(topics=5)),
    (always(Status, Ponged()), broker.InternalError, lambda zl: zl.node_status(1)),
    (always(Offsets, Ponged()), broker.InternalError, read_one),
    (always(Fetch, Ponged()), broker.InternalError, read_one),
    (always(ReadIndex, Ponged()), broker.InternalError, read_one),
    (always(WaitApplied, Ponged()), broker.InternalError, read_one),
    (always(WaitApplied, FAILED), broker.InternalError, read_one),
    (always(WaitApplied, Applied(Zxid(0, 0))), (broker.TimedOut, broker.NoQuorum), read_one),
    (always(AllocateProducer, Ponged()), broker.InternalError, open_one),
    (always(Produce, Ponged()), broker.InternalError, send_one),
    (always(Metadata, Ponged()), broker.NoCluster, lambda zl: zl.list_topics()),
    (always(Metadata, FAILED), broker.NoCluster, lambda zl: zl.list_topics()),
    (always(Fetch, FAILED), broker.InternalError, read_one),
    (always(Fetch, fetched(FetchStatus.TOPIC_NOT_FOUND)), broker.TopicNotFound, read_one),
    (always(Fetch, fetched(FetchStatus.PARTITION_NOT_FOUND)), broker.PartitionNotFound, read_one),
    (always(Fetch, fetched(FetchStatus.CORRUPT)), broker.Corrupt, read_one),
    (always(Fetch, fetched(FetchStatus.OK, 2)), broker.InternalError, read_one),
    (answering(lambda request: None, version=1), broker.NotAllowed, lambda zl: zl.read(TOPIC, 0, 0, "linearizable")),
    (saying(GO_AWAY), broker.NoCluster, send_one),
    (saying(Hello(CLIENT_VERSIONS, Purpose.CLIENT)), broker.NoCluster, send_one),
    (say_nothing, broker.NoCluster, send_one),
    (babble, broker.NoCluster, send_one),
)
"""A node of another kind, how a call ends, and the call."""


async def meet(world: World, dice: Random) -> None:
    """A client that was given a wrong address, and another one that was given the right ones as well."""
    for manner, error, use in dice.sample(WRONG, 5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, world, ADDRESS, manner)
            who.set("victim")
            async with broker.connect(ADDRESS, timeout=PATIENCE_SECONDS) as zl:
                with raising(error):
                    await use(zl)
            nursery.cancel_scope.cancel()
    impostor = dice.choice((say_nothing, babble, silent, saying(GO_AWAY), foreign_frames))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, world, ADDRESS, impostor)
        async with broker.connect(f"{ADDRESS},{world.addresses}") as zl:
            assert TOPIC in [entry.name for entry in await zl.list_topics()], "another cluster's answer"
        nursery.cancel_scope.cancel()


async def silent(wire: Wire) -> None:
    await trio.sleep_forever()


async def foreign_frames(wire: Wire) -> None:
    """Shakes hands, and goes on in another language."""
    await hear_hello(wire)
    await wire.send_all(b"".join([*encode_handshake(welcome(1)), *pieces(FOREIGN)]))
    await trio.sleep(0.2)


async def be_forgotten(world: World, zl: broker.Client) -> None:
    """So many others have come that the cluster does not know a producer any more: it says so, and a new one goes on."""
    async with world.client("forgotten") as forgotten:
        await forgotten.create_topic("lost", exist_ok=True)
        with raising(broker.ProducerLost):
            async with forgotten.producer() as out:
                await out.send("lost", b"first")
                before = await zl.limits()
                await zl.set_limits(producers=1)
                async with trio.open_nursery() as nursery:
                    for _ in range(100):
                        await open_session(nursery, zl._cluster, 1.0)
                    nursery.cancel_scope.cancel()
                later = await out.submit("lost", b"second")
                await out.submit("lost", b"third")
                with raising(broker.ProducerLost):
                    await later
                with raising(broker.ProducerLost):
                    await out.send("lost", b"fourth")
        async with forgotten.producer() as out:
            await out.send("lost", b"anew")
        with suppress(broker.ProducerLost):  # the administrator's as well
            await zl.set_limits(producers=before.producers)
        await zl.set_limits(producers=before.producers)
        async with forgotten.consumer("lost", start="earliest", stop="end") as inbox:
            values = [record.value async for record in inbox]
    assert values[0] == b"first" and values[-1] == b"anew" and len(values) == len(set(values)), values
