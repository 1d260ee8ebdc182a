"""What happens in a world: producers, a reader and an administrator at work, cancelled at any checkpoint, while nodes and links fail.

At the end everything is healed, and then must be true: every acknowledged record is in every replica once, where its receipt says; the
records of a producer stand in the order in which they were given; no record that was never given is there; the reader saw what is there;
no call failed, for nothing lasted as long as a client is patient.
"""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from random import Random
from typing import Any

import trio

import broker
from broker.client.client import ReadLevel
from broker.client.pending import Receipt
from broker.client.producer import Producer
from broker.records import Record
from broker.state.commands import FOR_EVER, Retention
from tests.shell.cancelling import CancelledAt
from tests.shell.strangers import knock
from tests.shell.wires import who
from tests.shell.world import EPOCH_SECONDS, NODES, World
from zablog.storage.batch import FILE_BYTES

TOPIC = "orders"
PARTITIONS = 2
LEVELS: tuple[ReadLevel, ...] = ("local", "session", "linearizable")
CALLS = 14
"""Of each producer."""
CHECKPOINTS = (1, 2, 3, 4, 6, 9)
"""At one of them a call is cancelled; few calls meet more."""

Place = tuple[int, int]
"""Partition and offset."""


class Ledger:
    """What producers gave, what they were promised, what readers saw; values are `producer-number`."""

    def __init__(self) -> None:
        self.given: set[bytes] = set()
        self.acked: dict[Place, bytes] = {}
        self.cancelled = 0

    def ack(self, receipt: Receipt, value: bytes) -> None:
        place = receipt.partition, receipt.offset
        assert place not in self.acked, f"two receipts name {place}: of {self.acked[place]!r} and of {value!r}"
        self.acked[place] = value

    def check(self, replica: dict[int, Sequence[Record]], whose: str) -> None:
        """One node's copy: the records of each partition."""
        seen: set[bytes] = set()
        latest: dict[tuple[int, bytes], int] = {}
        for partition, records in sorted(replica.items()):
            assert [record.offset for record in records] == list(range(len(records))), f"{whose}: offsets of {partition} leave gaps"
            for record in records:
                value = record.value
                assert value in self.given, f"{whose}: {value!r} was never given"
                assert value not in seen, f"{whose}: {value!r} is there twice"
                seen.add(value)
                producer, _, number = value.rpartition(b"-")
                before = latest.get((partition, producer), -1)
                assert before < int(number), f"{whose}: {value!r} stands behind number {before} of its producer"
                latest[partition, producer] = int(number)
        for (partition, offset), value in sorted(self.acked.items()):
            assert offset < len(replica[partition]), f"{whose}: acknowledged {value!r} at {partition}/{offset} is lost"
            found = replica[partition][offset].value
            assert found == value, f"{whose}: {partition}/{offset} holds {found!r}, and {value!r} was acknowledged there"


class Story:
    """One seed's worth. Call it with the world."""

    def __init__(self, seed: int, faults: int = 6) -> None:
        self.seed = seed
        self.fault_count = faults
        self.ledger = Ledger()
        self.read: dict[int, list[Record]] = {partition: [] for partition in range(PARTITIONS)}

    async def __call__(self, world: World) -> None:
        async with world.client("admin") as admin:
            await admin.create_topic(TOPIC, PARTITIONS)
            reading = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.keep_reading, world, reading)
                async with trio.open_nursery() as work:
                    for number in range(2):
                        work.start_soon(self.produce, world, f"producer{number}", Random(self.seed * 10 + number))
                    work.start_soon(self.administer, world, admin, Random(self.seed * 10 + 8))
                    work.start_soon(self.be_strange, world, Random(self.seed * 10 + 6))
                    work.start_soon(self.break_things, world, Random(self.seed * 10 + 9))
                reading.cancel()
            await self.compare(world, admin)

    # -- work ---------------------------------------------------------------------------------------------------------------

    async def cancelled(self, world: World, dice: Random, call: Callable[[], Coroutine[Any, Any, object]]) -> object:  # Any: trio's
        """Its result, or None if it was cancelled, which happens to every third call."""
        at = CancelledAt(dice.choice(CHECKPOINTS) if dice.random() < 0.35 else 0)
        result = await at(call)
        if at.scope.cancelled_caught:
            self.ledger.cancelled += 1
            world.note("cancelled", call.__name__, at.checkpoint)
            return None
        return result

    async def produce(self, world: World, name: str, dice: Random) -> None:
        async with world.client(name) as client, client.producer(buffer_bytes=2048) as producer:
            number = 0
            for _ in range(CALLS):
                count = dice.choice((1, 1, 1, 4, 40))
                values = [f"{name}-{each}".encode() for each in range(number, number + count)]
                number += count
                self.ledger.given.update(values)
                await self.send(world, dice, producer, values)
                await trio.sleep(dice.random() * dice.choice((0.0, 0.02, 0.4)))
            world.note(name, "is done")

    async def send(self, world: World, dice: Random, producer: Producer, values: list[bytes]) -> None:
        partition = dice.choice((None, 0, 1))

        async def send_one() -> list[Receipt]:
            return [await producer.send(TOPIC, values[0], key=dice.choice((None, b"k")), partition=partition)]

        async def send_many() -> Sequence[Receipt]:
            given = values if dice.random() < 0.7 else [Record(value, b"k", (("h", b"x"),)) for value in values]
            return await producer.send_many(TOPIC, given, partition=partition)

        async def submit() -> list[Receipt]:
            pending = [await producer.submit(TOPIC, value, partition=partition) for value in values]
            return [await each for each in pending]

        async def send_at_once() -> list[Receipt]:
            await producer.prepare(TOPIC)
            pending = []
            for value in values:
                while True:
                    try:
                        pending.append(producer.send_nowait(TOPIC, value, key=b"k", partition=partition))
                        break
                    except trio.WouldBlock:
                        await producer.drain()
                        await trio.sleep(0.01)  # or the topic is being asked for
            return [await each for each in pending]

        call = dice.choice((submit, send_at_once, send_one if len(values) == 1 else send_many, send_many))
        receipts = await self.cancelled(world, dice, call)
        if receipts is None:
            return
        assert isinstance(receipts, Sequence) and len(receipts) == len(values), "a receipt for each record"
        for receipt, value in zip(receipts, values, strict=True):
            self.ledger.ack(receipt, value)
            world.note("acked", value, receipt.partition, receipt.offset)

    async def keep_reading(self, world: World, scope: trio.CancelScope) -> None:
        """From the beginning, sometimes from another node, sometimes all anew where it was."""
        dice = Random(self.seed * 10 + 7)
        with scope:
            async with world.client("reader") as client:
                while True:
                    start = {(TOPIC, partition): len(records) for partition, records in self.read.items()}
                    node = dice.choice((None, None, *NODES))
                    try:
                        async with client.consumer(TOPIC, start=start, node=node) as inbox:
                            at = CancelledAt(dice.randint(5, 200))
                            await at(lambda: self.take(inbox))
                    except broker.OffsetOutOfRange:
                        if node is None:
                            raise
                        await trio.sleep(0.05)  # this follower has not come as far as the reader has

    async def take(self, inbox: broker.Consumer) -> None:
        async for record in inbox:
            known = self.read[record.partition]
            assert record.offset == len(known), f"the reader has {len(known)} of {record.partition}, and is given {record.offset}"
            known.append(record)

    async def administer(self, world: World, client: broker.Client, dice: Random) -> None:
        made: list[str] = []

        async def create() -> None:
            made.append(f"topic{len(made)}")
            entry = await client.create_topic(made[-1], 1, exist_ok=True)
            assert entry.name == made[-1], "the answer to another's request"

        async def alter() -> None:
            await client.alter_topic(TOPIC, FOR_EVER)

        async def look() -> None:
            details = await client.describe_topic(TOPIC)
            assert len(details.partitions) == PARTITIONS, "the answer to another's request"
            assert TOPIC in [entry.name for entry in await client.list_topics()], "a topic is lost"

        async def status() -> None:
            await client.status()
            for node in await client.nodes():
                with suppress(broker.ConnectionLost):  # it is down
                    assert (await client.node_status(node.id)).id == node.id, "the answer of another"

        async def limit() -> None:
            wanted = dice.randint(5_000, 6_000)
            assert (await client.set_limits(topics=wanted)).topics == wanted, "the answer to another's request"
            small = await client.set_limits(record_bytes=dice.randint(5_000, 6_000))
            with raising(broker.RecordTooLarge):
                await send_alone(client, bytes(small.record_bytes + 1))
            await client.set_limits(record_bytes=20_000)
            await send_alone(client, bytes(small.record_bytes + 1))  # who learned the old limit asks again

        async def mistake() -> None:
            """What cannot be done is refused by name, and nothing comes of it."""
            await client.create_topic(TOPIC, PARTITIONS, exist_ok=True)
            wrong: list[tuple[type[Exception], Callable[[], Coroutine[Any, Any, object]]]] = [
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
            for error, call in dice.sample(wrong, 4):
                with raising(error):
                    await call()

        async def delete() -> None:
            if made:
                with suppress(broker.TopicNotFound):  # its creation was cancelled before it was sent
                    await client.delete_topic(made.pop())

        async def pass_by() -> None:
            """Records that soon go again, read from every kind of place."""
            entry = await client.create_topic("passing", retention=Retention(records=10), exist_ok=True)
            if dice.random() < 0.5:
                retention = dice.choice((Retention(records=10), Retention(ms=20_000, records=20), Retention(bytes=2_000)))
                await client.alter_topic(entry.name, retention)
            async with client.producer() as producer:
                receipts = await producer.send_many("passing", [bytes(200)] * 30)
            moment = datetime.fromtimestamp(EPOCH_SECONDS, UTC)
            for start in ("earliest", "latest", receipts[-1].zxid, moment):
                with suppress(broker.OffsetOutOfRange):  # retention was faster than this reader
                    async with client.consumer("passing", start=start, stop="end") as inbox:
                        offsets = [record.offset async for record in inbox]
                    assert offsets == sorted(set(offsets)), "records of one partition come in order, once"
            level = dice.choice(LEVELS)
            record = await client.read(
                "passing", 0, receipts[-1].offset, level, node=dice.choice((None, *NODES)) if level != "local" else None
            )
            assert record.value == bytes(200), "the answer to another's request"

        for _ in range(6):
            await self.cancelled(world, dice, dice.choice((create, alter, look, status, limit, delete, pass_by, mistake)))
            await trio.sleep(dice.random() * 0.3)

    async def be_strange(self, world: World, dice: Random) -> None:
        for _ in range(5):
            await trio.sleep(dice.random() * 0.5)
            await knock(world, dice)

    # -- faults -------------------------------------------------------------------------------------------------------------

    async def break_things(self, world: World, dice: Random) -> None:
        for _ in range(self.fault_count):
            await trio.sleep(dice.random() * 0.4)
            fault = dice.choice(
                (
                    self.kill,
                    self.kill_leader,
                    self.lose_all,
                    self.stay_away,
                    self.rot,
                    self.cut,
                    self.silence,
                    self.stall,
                    self.slow_disks,
                    self.part,
                )
            )
            world.faults[fault.__name__] = world.faults.get(fault.__name__, 0) + 1
            world.note("fault", fault.__name__)
            await fault(world, dice)
        await trio.sleep(dice.random())
        world.wires.heal()
        for number in NODES:
            await self.revive(world, number)
        world.note("healed")

    async def revive(self, world: World, number: int) -> None:
        if world.hosts[number].ended.is_set():
            await world.start(number)

    async def kill(self, world: World, dice: Random, number: int | None = None) -> None:
        number = number or dice.choice(NODES)
        if not world.hosts[number].ended.is_set():
            await world.kill(number, dice.random() < 0.5, dice.choice((0, dice.randrange(20))))
        await trio.sleep(dice.random() * 0.6)
        await self.revive(world, number)

    async def kill_leader(self, world: World, dice: Random) -> None:
        await self.kill(world, dice, world.leader)

    async def lose_all(self, world: World, dice: Random) -> None:
        """The power of all machines at once; now and then while much is on its way to slow disks."""
        if dice.random() < 0.5:
            world.slow_until = trio.current_time() + 1.0
            await trio.sleep(0.1 + dice.random() * 0.1)
        async with trio.open_nursery() as nursery:
            for number in NODES:
                if not world.hosts[number].ended.is_set():
                    nursery.start_soon(world.kill, number, True)
        for number in NODES:
            await self.revive(world, number)

    async def stay_away(self, world: World, dice: Random) -> None:
        """For so long that the others' logs begin above this node's end: it comes back by a snapshot."""
        number = dice.choice(NODES)
        world.wires.heal()  # the other two must be a quorum
        if not world.hosts[number].ended.is_set():
            await world.kill(number, power_loss=True)
        async with world.client("bulk") as client, client.producer() as producer:
            await client.create_topic("bulk", exist_ok=True)
            for _ in range(6):
                await producer.send_many("bulk", [bytes(4000)] * 8)
                await trio.sleep(0.2)
        who.set("story")
        await self.revive(world, number)

    async def rot(self, world: World, dice: Random) -> None:
        """A bit of one log decays, once in a run: the node fetches what it lost from the others, which must be within reach."""
        number = dice.choice(NODES)
        if world.faults["rot"] > 1 or world.hosts[number].ended.is_set():
            return
        world.wires.heal()
        await world.kill(number, power_loss=False)
        disk = world.hosts[number].disk
        name = dice.choice([name for name in disk.names() if name.startswith("wal-")])
        used = len(disk.read(name, 0, disk.size(name)).rstrip(b"\0"))
        if used > FILE_BYTES:  # the header of a file nobody can make again: such a node stays out, and says so
            disk.flip(name, dice.randrange(FILE_BYTES, used), dice.randrange(8))
        await self.revive(world, number)

    def pair(self, dice: Random) -> tuple[str, str]:
        names = [*(f"node{number}" for number in NODES), "producer0", "producer1", "admin", "reader"]
        one = dice.choice(names[: len(NODES)])
        return one, dice.choice([name for name in names if name != one])

    async def cut(self, world: World, dice: Random) -> None:
        world.wires.cut(*self.pair(dice))

    async def silence(self, world: World, dice: Random) -> None:
        world.nursery.start_soon(world.wires.fall_silent, *self.pair(dice))

    async def stall(self, world: World, dice: Random) -> None:
        world.wires.stall(*self.pair(dice), dice.random() * 2)

    async def slow_disks(self, world: World, dice: Random) -> None:
        world.slow_until = trio.current_time() + dice.random()

    async def part(self, world: World, dice: Random) -> None:
        world.wires.part(*self.pair(dice))

    # -- the end ------------------------------------------------------------------------------------------------------------

    async def compare(self, world: World, client: broker.Client) -> None:
        """All nodes have come to the same log, and it holds what was promised."""
        ends = [partition.end for partition in (await client.describe_topic(TOPIC)).partitions]
        replicas: dict[int, dict[int, Sequence[Record]]] = {}
        for number in NODES:
            replica: dict[int, list[Record]] = {partition: [] for partition in range(PARTITIONS)}
            async with client.consumer(TOPIC, start="earliest", stop=dict(enumerated(ends)), node=number) as inbox:
                async for batch in inbox.batches():
                    replica[batch[0].partition].extend(batch)
            self.ledger.check(replica, f"node {number}")
            replicas[number] = replica  # type: ignore[assignment]  # a list is a sequence
        assert replicas[1] == replicas[2] == replicas[3], "the replicas differ"
        for partition, records in self.read.items():
            assert records == list(replicas[1][partition][: len(records)]), f"the reader of {partition} saw what is not there"
        world.note("end", ends, len(self.ledger.acked))


@contextmanager
def raising(error: type[Exception]) -> Iterator[None]:
    """What is within must be refused so."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"no {error.__name__} was raised")


async def send_alone(client: broker.Client, value: bytes, topic: str = "passing", partition: int | None = None) -> Receipt:
    """By a producer of its own."""
    if topic == "passing":
        await client.create_topic(topic, retention=Retention(records=10), exist_ok=True)
    async with client.producer() as producer:
        return await producer.send(topic, value, partition=partition)


def enumerated(ends: Sequence[int]) -> list[tuple[tuple[str, int], int]]:
    return [((TOPIC, partition), end) for partition, end in enumerate(ends)]


def play(seed: int, faults: int = 6) -> tuple[World, Story]:
    """One seed, from birth to the comparison. What it raises tells the command that replays it."""
    world, story = World(seed), Story(seed, faults)
    try:
        world.run(story)
    except BaseException as error:
        error.add_note(f"replay: python -m tests.shell {seed}")
        raise
    return world, story
