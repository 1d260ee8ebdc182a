"""What a producer promises, and what it refuses."""

import pytest
import trio

from broker.client import connect
from broker.errors import BadName, BadRequest, NotAllowed, PartitionNotFound, RecordTooLarge, TopicExists, TopicNotFound
from broker.records import RECORD_BYTES_MAX, Record
from tests.broker.ensemble import Ensemble


async def test_records_with_equal_keys_go_to_one_partition_in_order(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders", partitions=3)
        async with zl.producer() as out:
            pendings = [await out.submit("orders", b"%d" % number, key=b"%d" % (number % 7)) for number in range(700)]
        receipts = [await pending for pending in pendings]

        for key in range(7):
            mine = receipts[key::7]
            assert len({receipt.partition for receipt in mine}) == 1
            assert [receipt.offset for receipt in mine] == sorted(receipt.offset for receipt in mine)


async def test_send_many_takes_values_and_records_and_keeps_their_order(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer() as out:
            receipts = await out.send_many("orders", [b"a", Record(b"b", key=b"k", timestamp=7), b"c"])

        assert [receipt.offset for receipt in receipts] == [0, 1, 2]
        assert (await zl.read("orders", 0, 1)).key == b"k"
        assert (await zl.read("orders", 0, 1)).timestamp == 7
        assert (await zl.read("orders", 0, 2)).value == b"c"


async def test_leaving_the_block_drains_what_was_submitted(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer() as out:
            pendings = [await out.submit("orders", b"x") for _ in range(1000)]

        assert all(pending.done for pending in pendings)
        assert (await zl.describe_topic("orders")).partitions[0].end == 1000


async def test_send_nowait_refuses_when_the_buffer_is_full_and_drops_nothing(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer(buffer_bytes=10_000) as out:
            await out.prepare("orders")
            taken = 0
            with pytest.raises(trio.WouldBlock):
                while True:
                    out.send_nowait("orders", bytes(100))
                    taken += 1
            assert 50 < taken < 150

        assert (await zl.describe_topic("orders")).partitions[0].end == taken


async def test_send_nowait_learns_of_a_topic_while_it_refuses(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl, connect(ensemble.addresses) as other:
        await other.create_topic("orders")

        async def send(topic: str) -> None:
            async with zl.producer() as out:
                while True:
                    try:
                        out.send_nowait(topic, b"x")
                    except trio.WouldBlock:
                        await trio.lowlevel.checkpoint()
                    else:
                        return

        await send("orders")
        with pytest.raises(TopicNotFound):
            await send("odrers")
        assert (await zl.describe_topic("orders")).partitions[0].end == 1


async def test_an_oversized_record_is_refused_and_harms_nothing_else(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer() as out:
            with pytest.raises(RecordTooLarge, match="1,048,577 bytes"):
                await out.send("orders", bytes(RECORD_BYTES_MAX + 1))
            with pytest.raises(RecordTooLarge):
                await out.send_many("orders", [b"fine", bytes(RECORD_BYTES_MAX + 1)])
            receipt = await out.send("orders", bytes(RECORD_BYTES_MAX))

        assert receipt.offset == 0


async def test_what_is_no_bytes_is_refused_before_it_is_taken(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer() as out:
            with pytest.raises(BadRequest, match="a value must be bytes or None, not str"):
                await out.send("orders", "text")  # type: ignore[arg-type]  # that is the point
            with pytest.raises(BadRequest, match="a key must be bytes"):
                await out.send("orders", b"x", key=7)  # type: ignore[arg-type]  # that is the point
            with pytest.raises(BadRequest, match="a header's value"):
                await out.send("orders", b"x", headers={"a": "b"})  # type: ignore[dict-item]  # that is the point
            with pytest.raises(BadRequest, match="timestamp=-1"):
                await out.send("orders", b"x", timestamp=-1)
            with pytest.raises(BadRequest):
                await out.send_many("orders", [b"x", "y"])  # type: ignore[list-item]  # that is the point
            await out.send("orders", None)

        assert (await zl.describe_topic("orders")).partitions[0].end == 2


async def test_records_without_a_key_visit_all_partitions(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders", partitions=3)
        async with zl.producer() as out:
            receipts = [await out.send("orders", b"x") for _ in range(9)]

        assert [receipt.partition for receipt in receipts] == [0, 1, 2] * 3


async def test_unknown_topics_and_partitions_are_named(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        async with zl.producer() as out:
            with pytest.raises(TopicNotFound, match="odrers") as caught:
                await out.send("odrers", b"x")
            assert caught.value.hint == "create it with `zablog topic create odrers`"
            with pytest.raises(PartitionNotFound):
                await out.send("orders", b"x", partition=1)
            assert (await out.send("orders", b"x")).offset == 0


async def test_a_record_for_a_deleted_topic_fails_and_other_topics_go_on(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl, connect(ensemble.addresses) as other:
        await zl.create_topic("orders")
        await zl.create_topic("audit")
        async with zl.producer() as out:
            await out.send("orders", b"x")
            await other.delete_topic("orders")
            with pytest.raises(TopicNotFound):
                await out.send("orders", b"y")
            await out.send("audit", b"z")

            await other.create_topic("orders")
            assert (await out.send("orders", b"new")).offset == 0


async def test_a_failure_that_nobody_waited_for_is_raised_at_the_end_of_the_block(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")
        with pytest.raises(TopicNotFound):
            async with zl.producer() as out:
                await out.send("orders", b"x")
                await zl.delete_topic("orders")
                await out.submit("orders", b"y")


async def test_the_body_of_a_block_fails_as_itself(ensemble: Ensemble) -> None:
    with pytest.raises(ZeroDivisionError):
        async with connect(ensemble.addresses) as zl:
            await zl.create_topic("orders")
            async with zl.producer() as out:
                await out.send("orders", b"x")
                raise ZeroDivisionError


async def test_levels_that_are_not_offered_are_refused(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        with pytest.raises(NotAllowed):
            async with zl.producer(acks="all"):
                pass
        with pytest.raises(BadRequest):
            async with zl.producer(acks="some"):  # type: ignore[arg-type]  # that is the point
                pass


async def test_a_topic_is_made_once_unless_it_may_exist(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        first = await zl.create_topic("orders", partitions=2)
        with pytest.raises(TopicExists):
            await zl.create_topic("orders", partitions=2)

        assert await zl.create_topic("orders", partitions=2, exist_ok=True) == first
        with pytest.raises(TopicExists, match="2 partitions"):
            await zl.create_topic("orders", partitions=3, exist_ok=True)
        for name in ("no/name", "", "x" * 5000, "\udc80"):
            with pytest.raises(BadName):
                await zl.create_topic(name)
            with pytest.raises(BadName):
                await zl.describe_topic(name)
        for partitions in (0, -1, 10_001, 2**40):
            with pytest.raises(BadRequest):
                await zl.create_topic("many", partitions=partitions)


async def test_receipts_of_many_are_a_sequence_over_batches_and_partitions(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders", partitions=2)
        values = [b"%d" % number * 200 for number in range(3000)]
        async with zl.producer() as out:
            receipts = await out.send_many("orders", [*values, Record(b"last", key=b"k")])

        assert len(receipts) == 3001
        assert len({receipt.partition for receipt in receipts}) == 2
        assert list(receipts) == [receipts[at] for at in range(3001)] == list(receipts[:])
        assert receipts[-1] == receipts[3000]
        with pytest.raises(IndexError):
            receipts[3001]
        for at in (0, 1, 63, 64, 1234, 2999):
            receipt = receipts[at]
            assert (await zl.read("orders", receipt.partition, receipt.offset)).value == values[at]
