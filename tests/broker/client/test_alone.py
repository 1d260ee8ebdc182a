"""A record that travels alone leaves within its `send`; records of many who were woken together still travel together.

The producer is the real one, the session below it a list of requests that are answered when a test says so; the last tests have a
node with a script, or three of them in virtual time.
"""

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from broker.client import Pending, connect
from broker.client.batching import Lane, OpenBatch
from broker.client.producer import CHECKPOINT_RECORDS, Producer, open_producer
from broker.client.session import Build, Done
from broker.errors import BrokerError, Code, NoQuorum, OutcomeUnknown, ProducerLost
from broker.protocol import Failed, Level, Produce, Produced, Request, Response, TopicEntry
from broker.records import read_batch
from broker.state.commands import Turn
from broker.state.limits import DEFAULTS
from tests.broker.client.test_bad_nodes import scripted
from tests.broker.client.test_silent_leader import ADDRESSES, Nodes, nodes
from zablog import Zxid

__all__ = ["nodes"]

ORDERS, AUDIT = TopicEntry(Zxid(1, 2), "orders", 1), TopicEntry(Zxid(1, 3), "audit", 1)


class Cluster:
    def saw(self, zxid: Zxid) -> None:
        """The real one remembers it."""


class Session:
    """What a producer needs of one. Keeps requests until a test answers them."""

    def __init__(self) -> None:
        self.lost: BrokerError | None = None
        self.cluster = Cluster()
        self.changed: Callable[[BrokerError | None], None] = lambda error: None
        self.producer = Zxid(1, 1)
        self.window = 8
        self.under_way = 0
        self.requests: list[list[bytes | None]] = []
        """The values of all requests that were ever made."""
        self.waiting: list[tuple[Produce, Done]] = []
        self.submitting: Callable[[], object] = lambda: None

    def submit(self, build: Build, done: Done) -> None:
        assert self.under_way < self.window and self.lost is None
        self.submitting()
        request = build(Turn(Zxid(1, 1), 0, 1, 1))
        assert isinstance(request, Produce)
        self.requests.append([record.value for part in request.parts for record in read_batch(part.batch, "orders")])
        self.waiting.append((request, done))
        self.under_way += 1

    def answer(self, response: Response | BrokerError | None = None) -> None:
        """Answer all requests that have been made."""
        waiting, self.waiting = self.waiting, []
        for request, done in waiting:
            self.under_way -= 1
            done(response or Produced(Level.QUORUM, Zxid(1, 9), (0,) * len(request.parts)))
            self.changed(None)

    async def answering(self) -> None:
        """Answer whatever comes, as long as something comes."""
        await trio.testing.wait_all_tasks_blocked()
        while self.waiting:
            self.answer()
            await trio.testing.wait_all_tasks_blocked()


class Topics:
    """Two topics."""

    limits = DEFAULTS

    def known(self, name: str) -> TopicEntry:
        return ORDERS if name == "orders" else AUDIT

    async def find(self, name: str) -> TopicEntry:
        return self.known(name)

    def forget(self, name: str) -> None:
        """The real ones would ask again."""


@asynccontextmanager
async def producing(buffer_bytes: int = 1 << 30, alone: bool = True) -> AsyncIterator[tuple[Session, Producer, trio.Nursery]]:
    """A producer whose last request held one record, if `alone`."""
    session = Session()
    async with trio.open_nursery() as nursery:
        topics = Topics()
        async with open_producer(nursery, session, topics, Level.QUORUM, buffer_bytes) as out:  # type: ignore[arg-type]  # all that it needs
            if alone:
                nursery.start_soon(out.send, "orders", b"first")
                await session.answering()
                session.requests.clear()
            try:
                yield session, out, nursery
            except BaseException:
                nursery.start_soon(session.answering)  # what was taken is waited for
                raise
            await session.answering()


def numbers(count: int) -> Iterator[bytes]:
    return map(b"%d".__mod__, range(count))


async def test_a_record_alone_is_in_a_request_before_its_send_waits() -> None:
    async with producing() as (session, out, _):
        with trio.CancelScope() as scope:
            # Cancelled at the first point at which `send` gives the processor away: nobody else has had a turn since it began.
            session.submitting = scope.cancel
            await out.send("orders", b"a")

        assert scope.cancelled_caught
        assert session.requests == [[b"a"]]


async def test_tasks_that_send_together_share_a_request() -> None:
    async with producing(alone=False) as (session, out, nursery):
        for value in numbers(100):
            nursery.start_soon(out.send, "orders", value)
        await session.answering()
        assert [len(request) for request in session.requests] == [100]

        for value in numbers(100):
            nursery.start_soon(out.send, "orders", value)
        await session.answering()
        assert [len(request) for request in session.requests] == [100, 100]


async def test_behind_a_lone_record_tasks_that_send_together_cost_one_request_more_and_only_once() -> None:
    async with producing() as (session, out, nursery):
        for _ in range(3):
            for value in numbers(100):
                nursery.start_soon(out.send, "orders", value)
            await session.answering()

    assert [len(request) for request in session.requests] == [1, 99, 100, 100]


async def test_tasks_that_send_for_ever_soon_share_each_request() -> None:
    async with producing() as (session, out, nursery):

        async def send() -> None:
            for _ in range(50):
                await out.send("orders", b"a")

        for _ in range(16):
            nursery.start_soon(send)
        await session.answering()

    assert [len(request) for request in session.requests] == [1] + 49 * [16] + [15]


async def test_what_was_submitted_is_gathered_even_behind_a_lone_record() -> None:
    async with producing() as (session, out, _):
        values = list(numbers(CHECKPOINT_RECORDS - 2))  # among which the task gives the processor away to nobody
        pendings = [await out.submit("orders", value) for value in values]
        await session.answering()

        assert session.requests == [values]
        assert all(pending.done for pending in pendings)


async def test_a_send_takes_with_it_what_waits_before_it() -> None:
    async with producing() as (session, out, nursery):
        out.send_nowait("orders", b"a")
        out.send_nowait("audit", b"b")
        nursery.start_soon(out.send, "orders", b"c")
        await trio.testing.wait_all_tasks_blocked()

        assert session.requests == [[b"a", b"c", b"b"]]


async def test_two_tasks_on_one_lane_keep_their_order_and_wait_for_each_other() -> None:
    async with producing() as (session, out, nursery):
        nursery.start_soon(out.send, "orders", b"a")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(out.send, "orders", b"b")
        await trio.testing.wait_all_tasks_blocked()
        assert session.requests == [[b"a"]], "one request of a lane at a time"

        await session.answering()
        assert session.requests == [[b"a"], [b"b"]]


async def test_a_send_that_was_cancelled_before_it_began_leaves_nothing() -> None:
    async with producing() as (session, out, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            await out.send("orders", b"a")

        await trio.testing.wait_all_tasks_blocked()
        assert session.requests == []


async def test_a_send_that_was_cancelled_while_it_waits_leaves_its_record_on_its_way_and_others_behind_it() -> None:
    async with producing() as (session, out, nursery):
        with trio.CancelScope() as scope:
            session.submitting = scope.cancel
            await out.send("orders", b"a")
        session.submitting = lambda: None
        nursery.start_soon(out.send, "orders", b"b")
        await session.answering()

        assert session.requests == [[b"a"], [b"b"]]


async def test_a_full_buffer_lets_lone_records_through_one_by_one() -> None:
    async with producing(buffer_bytes=1) as (session, out, nursery):
        for value in numbers(5):
            nursery.start_soon(out.send, "orders", value)
        await session.answering()

    assert sorted(session.requests) == [[value] for value in numbers(5)]


async def test_a_lone_record_waits_for_a_window_that_is_full_of_what_was_given_up() -> None:
    async with producing() as (session, out, nursery):
        session.under_way = session.window
        nursery.start_soon(out.send, "orders", b"a")
        await trio.testing.wait_all_tasks_blocked()
        assert session.requests == []

        session.under_way = 0
        session.changed(None)
        await trio.testing.wait_all_tasks_blocked()
        assert session.requests == [[b"a"]]


async def test_a_lone_record_that_is_refused_fails_where_it_was_sent_and_the_next_goes_on() -> None:
    async with producing() as (session, out, nursery):

        async def send() -> None:
            with pytest.raises(NoQuorum):
                await out.send("orders", b"a")

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        session.answer(NoQuorum("nobody leads"))
        nursery.start_soon(out.send, "orders", b"b")
        await session.answering()

        assert session.requests == [[b"a"], [b"b"]]


async def test_what_waits_behind_a_lone_record_fails_unwritten_with_its_session() -> None:
    lost = ProducerLost("producer 1.1 is not known")
    written: dict[bytes, bool] = {}
    async with producing() as (session, out, nursery):

        async def send(value: bytes) -> None:
            with pytest.raises(ProducerLost) as caught:
                await out.send("orders", value)
            written[value] = caught.value.maybe_written

        for value in (b"a", b"b"):
            nursery.start_soon(send, value)
            await trio.testing.wait_all_tasks_blocked()
        session.lost = lost
        ((_, done),) = session.waiting
        session.waiting = []
        done(lost.again())
        session.changed(lost)
        await trio.testing.wait_all_tasks_blocked()
        await send(b"c")

    assert len(session.requests) == 1
    assert written == {b"a": True, b"b": False, b"c": True}


@pytest.fixture
def control_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where these tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("control_c")
def test_control_c_while_a_lone_record_leaves_ends_the_program() -> None:
    """The block waits for what was taken: a record that is in no lane and in no request would have been waited for for ever."""

    async def program() -> None:
        with trio.fail_after(10):
            async with producing() as (session, out, nursery):
                session.submitting = partial(signal.raise_signal, signal.SIGINT)
                nursery.start_soon(session.answering)
                await out.send("orders", b"a")

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(program)

    assert caught.group_contains(KeyboardInterrupt)


@pytest.mark.usefixtures("control_c")
@pytest.mark.parametrize(("key", "taking"), [(None, "add_plain"), (b"k", "add")])
def test_control_c_while_a_record_is_taken_leaves_it_on_its_way(key: bytes | None, taking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch, but not in the account of the buffer, it would have been forgotten."""
    add = getattr(OpenBatch, taking)
    requests: list[list[list[bytes | None]]] = []

    def interrupted(batch: OpenBatch, value: bytes | None, *rest: Any) -> Any:  # Any: as they are given
        pending = add(batch, value, *rest)
        signal.raise_signal(signal.SIGINT)
        return pending

    async def program() -> None:
        with trio.fail_after(10):
            async with producing(alone=False) as (session, out, nursery):
                requests.append(session.requests)
                monkeypatch.setattr(OpenBatch, taking, interrupted)
                nursery.start_soon(session.answering)
                await out.submit("orders", b"a", key=key)
                await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(program)

    assert caught.group_contains(KeyboardInterrupt)
    assert requests == [[[b"a"]]]


@pytest.mark.usefixtures("control_c")
def test_control_c_while_many_values_are_taken_leaves_them_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    add_values = Lane.add_values
    requests: list[list[list[bytes | None]]] = []

    def interrupted(lane: Lane, *given: Any) -> Any:  # Any: as they are given
        run = add_values(lane, *given)
        signal.raise_signal(signal.SIGINT)
        return run

    async def program() -> None:
        with trio.fail_after(10):
            async with producing(alone=False) as (session, out, nursery):
                requests.append(session.requests)
                monkeypatch.setattr(Lane, "add_values", interrupted)
                nursery.start_soon(session.answering)
                await out.send_many("orders", [b"a", b"b"])

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(program)

    assert caught.group_contains(KeyboardInterrupt)
    assert requests == [[[b"a", b"b"]]]


@pytest.mark.parametrize(("key", "taking"), [(None, "_take_plain"), (b"k", "_take")])
async def test_control_c_behind_a_record_that_was_taken_leaves_it_on_its_way(
    key: bytes | None, taking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = getattr(Producer, taking)

    def interrupted(out: Producer, *given: Any) -> Pending:  # Any: as they are given
        take(out, *given)
        raise KeyboardInterrupt

    with trio.fail_after(10), pytest.raises(BaseExceptionGroup) as caught:
        async with producing(alone=False) as (session, out, nursery):
            monkeypatch.setattr(Producer, taking, interrupted)
            nursery.start_soon(session.answering)
            await out.submit("orders", b"a", key=key)

    assert caught.group_contains(KeyboardInterrupt)
    assert session.requests == [[b"a"]]


async def test_control_c_while_the_task_is_woken_leaves_it_to_the_next_record() -> None:
    class Interrupted:
        def __init__(self, event: trio.Event) -> None:
            self.event = event
            self.interrupted = False

        def set(self) -> None:
            if not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt
            self.event.set()

    with trio.fail_after(10):
        async with producing(alone=False) as (session, out, nursery):
            await trio.testing.wait_all_tasks_blocked()
            out._woken = Interrupted(out._woken)  # type: ignore[assignment]
            nursery.start_soon(session.answering)
            with pytest.raises(KeyboardInterrupt):
                await out.submit("orders", b"a")
            await (await out.submit("orders", b"b"))

    assert session.requests == [[b"a", b"b"]]


async def test_a_connection_that_breaks_under_a_lone_record_costs_nothing_and_nobody_is_written_twice() -> None:
    taken: list[tuple[int, int]] = []

    def script(number: int, request: Request) -> Response | None:
        if not isinstance(request, Produce):
            return None
        taken.append((len(node.streams), request.turn.sequence))
        if taken == [(1, 1), (1, 2), (1, 3)]:
            node.streams[0].socket.shutdown(trio.socket.SHUT_RDWR)
            return None
        return Produced(Level.QUORUM, Zxid(1, 10), (request.turn.sequence,))

    async with scripted(script) as node, connect(node.address) as zl, zl.producer() as out:
        offsets = [(await out.send("orders", b"a")).offset for _ in range(5)]

    assert offsets == [1, 2, 3, 4, 5]
    assert taken == [(1, 1), (1, 2), (1, 3), (2, 3), (2, 4), (2, 5)]


async def test_a_connection_that_broke_unnoticed_before_a_lone_record_costs_nothing() -> None:
    taken: list[int] = []

    def script(number: int, request: Request) -> Response | None:
        if not isinstance(request, Produce):
            return None
        taken.append(request.turn.sequence)
        return Produced(Level.QUORUM, Zxid(1, 10), (request.turn.sequence,))

    async with scripted(script) as node, connect(node.address) as zl, zl.producer() as out:
        for sequence in range(1, 4):
            assert (await out.send("orders", b"a")).offset == sequence
            await trio.testing.wait_all_tasks_blocked()
            node.streams[-1].socket.shutdown(trio.socket.SHUT_RDWR)  # and the client has no turn to see it

    assert taken == [1, 2, 3]
    assert len(node.streams) == 3


async def test_a_producer_that_the_cluster_forgot_fails_a_lone_record_that_may_be_written() -> None:
    answers: list[Response] = [Produced(Level.QUORUM, Zxid(1, 10), (0,)), Failed(Code.UNKNOWN_PRODUCER, "producer 1.2 is not known")]

    def script(number: int, request: Request) -> Response | None:
        return answers.pop(0) if isinstance(request, Produce) else None

    async with scripted(script) as node, connect(node.address) as zl, zl.producer() as out:
        await out.send("orders", b"a")
        for _ in range(2):
            with pytest.raises(ProducerLost) as caught:
                await out.send("orders", b"b")
            assert caught.value.maybe_written

    assert not answers


@pytest.mark.parametrize("rest_seconds", [0.0, 0.5, 1.9, 2.1, 30.0])
async def test_a_write_is_given_up_in_time_whenever_its_session_was_last_looked_at(
    autojump_clock: trio.testing.MockClock, nodes: Nodes, rest_seconds: float
) -> None:
    async with connect(ADDRESSES[1], timeout=2) as zl, zl.producer() as out:
        for _ in range(3):
            nodes.write_seconds = 0.7
            await out.send("orders", b"answered")
        await trio.sleep(rest_seconds)
        nodes.write_seconds = 1000
        began = trio.current_time()

        with pytest.raises(OutcomeUnknown):
            await out.send("orders", b"not answered")

        assert trio.current_time() - began == pytest.approx(2, abs=0.01)
