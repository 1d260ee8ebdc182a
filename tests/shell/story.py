"""What happens in a world: producers, a reader and an administrator at work, cancelled at any checkpoint, while nodes and links fail.

At the end everything is healed, and then must be true: every acknowledged record is in every replica once, where its receipt says; the
records of a producer stand in the order in which they were given; no record that was never given is there; the reader saw what is there;
no call failed, for nothing lasted as long as a client is patient.
"""

from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any

import trio

import broker
from broker.client.pending import Receipt
from broker.client.producer import Producer
from broker.records import Record
from tests.shell.administration import PARTITIONS, TOPIC, Administrator
from tests.shell.cancelling import CancelledAt
from tests.shell.customers import Customer
from tests.shell.disks import ROOM_BYTES
from tests.shell.faults import FAULTS, revive, write_much
from tests.shell.impostors import be_forgotten, meet, stand_in
from tests.shell.operators import OPERATIONS
from tests.shell.strangers import knock
from tests.shell.world import NODES, World

CALLS = 11
"""Of each producer."""
TRIES = 20
"""To read a copy that is being restored."""
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
        self.refused: set[bytes] = set()
        """What its giver was told is surely not there."""

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
                assert value not in self.refused, f"{whose}: {value!r} was refused"
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

    def __init__(self, seed: int, faults: int = 5) -> None:
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
                    work.start_soon(self.be_customer, world, Random(self.seed * 10 + 5))
                    work.start_soon(self.be_impatient, world, Random(self.seed * 10 + 4))
                    work.start_soon(self.be_strange, world, Random(self.seed * 10 + 6))
                    work.start_soon(self.break_things, world, Random(self.seed * 10 + 9))
                reading.cancel()
            await self.come_late(world, admin, Random(self.seed * 10 + 3))
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
                    except broker.Corrupt:
                        world.note("the reader met what is damaged")
                        await trio.sleep(0.2)  # the node has other nodes to restore it

    async def take(self, inbox: broker.Consumer) -> None:
        async for record in inbox:
            known = self.read[record.partition]
            assert record.offset == len(known), f"the reader has {len(known)} of {record.partition}, and is given {record.offset}"
            known.append(record)

    async def administer(self, world: World, client: broker.Client, dice: Random) -> None:
        administrator = Administrator(client, dice)
        for _ in range(4):
            await self.cancelled(world, dice, administrator.call())
            await trio.sleep(dice.random() * 0.3)

    async def be_customer(self, world: World, dice: Random) -> None:
        async with world.client("customer") as client, broker.connect(world.addresses) as another:
            customer = Customer(client, another, dice)
            for _ in range(2):
                call = customer.call()
                world.note("customer", call.__name__)
                await call()
                await trio.sleep(dice.random() * 0.3)

    async def be_impatient(self, world: World, dice: Random) -> None:
        """Waits for a second only, and is told the truth: what surely was not written is not there in the end."""
        async with world.client("impatient", timeout=1.0) as client:
            for number in range(4):
                values = [b"impatient%d-%d" % (number, each) for each in range(dice.choice((1, 3, 30)))]
                self.ledger.given.update(values)
                try:
                    async with client.producer() as producer:
                        pending = [await producer.submit(TOPIC, value, partition=0) for value in values]
                        for each, value in zip(pending, values, strict=True):
                            self.ledger.ack(await each, value)
                except (broker.NoQuorum, broker.NoCluster, broker.OutcomeUnknown) as error:
                    world.note("impatient", type(error).__name__, error.maybe_written)
                    if not error.maybe_written and len(values) == 1:
                        self.ledger.refused.update(values)
                await trio.sleep(dice.random() * 0.5)

    async def come_late(self, world: World, admin: broker.Client, dice: Random) -> None:
        """What some seeds do once everything works again."""
        if dice.random() < 0.25:
            await meet(world, dice)
        if dice.random() < 0.1:
            await be_forgotten(world, admin)

    async def be_strange(self, world: World, dice: Random) -> None:
        for _ in range(5):
            await trio.sleep(dice.random() * 0.5)
            await knock(world, dice)

    # -- faults -------------------------------------------------------------------------------------------------------------

    async def break_things(self, world: World, dice: Random) -> None:
        for _ in range(self.fault_count):
            await trio.sleep(dice.random() * 0.4)
            fault = dice.choice((*FAULTS, *OPERATIONS, stand_in))
            world.faults[fault.__name__] = world.faults.get(fault.__name__, 0) + 1
            world.note("fault", fault.__name__)
            await fault(world, dice)
        await trio.sleep(dice.random())
        world.wires.heal()
        for number in NODES:
            world.hosts[number].disk.room_bytes = ROOM_BYTES
            await revive(world, number)
        world.note("healed")

    # -- the end ------------------------------------------------------------------------------------------------------------

    async def compare(self, world: World, client: broker.Client) -> None:
        """All nodes have come to the same log, and it holds what was promised."""
        ends = [partition.end for partition in (await client.describe_topic(TOPIC)).partitions]
        replicas: dict[int, dict[int, Sequence[Record]]] = {}
        for number in NODES:
            replicas[number] = await self.whole(world, client, number, ends)
            self.ledger.check(replicas[number], f"node {number}")
        assert replicas[1] == replicas[2] == replicas[3], "the replicas differ"
        for partition, records in self.read.items():
            assert records == list(replicas[1][partition][: len(records)]), f"the reader of {partition} saw what is not there"
        world.note("end", ends, len(self.ledger.acked))

    async def whole(self, world: World, client: broker.Client, number: int, ends: list[int]) -> dict[int, Sequence[Record]]:
        """One node's copy. What is damaged is restored from another node's next snapshot."""
        for _ in range(TRIES):
            replica: dict[int, list[Record]] = {partition: [] for partition in range(PARTITIONS)}
            try:
                async with client.consumer(TOPIC, start="earliest", stop=dict(enumerated(ends)), node=number) as inbox:
                    async for batch in inbox.batches():
                        replica[batch[0].partition].extend(batch)
            except broker.Corrupt:
                world.note("the copy of", number, "is damaged")
                await write_much(world, 1)
                await trio.sleep(1.0)
            else:
                return dict(replica)
        raise AssertionError(f"node {number} was not restored")


def enumerated(ends: Sequence[int]) -> list[tuple[tuple[str, int], int]]:
    return [((TOPIC, partition), end) for partition, end in enumerate(ends)]


def play(seed: int, faults: int = 5) -> tuple[World, Story]:
    """One seed, from birth to the comparison. What it raises tells the command that replays it."""
    world, story = World(seed), Story(seed, faults)
    try:
        world.run(story)
    except BaseException as error:
        error.add_note(f"replay: python -m tests.shell {seed}")
        raise
    return world, story
