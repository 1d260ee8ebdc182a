"""Requests that several topics share: little of each travels together, and what is refused together is sent again topic by topic."""

from collections.abc import Callable
from random import Random

import pytest
import trio
import trio.testing

from broker.client import Pending, connect
from broker.client.batching import FULL_BYTES, SHARED_BYTES, Lanes
from broker.errors import BrokerError, Code, NoQuorum, OutcomeUnknown, ProducerLost, RecordTooLarge, TopicNotFound
from broker.protocol import Failed, Level, Produce, Produced, Response, TopicEntry
from broker.records import read_batch
from tests.broker.client.test_alone import AUDIT, ORDERS, Session, producing
from tests.broker.ensemble import Ensemble
from tests.pace import few
from zablog import Zxid

Answer = Callable[[Produce], Response | BrokerError]


def answer_one(session: Session, answer: Response | BrokerError | Answer, number: int = 0) -> None:
    """Answer one of the requests that wait."""
    request, done = session.waiting.pop(number)
    session.under_way -= 1
    done(answer(request) if callable(answer) else answer)
    session.changed(None)


def written(request: Produce) -> Produced:
    return Produced(Level.QUORUM, Zxid(1, 9), tuple(range(len(request.parts))))


def without_audit(request: Produce) -> Response:
    """The topic was deleted a moment ago."""
    if any(part.topic == AUDIT.id for part in request.parts):
        return Failed(Code.TOPIC_NOT_FOUND, "there is no topic audit")
    return written(request)


def values(request: Produce) -> list[bytes | None]:
    return [record.value for part in request.parts for record in read_batch(part.batch, "")]


async def test_little_of_several_topics_travels_together() -> None:
    async with producing(alone=False) as (session, out, _):
        pendings = [await out.submit(topic, topic.encode()) for topic in ("orders", "audit", "orders")]
        await trio.testing.wait_all_tasks_blocked()
        ((request, _),) = session.waiting
        assert [part.topic for part in request.parts] == [ORDERS.id, AUDIT.id]

        answer_one(session, written)

        assert [(each.receipt().topic, each.receipt().offset) for each in pendings] == [("orders", 0), ("audit", 1), ("orders", 1)]


async def test_much_travels_without_others() -> None:
    async with producing(alone=False) as (session, out, _):
        for topic in ("orders", "audit"):
            await out.submit(topic, bytes(SHARED_BYTES))
        await trio.testing.wait_all_tasks_blocked()

        assert [[part.topic for part in request.parts] for request, _ in session.waiting] == [[ORDERS.id], [AUDIT.id]]


async def test_of_what_was_refused_together_only_that_fails_which_was_meant() -> None:
    async with producing(alone=False) as (session, out, _):
        one, two, three = [await out.submit(topic, b"1") for topic in ("orders", "audit", "orders")]
        await trio.testing.wait_all_tasks_blocked()
        answer_one(session, without_audit)
        await trio.testing.wait_all_tasks_blocked()
        assert [[part.topic for part in request.parts] for request, _ in session.waiting] == [[ORDERS.id], [AUDIT.id]]
        for _ in range(2):
            answer_one(session, without_audit)

        assert one.receipt().offset == 0 and three.receipt().offset == 1
        with pytest.raises(TopicNotFound):
            await two.wait()


async def test_nothing_of_a_lane_overtakes_what_travels_with_others() -> None:
    async with producing(alone=False) as (session, out, _):
        for topic in ("orders", "audit"):
            await out.submit(topic, b"first")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            await out.submit("orders", bytes(FULL_BYTES))
        await trio.testing.wait_all_tasks_blocked()
        assert len(session.waiting) == 1, "not even full batches"

        answer_one(session, without_audit)
        await trio.testing.wait_all_tasks_blocked()

        assert [values(request)[0] for request, _ in session.waiting][:2] == [b"first", b"first"]
        orders = [value for request, _ in session.waiting if request.parts[0].topic == ORDERS.id for value in values(request)]
        assert [len(value or b"") for value in orders][:2] == [5, FULL_BYTES]
        session.answer(Failed(Code.TOPIC_NOT_FOUND, "gone"))
        with pytest.raises(TopicNotFound):
            out.raise_unseen()


async def test_what_may_have_been_written_together_is_not_sent_again() -> None:
    async with producing(alone=False) as (session, out, _):
        pendings = [await out.submit(topic, b"1") for topic in ("orders", "audit")]
        await trio.testing.wait_all_tasks_blocked()

        answer_one(session, Failed(Code.RECORD_TOO_LARGE, "who knows", maybe_written=True))
        for pending in pendings:
            with pytest.raises(RecordTooLarge) as failed:
                await pending.wait()
            assert failed.value.maybe_written
        pendings = [await out.submit(topic, b"2") for topic in ("orders", "audit")]
        await trio.testing.wait_all_tasks_blocked()
        answer_one(session, OutcomeUnknown("sent, and then nothing"))
        for pending in pendings:
            with pytest.raises(OutcomeUnknown):
                await pending.wait()

        await trio.testing.wait_all_tasks_blocked()
        assert not session.waiting


async def test_what_was_refused_together_and_not_sent_again_is_not_written_when_the_session_is_lost() -> None:
    async with producing(alone=False) as (session, out, _):
        pendings = [await out.submit(topic, b"1") for topic in ("orders", "audit")]
        await trio.testing.wait_all_tasks_blocked()
        answer_one(session, without_audit)
        session.lost = ProducerLost("the cluster has forgotten it")
        session.changed(session.lost)

        for pending in pendings:
            with pytest.raises(ProducerLost) as failed:
                await pending.wait()
            assert not failed.value.maybe_written


def test_what_was_refused_together_has_its_turn_while_the_rest_of_its_topic_joins_others() -> None:
    """Two topics of many partitions, of both of which something always waits: the second joins each request with other lanes of it."""
    busy, other = TopicEntry(Zxid(1, 2), "busy", 50), TopicEntry(Zxid(1, 3), "other", 50)
    lanes = Lanes()

    def write(topic: TopicEntry, partition: int) -> None:
        lanes.open(topic, None, partition).add(b"x", 5, None, ())

    write(busy, 0)
    lanes.take_ready()
    write(busy, 0)  # which waits for an answer that takes long
    write(other, 0)
    refused = lanes.take_ready()
    lanes.answered(refused)
    for topic in (busy, other):
        write(topic, 1)
    lanes.put_back(refused)
    requests = []
    for partition in range(1, 40):
        requests.append(lanes.take_ready())
        for topic in (busy, other):
            write(topic, partition + 1)
        lanes.answered(requests[-1])

    sent = [number for number, request in enumerate(requests) if refused[0] in request]
    assert sent and sent[0] <= 2


def test_a_partition_of_which_much_waits_leaves_the_others_their_turn() -> None:
    """Full batches of one partition that never come to an end filled each request of its topic."""
    topic = TopicEntry(Zxid(1, 2), "orders", 3)
    lanes = Lanes()

    def fill() -> None:
        while len(lanes.lane(topic, None, 0).batches) < 8:
            lanes.open(topic, None, 0).add(bytes(FULL_BYTES), 5, None, ())

    fill()
    for partition in (1, 2):
        lanes.open(topic, None, partition).add(b"x", 5, None, ())
    taken = []
    for _ in range(3):
        taken += [lane.partition for lane, _ in lanes.take_ready()]
        fill()

    assert {1, 2} <= set(taken)


async def test_a_lane_whose_refused_records_failed_joins_others_again() -> None:
    async with producing(alone=False) as (session, out, _):
        for topic in ("orders", "audit"):
            await out.submit(topic, b"1")
        await trio.testing.wait_all_tasks_blocked()
        session.under_way += session.window  # requests that were given up, and are in line all the same
        answer_one(session, without_audit)
        session.changed(NoQuorum("no write was acknowledged"))
        session.under_way = 0

        for topic in ("orders", "audit"):
            await out.submit(topic, b"2")
        await trio.testing.wait_all_tasks_blocked()

        assert [values(request) for request, _ in session.waiting] == [[b"2", b"2"]]
        session.answer()
        with pytest.raises(NoQuorum):
            out.raise_unseen()


@pytest.mark.parametrize("seed", few(range(50), 5))
async def test_every_record_has_its_own_fate_once_and_in_order(seed: int) -> None:
    dice = Random(seed)
    gone = dice.random() < 0.7
    log: dict[Zxid, list[bytes | None]] = {ORDERS.id: [], AUDIT.id: []}
    sent: dict[str, list[tuple[bytes, Pending]]] = {"orders": [], "audit": []}

    def answer(request: Produce) -> Response:
        if gone and any(part.topic == AUDIT.id for part in request.parts):
            return Failed(Code.TOPIC_NOT_FOUND, "there is no topic audit")
        for part in request.parts:
            log[part.topic] += [record.value for record in read_batch(part.batch, "")]
        return written(request)

    async with producing(alone=False) as (session, out, _):
        for number in range(120):
            topic = dice.choice(("orders", "audit"))
            value = b"%d" % number + bytes(dice.choice((0, 0, 0, SHARED_BYTES, FULL_BYTES)))
            sent[topic].append((value, await out.submit(topic, value)))
            if dice.random() < 0.3:
                await trio.testing.wait_all_tasks_blocked()
            if session.waiting and dice.random() < 0.3:
                # A session hands answers on in whatever order they become known; the cluster carries requests out in theirs.
                answer_one(session, answer)
        await trio.testing.wait_all_tasks_blocked()
        while session.waiting:
            answer_one(session, answer)
            await trio.testing.wait_all_tasks_blocked()
        for _, pending in sent["audit"]:
            if gone:
                with pytest.raises(TopicNotFound):
                    await pending.wait()
            else:
                pending.receipt()
        for _, pending in sent["orders"]:
            pending.receipt()

    assert log[ORDERS.id] == [value for value, _ in sent["orders"]]
    assert log[AUDIT.id] == ([] if gone else [value for value, _ in sent["audit"]])


async def test_a_topic_that_is_deleted_takes_no_record_of_another_with_it(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl, connect(ensemble.addresses) as other:
        names = [f"topic-{number}" for number in range(10)]
        for name in names:
            await zl.create_topic(name)
        async with zl.producer() as out:
            for name in names:
                await out.prepare(name)
            await other.delete_topic("topic-3")

            pendings = [out.send_nowait(name, b"%d" % number) for number in range(20) for name in names]

            for name, pending in zip(names * 20, pendings, strict=True):
                if name == "topic-3":
                    with pytest.raises(TopicNotFound):
                        await pending.wait()
                else:
                    await pending.wait()
        for name in set(names) - {"topic-3"}:
            async with zl.consumer(name, start="earliest", stop="end") as inbox:
                assert [record.value async for record in inbox] == [b"%d" % number for number in range(20)]
