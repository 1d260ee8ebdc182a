"""A producer and a consumer on three real nodes."""

from broker.client import connect
from tests.broker.ensemble import Ensemble


async def test_a_record_that_was_acknowledged_is_read_back(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")

        async with zl.producer() as out:
            receipt = await out.send("orders", b"paid", key=b"42", headers={"src": b"web"})
        async with zl.consumer("orders", start="earliest", stop="end") as inbox:
            records = [record async for record in inbox]

        assert [(record.value, record.key, record.headers) for record in records] == [(b"paid", b"42", (("src", b"web"),))]
        assert (receipt.partition, receipt.offset, receipt.zxid, receipt.level) == (0, 0, records[0].zxid, "quorum")
