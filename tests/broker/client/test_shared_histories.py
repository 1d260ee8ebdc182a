"""Random histories of a producer whose requests are shared: whatever is refused, each record is written once, or not and its sender knows.

The node is a list for each partition. It takes requests in their order, as the log does; its answers become known in any.
"""

from random import Random

import pytest
import trio
import trio.testing

from broker.client import Pending
from broker.client.batching import FULL_BYTES, SHARED_BYTES
from broker.client.producer import open_producer
from broker.client.session import Done
from broker.errors import BrokerError, Code, OutcomeUnknown, TopicNotFound
from broker.protocol import Failed, Level, Produce, Produced, Response, TopicEntry
from broker.records import read_batch
from broker.state.limits import DEFAULTS
from tests.broker.client.test_alone import Session
from tests.pace import few
from zablog import Zxid

RECORDS = 150


class Topics:
    """Some of one partition, some of more; names may come to mean another topic."""

    limits = DEFAULTS

    def __init__(self) -> None:
        self.entries = {f"t{number}": TopicEntry(Zxid(1, number), f"t{number}", 1 + number % 3) for number in range(5)}
        self.stale: dict[str, TopicEntry] = {}
        """What the client still believes."""

    def known(self, name: str) -> TopicEntry:
        return self.stale.get(name) or self.entries[name]

    async def find(self, name: str) -> TopicEntry:
        return self.known(name)

    def forget(self, name: str) -> None:
        self.stale.pop(name, None)

    def made_anew(self, name: str) -> None:
        """Deleted, and another one made of the same name."""
        old = self.entries[name]
        self.stale[name] = old
        self.entries[name] = TopicEntry(Zxid(old.id.epoch + 1, old.id.counter), name, old.partitions)


class Node:
    """What the cluster makes of requests."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.log: dict[tuple[Zxid, int], list[bytes]] = {}
        self.batch_bytes = 1 << 30

    def carry_out(self, request: Produce) -> Response:
        there = {entry.id for entry in self.topics.entries.values()}
        if any(part.topic not in there for part in request.parts):
            return Failed(Code.TOPIC_NOT_FOUND, "there is no such topic")
        if any(len(part.batch) > self.batch_bytes for part in request.parts):
            return Failed(Code.RECORD_TOO_LARGE, "a batch is too large")
        offsets = []
        for part in request.parts:
            partition = self.log.setdefault((part.topic, part.partition), [])
            offsets.append(len(partition))
            partition += [record.value or b"" for record in read_batch(part.batch, "")]
        return Produced(Level.QUORUM, Zxid(1, 9), tuple(offsets))


@pytest.mark.parametrize("seed", few(range(200), 10))
async def test_each_record_is_written_once_where_its_receipt_says_or_not_at_all(seed: int) -> None:
    dice = Random(seed)
    topics, session = Topics(), Session()
    node = Node(topics)
    sent: list[tuple[bytes, Zxid, Pending]] = []
    carried: list[tuple[Done, Response | BrokerError]] = []

    def step() -> None:
        """The node takes the next request, or an answer becomes known."""
        if session.waiting and (not carried or dice.random() < 0.5):
            request, done = session.waiting.pop(0)
            response: Response | BrokerError = node.carry_out(request)
            carried.append((done, OutcomeUnknown("nobody knows") if dice.random() < 0.03 else response))
        elif carried:
            done, response = carried.pop(dice.randrange(len(carried)))
            session.under_way -= 1
            done(response)
            session.changed(None)

    async def settled() -> None:
        await trio.testing.wait_all_tasks_blocked()
        while session.waiting or carried:
            step()
            await trio.testing.wait_all_tasks_blocked()

    with trio.fail_after(60):
        async with (
            trio.open_nursery() as nursery,
            open_producer(nursery, session, topics, Level.QUORUM, 4 << 20) as out,  # type: ignore[arg-type]  # all that it needs
        ):
            for number in range(RECORDS):
                name = dice.choice(list(topics.entries))
                entry = topics.known(name)
                value = b"%d " % number + bytes(dice.choice((0, 0, 0, 0, SHARED_BYTES // 2, FULL_BYTES)))
                partition = dice.randrange(entry.partitions) if dice.random() < 0.7 else None
                sent.append((value, entry.id, out.send_nowait(name, value, partition=partition)))
                while out._bytes > 2 << 20 or dice.random() < 0.4:
                    await trio.testing.wait_all_tasks_blocked()
                    step()
                if dice.random() < 0.03:
                    topics.made_anew(dice.choice(list(topics.entries)))
                if dice.random() < 0.05:
                    node.batch_bytes = dice.choice((1 << 30, FULL_BYTES // 2))
            await settled()
            for _, _, pending in sent:
                pending.see()  # else the producer would raise the failures

    receipts, failures = [], []
    for value, topic, pending in sent:
        assert pending.done, f"record {value[:4]!r} waits for ever"
        try:
            receipts.append((value, topic, pending.receipt()))
        except BrokerError as error:
            failures.append((value, topic, error))
    log = [value for partition in node.log.values() for value in partition]
    assert len(set(log)) == len(log), "twice"
    for value, topic, receipt in receipts:
        assert node.log[topic, receipt.partition][receipt.offset] == value
    there = {entry.id for entry in topics.entries.values()}
    for value, topic, failure in failures:
        assert failure.maybe_written or value not in log
        assert not (isinstance(failure, TopicNotFound) and topic in there), "a refusal that was meant for another topic"
    for partition in node.log.values():
        order = [int(value.split()[0]) for value in partition]
        assert order == sorted(order)
