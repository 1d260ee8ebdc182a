"""What a record costs on the hot paths, in calls of functions (Python's and C's): a guard that no busy machine can disturb.

Times are measured by `bin/bench`. What is counted here is the same in each run, so a change that makes a path longer shows in the commit
that does it. A bound is lowered after a gain, and raised only with a reason in the commit message.
"""

import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from types import FrameType

import pytest
import trio

from broker.client.batching import Lanes
from broker.client.connection import Connection
from broker.client.producer import Producer, open_producer
from broker.client.session import Build, Done
from broker.client.session import Session as RealSession
from broker.errors import BrokerError
from broker.log import Log
from broker.pipe import Pipe
from broker.protocol import Level, Produced, TopicEntry
from broker.protocol.codec import decode_request, encode_request, encode_response
from broker.protocol.messages import Produce as ProduceRequest
from broker.records import BatchBuilder, read_batch
from broker.state import State, encode
from broker.state.commands import AllocateProducer, CreateTopic, Part, Produce, Turn
from broker.state.limits import DEFAULTS
from tests.driving import Bench
from zablog.core.events import Durable, Proposals, Received
from zablog.core.messages import Ack, Commit, Propose
from zablog.core.trail import Entries, extend_digest
from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid
from zablog.sim.disk import SimDisk
from zablog.wire.codec import decode as decode_message
from zablog.wire.codec import encode as encode_message
from zablog.wire.frames import FrameReader

RECORDS = 1000
VALUE = b"x" * 100
TOPIC = TopicEntry(Zxid(1, 2), "orders", 1)


class Calls:
    """Counts the calls within its block."""

    def __init__(self) -> None:
        self.made = 0

    def __enter__(self) -> "Calls":
        sys.setprofile(self.look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def look(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            self.made += 1


def calls_of(work: Callable[[], object]) -> int:
    with Calls() as calls:
        work()
    return calls.made


class Cluster:
    def saw(self, zxid: Zxid) -> None:
        """The real one remembers it."""


class Session:
    """What a producer needs of one: it keeps requests until `answer`."""

    def __init__(self) -> None:
        self.lost: BrokerError | None = None
        self.cluster = Cluster()
        self.changed: Callable[[BrokerError | None], None] = lambda error: None
        self.window = 8
        self.waiting: list[tuple[ProduceRequest, Done]] = []

    @property
    def under_way(self) -> int:
        return len(self.waiting)

    def submit(self, build: Build, done: Done) -> None:
        request = build(Turn(Zxid(1, 1), 0, 1, 1))
        assert isinstance(request, ProduceRequest)
        self.waiting.append((request, done))

    def answer(self) -> None:
        waiting, self.waiting = self.waiting, []
        for request, done in waiting:
            done(Produced(Level.QUORUM, Zxid(1, 9), (0,) * len(request.parts)))
            self.changed(None)


class Topics:
    """One topic."""

    limits = DEFAULTS

    def known(self, name: str) -> TopicEntry:
        return TOPIC

    async def find(self, name: str) -> TopicEntry:
        return TOPIC


def producing() -> tuple[Session, Producer]:
    session = Session()
    return session, Producer(session, Topics(), Level.QUORUM, 1 << 30)  # type: ignore[arg-type]  # all that a producer needs of them


async def carried_out(session: Session, producer: Producer) -> None:
    """Requests are formed, and answered, as `Producer.run` and a node would do it."""
    await trio.lowlevel.checkpoint()
    producer._send_ready()
    session.answer()


async def test_submit_and_its_receipt() -> None:
    session, producer = producing()

    with Calls() as calls:
        pendings = [await producer.submit("orders", VALUE) for _ in range(RECORDS)]
        await carried_out(session, producer)
        for pending in pendings:
            pending.receipt()

    assert calls.made / RECORDS <= 19


async def test_send_many() -> None:
    session, producer = producing()
    receipts = []

    async def send() -> None:
        receipts.append(await producer.send_many("orders", [VALUE] * RECORDS))

    with Calls() as calls:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for _ in range(4):  # it begins, takes its values, waits, has its receipts
                await carried_out(session, producer)

    assert len(receipts[0]) == RECORDS
    assert calls.made / RECORDS <= 0.6


def test_little_of_a_thousand_topics_taken_together() -> None:
    """Each topic is looked at once, and not all that was taken before it again."""
    lanes = Lanes()
    for number in range(RECORDS):
        lanes.open(TopicEntry(Zxid(1, 1 + number), f"topic-{number}", 1), None, None).add(b"x", 5, None, ())

    taken = 0
    with Calls() as calls:
        while batches := lanes.take_ready():
            taken += len(batches)

    assert taken == RECORDS
    assert calls.made / RECORDS <= 10.1


class Leader(Cluster):
    """A cluster of one connection: with a thread behind it, whose calls are not counted, that answers each request by itself."""

    def __init__(self, nursery: trio.Nursery) -> None:
        here, there = socket.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(here))
        self.connection = Connection("127.0.0.1:7401", PeerId(1), "c" * 32, Pipe(stream))
        nursery.start_soon(self.connection.run)
        self.thread = threading.Thread(target=self.serve, args=(there,))
        self.thread.start()

    async def leader(self) -> Connection:
        return self.connection

    def serve(self, there: socket.socket) -> None:
        reader = FrameReader(1 << 20)
        with there:
            while arrived := there.recv(1 << 16):
                for number, request in map(decode_request, reader.feed(arrived)):
                    assert isinstance(request, ProduceRequest)
                    there.sendall(b"".join(encode_response(number, Produced(Level.QUORUM, Zxid(1, 9), (0,) * len(request.parts)))))


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Producer]:
    """A producer over a real session and a real connection, after some records that it has sent one by one."""
    monkeypatch.setattr("broker.pipe.REST_SECONDS", 0.0)  # no disk is waited for here: the answer comes sooner than a connection has rested
    async with trio.open_nursery() as nursery:
        cluster = Leader(nursery)
        session = RealSession(cluster, Zxid(1, 1), 30.0)  # type: ignore[arg-type]  # all that a session needs of one
        nursery.start_soon(session.run)
        async with open_producer(nursery, session, Topics(), Level.QUORUM, 1 << 30) as producer:  # type: ignore[arg-type]  # likewise
            for _ in range(3):
                await producer.send("orders", VALUE)
            yield producer
        nursery.cancel_scope.cancel()
    cluster.thread.join()


async def test_a_record_sent_alone(served: Producer) -> None:
    """Everything in the client's process: producer, session, connection, and trio's loop."""
    with Calls() as calls:
        for _ in range(RECORDS // 10):
            await served.send("orders", VALUE)

    assert calls.made / (RECORDS // 10) <= 292


class Passes(trio.abc.Instrument):
    """Counts what the loop does."""

    def __init__(self) -> None:
        self.waits = self.steps = 0

    def before_io_wait(self, timeout: float) -> None:
        self.waits += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1


async def test_a_record_sent_alone_takes_two_passes_of_the_loop_and_a_step_of_two_tasks(served: Producer) -> None:
    """The connection's reader and whoever sends: nobody else is woken."""
    passes = Passes()
    trio.lowlevel.add_instrument(passes)
    for _ in range(RECORDS // 10):
        await served.send("orders", VALUE)
    trio.lowlevel.remove_instrument(passes)

    assert passes.waits / (RECORDS // 10) <= 2.1
    assert passes.steps / (RECORDS // 10) <= 2.1


def batch() -> bytes:
    builder = BatchBuilder()
    builder.add_values([VALUE] * RECORDS, 5)
    return builder.build()


def test_reading_a_batch() -> None:
    raw = batch()

    assert calls_of(lambda: read_batch(raw, "orders")) / RECORDS <= 4.2


def test_a_request_on_the_wire_and_back() -> None:
    request = ProduceRequest(Turn(Zxid(1, 1), 0, 1, 1), Level.QUORUM, [Part(TOPIC.id, 0, batch())])
    stream = b"".join(encode_request(1, request))
    reader = FrameReader(1 << 20)
    for _ in range(4):  # the buffer grows with what comes
        reader.feed(stream)

    assert calls_of(lambda: encode_request(1, request)) <= 22
    assert calls_of(lambda: [decode_request(frame) for frame in reader.feed(stream)]) <= 34


def test_a_proposal_on_the_wire_and_back() -> None:
    message = Propose(Epoch(2), Entries(Zxid(2, 1), ZERO, [VALUE], 7), ZERO)
    stream = b"".join(bytes(piece) for piece in encode_message(message))
    reader = FrameReader(1 << 20)

    assert calls_of(lambda: encode_message(message)) <= 20
    assert calls_of(lambda: [decode_message(frame) for frame in reader.feed(stream)]) <= 37


def leading() -> Bench:
    bench = Bench()
    bench.established(2, 3)
    return bench


def round_of(bench: Bench, payloads: list[bytes]) -> None:
    """From the proposal to the commit: durable here, and acknowledged by both followers."""
    bench.peer.step(Proposals(payloads))
    bench.peer.step(Durable(bench.peer.out.token))
    for follower in (2, 3):
        bench.peer.step(Received(bench.links[follower], [Ack(bench.epoch, bench.peer.last)]))


def test_a_round_of_the_leader() -> None:
    bench = leading()

    assert calls_of(lambda: round_of(bench, [VALUE])) <= 146
    assert bench.state.watermark == bench.peer.last


def test_one_more_proposal_in_a_round_of_the_leader() -> None:
    bench = leading()

    one = calls_of(lambda: round_of(bench, [VALUE]))
    many = calls_of(lambda: round_of(bench, [VALUE] * (1 + RECORDS)))

    assert (many - one) / RECORDS <= 1.05


def test_a_round_of_a_follower() -> None:
    bench = Bench(2)
    bench.up_to_date(1, 2)
    first = Zxid(2, 1)
    entries = Entries(first, bench.peer.last, [VALUE], extend_digest(bench.state.trail.digest, bench.peer.last, first, [VALUE]))

    def follow() -> None:
        bench.peer.step(Received(bench.links[1], [Propose(Epoch(2), entries, ZERO)]))
        bench.peer.step(Durable(bench.peer.out.token))
        bench.peer.step(Received(bench.links[1], [Commit(Epoch(2), first)]))

    assert calls_of(follow) <= 57
    assert bench.state.watermark == first


def test_applying_a_batch() -> None:
    state, log = State(), Log(SimDisk())
    state.apply(Zxid(1, 1), encode(AllocateProducer(5)))
    state.apply(Zxid(1, 2), encode(CreateTopic(Turn(Zxid(1, 1), 0, 1, 1), 5, "orders", 1)))
    command = encode(Produce(Turn(Zxid(1, 1), 0, 2, 2), 5, [Part(TOPIC.id, 0, batch())]))

    def apply() -> None:
        zxid = Zxid(1, 3)
        for topic, partition, base_offset, position, records, raw in state.apply(zxid, command).appends:
            log.append(zxid, state.time, topic, partition, base_offset, position, records, raw)
        log.flush()

    assert calls_of(apply) <= 120
