"""Leaders go away in mid-stream: nothing is lost, nothing is there twice, nothing is out of order."""

import random

import pytest
import trio

from broker.client import Client, Producer, connect
from broker.errors import BrokerError
from tests.broker.ensemble import Ensemble


async def everything(zl: Client, topic: str, node: int | None = None) -> list[bytes | None]:
    async with zl.consumer(topic, start="earliest", stop="end", node=node) as inbox:
        return [record.value async for record in inbox]


async def test_a_stream_of_submits_survives_two_changes_of_leader(ensemble: Ensemble) -> None:
    values = [b"%d" % number for number in range(6000)]
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("numbers")

        async def kill_leaders() -> None:
            for _ in range(2):
                down = await ensemble.stop_leader()
                await ensemble.leader()
                await ensemble.start(down)

        async with trio.open_nursery() as nursery, zl.producer() as out:
            nursery.start_soon(kill_leaders)
            pendings = []
            for number, value in enumerate(values):
                pendings.append(await out.submit("numbers", value))
                if number % 50 == 0:
                    await pendings[max(0, number - 500)].wait()
            receipts = [await pending.wait() for pending in pendings]

        assert [receipt.offset for receipt in receipts] == list(range(6000))
        assert await everything(zl, "numbers") == values


async def test_every_node_holds_the_same_records_after_a_change_of_leader(ensemble: Ensemble) -> None:
    values = [b"%d" % number for number in range(1000)]
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("numbers", partitions=3)
        async with zl.producer() as out:
            await out.send_many("numbers", values[:500])
            down = await ensemble.stop_leader()
            await out.send_many("numbers", values[500:])
        await ensemble.start(down)

        seen = []
        for node in ensemble.all_addresses:
            async with zl.consumer("numbers", start="earliest", node=node) as inbox:
                seen.append(sorted([(record.partition, record.offset, record.zxid, record.value) for record in await take(inbox, 1000)]))

        assert seen[0] == seen[1] == seen[2]
        assert sorted(row[3] for row in seen[0]) == sorted(values)


async def take(inbox: object, count: int) -> list:
    records: list = []
    while len(records) < count:
        records.append(await inbox.__anext__())
    return records


@pytest.mark.parametrize("seed", range(3))
async def test_sends_cancelled_anywhere_are_in_the_log_once_or_not_at_all(ensemble: Ensemble, seed: int) -> None:
    dice = random.Random(seed)
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("numbers")
        acknowledged: list[bytes] = []

        async def send(out: Producer, value: bytes, patience: float) -> None:
            with trio.move_on_after(patience):
                await out.send("numbers", value)
                acknowledged.append(value)

        async with zl.producer() as out:
            for round_ in range(40):
                async with trio.open_nursery() as nursery:
                    for number in range(10):
                        nursery.start_soon(send, out, b"%d.%d" % (round_, number), dice.choice([0, 0.0005, 0.002, 0.005, 5]))
                if round_ == 20:
                    await ensemble.stop_leader()
            await out.send("numbers", b"last")

        log = await everything(zl, "numbers")
        assert len(set(log)) == len(log)
        assert set(acknowledged) <= set(log)
        assert log[-1] == b"last"
        assert acknowledged


async def test_a_change_of_topics_takes_effect_once_through_a_change_of_leader(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ensemble.stop_leader)
            for number in range(20):
                # A repetition that was carried out twice would be answered with TopicExists.
                await zl.create_topic(f"topic{number}")

        assert len(await zl.list_topics()) == 20


async def test_a_consumer_goes_on_at_the_next_leader(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("numbers")
        async with zl.producer() as out, zl.consumer("numbers", start="earliest") as inbox:
            await out.send_many("numbers", [b"1", b"2"])
            first = await take(inbox, 2)
            await ensemble.stop_leader()
            await out.send_many("numbers", [b"3", b"4"])
            second = await take(inbox, 2)

        assert [record.value for record in first + second] == [b"1", b"2", b"3", b"4"]


async def test_without_a_quorum_nothing_is_written_and_the_caller_is_told(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses, timeout=0.5) as zl:
        await zl.create_topic("numbers")
        async with zl.producer() as out:
            await out.send("numbers", b"before")
            await ensemble.stop(1)
            await ensemble.stop(2)
            with pytest.raises(BrokerError) as caught:
                await out.send("numbers", b"during")
            assert caught.value.code in ("no_quorum", "outcome_unknown")
            with pytest.raises(BrokerError) as again:
                await zl.create_topic("more")
            assert again.value.code == "no_quorum"
            assert not again.value.maybe_written
            assert len(again.value.attempts) == 3

            await ensemble.start(1)
            await ensemble.leader()
            await out.send("numbers", b"after")

        log = await everything(zl, "numbers")
        assert log in ([b"before", b"after"], [b"before", b"during", b"after"])


async def test_a_cluster_that_is_not_there_is_no_cluster() -> None:
    async with connect("127.0.0.1:1", timeout=0.5) as zl:
        with pytest.raises(BrokerError) as caught:
            await zl.list_topics()

    assert caught.value.code == "no_cluster"
    assert [(attempt.address, attempt.cause) for attempt in caught.value.attempts] == [("127.0.0.1:1", "connection refused")]
    assert not caught.value.maybe_written
