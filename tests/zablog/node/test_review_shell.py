"""What a hostile reading of the node's shell for transfers and checkpoints found: each test states the law that was broken."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from tests.zablog.node.test_transfer import BIG, Files, connected, follower, leader_of
from tests.zablog.storage.test_snapshots import snapshot_at, written
from zablog.core.peer import Peer
from zablog.core.state import Following
from zablog.core.trail import Mark
from zablog.core.zxid import Epoch, PeerId
from zablog.node.application import Restorable
from zablog.node.applier import Applier
from zablog.node.checkpoints import Checkpoints
from zablog.node.config import NodeConfig
from zablog.node.driver import Driver, Links
from zablog.node.errors import NodeStopped
from zablog.node.transfer import Pace, Sender, TransferFailed
from zablog.node.writer import Writer
from zablog.storage.history import History
from zablog.wire.transfer import Ask, Found


async def test_a_peer_whose_part_is_rotten_takes_nothing_of_ours() -> None:
    """Until a snapshot is installed, everything of ours stands whole."""
    sender, mark = leader_of(theirs := Files(big=BIG))
    theirs.put("big", bytes(len(BIG)))
    ours = Files(big=BIG[:1_000_000])

    async with connected(sender) as line:
        with pytest.raises(TransferFailed, match="checksum"):
            await follower(ours, mark).run(line.ends, line.reader)

    assert ours.read("big")[:1_000_000] == BIG[:1_000_000]


async def test_what_a_broken_connection_wanted_is_not_taken_from_the_one_that_replaced_it() -> None:
    """The log above a snapshot that is being fetched is kept."""
    sender, mark = leader_of(Files(big=BIG))

    async with connected(sender) as old:
        await old.say(Ask(mark))
        assert isinstance(await old.hear(), Found)
        async with connected(sender) as new:
            await new.say(Ask(mark))
            assert isinstance(await new.hear(), Found)
            await old.ends.close()
            await trio.testing.wait_all_tasks_blocked()
            assert mark.zxid in sender.wanted.values()

    assert not sender.wanted


async def test_who_asks_for_a_snapshot_and_then_for_nothing_is_sent_away(autojump_clock: trio.testing.MockClock) -> None:
    """No peer pins our log by silence."""
    sender, mark = leader_of(Files(big=BIG))

    async with connected(sender) as line:
        await line.say(Ask(mark))
        assert isinstance(await line.hear(), Found)
        assert await line.hear() is None

    assert not sender.wanted


class StoppedWriter:
    """Takes jobs and does none: its thread has ended."""

    def ask(self, job: object) -> None:
        pass


@pytest.mark.parametrize("fails", ["before", "while"])
async def test_a_writer_that_ends_under_a_checkpoint_ends_it(fails: str, autojump_clock: trio.testing.MockClock) -> None:
    """A node that must stop does stop: also while the manifest is being switched, which is not to be cancelled."""
    disk, storage, marks = written(10)
    state = SimpleNamespace(watermark=marks[-1].zxid, role=None, id=PeerId(1), current=Epoch(1))
    sender = Sender(storage, None, Pace(1e12), lambda peer: None)
    async with trio.open_nursery() as nursery:
        driver = Driver(cast(Peer, SimpleNamespace(state=state)), History(storage), cast(Links, None), nursery)
        driver.writer = cast(Writer, StoppedWriter())
        application = cast(Restorable, Files())
        checkpoints = Checkpoints(NodeConfig("nowhere"), storage, driver, cast(Applier, None), application, sender, trio.Lock())

        async def end() -> None:
            if fails == "while":
                await trio.sleep(1)
            driver.close("the disk failed")

        nursery.start_soon(end)
        with pytest.raises(NodeStopped, match="the disk failed"), trio.CancelScope(shield=True), trio.fail_after(10):
            if fails == "before":
                await trio.sleep(1)
            await checkpoints.name(snapshot_at(disk, marks[5]))


@pytest.mark.parametrize(("repaired", "expected"), [(False, 3), (True, 8)])
async def test_a_log_that_is_read_to_the_leader_is_kept_for_it(repaired: bool, expected: int) -> None:
    """A follower with the best history takes checkpoints, too, and the leader would find nothing to go on with."""
    _, storage, marks = written(10)
    role = Following(PeerId(2), since=0, met=marks[3].zxid, repaired=repaired)
    state = SimpleNamespace(watermark=marks[-1].zxid, role=role, id=PeerId(1), current=Epoch(1))
    async with trio.open_nursery() as nursery:
        driver = Driver(cast(Peer, SimpleNamespace(state=state)), History(storage), cast(Links, None), nursery)
        sender = Sender(storage, None, Pace(1e12), lambda peer: None)
        application = cast(Restorable, Files())
        checkpoints = Checkpoints(NodeConfig("nowhere"), storage, driver, cast(Applier, None), application, sender, trio.Lock())

        assert checkpoints.pinned(marks[8].zxid) == marks[expected].zxid


def with_one_behind(damaged: str | None = None) -> tuple[Checkpoints, list[Mark]]:
    """One of three nodes that has applied entries 0 to 9, and has a checkpoint of 5."""
    disk, storage, marks = written(10)
    storage.checkpoint(snapshot_at(disk, marks[5]))
    applier = cast(Applier, SimpleNamespace(held=False, applied=marks[9].zxid))
    application = cast(Restorable, SimpleNamespace(damaged=damaged))
    storage.identity = replace(storage.identity, members=storage.identity.members * 3)
    sender, config = Sender(storage, None, Pace(1e12), lambda peer: None), NodeConfig("nowhere", checkpoint_bytes=1 << 30)
    return Checkpoints(config, storage, cast(Driver, None), applier, application, sender, trio.Lock()), marks


@pytest.mark.parametrize(
    ("least", "damaged", "is_taken"),
    [(5, None, False), (7, None, True), (10, None, False), (7, "a segment", False)],
    ids=["there is one", "applied and not in one", "not applied", "damaged"],
)
async def test_a_checkpoint_is_taken_for_a_peer_only_if_it_helps(
    least: int, damaged: str | None, is_taken: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """A peer that asks in vain asks again and again: what it cannot use must not be made for it, each time a later one."""
    checkpoints, marks = with_one_behind(damaged)
    began = trio.current_time()

    await checkpoints.fresh(marks[least].zxid if least < 10 else marks[9].zxid.after(1))

    assert (trio.current_time() > began) == is_taken == (checkpoints.wanted is not None)
    assert checkpoints.due() == is_taken


async def test_two_peers_may_want_a_checkpoint(autojump_clock: trio.testing.MockClock) -> None:
    """trio's events are no truth values: whoever asked whether there was one ended the node."""
    checkpoints, marks = with_one_behind()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(checkpoints.fresh, marks[9].zxid)
        await trio.testing.wait_all_tasks_blocked()
        assert checkpoints.wanted is not None and checkpoints.wanted.statistics().tasks_waiting == 2
        checkpoints.wanted.set()


async def test_checkpoints_for_peers_take_a_fifth_of_the_time_at_most(autojump_clock: trio.testing.MockClock) -> None:
    checkpoints, _ = with_one_behind()
    checkpoints.wanted, checkpoints.last_seconds = trio.Event(), 6.0

    await trio.sleep(29)
    assert not checkpoints.due()
    await trio.sleep(2)
    assert checkpoints.due()
