"""What the log writer leaves to the kernel: written on the event loop, synced meanwhile, and never told before that is over."""

import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from tests.zablog.node.test_driver import ScriptedPeer
from tests.zablog.node.test_writer import Ears, FakeClock, ScriptedStorage, append, save
from zablog.core.effects import Append, DurableEffect
from zablog.core.events import Stalled
from zablog.core.state import Leading
from zablog.core.trail import Entries
from zablog.core.zxid import Zxid
from zablog.node.driver import Driver
from zablog.node.writer import AT_ONCE_BYTES, BESIDE_BYTES, LOOK_SECONDS, QUICK_SECONDS, WARY_TIMES, Writer
from zablog.storage.batch import BATCH_BYTES, END_BYTES
from zablog.storage.errors import StorageFailed
from zablog.storage.kernelsync import KernelSync

pytestmark = pytest.mark.skipif(KernelSync.open() is None, reason="this system has no asynchronous syncs")


class KernelDisk:
    """What the kernel does is up to the test."""

    def __init__(self) -> None:
        self.sync_end: int | None = os.eventfd(0, os.EFD_NONBLOCK)

    def begin_sync(self, name: str) -> None:
        raise NotImplementedError

    def finish_sync(self, wait: bool) -> bool:
        raise NotImplementedError


class OverlappingStorage(ScriptedStorage):
    """Remembers what was begun, and what of it was finished."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = KernelDisk()
        self.overlapping = self.kernel
        self.identity = SimpleNamespace(node=1)  # type: ignore[assignment]  # all that is asked of it
        self.written: list[list[int]] = []
        self.finished = 0
        self.may_begin = True
        self.begin_error: BaseException | None = None
        self.finish_error: BaseException | None = None

    def begin(self, effects: Sequence[DurableEffect], watermark: Zxid) -> bool:
        assert self.finished == len(self.written), "one at a time"
        if self.begin_error is not None:
            raise self.begin_error
        self.written.append([effect.token for effect in effects])
        self.hints.append(watermark)
        self.batches += 1
        if not self.may_begin:
            self.finished += 1
        return self.may_begin

    def finish(self, wait: bool = True) -> bool:
        assert self.kernel.sync_end is not None
        try:
            os.eventfd_read(self.kernel.sync_end)
        except BlockingIOError:
            assert not wait, "the tests say that it is over before anybody waits for it"
            return False
        if self.finished == len(self.written):
            return False
        if self.finish_error is not None:
            raise self.finish_error
        self.finished += 1
        return True

    def over(self) -> None:
        """The kernel: what was begun is synced."""
        assert self.kernel.sync_end is not None
        os.eventfd_write(self.kernel.sync_end, 1)

    def perform(self, effects: Sequence[DurableEffect], watermark: Zxid) -> None:
        assert self.finished == len(self.written), "nobody is at the storage while the kernel syncs"
        super().perform(effects, watermark)


@pytest.fixture
def storage() -> Iterator[OverlappingStorage]:
    storage = OverlappingStorage()
    descriptor = storage.kernel.sync_end
    assert descriptor is not None
    yield storage
    os.close(descriptor)


@asynccontextmanager
async def watched(storage: ScriptedStorage, ears: Ears) -> AsyncIterator[Writer]:
    writer = Writer(storage, ears.done.append, ears.failed.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.watch)
        yield writer
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def led(writer: Writer, peer: ScriptedPeer) -> AsyncIterator[Driver]:
    """The driver of a leader whose writer that is."""
    peer.state.role = Leading(since=0)
    async with trio.open_nursery() as nursery:
        driver = Driver(peer, SimpleNamespace(), SimpleNamespace(), nursery)  # type: ignore[arg-type]
        driver.writer = writer
        yield driver


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)


async def test_it_is_told_when_the_kernel_has_synced_it_and_not_before(storage: OverlappingStorage) -> None:
    ears = Ears()
    async with watched(storage, ears) as writer:
        writer.put([append(1, 100)])
        assert storage.written == [[1]]
        await settle()
        assert (ears.done, writer.queued_bytes) == ([], 100)
        assert writer.begun_at is not None

        storage.over()
        await ears.until(1)

        assert (ears.done, writer.queued_bytes, writer.begun_at) == ([1], 0, None)
        await writer.drain()


async def test_what_comes_meanwhile_is_the_next_batch(storage: OverlappingStorage) -> None:
    ears = Ears()
    async with watched(storage, ears) as writer:
        for token in (1, 2, 3):
            writer.put([append(token, 100)])
        assert storage.written == [[1]]

        storage.over()
        await ears.until(1)
        assert storage.written == [[1], [2, 3]]
        storage.over()
        await ears.until(3)

        assert (ears.done, storage.commits) == ([1, 3], [])
        await writer.drain()


async def test_a_follower_that_could_do_it_at_once_waits_for_what_is_beside(storage: OverlappingStorage) -> None:
    ears = Ears()
    async with watched(storage, ears) as writer:
        writer.put([append(1, AT_ONCE_BYTES + 1)], at_once=True)
        writer.put([append(2, 1)], at_once=True)
        await settle()
        assert ears.done == []

        storage.over()
        await ears.until(1)
        storage.over()
        await ears.until(2)
        await writer.drain()


@pytest.mark.parametrize("effect", [save(2), append(2, BESIDE_BYTES + 1)], ids=["epochs", "much"])
async def test_the_thread_gets_what_is_not_little_and_only_when_its_turn_has_come(
    storage: OverlappingStorage, effect: DurableEffect
) -> None:
    ears = Ears()
    storage.go.release(2)
    async with watched(storage, ears) as writer:
        writer.put([append(1, 1)])
        writer.put([effect])
        writer.put([append(3, 1)])
        await settle()
        assert storage.commits == []

        storage.over()
        await ears.until(3)

        assert (storage.written, ears.done[0]) == ([[1]], 1)
        assert [token for commit in storage.commits for token in commit] == [2, 3]
        await writer.drain()


async def test_entries_of_two_epochs_are_no_single_batch(storage: OverlappingStorage) -> None:
    ears = Ears()
    storage.go.release()
    async with watched(storage, ears) as writer:
        writer.put([append(1, 1), Append(2, Entries(Zxid(2, 1), Zxid(1, 1), [b"x"], 0))])
        await ears.until(2)

        assert (storage.written, storage.commits) == ([], [[1, 2]])
        await writer.drain()


async def test_nothing_overtakes_what_the_thread_has_taken(storage: OverlappingStorage) -> None:
    """Its word is on its way to the event loop, which stands still: what is put now must not be told before."""
    ears = Ears()
    storage.go.release(2)
    async with watched(storage, ears) as writer:
        writer.put([save(1)])
        while writer.busy:
            pass
        writer.put([append(2, 1)])
        assert storage.written == []
        await ears.until(2)
        assert ears.done == [1, 2]
        await writer.drain()


async def test_a_job_waits_until_the_kernel_is_done(storage: OverlappingStorage) -> None:
    ears, asked = Ears(), list[int]()
    async with watched(storage, ears) as writer:
        writer.put([append(1, 1)])
        writer.ask(lambda: asked.append(storage.finished))
        await settle()
        assert asked == []

        storage.over()
        await ears.until(1)
        while not asked:
            await trio.lowlevel.checkpoint()

        assert asked == [1]
        await writer.drain()


@pytest.mark.parametrize("when", ["begin", "finish"])
async def test_an_error_is_final(storage: OverlappingStorage, when: str) -> None:
    ears, error = Ears(), StorageFailed("Input/output error")
    setattr(storage, f"{when}_error", error)
    async with watched(storage, ears) as writer:
        writer.put([append(1, 1)])
        if when == "finish":
            storage.over()
        await settle()

        assert (ears.failed, ears.done) == ([error], [])
        assert writer.turn.acquire(blocking=False), "the thread must be able to end"
        writer.turn.release()
        await writer.drain()


async def test_where_it_cannot_be_begun_the_thread_does_it_from_then_on(storage: OverlappingStorage) -> None:
    ears = Ears()
    storage.may_begin = False
    storage.go.release()
    async with watched(storage, ears) as writer:
        writer.put([append(1, 1)])
        assert ears.done == [1]
        writer.put([append(2, 1)])
        await ears.until(2)

        assert (storage.written, storage.commits) == ([[1]], [[2]])
        await writer.drain()


async def test_the_end_waits_for_the_kernel_and_then_for_the_thread(storage: OverlappingStorage) -> None:
    ears, ended = Ears(), trio.Event()
    storage.go.release()
    async with watched(storage, ears) as writer:
        writer.put([append(1, 1)])
        writer.put([append(2, 1)])

        async def drain() -> None:
            await writer.drain()
            ended.set()

        async with trio.open_nursery() as nursery:
            storage.over()
            nursery.start_soon(drain)
            await ended.wait()

    assert (storage.finished, storage.commits) == (1, [[2]])
    assert not writer.thread.is_alive()


async def test_an_error_at_the_end_is_told_and_does_not_keep_the_thread(storage: OverlappingStorage) -> None:
    ears, error = Ears(), StorageFailed("Input/output error")
    storage.finish_error = error
    async with watched(storage, ears) as writer:
        writer.put([append(1, 1)])
        storage.over()
        await writer.drain()

    assert (ears.done, ears.failed) == ([], [error])
    assert not writer.thread.is_alive()


async def test_the_end_waits_in_a_thread(storage: OverlappingStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs then must not keep the event loop, which other nodes may live on."""
    go, ears, finish = threading.Event(), Ears(), storage.finish

    def slowly(wait: bool = True) -> bool:
        assert not wait or go.wait(20)
        return finish(wait)

    monkeypatch.setattr(storage, "finish", slowly)
    async with watched(storage, ears) as writer:
        writer.put([append(1, 1)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.drain)
            await settle()
            storage.over()
            go.set()
    assert storage.finished == 1


async def test_who_watches_ends_with_the_writer(storage: OverlappingStorage) -> None:
    """Instead of being woken again and again by a word that nobody takes any more."""
    ears = Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.watch)
            await settle()
            await writer.drain()
            storage.over()


async def test_a_word_that_comes_late_is_no_end_of_the_next_one(storage: OverlappingStorage) -> None:
    """The kernel has the event ready before it says so: who looked in between is woken once more, in vain."""
    ears = Ears()
    async with watched(storage, ears) as writer:
        writer.put([append(1, 1)])
        storage.over()
        await ears.until(1)
        storage.over()
        await settle()
        assert ears.failed == []

        writer.put([append(2, 1)])
        await settle()
        assert ears.done == [1]
        storage.over()
        await ears.until(2)
        await writer.drain()


async def test_a_loop_that_stood_still_is_no_disk_that_hangs(storage: OverlappingStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel was done long ago: who looks at the clock before he looks at the descriptor takes the leader's office from it."""
    clock, ears, peer = FakeClock(), Ears(), ScriptedPeer()
    monkeypatch.setattr("zablog.node.writer.time", clock)
    async with watched(storage, ears) as writer, led(writer, peer) as driver:
        writer.put([append(1, 1)])
        storage.over()
        clock.time += 3.0  # the application, the machine, or a stop of the process

        driver.watch_disk(2.0)

        assert (peer.heard, ears.done) == ([], [1])
        assert writer.last_seconds <= LOOK_SECONDS
        await writer.drain()


async def test_a_disk_that_hangs_beside_is_one_that_hangs(storage: OverlappingStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ears, peer = FakeClock(), Ears(), ScriptedPeer()
    monkeypatch.setattr("zablog.node.writer.time", clock)
    async with watched(storage, ears) as writer, led(writer, peer) as driver:
        writer.put([append(1, 1)])
        for _ in range(30):
            clock.time += 0.1
            driver.watch_disk(2.0)
        assert peer.heard[0] == Stalled()
        assert len(peer.heard) >= 9

        storage.over()
        await ears.until(1)
        assert writer.last_seconds == pytest.approx(3.0)
        await writer.drain()


async def test_the_words_keep_their_order_where_the_next_sync_cannot_be_begun(storage: OverlappingStorage) -> None:
    ears = Ears()
    async with watched(storage, ears) as writer:
        writer.put([append(1, 1)])
        writer.put([append(2, 1)])
        storage.may_begin = False
        storage.over()
        await ears.until(2)
        assert ears.done == [1, 2]
        await writer.drain()


@pytest.mark.parametrize("when", ["begin", "finish"])
async def test_what_is_no_error_of_the_disk_goes_on_its_way(storage: OverlappingStorage, when: str) -> None:
    ears = Ears()
    setattr(storage, f"{when}_error", KeyboardInterrupt())
    writer = Writer(storage, ears.done.append, ears.failed.append)
    with pytest.raises(KeyboardInterrupt):
        writer.put([append(1, 1)])
        storage.over()
        writer.look()
    assert len(ears.failed) == 1
    await writer.drain()


async def test_the_last_room_of_a_file_is_left_to_the_thread(storage: OverlappingStorage) -> None:
    """To go on in another file takes longer than the event loop may stand still: renaming, directories, the manifest."""
    ears = Ears()
    storage.wal.room = BATCH_BYTES + END_BYTES + 1  # type: ignore[misc]  # the script's log
    storage.go.release()
    async with watched(storage, ears) as writer:
        writer.put([append(1, 1)])
        await ears.until(1)
        assert (storage.written, storage.commits) == ([], [[1]])
        await writer.drain()


async def test_writes_that_took_long_are_the_threads_for_a_while(storage: OverlappingStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that makes whoever writes wait is not written to on the event loop."""
    clock, ears, seconds = FakeClock(), Ears(), 2 * QUICK_SECONDS
    monkeypatch.setattr("zablog.node.writer.time", clock)
    begin = storage.begin

    def slowly(effects: Sequence[DurableEffect], watermark: Zxid) -> bool:
        clock.time += seconds
        return begin(effects, watermark)

    monkeypatch.setattr(storage, "begin", slowly)
    storage.go.release(2)
    async with watched(storage, ears) as writer:
        writer.put([append(1, 1)])
        storage.over()
        await ears.until(1)
        writer.put([append(2, 1)])
        await ears.until(2)
        assert storage.commits == [[2]]

        clock.time += WARY_TIMES * seconds
        while writer.busy:
            await trio.lowlevel.checkpoint()
        writer.put([append(3, 1)])
        assert storage.written == [[1], [3]]
        storage.over()
        await ears.until(3)
        await writer.drain()


async def test_what_was_written_here_is_sealed_by_the_thread(storage: OverlappingStorage) -> None:
    ears = Ears()
    async with watched(storage, ears) as writer:
        with trio.fail_after(20):
            while not storage.seals:
                await trio.sleep(0.01)
        writer.put([append(1, 1)])
        storage.over()
        await ears.until(1)
        with trio.fail_after(20):
            while storage.seals < 2:
                await trio.sleep(0.01)
        await writer.drain()


async def test_the_thread_does_not_seal_while_the_kernel_syncs(storage: OverlappingStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zablog.node.writer.IDLE_SECONDS", 0.0)
    ears = Ears()
    async with watched(storage, ears) as writer:
        with trio.fail_after(20):
            while not storage.seals:
                await trio.lowlevel.checkpoint()
        writer.put([append(1, 1)])
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        seals = storage.seals
        storage.over()
        await ears.until(1)
        assert seals == 1
        await writer.drain()
