"""Leaders that are stopped or cut off, networks that carry one way only, clocks that jump: each alone, on three real servers.

How long service takes to come back is printed (`pytest -s`) and not asserted, beyond what would be no service at all.
"""

import time
from datetime import datetime
from pathlib import Path
from random import Random

import pytest
import trio

from broker.client import Client, connect
from broker.errors import ConnectionLost
from broker.protocol import Failed, ReadIndex
from tests.system.proxy import Way, split
from tests.system.rig import LOOK_SECONDS, leader_of, open_cluster

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 30.0
LEASE_SECONDS = 0.3
"""The servers' own: a leader that no quorum hears, and a follower that hears no leader, give up after so long."""

CACHE_SECONDS = 1
"""Between two looks of a server at the file that says how far its clock is off."""


async def copies_alike(zl: Client) -> list[bytes | None]:
    """What all three nodes hold, once they hold the same."""
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            copies = []
            for node in (1, 2, 3):
                async with zl.consumer("numbers", start="earliest", stop="end", node=node) as inbox:
                    copies.append([record.value async for record in inbox])
            if copies[0] == copies[1] == copies[2]:
                return copies[0]
            await trio.sleep(LOOK_SECONDS)


async def no_longer_leads(zl: Client, node: int) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while (await zl.node_status(node)).role == "leading":
            await trio.sleep(LOOK_SECONDS)


async def test_a_leader_stopped_beyond_the_timeouts_is_succeeded_and_its_late_work_counts_for_nothing(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as cluster, connect(cluster.addresses) as zl, connect(cluster.addresses) as other:
        await zl.create_topic("numbers")
        async with zl.producer() as out, other.producer() as late:
            await out.send("numbers", b"before")
            await late.send("numbers", b"before, too")
            leader = await leader_of(zl)

            began = time.monotonic()
            cluster.servers[leader].pause(True)
            waits_in_the_socket = await late.submit(
                "numbers", b"late"
            )  # it lies in the stopped leader's socket, and is sent again elsewhere
            with trio.fail_after(PATIENCE_SECONDS):
                await out.send("numbers", b"meanwhile")
                acknowledged = time.monotonic() - began
                await waits_in_the_socket.wait()
                assert await leader_of(other, but=leader) != leader
            cluster.servers[leader].pause(False)
            await no_longer_leads(other, leader)
            with trio.fail_after(PATIENCE_SECONDS):
                await out.send("numbers", b"behind")

        records = await copies_alike(zl)
        assert sorted(records) == sorted([b"before", b"before, too", b"late", b"meanwhile", b"behind"]), "each once"
        assert records[-1] == b"behind"
    print(f"\nleader stopped: a write was acknowledged again after {acknowledged:.2f} s, of which {LEASE_SECONDS} s are the lease")


async def test_a_leader_that_was_deposed_while_it_was_stopped_answers_no_linearizable_read(tmp_path: Path) -> None:
    """It is asked before it goes on: when it reads that, it may believe that it leads still (ZOOKEEPER-1675)."""
    async with open_cluster(tmp_path) as cluster, connect(cluster.addresses) as zl, connect(cluster.addresses) as reader:
        await zl.create_topic("numbers")
        async with zl.producer() as out:
            await out.send("numbers", b"before")
            leader = await leader_of(zl)
            deposed = await reader._cluster.node(leader)
            answers: list[object] = []

            cluster.servers[leader].pause(True)
            with trio.fail_after(PATIENCE_SECONDS):
                receipt = await out.send("numbers", b"meanwhile")
                deposed.post(ReadIndex(), answers.append)
                await trio.lowlevel.checkpoint()
                cluster.servers[leader].pause(False)
                record = await reader.read("numbers", 0, receipt.offset, "linearizable")
                while not answers:
                    await trio.sleep(LOOK_SECONDS)

        assert record.value == b"meanwhile"
        assert isinstance(answers[0], Failed | ConnectionLost), f"a deposed leader confirmed a read: {answers[0]}"


def to_the_others(leader: int) -> list[Way]:
    return [way for way in split(leader, (1, 2, 3)) if way.sender == leader]


def from_the_others(leader: int) -> list[Way]:
    return [way for way in split(leader, (1, 2, 3)) if way.receiver == leader]


def both_ways(leader: int) -> list[Way]:
    return split(leader, (1, 2, 3))


@pytest.mark.parametrize("ways", [to_the_others, from_the_others, both_ways])
async def test_a_leader_that_is_cut_off_gives_up_and_the_others_serve(tmp_path: Path, ways) -> None:
    async with open_cluster(tmp_path) as cluster, connect(cluster.addresses) as zl:
        await zl.create_topic("numbers")
        async with zl.producer() as out:
            await out.send("numbers", b"before")
            leader = await leader_of(zl)

            began = time.monotonic()
            cluster.proxies.cut(ways(leader))
            with trio.fail_after(PATIENCE_SECONDS):
                await out.send("numbers", b"meanwhile")
            acknowledged = time.monotonic() - began
            await no_longer_leads(zl, leader)
            assert await leader_of(zl) != leader
            cluster.proxies.heal(Random(len(ways.__name__)).random() < 0.5)

        assert await copies_alike(zl) == [b"before", b"meanwhile"]
    print(f"\nleader cut off, {ways.__name__}: a write was acknowledged again after {acknowledged:.2f} s")


def libfaketime() -> Path | None:
    """Debian's package has it in a folder of the architecture's own."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


@pytest.fixture
def wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that says how far the wall clock of the servers is off, at any time."""
    library = libfaketime()
    if library is None:
        pytest.skip("needs libfaketime (apt install libfaketime)")
    offset = tmp_path / "wall-clock"
    offset.write_text("+0")
    for name, value in {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": str(CACHE_SECONDS),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return offset


@pytest.mark.needs_root
@pytest.mark.parametrize("hours", [1, -1])
async def test_a_wall_clock_that_steps_by_an_hour_changes_no_leader_and_no_order(tmp_path: Path, wall_clock: Path, hours: int) -> None:
    patient = "[pace]\nlease = 5.0\n"  # a busy machine must not be taken for the clock's doing
    async with open_cluster(tmp_path, settings=patient) as cluster, connect(cluster.addresses) as zl:
        await zl.create_topic("numbers")
        async with zl.producer() as out:
            await out.send_many("numbers", [b"%d" % number for number in range(100)])
            before = await zl.status()
            await trio.Path(wall_clock).write_text(f"{3600 * hours:+d}")
            sent, until = 100, time.monotonic() + 2 * CACHE_SECONDS
            while time.monotonic() < until:
                await out.send("numbers", b"%d" % sent)
                sent += 1
            after = await zl.status()
            assert (after.leader, after.epoch) == (before.leader, before.epoch)

            leader = await leader_of(zl)
            await trio.to_thread.run_sync(cluster.servers[leader].end)
            with trio.fail_after(PATIENCE_SECONDS):
                await out.send("numbers", b"behind")
            cluster.servers[leader].start()
        assert await copies_alike(zl) == [*(b"%d" % number for number in range(sent)), b"behind"]

    successor = leader % 3 + 1
    stepped = logged_at(tmp_path, successor, -1) - logged_at(tmp_path, successor, 0)
    assert abs(stepped.total_seconds() - 3600 * hours) < 600, "their clocks did step: the last lines of their logs say so"


def logged_at(folder: Path, number: int, line: int) -> datetime:
    return datetime.fromisoformat((folder / f"server{number}.log").read_text().splitlines()[line][:19])
