"""The cluster's limits from outside: clients honour them, restarts keep them, the command line shows and sets them."""

import json
from functools import partial

import pytest
import trio

from broker.cli.main import run
from broker.client import connect
from broker.errors import BadRequest, LimitReached, RecordTooLarge
from broker.state import Limits
from tests.broker.ensemble import Ensemble

MIB = 1 << 20


async def test_a_producer_honours_a_limit_and_hears_that_it_was_raised(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl, connect(ensemble.addresses) as operator:
        await zl.create_topic("orders")
        async with zl.producer() as out:
            with pytest.raises(RecordTooLarge, match=r"the limit record_bytes is 1,048,576; `zablog limits set record_bytes N` raises it"):
                await out.send("orders", bytes(MIB + 1))

            assert await operator.set_limits(record_bytes=2 * MIB) == Limits(record_bytes=2 * MIB)

            assert (await out.send("orders", bytes(2 * MIB))).offset == 0
            assert (await out.send_many("orders", [bytes(2 * MIB)] * 3))[-1].offset == 3
            with pytest.raises(RecordTooLarge, match="it cannot be raised any further"):
                await out.send("orders", bytes(2 * MIB + 1))


async def test_limits_outlive_their_nodes_and_bind_everybody(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("there", partitions=4)
        await zl.set_limits(topic_partitions=2, topics=2)
        for number in (1, 2, 3):
            await ensemble.stop(number)
        for number in (1, 2, 3):
            await ensemble.start(number)

        with pytest.raises(LimitReached, match="the limit topic_partitions is 2"):
            await zl.create_topic("wide", partitions=3)
        await zl.create_topic("narrow", partitions=2)
        assert (await zl.limits()) == Limits(topic_partitions=2, topics=2)
        assert len((await zl.describe_topic("there")).partitions) == 4


async def test_what_cannot_be_set_is_said_before_anything_is_sent(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        with pytest.raises(BadRequest, match="there is no limit 'nonsense'"):
            await zl.set_limits(nonsense=1)
        with pytest.raises(BadRequest, match="no limit was named"):
            await zl.set_limits()
        with pytest.raises(BadRequest, match="at least twice record_bytes"):
            await zl.set_limits(batch_bytes=MIB)


async def test_the_command_line_shows_and_sets_limits(ensemble: Ensemble, capsys: pytest.CaptureFixture[str]) -> None:
    async def zablog(*words: str) -> int:
        return await trio.to_thread.run_sync(partial(run, [*words, "--cluster", ensemble.addresses, "--json"]))

    assert await zablog("limits", "set", "record_bytes", "2MiB") == 0
    assert await zablog("limits", "set", "batch_bytes", "1MiB") == 2
    capsys.readouterr()
    assert await zablog("limits") == 0

    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["record_bytes"]["value"], rows["record_bytes"]["default"], rows["record_bytes"]["most"]) == (2 * MIB, MIB, 2 * MIB)
    assert rows["topics"]["value"] == 10_000
    assert await zablog("cluster", "status") == 0
    status = json.loads(capsys.readouterr().out)
    assert status["feature_level"] == 1 and status["nodes"][0]["feature_levels"] == [1, 1]
