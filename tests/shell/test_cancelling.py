"""A call cancelled at any of its checkpoints takes effect once or not at all, and whoever calls next gets his own answer."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

import broker
from broker.client.producer import Producer
from broker.state.commands import FOR_EVER
from tests.pace import few
from tests.shell.cancelling import CancelledAt
from tests.shell.world import World

TOPIC = "orders"
Call = Callable[[], Coroutine[Any, Any, object]]  # Any: what a coroutine yields is trio's own


class Sweep:
    """A story. Cancels each call at its first checkpoint, its second, and so on, until it ends by itself; others call in between."""

    def __init__(self, leader_dies: bool) -> None:
        self.leader_dies = leader_dies
        self.number = 0
        self.acked: list[bytes] = []
        self.given: list[bytes] = []
        self.checkpoints: dict[str, int] = {}

    async def __call__(self, world: World) -> None:
        async with world.client("client") as client:
            await client.create_topic(TOPIC)
            async with client.producer() as producer:
                for call in self.calls(world, client, producer):
                    at = CancelledAt(1)
                    while await self.cut_short(world, at, call):
                        await self.look_around(client, producer)
                        at = CancelledAt(at.checkpoint + 1)
                    self.checkpoints[call.__name__] = at.count
            async with client.consumer(TOPIC, start="earliest", stop="end") as inbox:
                found = [record.value async for record in inbox]
        assert sorted(set(found)) == sorted(found), "a record is there twice"
        assert not set(self.acked) - set(found), "an acknowledged record is lost"
        assert found == [value for value in self.given if value in set(found)], "records are out of order, or nobody's"

    async def cut_short(self, world: World, at: CancelledAt, call: Call) -> bool:
        """Was the call cancelled before it was done?"""
        if self.leader_dies:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.replace_leader, world)
                await at(call)
        else:
            await at(call)
        return at.scope.cancelled_caught

    async def replace_leader(self, world: World) -> None:
        if leader := world.leader:
            await world.kill(leader, power_loss=True)
            await world.start(leader)

    async def look_around(self, client: broker.Client, producer: Producer) -> None:
        value = self.value()
        await producer.send(TOPIC, value)
        self.acked.append(value)
        (details,) = await client.describe_topics([TOPIC])
        assert details.partitions[0].end >= len(self.acked), "the answer to another's request"
        limits = await client.set_limits(topics=5000 + self.number)
        assert limits.topics == 5000 + self.number, "the answer to another's request"

    def value(self) -> bytes:
        self.number += 1
        self.given.append(str(self.number).encode())
        return self.given[-1]

    def calls(self, world: World, client: broker.Client, producer: Producer) -> list[Call]:
        async def send() -> None:
            value = self.value()
            await producer.send(TOPIC, value)
            self.acked.append(value)

        async def send_many() -> None:
            values = [self.value() for _ in range(50)]
            await producer.send_many(TOPIC, values)
            self.acked += values

        async def drain() -> None:
            producer.send_nowait(TOPIC, self.value())
            await producer.drain()

        async def administer() -> None:
            name = f"topic{self.number}"
            await client.create_topic(name, exist_ok=True)
            await client.alter_topic(name, FOR_EVER)
            await client.delete_topic(name)

        async def consume() -> None:
            async with client.consumer(TOPIC, start="earliest", stop={(TOPIC, 0): 20}) as inbox:
                async for batch in inbox.batches():
                    assert batch, "a batch of nothing"

        async def whole_life() -> None:
            async with world.client("another") as other, other.producer() as own:
                value = self.value()
                await own.send(TOPIC, value)
                self.acked.append(value)
                await other.status()

        return [send, send_many, drain, administer, consume, whole_life]


@pytest.mark.parametrize("seed", few([1, 2]))
def test_calls_are_cancelled_at_every_checkpoint(seed: int) -> None:
    sweep = Sweep(leader_dies=False)

    World(seed).run(sweep)

    assert sweep.checkpoints.keys() == {"send", "send_many", "drain", "administer", "consume", "whole_life"}
    assert sum(sweep.checkpoints.values()) > 25, sweep.checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_calls_are_cancelled_at_every_checkpoint_while_leaders_change(seed: int) -> None:
    World(seed).run(Sweep(leader_dies=True))
