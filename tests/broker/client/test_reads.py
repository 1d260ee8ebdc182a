"""How fresh a read is: local, session, linearizable, on the leader and on the others."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from broker.client import Client, Receipt, connect
from broker.errors import BadRequest, NotAllowed, OffsetOutOfRange, TimedOut, WriteLost
from broker.protocol import Failed, ReadIndex, ReadIndexed
from broker.server import Server
from tests.broker.ensemble import Ensemble, open_ensemble
from zablog.core.zxid import Zxid


@pytest.fixture
async def ensemble(tmp_path: Path) -> AsyncIterator[Ensemble]:
    async with open_ensemble(tmp_path) as ensemble:
        async with connect(ensemble.addresses) as zl:
            await zl.create_topic("orders")
        yield ensemble


async def follower(ensemble: Ensemble) -> Server:
    leader = await ensemble.leader()
    return next(server for server in ensemble.servers.values() if server is not leader)


async def sent(zl: Client, *values: bytes) -> Receipt:
    async with zl.producer() as out:
        return (await out.send_many("orders", values))[-1]


@pytest.mark.parametrize("level", ["session", "linearizable"])
async def test_every_node_shows_what_was_acknowledged_before(ensemble: Ensemble, level: str) -> None:
    async with connect(ensemble.addresses) as zl, zl.producer() as out:
        for number in range(30):
            receipt = await out.send("orders", b"%d" % number)
            for node in (None, 1, 2, 3):
                record = await zl.read("orders", 0, receipt.offset, level, node=node)  # type: ignore[arg-type]  # it is one
                assert record.value == b"%d" % number


async def test_what_somebody_else_was_told_is_seen_with_its_token_or_by_a_linearizable_read(ensemble: Ensemble) -> None:
    behind = await follower(ensemble)
    number = behind.node.identity.node
    async with connect(ensemble.addresses) as writer, connect(ensemble.addresses) as reader:
        behind.node._applier.hold()
        receipt = await sent(writer, b"paid")
        with pytest.raises(OffsetOutOfRange):
            await reader.read("orders", 0, receipt.offset, node=number)

        seen: list[bytes | None] = []
        async with trio.open_nursery() as nursery:

            async def look(level: str, **more: object) -> None:
                record = await reader.read("orders", 0, receipt.offset, level, node=number, **more)  # type: ignore[arg-type]
                seen.append(record.value)

            nursery.start_soon(look, "linearizable")
            nursery.start_soon(lambda: look("local", at_least=receipt.token))
            nursery.start_soon(lambda: look("session", at_least=receipt.token))
            await trio.sleep(0.1)
            assert seen == [], "the node has not applied it yet, and does not say that there is nothing"
            behind.node._applier.release()
        assert seen == [b"paid"] * 3


async def test_a_node_that_makes_no_progress_is_not_waited_for_without_end(ensemble: Ensemble) -> None:
    behind = await follower(ensemble)
    behind.node._applier.hold()
    async with connect(ensemble.addresses, timeout=0.3) as zl:
        receipt = await sent(zl, b"paid")
        with pytest.raises(TimedOut, match="does not come as far as"):
            await zl.read("orders", 0, receipt.offset, "linearizable", node=behind.node.identity.node)


async def test_a_token_whose_history_was_given_up_is_told_so(ensemble: Ensemble) -> None:
    """The next leader's log goes on without what the last one had not committed: a higher zxid is no proof of a lower one."""
    async with connect(ensemble.addresses) as zl:
        receipt = await sent(zl, b"paid")
        await ensemble.stop_leader()
        assert (await sent(zl, b"shipped")).zxid.epoch > receipt.zxid.epoch

        assert (await zl.read("orders", 0, 0, at_least=receipt.token)).value == b"paid"
        for node in (None, *ensemble.servers):
            with pytest.raises(WriteLost, match="given up"):
                await zl.read("orders", 0, 0, node=node, at_least=Zxid(receipt.zxid.epoch, receipt.zxid.counter + 1_000))


async def test_a_consumer_that_goes_on_at_a_node_that_is_behind_waits_for_it(ensemble: Ensemble) -> None:
    behind = await follower(ensemble)
    behind.node._applier.hold()
    async with connect(ensemble.addresses) as zl:
        await sent(zl, b"a", b"b")
        async with zl.consumer("orders", start={("orders", 0): 2}, node=behind.node.identity.node) as inbox:
            behind.node._applier.release()
            await sent(zl, b"c")
            assert (await anext(inbox)).value == b"c"
        with pytest.raises(OffsetOutOfRange):
            async with zl.consumer("orders", start={("orders", 0): 9}, node=behind.node.identity.node):
                pass


async def test_the_end_of_a_consumer_is_not_older_than_what_was_acknowledged(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as writer, connect(ensemble.addresses) as reader:
        for count in range(1, 30):
            await sent(writer, b"x")
            async with reader.consumer("orders", start="earliest", stop="end") as inbox:
                assert len([record async for record in inbox]) == count


async def test_only_a_leader_can_say_how_far_a_read_must_see(ensemble: Ensemble) -> None:
    behind = await follower(ensemble)
    async with connect(ensemble.addresses) as zl:
        refused = await (await zl._cluster.node(behind.node.identity.node)).call(ReadIndex())
        assert isinstance(refused, Failed) and refused.code == "not_leading"
        leader = await zl._cluster.leader()
        first = await leader.call(ReadIndex())
        assert isinstance(first, ReadIndexed)
        answers: list[object] = []
        async with trio.open_nursery() as nursery:
            for _ in range(50):  # they share rounds

                async def ask() -> None:
                    answers.append(await leader.call(ReadIndex()))

                nursery.start_soon(ask)
        assert len(answers) == 50 and all(isinstance(answer, ReadIndexed) and answer.upto >= first.upto for answer in answers)


async def test_an_earlier_leader_and_a_level_that_there_is_not_are_refused_in_words(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        with pytest.raises(BadRequest, match="must be"):
            await zl.read("orders", 0, 0, "fresh")  # type: ignore[arg-type]  # that is the point
        (await zl._cluster.leader()).version = 1
        with pytest.raises(NotAllowed, match="earlier version"):
            await zl.read("orders", 0, 0, "linearizable")
        with pytest.raises(NotAllowed, match="earlier version"):
            await zl.read("orders", 0, 0, at_least=Zxid(1, 1))
        async with zl.consumer("orders", start="earliest", stop="end") as inbox:
            assert [record async for record in inbox] == [], "who asks for nothing is served as ever"
