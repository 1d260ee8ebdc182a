"""Checkpoints of real nodes: the log below them goes, a restart begins with them, and a node that was away takes its leader's."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from broker.client import connect
from broker.log import split
from broker.server import Server
from broker.server.config import DiskUse
from tests.broker.ensemble import Ensemble, open_ensemble
from tests.pace import few
from zablog.core.events import Link
from zablog.core.zxid import ZERO, Zxid
from zablog.node.checkpoints import Checkpoints
from zablog.node.restoration import Restoration
from zablog.node.transfer import TransferFailed
from zablog.storage.files import FileDisk
from zablog.storage.manifest import Manifest
from zablog.storage.storage import Storage

SMALL = DiskUse(checkpoint_bytes=1 << 16, checkpoint_seconds=3600, keep_bytes=0, pin_bytes=1 << 20, file_bytes=1 << 16, scrub_rate=1 << 30)
VALUES = [b"%06d" % number + bytes(200) for number in range(3000)]


@pytest.fixture
async def ensemble(tmp_path: Path) -> AsyncIterator[Ensemble]:
    async with open_ensemble(tmp_path, disk_use=SMALL) as ensemble:
        yield ensemble


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(0.01)


async def applied_alike(ensemble: Ensemble) -> None:
    """Wait until all nodes that are up have applied the same, and compare everything that they hold."""

    def alike() -> bool:
        return len({server.application.state.applied for server in ensemble.servers.values()}) == 1

    await until(alike)
    first, *others = ensemble.servers.values()
    for other in others:
        assert other.application.state.digest() == first.application.state.digest()
        assert contents(other) == contents(first)


def contents(server: Server) -> dict[object, bytes]:
    application = server.application
    out = {}
    for topic, number in application.state.ends:
        partition = application.log.partition(topic, number)
        stored, at = b"", partition.first
        while at < partition.end:
            stored += partition.read(at, 1 << 30)
            at = next_offset(stored)
        out[topic, number] = stored
    return out


def next_offset(stored: bytes) -> int:
    *_, last = split(stored)
    return last.records()[-1].offset + 1


async def publish(addresses: str, values: list[bytes], topic: str = "numbers") -> None:
    async with connect(addresses) as zl, zl.producer() as out:
        for begin in range(0, len(values), 100):
            await out.send_many(topic, values[begin : begin + 100])


async def everything(addresses: str, node: int | None = None) -> list[bytes | None]:
    async with connect(addresses) as zl, zl.consumer("numbers", start="earliest", stop="end", node=node) as inbox:
        return [record.value async for record in inbox]


async def test_the_log_below_a_checkpoint_goes_and_restarts_begin_with_it(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("numbers")
    await publish(ensemble.addresses, VALUES)
    await until(lambda: all(server.node.status().log_begins.counter > 1 for server in ensemble.servers.values()))

    for number in list(ensemble.servers):
        await ensemble.stop(number)
    for number in ensemble.all_addresses:
        server = await ensemble.start(number)
        assert server.node.status().log_begins.counter > 0

    assert await everything(ensemble.addresses) == VALUES
    await applied_alike(ensemble)
    await publish(ensemble.addresses, VALUES[:50])
    assert await everything(ensemble.addresses) == VALUES + VALUES[:50]
    await applied_alike(ensemble)


async def test_a_node_that_was_away_takes_the_snapshot_of_its_leader(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("numbers")
        await zl.create_topic("short-lived")
    await publish(ensemble.addresses, VALUES[:500])
    await publish(ensemble.addresses, VALUES[:500], "short-lived")
    leader = await ensemble.leader()
    away = next(number for number in ensemble.servers if number != leader.node.identity.node)
    last = ensemble.servers[away].node.status().last
    await ensemble.stop(away)
    async with connect(ensemble.addresses) as zl:
        await zl.delete_topic("short-lived")
    await publish(ensemble.addresses, VALUES[500:])
    await until(lambda: leader.node.status().log_begins > last)

    back = await ensemble.start(away)

    await applied_alike(ensemble)
    assert back.node.status().log_begins > last
    assert await everything(ensemble.addresses, node=away) == VALUES
    await ensemble.stop(away)
    await ensemble.start(away)
    await publish(ensemble.addresses, VALUES[:50])
    await applied_alike(ensemble)


def damage(directory: Path, what: str) -> None:
    """One thing on a node's disk is not what it was."""
    manifest = Manifest(FileDisk(directory))
    manifest.load()
    assert manifest.contents.snapshot is not None
    state = directory / manifest.contents.snapshot.name  # there may be another file, of a checkpoint that the stop has broken off
    segments = sorted((directory / "topics").glob("*.segment"))
    match what:
        case "snapshot":
            raw = bytearray(state.read_bytes())
            raw[len(raw) // 2] ^= 1
            state.write_bytes(raw)
        case "snapshot is gone":
            state.unlink()
        case "segment is gone":
            segments[0].unlink()
        case "segment is short":
            segments[0].write_bytes(segments[0].read_bytes()[:1000])


@pytest.mark.parametrize("what", few(["segment is short", "snapshot", "snapshot is gone", "segment is gone"]))
async def test_a_state_that_is_damaged_at_the_start_is_restored_from_a_peer(ensemble: Ensemble, tmp_path: Path, what: str) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("numbers")
    await publish(ensemble.addresses, VALUES)
    await applied_alike(ensemble)
    leader = await ensemble.leader()
    number = leader.node.identity.node
    await until(lambda: leader.node._driver.peer.state.snapshot is not None)
    await ensemble.stop(number)
    damage(tmp_path / f"node{number}", what)

    server = await ensemble.start(number)
    assert server.node.status().missing is not None
    await publish(ensemble.addresses, VALUES)
    await until(lambda: server.node.status().missing is None)

    await applied_alike(ensemble)
    assert await everything(ensemble.addresses, node=number) == VALUES * 2
    await ensemble.stop(number)
    server = await ensemble.start(number)
    assert server.node.status().missing is None
    await applied_alike(ensemble)


@pytest.mark.parametrize("what", few(["record", "head of a batch"]))
async def test_a_segment_that_rots_is_found_and_restored_from_a_peer(ensemble: Ensemble, tmp_path: Path, what: str) -> None:
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("numbers")
    await publish(ensemble.addresses, VALUES)
    await applied_alike(ensemble)
    number, server = next(iter(ensemble.servers.items()))
    segment = min((tmp_path / f"node{number}" / "topics").glob("*.segment"))
    server.application.files.sync(segment.name)  # segments are written behind
    whole = segment.read_bytes()
    at = 9 if what == "head of a batch" else 1000
    with segment.open("r+b") as file:
        file.seek(at)
        file.write(bytes([whole[at] ^ 1]))

    await until(lambda: server.application.damaged is not None)
    await until(lambda: server.application.damaged is None)

    await applied_alike(ensemble)
    server.application.files.sync(segment.name)
    assert segment.read_bytes() == whole
    assert await everything(ensemble.addresses, node=number) == VALUES


@pytest.mark.parametrize("peers_have", few(["older checkpoints", "none"]))
async def test_a_damaged_state_is_restored_though_the_peers_checkpoints_are_older_and_nobody_writes(
    tmp_path: Path, peers_have: str
) -> None:
    seldom = replace(SMALL, checkpoint_bytes=1 << 30) if peers_have == "none" else SMALL
    async with open_ensemble(tmp_path, disk_use=seldom) as ensemble:
        async with connect(ensemble.addresses) as zl:
            await zl.create_topic("numbers")
        values = list(VALUES)
        await publish(ensemble.addresses, values)
        while peers_have != "none" and not all(map(rests, ensemble.servers.values())):
            values += [bytes(1000)]
            await publish(ensemble.addresses, values[-1:])
        values += [b"the last"]
        await publish(ensemble.addresses, values[-1:])
        await applied_alike(ensemble)
        number = (await ensemble.leader()).node.identity.node
        await ensemble.stop(number)
        ensemble.disk_use = replace(SMALL, checkpoint_bytes=1)
        server = await ensemble.start(number)
        others = [each for at, each in ensemble.servers.items() if at != number]
        await until(lambda: place(server) == server.application.state.applied > max(map(place, others)))
        assert (max(map(place, others)) == ZERO) == (peers_have == "none")
        await ensemble.stop(number)
        damage(tmp_path / f"node{number}", "segment is short")

        server = await ensemble.start(number)
        assert server.node.status().missing is not None
        await until(lambda: server.node.status().missing is None)

        await applied_alike(ensemble)
        assert await everything(ensemble.addresses, node=number) == values


async def test_a_damaged_node_on_a_slow_disk_is_restored_while_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that took a checkpoint for each question would always be further than our disk."""
    slow, perform = set[int](), Storage.perform

    def slowly(storage: Storage, *words: Any) -> None:
        if storage.identity.node in slow:
            time.sleep(0.3)
        perform(storage, *words)

    monkeypatch.setattr(Storage, "perform", slowly)
    use = replace(SMALL, keep_bytes=1 << 24, checkpoint_bytes=1 << 20, file_bytes=1 << 20, pin_bytes=1 << 30)
    async with open_ensemble(tmp_path, disk_use=use) as ensemble, trio.open_nursery() as nursery:
        async with connect(ensemble.addresses) as zl:
            await zl.create_topic("numbers")
        await publish(ensemble.addresses, VALUES * 3)
        await applied_alike(ensemble)
        await until(lambda: all(place(each) > ZERO for each in ensemble.servers.values()))
        leader = (await ensemble.leader()).node.identity.node
        number = next(each for each in ensemble.servers if each != leader)
        await ensemble.stop(number)
        damage(tmp_path / f"node{number}", "segment is short")
        await publish(ensemble.addresses, VALUES * 2)
        slow.add(number)

        async def write() -> None:
            async with connect(ensemble.addresses) as zl, zl.producer() as out:
                while True:
                    await out.send_many("numbers", VALUES[:20])
                    written.set()
                    await trio.sleep(0.02)

        written = trio.Event()
        nursery.start_soon(write)
        await written.wait()
        server = await ensemble.start(number)
        await until(lambda: server.node.status().missing is None)
        nursery.cancel_scope.cancel()


async def test_a_leader_whose_state_is_damaged_leads_while_its_peers_prepare_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, asked = trio.Event(), trio.Event()

    async def fresh(checkpoints: Checkpoints, least: Zxid) -> None:
        asked.set()
        await ready.wait()

    monkeypatch.setattr(Checkpoints, "fresh", fresh)
    async with open_ensemble(tmp_path, disk_use=SMALL) as ensemble:
        async with connect(ensemble.addresses) as zl:
            await zl.create_topic("numbers")
        await publish(ensemble.addresses, VALUES)
        leader = await ensemble.leader()
        leader.application.report_damage("as a test says")
        with trio.fail_after(30):
            await asked.wait()
            await publish(ensemble.addresses, VALUES[:200])
        assert leader.application.damaged is not None

        ready.set()
        await until(lambda: leader.application.damaged is None)
        await applied_alike(ensemble)
        assert await everything(ensemble.addresses) == VALUES + VALUES[:200]


async def test_no_checkpoint_is_taken_of_a_damaged_state(ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(restoration: Restoration, link: Link) -> None:
        raise TransferFailed("as a test says")

    monkeypatch.setattr(Restoration, "restore_from", never)
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("numbers")
    await publish(ensemble.addresses, VALUES[:10])
    leader = await ensemble.leader()
    leader.application.report_damage("as a test says")
    others = [each for each in ensemble.servers.values() if each is not leader]
    before = place(leader)

    await publish(ensemble.addresses, VALUES)

    await until(lambda: all(place(each) > before for each in others))
    assert place(leader) == before


def place(server: Server) -> Zxid:
    """Of the last checkpoint."""
    snapshot = server.node._driver.peer.state.snapshot
    return snapshot.zxid if snapshot is not None else ZERO


@pytest.mark.parametrize("where", few(["above it", "below our snapshot", "trimmed everywhere"]))
async def test_a_damaged_log_is_put_right_before_its_node_takes_part(tmp_path: Path, where: str) -> None:
    keep = 0 if where == "trimmed everywhere" else 1 << 24
    async with open_ensemble(tmp_path, disk_use=replace(SMALL, keep_bytes=keep)) as ensemble:
        async with connect(ensemble.addresses) as zl:
            await zl.create_topic("numbers")
        await publish(ensemble.addresses, VALUES)
        await applied_alike(ensemble)
        number = (await ensemble.leader()).node.identity.node
        values = list(VALUES)
        while not rests(ensemble.servers[number]):
            values += [bytes(1000)]
            await publish(ensemble.addresses, values[-1:])
        for last in range(3):
            values += [b"the last %d" % last]
            await publish(ensemble.addresses, values[-1:])
        await applied_alike(ensemble)
        await ensemble.stop(number)
        if where == "trimmed everywhere":
            await publish(ensemble.addresses, VALUES)
            values += VALUES
            others = [server for id, server in ensemble.servers.items() if id != number]
            await until(lambda: all(server.node.status().log_begins > last_of(tmp_path / f"node{number}") for server in others))
        spoil(tmp_path / f"node{number}", below=where == "below our snapshot")

        with trio.fail_after(30):
            await ensemble.start(number)

        await publish(ensemble.addresses, VALUES[:10])
        await applied_alike(ensemble)
        assert await everything(ensemble.addresses, node=number) == [*values, *VALUES[:10]]


def rests(server: Server) -> bool:
    """There is a checkpoint, and not enough above it for another."""
    driver = server.node._driver
    snapshot = driver.peer.state.snapshot
    return snapshot is not None and driver.history.storage.wal.bytes_above(snapshot.zxid) < SMALL.checkpoint_bytes - 4096


def last_of(directory: Path) -> Zxid:
    """Where the log of a node that is down ends."""
    disk = FileDisk(directory)
    try:
        return Storage.open(disk).trail.last
    finally:
        disk.close()


def spoil(directory: Path, below: bool) -> None:
    """Change a byte of a batch that has others behind it, below the node's snapshot or above."""
    disk = FileDisk(directory)
    storage = Storage.open(disk)
    assert storage.snapshot is not None
    at = storage.snapshot.mark.zxid
    batches = list(storage.wal.batches(storage.trail.base.zxid))
    file, _, offset, _ = next(each for each in batches[:-1] if (each[3].last < at if below else each[3].last > at))
    byte = disk.read(file.name, offset + 60, 1)
    disk.write(file.name, offset + 60, [bytes([byte[0] ^ 1])])
    disk.close()
