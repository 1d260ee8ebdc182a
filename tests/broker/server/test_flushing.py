"""What is appended becomes durable a little at a time: a commit of the log that comes meanwhile waits for the same disk."""

import threading
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from broker.log import Log
from broker.log import log as log_room
from broker.server import checkpoint
from broker.server.application import BrokerApplication
from broker.server.checkpoint import LOOK_SECONDS, keep_flushing
from broker.state import Retention
from tests.broker.server.test_retention import Feed
from zablog.core.zxid import ZERO, Zxid
from zablog.sim.disk import SimDisk

LONG = 1000
ALL = 8000


class Syncs(SimDisk):
    """Remembers which segments were synced."""

    def __init__(self) -> None:
        super().__init__()
        self.synced: list[str] = []

    def sync(self, name: str) -> None:
        self.synced.append(name)
        super().sync(name)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    monkeypatch.setattr(checkpoint, "LONG_BYTES", LONG)
    monkeypatch.setattr(checkpoint, "DIRTY_BYTES_MAX", ALL)
    return Syncs()


@pytest.fixture
async def application(disk: Syncs, autojump_clock: trio.testing.MockClock) -> AsyncIterator[BrokerApplication]:
    application = BrokerApplication(lambda: disk)
    await application.restore(ZERO, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_flushing, application)
        yield application
        nursery.cancel_scope.cancel()


def topics(feed: Feed, count: int) -> list[Zxid]:
    return [feed.create(Retention()) for _ in range(count)]


async def test_a_segment_is_synced_when_its_end_is_long_and_not_before(application: BrokerApplication, disk: Syncs) -> None:
    feed = Feed(application)
    (topic,) = topics(feed, 1)
    feed.produce(0, topic=topic)
    feed.settle()
    each = application.log.dirty_bytes
    for _ in range(LONG // each - 1):
        feed.produce(0, topic=topic)
    feed.settle()

    await trio.sleep(20 * LOOK_SECONDS)
    assert not disk.synced and application.log.dirty_bytes <= LONG

    feed.produce(0, topic=topic)
    feed.settle()
    await trio.sleep(2 * LOOK_SECONDS)
    assert len(disk.synced) == 1 and application.log.dirty_bytes == 0


async def test_many_short_ends_are_let_be_until_they_are_too_much_together(application: BrokerApplication, disk: Syncs) -> None:
    feed = Feed(application)
    many = topics(feed, 20)
    before = 0
    for _ in range(10):
        for topic in many:
            feed.produce(0, topic=topic)
        feed.settle()
        before = application.log.dirty_bytes
        await trio.sleep(2 * LOOK_SECONDS)
        if before > ALL:
            break
        assert not disk.synced and application.log.dirty_bytes == before

    assert before > ALL and 0 < application.log.dirty_bytes <= ALL // 2
    assert len(disk.synced) == len(set(disk.synced)) < 20, "the longest ends, until it is enough"


async def test_what_was_let_be_is_not_looked_at_again_and_again(
    application: BrokerApplication, disk: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed(application)
    many = topics(feed, 20)
    looks = 0
    dirt = application.log.dirt

    def counted() -> object:
        nonlocal looks
        looks += 1
        return dirt()

    monkeypatch.setattr(type(application.log), "dirt", lambda log: counted())
    for topic in many:
        feed.produce(0, topic=topic)
    feed.settle()
    assert LONG < application.log.dirty_bytes <= ALL

    await trio.sleep(100 * LOOK_SECONDS)
    assert looks == 1 and not disk.synced


class HeldBack(SimDisk):
    """Whoever is to make a file of rows waits in its thread until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = 0
        self.go = threading.Event()

    def create(self, name: str) -> None:
        if name.endswith(".index"):
            self.inside += 1
            self.go.wait(30)
        super().create(name)


async def test_a_checkpoint_waits_for_a_flush_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both made the file for a segment's rows if it was not there, each in a thread: who came second stopped the node."""
    monkeypatch.setattr(checkpoint, "LONG_BYTES", LONG)
    monkeypatch.setattr(log_room, "INDEX_BYTES_MIN", 1)
    monkeypatch.setattr("broker.checkpoint.TAIL_BYTES_MAX", 1)
    disk = HeldBack()
    application = BrokerApplication(lambda: disk)
    await application.restore(ZERO, None)
    feed = Feed(application)
    (topic,) = topics(feed, 1)
    while application.log.dirty_bytes <= LONG:
        feed.produce(0, topic=topic)
        feed.settle()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_flushing, application)
        with trio.fail_after(30):
            while not disk.inside:
                await trio.testing.wait_all_tasks_blocked(0.01)
        feed.produce(0, topic=topic)
        feed.settle()
        nursery.start_soon(application.capture().encode)
        await trio.testing.wait_all_tasks_blocked(0.1)
        others = disk.inside - 1
        disk.go.set()
        with trio.fail_after(30):
            while application.log.dirty_bytes:
                await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()

    assert not others


async def test_a_restoration_waits_for_a_flush_that_is_under_way(application: BrokerApplication) -> None:
    before = application.log
    async with trio.open_nursery() as nursery, application.syncing:
        nursery.start_soon(application.restore, ZERO, None)
        await trio.sleep(1)
        assert application.log is before
    assert application.log is not before


async def test_a_log_that_was_restored_meanwhile_is_flushed_and_not_the_one_before(application: BrokerApplication, disk: Syncs) -> None:
    """Rows of the one before would be put into files that belong to the restored one."""
    feed = Feed(application)
    (topic,) = topics(feed, 1)
    async with application.syncing:
        while application.log.dirty_bytes <= LONG:
            feed.produce(0, topic=topic)
            feed.settle()
        await trio.sleep(2 * LOOK_SECONDS)
        assert application.syncing.statistics().tasks_waiting == 1
        application._log = Log(disk)
    await trio.sleep(2 * LOOK_SECONDS)

    assert not disk.synced


async def test_what_comes_during_a_flush_is_looked_at_behind_it(
    application: BrokerApplication, disk: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for what had been let be, and stayed for the next checkpoint if nothing came behind it."""
    feed = Feed(application)
    (topic,) = topics(feed, 1)
    sync, late = checkpoint.sync, [1]

    async def slow(*words: object) -> None:
        if late:
            late.pop()
            before = application.log.dirty_bytes
            while application.log.dirty_bytes - before <= 2 * LONG:
                feed.produce(0, topic=topic)
                feed.settle()
        await sync(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "sync", slow)
    while application.log.dirty_bytes <= LONG:
        feed.produce(0, topic=topic)
        feed.settle()
    await trio.sleep(10 * LOOK_SECONDS)

    assert not late and application.log.dirty_bytes == 0
