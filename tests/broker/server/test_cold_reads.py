"""What is long written is read from the disk by threads: the event loop, and whoever else it serves, does not wait for that."""

import math
import threading
from collections.abc import Iterator
from typing import cast

import pytest
import trio

from broker.log import partition
from broker.log.cold import Cold
from broker.log.stored import split
from broker.protocol import Fetch, FetchFrom, FetchStatus, OffsetQuery, Offsets, Where
from broker.server.application import BrokerApplication
from broker.server.config import Limits
from broker.server.reads import COLD_READS_MAX, HUNG_SECONDS, Reads
from tests.broker.server.test_retention import TOPIC
from tests.broker.server.test_review_disk import restarted
from zablog import Node
from zablog.core.trail import Payload
from zablog.core.zxid import ZERO, Zxid
from zablog.sim.disk import SimDisk

Place = tuple[str, int, int]


class ColdDisk(SimDisk):
    """Nothing of it is in memory but what was warmed since, and whoever warms waits until he may."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: set[Place] = set()
        self.forgets = False
        self.open = threading.Event()
        self.open.set()
        self.warming: list[threading.Thread] = []
        self.waited: list[threading.Thread] = []

    def read_now(self, name: str, offset: int, length: int) -> Payload:
        end = max((end for each, begin, end in self.memory if each == name and begin <= offset), default=offset)
        return super().read(name, offset, max(0, min(length, end - offset)))

    def read(self, name: str, offset: int, length: int) -> bytes:
        self.waited.append(threading.current_thread())
        return super().read(name, offset, length)

    def warm(self, name: str, begin: int, end: int) -> None:
        self.warming.append(threading.current_thread())
        self.open.wait()
        super().warm(name, begin, end)
        if not self.forgets:
            self.memory.add((name, begin, end))


@pytest.fixture
def mock_clock() -> trio.testing.MockClock:
    """It jumps while an application is made, which rests now and then where the machine is busy; a test that moves it stops it."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture
def disk() -> ColdDisk:
    return ColdDisk()


@pytest.fixture
async def application(disk: ColdDisk) -> BrokerApplication:
    """Ten batches in two segments; the rows of the first one have not been read since the start."""
    again, _ = await restarted(disk)
    disk.waited.clear()
    return again


@pytest.fixture
def reads(application: BrokerApplication) -> Reads:
    """What is read is read from the application alone."""
    return Reads(cast(Node, None), application, Limits())


def fetch(*offsets: int, wait_ms: int = 0) -> Fetch:
    return Fetch(tuple(FetchFrom(TOPIC, 0, offset, 1 << 20) for offset in offsets), 1 << 20, wait_ms)


async def test_a_fetch_of_what_is_cold_waits_in_a_thread_and_gets_it(disk: ColdDisk, reads: Reads) -> None:
    fetched = await reads.fetch(fetch(0))

    (found,) = fetched.partitions
    batches = list(split(found.batches))
    assert found.status is FetchStatus.OK and batches[0].base_offset == 0 and len(batches) > 1
    # Rows and records were waited for, and not by us.
    loop = threading.current_thread()
    assert disk.warming and loop not in disk.warming + disk.waited


async def test_who_asks_for_what_is_in_memory_is_answered_while_another_waits_for_the_disk(disk: ColdDisk, reads: Reads) -> None:
    await reads.fetch(fetch(9))
    disk.open.clear()
    async with trio.open_nursery() as nursery:
        try:
            nursery.start_soon(reads.fetch, fetch(0))
            while len(disk.warming) < 2:
                await trio.lowlevel.checkpoint()
            cold: list[Cold] = []

            fetched = reads.fetch_now(fetch(9), cold)

            assert fetched is not None and fetched.partitions[0].batches and not cold
        finally:
            disk.open.set()


async def test_no_more_threads_wait_for_the_disk_than_make_it_faster(disk: ColdDisk, reads: Reads) -> None:
    disk.open.clear()
    async with trio.open_nursery() as nursery:
        for offset in range(10):
            nursery.start_soon(reads.fetch, fetch(offset))
        try:
            with trio.fail_after(5):
                while len(disk.warming) < COLD_READS_MAX:
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            assert len(disk.warming) == COLD_READS_MAX
        finally:
            disk.open.set()


async def test_what_is_cold_again_at_once_is_waited_for_on_the_spot(disk: ColdDisk, reads: Reads) -> None:
    disk.forgets = True

    fetched = await reads.fetch(fetch(0))

    assert fetched.partitions[0].batches and threading.current_thread() in disk.waited


async def test_what_is_in_memory_of_it_is_given_at_once(disk: ColdDisk, reads: Reads, application: BrokerApplication) -> None:
    await reads.fetch(fetch(0))
    segment = application.log.partition(TOPIC, 0).files[0]
    disk.memory = {(segment, 0, 200)}  # the first batch, and not all of the second

    fetched = reads.fetch_now(fetch(0), cold := [])

    assert not cold and fetched is not None
    assert [each.base_offset for each in split(fetched.partitions[0].batches)] == [0]


async def test_an_answer_of_what_is_in_memory_keeps_nothing_else(disk: ColdDisk, reads: Reads, application: BrokerApplication) -> None:
    """A client that takes no answers is read no further once so many bytes wait for it: what they keep in memory must not be more."""
    await reads.fetch(fetch(0))
    segment = application.log.partition(TOPIC, 0).files[0]
    disk.memory = {(segment, 0, 200)}

    fetched = reads.fetch_now(fetch(0), [])

    assert fetched is not None
    batches = fetched.partitions[0].batches
    kept = batches.obj if isinstance(batches, memoryview) else batches
    assert isinstance(kept, bytes | bytearray) and len(kept) == len(batches)


async def test_a_megabyte_is_waited_for_at_a_time(
    disk: ColdDisk, reads: Reads, application: BrokerApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "COLD_BYTES", 300)

    fetched = await reads.fetch(fetch(0))

    assert [each.base_offset for each in split(fetched.partitions[0].batches)] == [0, 2]
    assert [end for _, begin, end in disk.memory if begin == 0] == [len(fetched.partitions[0].batches)]


async def test_several_places_of_one_fetch_are_all_warmed(disk: ColdDisk, reads: Reads) -> None:
    fetched = await reads.fetch(fetch(0, 8, 2))

    assert [next(split(each.batches)).base_offset for each in fetched.partitions] == [0, 8, 2]
    assert threading.current_thread() not in disk.waited


async def test_a_segment_that_is_let_go_while_it_is_warmed_is_out_of_range(
    disk: ColdDisk, reads: Reads, application: BrokerApplication
) -> None:
    disk.open.clear()
    answers = []

    async def ask() -> None:
        answers.append(await reads.fetch(fetch(0)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while not disk.warming:
            await trio.lowlevel.checkpoint()
        gone, _ = application.log.partition(TOPIC, 0).files
        application.log.move(TOPIC, 0, 9)
        application.log.flush()
        disk.unlink(gone)
        disk.open.set()

    assert [each.status for each in answers[0].partitions] == [FetchStatus.OFFSET_OUT_OF_RANGE]
    assert application.damaged is None


async def test_a_cold_fetch_that_may_not_wait_for_data_waits_for_the_disk_all_the_same(disk: ColdDisk, reads: Reads) -> None:
    cold: list[Cold] = []
    reads.fetch_now(fetch(0), cold)
    assert cold

    assert (await reads.fetch(fetch(0, wait_ms=0))).partitions[0].batches


async def test_offsets_are_sought_in_rows_that_a_thread_reads(disk: ColdDisk, reads: Reads) -> None:
    found = await reads.offsets(Offsets((OffsetQuery(TOPIC, 0, Where.TIME, 0, ZERO), OffsetQuery(TOPIC, 0, Where.ZXID, 0, Zxid(1, 3)))))

    assert [each.status for each in found.offsets] == [FetchStatus.OK, FetchStatus.OK]
    assert disk.waited and threading.current_thread() not in disk.waited


@pytest.fixture
def hung(disk: ColdDisk) -> Iterator[ColdDisk]:
    """Nobody who warms comes back before the test is over, or a long time."""
    disk.open.clear()
    rescue = threading.Timer(5, disk.open.set)
    rescue.start()
    yield disk
    rescue.cancel()
    disk.open.set()


async def test_who_goes_away_while_the_disk_hangs_is_not_kept(hung: ColdDisk, reads: Reads) -> None:
    """A client that is gone took up one of the connections until its disk came back, and a node could not be stopped."""
    async with trio.open_nursery() as nursery:
        for offset in range(10):
            nursery.start_soon(reads.fetch, fetch(offset))
        with trio.fail_after(5):
            while len(hung.warming) < COLD_READS_MAX:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert not hung.open.is_set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reads.fetch, fetch(0))
        await trio.testing.wait_all_tasks_blocked()
        assert len(hung.warming) == COLD_READS_MAX, "threads that hang for nobody are counted all the same"
        nursery.cancel_scope.cancel()
    assert not hung.open.is_set()


async def test_a_fetch_from_a_disk_that_hangs_is_told_that_nothing_came(
    hung: ColdDisk, reads: Reads, mock_clock: trio.testing.MockClock
) -> None:
    """The node still answers pings: only so its client comes to look whether another one leads by now."""
    mock_clock.autojump_threshold = math.inf
    answers = []

    async def ask() -> None:
        answers.append(await reads.fetch(fetch(0, 9, wait_ms=1000)))

    async with trio.open_nursery() as nursery:
        for _ in range(2 * COLD_READS_MAX):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(HUNG_SECONDS)
    assert not hung.open.is_set()

    for answer in answers:
        assert [(each.status, each.end, len(each.batches)) for each in answer.partitions] == [(FetchStatus.OK, 20, 0)] * 2
    hung.open.set()
    assert (await reads.fetch(fetch(0))).partitions[0].batches


async def test_a_fetch_waits_for_its_turn_as_long_as_the_disk_brings_anything(
    disk: ColdDisk, reads: Reads, mock_clock: trio.testing.MockClock
) -> None:
    """Given up after a fixed time, it would go to the end of the line, behind those who were served meanwhile: and so for ever."""
    mock_clock.autojump_threshold = math.inf
    await reads.fetch(fetch(0))  # its rows: from now on each has one thing to wait for
    disk.memory.clear()
    turns, brought = threading.Semaphore(0), threading.Semaphore(0)
    disk.open.wait = turns.acquire  # type: ignore[assignment, method-assign]  # one by one
    answers = []

    async def ask() -> None:
        answers.append(await reads.fetch(fetch(0, wait_ms=1000)))
        brought.release()

    async with trio.open_nursery() as nursery:
        for _ in range(2 * COLD_READS_MAX):
            nursery.start_soon(ask)
        for _ in range(2 * COLD_READS_MAX):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.8 * HUNG_SECONDS)
            turns.release()
            await trio.to_thread.run_sync(brought.acquire, True, 5)

    assert trio.current_time() > HUNG_SECONDS
    assert all(answer.partitions[0].batches for answer in answers)


async def test_no_more_is_warmed_than_the_answer_has_room_for(
    disk: ColdDisk, reads: Reads, application: BrokerApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that began with a thousand partitions at their beginnings had a gigabyte read for an answer of four megabytes."""
    await reads.fetch(fetch(0))
    disk.memory.clear()
    disk.warming.clear()

    fetched = await reads.fetch(Fetch(tuple(FetchFrom(TOPIC, 0, 0, 400) for _ in range(20)), 1000, 0))

    filled = [each for each in fetched.partitions if each.batches]
    assert 2 < len(filled) < 10
    assert len(disk.warming) == len(filled)


async def test_no_more_rows_are_read_than_the_answer_has_room_for(disk: ColdDisk, application: BrokerApplication, reads: Reads) -> None:
    cold: list[Cold] = []

    reads.fetch_now(Fetch(tuple(FetchFrom(TOPIC, 0, 0, 400) for _ in range(20)), 1000, 0), cold)

    assert len(cold) == 3
