"""What customers do with a cluster, each with topics of its own: they err, delete what others read, read one record at a time, and insist.

Each call has one right outcome, whatever fails meanwhile.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from random import Random
from typing import cast

import trio

import broker
from broker.client.pending import Receipt, Receipts
from broker.client.producer import Producer
from broker.records import Record
from broker.state.commands import Retention
from tests.shell.administration import LEVELS, Call, raising
from tests.shell.cancelling import CancelledAt
from tests.shell.world import EPOCH_SECONDS, NODES

KEYS = (b"k", b"key", b"four", b"a longer key", b"keys of many bytes")


class Customer:
    """One client's worth. `call` chooses what comes next."""

    def __init__(self, client: broker.Client, another: broker.Client, dice: Random) -> None:
        self.client = client
        self.another = another
        """Who does things that `client` does not hear of."""
        self.dice = dice
        self.topics = 0

    def call(self) -> Call:
        calls: list[Call] = [
            self.ask_wrongly,
            self.write_wrongly,
            self.write_by_key,
            self.delete_under_a_producer,
            self.delete_under_a_consumer,
            self.read_slowly,
            self.fall_behind,
            self.read_at_once,
            self.give_up_waiting,
        ]
        return self.dice.choice(calls)

    async def topic(self, partitions: int = 1, retention: Retention | None = None) -> str:
        self.topics += 1
        name = f"shop{self.topics}"
        await self.client.create_topic(name, partitions, retention=retention, exist_ok=True)
        return name

    async def delete_elsewhere(self, name: str) -> None:
        """By somebody whose leader may be the last to hear that it leads no more, and may not know of the topic yet."""
        while True:
            try:
                return await self.another.delete_topic(name)
            except broker.TopicNotFound:
                await trio.sleep(0.1)

    # -- mistakes -----------------------------------------------------------------------------------------------------------

    async def ask_wrongly(self) -> None:
        name, zl = await self.topic(2), self.client
        wrong: list[tuple[type[Exception], Callable[[], broker.Consumer]]] = [
            (broker.NoStartPosition, lambda: zl.consumer(name)),
            (broker.BadRequest, lambda: zl.consumer(name, start=datetime(2024, 1, 1))),
            (broker.BadRequest, lambda: zl.consumer(name, start=broker.Zxid(-1, 0))),
            (broker.BadRequest, lambda: zl.consumer(name, start=5)),
            (broker.BadRequest, lambda: zl.consumer(name, start="somewhere")),
            (broker.BadRequest, lambda: zl.consumer(name, start=True)),
            (broker.BadRequest, lambda: zl.consumer(name, start={(name, 7): 0})),
            (broker.BadRequest, lambda: zl.consumer(name, start="earliest", stop={(name, 0): 0})),
            (broker.BadRequest, lambda: zl.consumer(name, start="earliest", read="soon")),
            (broker.PartitionNotFound, lambda: zl.consumer(name, start="earliest", partition=2)),
            (broker.TopicNotFound, lambda: zl.consumer("nowhere", start="earliest")),
            (broker.OffsetOutOfRange, lambda: zl.consumer(name, start=5, partition=0)),
            (broker.NodeNotFound, lambda: zl.consumer(name, start="earliest", node=9)),
            (broker.BadRequest, lambda: zl.producer(acks="some")),
            (broker.NotAllowed, lambda: zl.producer(acks="all")),
            (broker.ConfigError, lambda: broker.connect("nowhere")),
        ]  # type: ignore[list-item, arg-type]  # contexts of several kinds, and wrong on purpose
        for error, opened in self.dice.sample(wrong, 6):
            with raising(error):
                async with opened():
                    pass
        async with zl.consumer([name], start={(name, 1): 0}, stop=0, partition=1) as inbox:
            assert [record async for record in inbox] == [], "nothing stands before 0"

    async def write_wrongly(self) -> None:
        name = await self.topic()
        large = bytes((await self.client.limits()).record_bytes + 1)
        async with self.client.producer() as out:
            wrong: list[tuple[type[Exception], Call]] = [
                (broker.BadRequest, lambda: out.send(name, cast(bytes, "text"))),
                (broker.BadRequest, lambda: out.send(name, b"", key=cast(bytes, "text"))),
                (broker.BadRequest, lambda: out.send(name, b"", headers={cast(str, 1): b""})),
                (broker.BadRequest, lambda: out.send(name, b"", headers={"h": cast(bytes, "text")})),
                (broker.BadRequest, lambda: out.send(name, b"", timestamp=-1)),
                (broker.PartitionNotFound, lambda: out.send(name, b"", partition=1)),
                (broker.RecordTooLarge, lambda: self.send_now(out, name, large)),
                (broker.TopicNotFound, lambda: self.send_now(out, "nowhere", b"")),
                (broker.TopicNotFound, lambda: out.send_many("nowhere", [b"", b""])),
            ]
            for error, call in self.dice.sample(wrong, 5):
                with raising(error):
                    await call()
            receipts = await out.send_many(name, [b"one", b"two", b"three"])
        assert isinstance(receipts, Receipts) and [each.offset for each in receipts[1:]] == [1, 2], "only what is right is there"
        with raising(IndexError):
            receipts[3]

    async def send_now(self, out: Producer, topic: str, value: bytes) -> None:
        while True:
            try:
                await out.send_nowait(topic, value)
            except trio.WouldBlock:
                await trio.sleep(0.01)
            else:
                return

    # -- writing ------------------------------------------------------------------------------------------------------------

    async def write_by_key(self) -> None:
        """Equal keys to equal partitions, and every record as it was given."""
        name = await self.topic(3)
        given: dict[tuple[int, int], Record] = {}
        async with self.client.producer(buffer_bytes=300) as out:
            for number in range(12):
                key, time = self.dice.choice(KEYS), self.dice.choice((None, EPOCH_SECONDS * 1000 + number))
                value = self.dice.choice((b"value %d" % number, None))
                headers = self.dice.choice((None, {"h": b"x", "none": None}))
                receipt = await out.send(name, value, key=key, headers=headers, timestamp=time)
                given[receipt.partition, receipt.offset] = Record(value, key, tuple((headers or {}).items()), time or 0)
        places: dict[bytes | None, set[int]] = {}
        async with self.client.consumer(name, start="earliest", stop="end", read=self.dice.choice(LEVELS[1:])) as inbox:
            async for record in inbox:
                wanted = given.pop((record.partition, record.offset))
                assert (record.value, record.key, record.headers) == (wanted.value, wanted.key, wanted.headers), "another record"
                assert record.timestamp == wanted.timestamp or not wanted.timestamp, "another time"
                places.setdefault(record.key, set()).add(record.partition)
        assert not given, f"acknowledged, and not there for a reader who asked then: {given}"
        assert all(len(each) == 1 for each in places.values()), "a key went to two partitions"

    async def delete_under_a_producer(self) -> None:
        """Nothing goes to another topic that is given the name, and no failure disappears in silence."""
        name = await self.topic()
        try:
            async with self.client.producer() as out, self.client.producer() as careless:
                await out.send(name, b"first")
                await self.delete_elsewhere(name)
                pending = await out.submit(name, b"late") if self.dice.random() < 0.5 else None
                await careless.submit(name, b"whatever becomes of it")
                await self.another.create_topic(name)
                if pending is not None:
                    with raising(broker.TopicNotFound):
                        await pending
                receipts: list[Receipt] = []
                while not receipts:
                    with suppress(broker.TopicNotFound):  # it knew the old one
                        receipts = list(await out.send_many(name, [b"anew"] * 3))
            raise AssertionError("nobody was told what became of a record")
        except broker.TopicNotFound as error:
            told = "".join(error.__notes__)
        assert "promises were not waited for" in told, told
        async with self.client.consumer(name, start="earliest", stop="end", read="linearizable") as inbox:
            values = [record.value async for record in inbox]
        assert values == [b"anew"] * 3, f"records of another topic: {values}"

    # -- reading ------------------------------------------------------------------------------------------------------------

    async def delete_under_a_consumer(self) -> None:
        name = await self.topic()
        async with (
            self.client.consumer(name, start="earliest", node=self.dice.choice((None, *NODES))) as inbox,
            trio.open_nursery() as nursery,
        ):

            async def read() -> None:
                with raising(broker.TopicNotFound):
                    await inbox.next_batch()

            nursery.start_soon(read)
            await trio.sleep(self.dice.random() * 0.1)
            await self.delete_elsewhere(name)

    async def read_slowly(self) -> None:
        """One record, the rest of its batch, then wherever one is: `positions` says where to go on."""
        name = await self.topic(2)
        async with self.client.producer() as out:
            for number in range(6):
                await out.send_many(name, [b"%d" % number] * self.dice.randint(1, 9), partition=number % 2)
        seen: dict[int, list[Record]] = {0: [], 1: []}
        start = {(name, 0): 0, (name, 1): 0}
        ends = {place: details.end for place, details in zip(start, (await self.client.describe_topic(name)).partitions, strict=True)}
        while start != ends:
            async with self.client.consumer(name, start=start, stop=ends, node=self.dice.choice((None, *NODES))) as inbox:
                for _ in range(self.dice.randint(1, 5)):
                    try:
                        records = [await anext(inbox)]
                    except StopAsyncIteration:
                        break
                    if self.dice.random() < 0.4:
                        await trio.sleep(self.dice.random() * 0.1)
                        records += await inbox.next_batch() or []
                    for record in records:
                        seen[record.partition].append(record)
                start = inbox.positions
        for (_, partition), end in ends.items():
            assert [record.offset for record in seen[partition]] == list(range(end)), "read twice, or left out"

    async def fall_behind(self) -> None:
        """A reader who is slower than retention is told so, unless he wants whatever is there first."""
        name = await self.topic(retention=Retention(records=5))
        start = self.dice.choice(("earliest", 0))
        async with self.client.producer() as out:
            await out.send_many(name, [bytes(100)] * 3)
            async with self.client.consumer(name, start=start, partition=0) as inbox:
                for _ in range(4):
                    await out.send_many(name, [bytes(100)] * 20)
                while (await self.client.describe_topic(name)).partitions[0].first < 50:
                    await trio.sleep(0.3)
                try:
                    offsets = [(await anext(inbox)).offset for _ in range(5)]
                    assert offsets == list(range(offsets[0], offsets[0] + 5)), "a gap within what is kept"
                except broker.OffsetOutOfRange:
                    assert start == 0, "whatever is there first was asked for"

    async def read_at_once(self) -> None:
        """Many ask for what everybody was promised, and each sees his own record."""
        name = await self.topic()

        async def write_and_read() -> None:
            async with self.client.producer() as out:
                receipt = await out.send(name, b"own")
            node = self.dice.choice((None, *NODES))
            record = await self.client.read(name, 0, receipt.offset, self.dice.choice(LEVELS[1:]), node=node, at_least=receipt.token)
            assert record.value == b"own", "the answer to another's request"

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(write_and_read)

    async def give_up_waiting(self) -> None:
        """More calls than may be under way; their callers go, and what they asked for is done once or not at all."""
        names = [f"given-up{number}" for number in range(20)]
        async with trio.open_nursery() as nursery:
            for name in names:
                at = CancelledAt(self.dice.choice((0, 2, 3, 5)))
                nursery.start_soon(at, lambda name=name: self.client.create_topic(name, exist_ok=True))
        found = {entry.name for entry in await self.client.list_topics()}
        for name in sorted(found.intersection(names)):
            await self.client.delete_topic(name)
