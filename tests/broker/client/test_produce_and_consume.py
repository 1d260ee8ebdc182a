"""A producer and a consumer on three real nodes."""

import sys

import pytest
import trio

from broker.client import connect
from broker.client.batching import SHARED_BYTES
from broker.client.session import IN_FLIGHT_MAX
from broker.errors import BadRequest
from broker.state.commands import Retention
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


@pytest.mark.skipif(sys.platform != "linux", reason="there are no Unix sockets of that kind but on Linux")
async def test_a_client_on_the_same_machine_needs_no_tcp(ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*place: object) -> None:
        raise OSError("nobody is to be called by TCP")

    monkeypatch.setattr(trio, "open_tcp_stream", refuse)
    async with connect(ensemble.addresses) as zl, zl.producer() as out:
        await zl.create_topic("orders")
        await out.send("orders", b"paid")


async def test_a_retention_that_is_refused_costs_the_client_nothing(ensemble: Ensemble) -> None:
    """It was refused when it was about to be sent, with a sequence of its own: the next change had a gap before it, and was lost."""
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("orders")

        with pytest.raises(BadRequest):
            await zl.create_topic("kept", retention=Retention(ms=-1))

        await zl.create_topic("kept")
        assert [entry.name for entry in await zl.list_topics()] == ["kept", "orders"]


@pytest.mark.parametrize("window", [8, 1024])
async def test_a_producer_has_no_more_requests_under_way_than_the_cluster_keeps_answers_for(ensemble: Ensemble, window: int) -> None:
    topics = [f"topic-{number}" for number in range(40)]
    async with connect(ensemble.addresses) as zl:
        for topic in topics:
            await zl.create_topic(topic)
        await zl.set_limits(producer_window=window)

        async with zl.producer() as out:
            pendings = [await out.submit(topic, b"paid" * (SHARED_BYTES // 4)) for topic in topics]  # a request each
            most = 0
            while not all(pending.done for pending in pendings):
                most = max(most, len(out._session._unanswered))
                await trio.lowlevel.checkpoint()

        assert [pending.receipt().topic for pending in pendings] == topics
        assert most <= min(window, IN_FLIGHT_MAX)
        assert (most > 8) == (window > 8), "many small requests travel together where they may"
