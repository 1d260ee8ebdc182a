"""What an administrator asks of a cluster, and what he asks in vain. Each call has one right answer, whatever fails meanwhile."""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from random import Random
from typing import Any

import broker
from broker.client.client import ReadLevel
from broker.client.pending import Receipt
from broker.state.commands import FOR_EVER, Retention
from tests.shell.world import EPOCH_SECONDS, NODES

TOPIC = "orders"
PARTITIONS = 2
LEVELS: tuple[ReadLevel, ...] = ("local", "session", "linearizable")

Call = Callable[[], Coroutine[Any, Any, object]]  # Any: what a coroutine yields is trio's own


class Administrator:
    """One client's worth. `call` chooses what comes next."""

    def __init__(self, client: broker.Client, dice: Random) -> None:
        self.client = client
        self.dice = dice
        self.made: list[str] = []

    def call(self) -> Call:
        calls: list[Call] = [self.create, self.alter, self.look, self.status, self.limit, self.delete, self.pass_by, self.mistake]
        return self.dice.choice(calls)

    async def create(self) -> None:
        self.made.append(f"topic{len(self.made)}")
        entry = await self.client.create_topic(self.made[-1], 1, exist_ok=True)
        assert entry.name == self.made[-1], "the answer to another's request"

    async def alter(self) -> None:
        await self.client.alter_topic(TOPIC, FOR_EVER)

    async def look(self) -> None:
        details = await self.client.describe_topic(TOPIC)
        assert len(details.partitions) == PARTITIONS, "the answer to another's request"
        assert TOPIC in [entry.name for entry in await self.client.list_topics()], "a topic is lost"

    async def status(self) -> None:
        await self.client.status()
        for node in await self.client.nodes():
            with suppress(broker.ConnectionLost):  # it is down
                assert (await self.client.node_status(node.id)).id == node.id, "the answer of another"

    async def limit(self) -> None:
        client, dice = self.client, self.dice
        wanted = dice.randint(5_000, 6_000)
        assert (await client.set_limits(topics=wanted)).topics == wanted, "the answer to another's request"
        small = await client.set_limits(record_bytes=dice.randint(5_000, 6_000))
        with raising(broker.RecordTooLarge):
            await send_alone(client, bytes(small.record_bytes + 1))
        await client.set_limits(record_bytes=20_000)
        await send_alone(client, bytes(small.record_bytes + 1))  # who learned the old limit asks again

    async def mistake(self) -> None:
        """What cannot be done is refused by name, and nothing comes of it."""
        client = self.client
        await client.create_topic(TOPIC, PARTITIONS, exist_ok=True)
        wrong: list[tuple[type[Exception], Call]] = [
            (broker.TopicExists, lambda: client.create_topic(TOPIC, PARTITIONS)),
            (broker.TopicExists, lambda: client.create_topic(TOPIC, PARTITIONS + 1, exist_ok=True)),
            (broker.BadName, lambda: client.create_topic("no/name")),
            (broker.BadRequest, lambda: client.create_topic("wide", 0)),
            (broker.BadRequest, lambda: client.create_topic("kept", retention=Retention(ms=-1))),
            (broker.TopicNotFound, lambda: client.alter_topic("nowhere", FOR_EVER)),
            (broker.TopicNotFound, lambda: send_alone(client, b"", "nowhere")),
            (broker.PartitionNotFound, lambda: send_alone(client, b"", partition=PARTITIONS)),
            (broker.OffsetOutOfRange, lambda: client.read(TOPIC, 0, 1 << 40)),
            (broker.PartitionNotFound, lambda: client.read(TOPIC, PARTITIONS, 0)),
            (broker.NodeNotFound, lambda: client.node_status(9)),
            (broker.BadRequest, lambda: client.set_limits(colour=3)),
            (broker.BadRequest, lambda: client.set_limits()),
        ]
        for error, call in self.dice.sample(wrong, 4):
            with raising(error):
                await call()

    async def delete(self) -> None:
        if self.made:
            with suppress(broker.TopicNotFound):  # its creation was cancelled before it was sent
                await self.client.delete_topic(self.made.pop())

    async def pass_by(self) -> None:
        """Records that soon go again, read from every kind of place."""
        client, dice = self.client, self.dice
        entry = await client.create_topic("passing", retention=Retention(records=10), exist_ok=True)
        if dice.random() < 0.7:
            keeps = (Retention(records=10), Retention(ms=20_000, records=20), Retention(bytes=2_000), Retention(ms=1_500, bytes=9_000))
            await client.alter_topic(entry.name, dice.choice(keeps))
        async with client.producer() as producer:
            receipts = await producer.send_many("passing", [bytes(200)] * 30)
        moment = datetime.fromtimestamp(EPOCH_SECONDS, UTC)
        for start in ("earliest", "latest", receipts[-1].zxid, moment):
            with suppress(broker.OffsetOutOfRange, broker.Corrupt):  # retention was faster than this reader, or a disk has decayed
                async with client.consumer("passing", start=start, stop="end") as inbox:
                    offsets = [record.offset async for record in inbox]
                assert offsets == sorted(set(offsets)), "records of one partition come in order, once"
        level = dice.choice(LEVELS)
        with suppress(broker.OffsetOutOfRange, broker.Corrupt):
            node = dice.choice((None, *NODES)) if level != "local" else None
            record = await client.read("passing", 0, receipts[-1].offset, level, node=node)
            assert record.value == bytes(200), "the answer to another's request"


@contextmanager
def raising(error: type[Exception] | tuple[type[Exception], ...]) -> Iterator[None]:
    """What is within must be refused so."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"{error} was not raised")


async def send_alone(client: broker.Client, value: bytes, topic: str = "passing", partition: int | None = None) -> Receipt:
    """By a producer of its own."""
    if topic == "passing":
        await client.create_topic(topic, retention=Retention(records=10), exist_ok=True)
    async with client.producer() as producer:
        return await producer.send(topic, value, partition=partition)
