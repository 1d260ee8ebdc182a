"""Where a consumer starts, waits and stops."""

from datetime import UTC, datetime, timedelta

import pytest
import trio

from broker.client import connect
from broker.errors import BadRequest, ConnectionLost, NodeNotFound, NoStartPosition, OffsetOutOfRange, TopicNotFound
from tests.broker.ensemble import Ensemble


async def test_without_a_start_nothing_is_guessed(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        with pytest.raises(NoStartPosition):
            async with zl.consumer("orders"):
                pass
        with pytest.raises(TopicNotFound):
            async with zl.consumer("audit", start="earliest"):
                pass


async def test_the_latest_start_waits_for_what_comes(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer() as out:
            await out.send("orders", b"old")
            async with zl.consumer("orders", start="latest") as inbox, trio.open_nursery() as nursery:
                nursery.start_soon(out.send, "orders", b"new")
                record = await inbox.__anext__()

    assert (record.value, record.offset) == (b"new", 1)


async def test_offsets_times_and_zxids_are_places_to_start(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer() as out:
            receipts = [await out.send("orders", b"%d" % number) for number in range(10)]

        async def first(start: object) -> int | None:
            async with zl.consumer("orders", start=start, stop="end") as inbox:  # type: ignore[arg-type]  # each is checked below
                async for record in inbox:
                    return record.offset
            return None

        assert await first(4) == 4
        assert await first({("orders", 0): 5}) == 5
        assert await first(receipts[6].zxid) == 6
        assert await first(datetime.now(UTC) - timedelta(hours=1)) == 0
        assert await first(datetime.now(UTC) + timedelta(hours=1)) is None
        assert await first(10) is None
        with pytest.raises(OffsetOutOfRange) as caught:
            await first(11)
        assert (caught.value.first, caught.value.last) == (0, 10)
        with pytest.raises(BadRequest):
            await first(datetime(2026, 1, 1))
        with pytest.raises(BadRequest):
            await first("newest")


async def test_an_offset_for_several_partitions_is_refused(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders", partitions=2)
        with pytest.raises(BadRequest, match="belongs to one partition"):
            async with zl.consumer("orders", start=0):
                pass
        async with zl.consumer("orders", start=0, stop="end", partition=1) as inbox:
            assert [record async for record in inbox] == []


async def test_a_stop_within_a_batch_cuts_it(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer() as out:
            await out.send_many("orders", [b"%d" % number for number in range(100)])

        async with zl.consumer("orders", start=30, stop=40) as inbox:
            assert [record.offset async for record in inbox] == list(range(30, 40))
            assert inbox.positions == {("orders", 0): 40}


async def test_a_loop_that_was_left_goes_on_where_it_was(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer() as out:
            await out.send_many("orders", [b"%d" % number for number in range(100)])

        async with zl.consumer("orders", start="earliest", stop="end") as inbox:
            async for record in inbox:
                if record.offset == 9:
                    break
            assert inbox.positions == {("orders", 0): 10}
            rest = [record.offset for batch in [batch async for batch in inbox.batches()] for record in batch]

        assert rest == list(range(10, 100))


async def test_cancelling_a_wait_leaves_the_consumer_usable(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer() as out, zl.consumer("orders", start="earliest") as inbox:
            for number in range(20):
                with trio.move_on_after(0.002):
                    await inbox.__anext__()
                await out.send("orders", b"%d" % number)
            seen = {inbox.positions["orders", 0]}
            while inbox.positions["orders", 0] < 20:
                await inbox.__anext__()
                seen.add(inbox.positions["orders", 0])

        assert max(seen) == 20


async def test_several_topics_are_read_by_one_consumer(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders", partitions=3)
        await zl.create_topic("audit")
        async with zl.producer() as out:
            for number in range(30):
                await out.submit("orders", b"%d" % number, partition=number % 3)
                await out.submit("audit", b"a%d" % number)

        async with zl.consumer(["orders", "audit"], start="earliest", stop="end") as inbox:
            records = [record async for record in inbox]

        assert len(records) == 60
        for topic, partition in (("orders", 0), ("orders", 1), ("orders", 2), ("audit", 0)):
            offsets = [record.offset for record in records if (record.topic, record.partition) == (topic, partition)]
            assert offsets == list(range(len(offsets)))


async def test_a_topic_deleted_under_a_consumer_is_said(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        with pytest.raises(TopicNotFound):
            async with zl.consumer("orders", start="earliest") as inbox, trio.open_nursery() as nursery:
                nursery.start_soon(zl.delete_topic, "orders")
                try:
                    await inbox.__anext__()
                except TopicNotFound as error:
                    failure = error
            raise failure


async def test_reading_one_record(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer() as out:
            await out.send("orders", b"x")

        assert (await zl.read("orders", 0, 0)).value == b"x"
        with pytest.raises(OffsetOutOfRange, match="no record at 1 yet"):
            await zl.read("orders", 0, 1)


async def test_a_node_that_the_cluster_does_not_have_is_named(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        with pytest.raises(NodeNotFound, match="its nodes are 1, 2, 3"):
            async with zl.consumer("orders", start="earliest", node=9):
                pass


async def test_the_status_has_each_nodes_word_and_the_silent_ones(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        leader = (await ensemble.leader()).node.identity.node
        await zl.create_topic("orders")
        whole = await zl.status()
        down = next(number for number in ensemble.all_addresses if number != leader)
        await ensemble.stop(down)
        part = await zl.status()

    assert (whole.leader, [node.id for node in whole.nodes], whole.silent) == (leader, [1, 2, 3], ())
    assert [attempt.address for attempt in part.silent] == [ensemble.all_addresses[down]]


async def test_a_consumer_of_a_dead_node_says_so(ensemble: Ensemble) -> None:
    """Found by hand: the loss of patience with a node that is down was swallowed, and the consumer waited for ever."""
    async with connect(ensemble.addresses, timeout=0.5) as zl:
        await zl.create_topic("orders")
        await ensemble.stop(1)
        with trio.fail_after(20), pytest.raises(ConnectionLost):
            async with zl.consumer("orders", start="earliest", node=1):
                pass
