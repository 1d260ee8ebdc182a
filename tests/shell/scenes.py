"""What happens in a world, and what must be true of it in the end.

Producers send unique values in every way there is, some calls cancelled at a checkpoint drawn from the seed; a reader follows; nodes die
and come back, directions stall, disks and the network are slow. Then everything heals, service must return, and: each acknowledged record
stands where its receipt says, no value stands twice, each producer's values are in the order of its sending, nothing that was surely not
sent is there, the reader has read without a gap, and the nodes hold the same.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import trio

from broker.client import Client, Producer, connect
from broker.errors import BrokerError, NoCluster, NoQuorum, OutcomeUnknown, TopicExists
from broker.log import split
from broker.records import Record
from broker.server import Server
from tests.shell.world import World, open_world

TOPIC = "orders"
PARTITIONS = 2
FAULT_SECONDS = 6.0
HEALED_SECONDS = 60.0
"""Service must be back by then: virtual seconds, generously."""


@dataclass
class Ledger:
    """What the clients know."""

    acked: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """Value to partition and offset."""
    unsure: set[bytes] = field(default_factory=set)
    """Sent, and nobody was told what became of them."""
    refused: set[bytes] = field(default_factory=set)
    """Surely not written."""
    read: list[list[Record]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    counts: Counter[str] = field(default_factory=Counter)


class CancelAt(trio.abc.Instrument):
    """Cancels a scope at the n-th step of a task from now on."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self.scope, self.steps, self.task = scope, steps, trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.steps -= 1
            if self.steps == 0:
                self.scope.cancel()


async def scene(seed: int) -> tuple[str, Counter[str]]:
    """One seed: the hash of its trace, and how often what happened. Raises AssertionError where a promise was broken."""
    random = Random(f"scene {seed}")
    ledger = Ledger()
    async with open_world(seed) as world:
        with trio.fail_after(HEALED_SECONDS):
            await create(world)
        world.slow_disk = random.choice((1, 1, 5, 30))
        world.net.slow = random.choice((1, 1, 5))
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            for number in range(random.choice((1, 2, 3))):
                nursery.start_soon(produce, world, ledger, f"{number}", Random(f"producer {seed} {number}"), stop)
            reading = trio.CancelScope()
            nursery.start_soon(follow, world, ledger, reading)
            await harm(world, random, ledger)
            await heal(world)
            stop.set()
            with trio.fail_after(HEALED_SECONDS):
                while len(nursery.child_tasks) > 1:
                    await trio.sleep(0.05)
                await settle(world)
            reading.cancel()
        check(world.servers, ledger)
        world.say(f"{sorted(ledger.acked.items())} {sorted(ledger.unsure)}")
        ledger.counts["acked"] += len(ledger.acked)
        ledger.counts["unsure"] += len(ledger.unsure)
        return world.trace.hexdigest(), ledger.counts


async def create(world: World) -> None:
    async with connect(world.bootstrap, timeout=20) as client:
        while True:
            try:
                await client.create_topic(TOPIC, partitions=PARTITIONS)
                return
            except TopicExists:
                return
            except (OutcomeUnknown, NoQuorum, NoCluster):
                await trio.sleep(0.1)


# -- clients ----------------------------------------------------------------------------------------------------------------------


async def produce(world: World, ledger: Ledger, name: str, random: Random, stop: trio.Event) -> None:
    """One producer after the other, each for a while."""
    number = 0
    while not stop.is_set():
        try:
            async with connect(world.bootstrap, timeout=random.choice((3, 20))) as client, client.producer() as out:
                for _ in range(random.choice((3, 30))):
                    if stop.is_set():
                        break
                    count = random.choice((1, 1, 2, 20))
                    values = [f"{name} {number + each:06d} ".encode() + bytes(random.choice((0, 0, 100, 3000))) for each in range(count)]
                    number += count
                    await send(client, out, ledger, values, random)
                    await trio.sleep(random.choice((0, 0, 0.01, 0.1)))
        except (BrokerError, ExceptionGroup):
            ledger.counts["producers lost"] += 1
            await trio.sleep(0.05)


async def send(client: Client, out: Producer, ledger: Ledger, values: list[bytes], random: Random) -> None:
    """Some values in one of the ways there are; cancelled now and then."""
    partition = random.choice((None, 0, 1))
    patience = random.choice((math.inf, math.inf, math.inf, random.randint(1, 12)))
    # Until something is known nothing is: a cancelled call may have been carried out.
    ledger.unsure.update(values)
    with trio.CancelScope() as scope:
        instrument = CancelAt(scope, int(patience)) if patience < math.inf else None
        if instrument is not None:
            trio.lowlevel.add_instrument(instrument)
        try:
            match random.randrange(3):
                case 0:
                    for value in values:
                        learned(ledger, value, await out.send(TOPIC, value, partition=partition, key=random.choice((None, b"k"))))
                case 1:
                    pendings = [await out.submit(TOPIC, value, partition=partition) for value in values]
                    for value, pending in zip(values, pendings, strict=True):
                        learned(ledger, value, await pending)
                case _:
                    receipts = await out.send_many(TOPIC, values, partition=partition)
                    for value, receipt in zip(values, receipts, strict=True):
                        learned(ledger, value, receipt)
        except BrokerError as error:
            ledger.counts[type(error).__name__] += 1
            if not error.maybe_written and len(values) == 1:
                ledger.refused.update(values)
            if not isinstance(error, NoQuorum | OutcomeUnknown):
                raise
        finally:
            if instrument is not None:
                trio.lowlevel.remove_instrument(instrument)
    ledger.counts["cancelled"] += scope.cancelled_caught


def learned(ledger: Ledger, value: bytes, receipt: object) -> None:
    ledger.unsure.discard(value)
    ledger.acked[value] = (receipt.partition, receipt.offset)  # type: ignore[attr-defined]  # a Receipt


async def follow(world: World, ledger: Ledger, scope: trio.CancelScope) -> None:
    """A reader from the beginning, which starts again where it was when the cluster is gone for too long."""
    with scope:
        while True:
            try:
                async with connect(world.bootstrap, timeout=5) as client:
                    start = {(TOPIC, number): len(read) for number, read in enumerate(ledger.read)}
                    async with client.consumer(TOPIC, start=start) as inbox:
                        async for record in inbox:
                            ledger.read[record.partition].append(record)
            except (BrokerError, ExceptionGroup):
                ledger.counts["readers lost"] += 1
                await trio.sleep(0.05)


# -- faults -----------------------------------------------------------------------------------------------------------------------


async def harm(world: World, random: Random, ledger: Ledger) -> None:
    """For a while, whatever the seed has in mind."""
    until = trio.current_time() + FAULT_SECONDS
    while trio.current_time() < until:
        await trio.sleep(random.choice((0.02, 0.2, 0.7)))
        number = random.choice(list(world.addresses))
        leaders = [server.node.identity.node for server in world.servers if server.node.status().leads]
        if leaders and random.random() < 0.6:
            number = leaders[0]
        address = world.addresses[number]
        match random.randrange(6):
            case 0 | 1:
                power = random.random() < 0.5
                await world.kill(number, power=power)
                ledger.counts["power losses" if power else "kills"] += 1
                if random.random() < 0.7:
                    await trio.sleep(random.choice((0.0, 0.3, 1.0)))
                    await up(world, number)
            case 2:
                await world.kill(*world.addresses, power=True)
                ledger.counts["blackouts"] += 1
                await heal(world)
            case 3:
                world.net.set_cut(random.choice(((address, "*"), ("*", address))))
                ledger.counts["one-way cuts"] += 1
            case 4:
                world.net.set_cut((address, "*"), ("*", address))
                ledger.counts["cuts"] += 1
            case 5:
                world.net.set_cut()


async def up(world: World, number: int) -> None:
    if not world.lives[number].alive:
        await world.start(number)


async def heal(world: World) -> None:
    world.net.set_cut()
    world.net.slow = world.slow_disk = 1.0
    for number in world.addresses:
        await up(world, number)


async def settle(world: World) -> None:
    """Until a leader has committed something new, and everybody has applied the same."""
    await create(world)
    while len({server.application.state.applied for server in world.servers}) != 1 or not any(s.node.status().leads for s in world.servers):
        await trio.sleep(0.05)
    await trio.sleep(2)  # the reader's last fetch


# -- promises ---------------------------------------------------------------------------------------------------------------------


def contents(server: Server) -> list[list[Record]]:
    """Every record of each partition, as this node holds it."""
    (topic,) = server.application.state.names.values()
    out = []
    for number in range(PARTITIONS):
        partition = server.application.log.partition(topic, number)
        records: list[Record] = []
        while len(records) < partition.end:
            for batch in split(partition.read(len(records), 1 << 30)):
                records += batch.records()
        out.append(records)
    return out


def check(servers: list[Server], ledger: Ledger) -> None:
    """Raises AssertionError with the promise that was broken."""
    first, *others = [contents(server) for server in servers]
    assert len(servers) == 3, "every node came back"
    for other in others:
        assert [[r.value for r in p] for p in other] == [[r.value for r in p] for p in first], "the nodes hold the same"
    assert len({server.application.state.digest() for server in servers}) == 1, "the nodes' tables are the same"
    for value, (partition, offset) in ledger.acked.items():
        there = first[partition][offset].value if offset < len(first[partition]) else None
        assert there == value, f"acknowledged at {partition}/{offset}: {value[:20]!r}; there stands {there!r}"
    for number, records in enumerate(first):
        assert [record.offset for record in records] == list(range(len(records)))
        last: dict[bytes, int] = {}
        for record in records:
            assert record.value is not None
            who, place = record.value[:8].split()[0], int(record.value.split()[1])
            assert last.get(who, -1) < place, f"in partition {number}, {who!r} has {place} behind {last[who]}: moved or repeated"
            last[who] = place
        assert [record.value for record in ledger.read[number]] == [record.value for record in records], "the reader has read it all, once"
    everything = Counter(record.value for records in first for record in records)
    assert max(everything.values(), default=1) == 1, "no value stands twice"
    assert not ledger.refused & set(everything), "what was refused for sure is not there"
    assert set(everything) <= set(ledger.acked) | ledger.unsure, "nothing is there that nobody sent"
