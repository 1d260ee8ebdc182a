"""The log writer's thread: group commits, word to the event loop, and its end. The disk is played by a script, one commit at a time."""

import math
import threading
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import trio
import trio.testing

import zablog.node.writer
from zablog.core.effects import Append, DurableEffect, SaveEpochs
from zablog.core.trail import Entries
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.node.writer import AT_ONCE_BYTES, COMMIT_BYTES, COMMIT_BYTES_MAX, QUICK_SECONDS, WARY_TIMES, Writer
from zablog.storage.storage import Storage


class Log:
    room = 1 << 20

    def __init__(self) -> None:
        self.spare = SimpleNamespace(bytes=1)


class ScriptedStorage(Storage):
    """Commits when it is let; remembers the tokens of each commit."""

    def __init__(self) -> None:
        self.commits: list[list[int]] = []
        self.hints: list[Zxid] = []
        self.seals = self.batches = 0
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.error: BaseException | None = None
        self.prepared = threading.Event()
        self.prepare_may_end = threading.Event()
        self.overlapping = None
        self.wal = Log()  # type: ignore[assignment]  # all that the writer asks of the log

    def perform(self, effects: Sequence[DurableEffect], watermark: Zxid) -> None:
        self.begun.release()
        assert self.go.acquire(timeout=20)
        if self.error is not None:
            raise self.error
        self.commits.append([effect.token for effect in effects])
        self.hints.append(watermark)
        self.batches += 1

    def seal_idle(self, watermark: Zxid = ZERO) -> None:
        self.seals += 1

    def prepare(self) -> None:
        self.prepared.set()
        assert self.prepare_may_end.wait(timeout=20)


class Ears:
    """What the event loop was told."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.failed: list[BaseException] = []

    async def until(self, token: int) -> None:
        with trio.fail_after(20):
            while not self.done or self.done[-1] < token:
                await trio.lowlevel.checkpoint()


def save(token: int) -> SaveEpochs:
    return SaveEpochs(token, Epoch(1), Epoch(1), None)


def append(token: int, size: int) -> Append:
    return Append(token, Entries(Zxid(1, token), Zxid(1, token - 1), [bytes(size)], 0))


async def begun(storage: ScriptedStorage) -> None:
    assert await trio.to_thread.run_sync(lambda: storage.begun.acquire(timeout=20))


async def test_what_queued_up_during_a_commit_is_the_next_one() -> None:
    storage, ears = ScriptedStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    writer.put([save(1)])
    await begun(storage)
    writer.put([save(2)])
    writer.put([save(3), save(4)])

    storage.go.release(2)
    await ears.until(4)

    assert storage.commits == [[1], [2, 3, 4]]
    assert ears.done == [1, 4]
    await writer.drain()


@pytest.mark.parametrize(
    ("long_seconds", "share", "commits"),
    [(math.inf, COMMIT_BYTES, [[1], [2, 3], [4]]), (0.0, COMMIT_BYTES, [[1], [2, 3, 4]]), (0.0, COMMIT_BYTES_MAX, [[1], [2, 3], [4]])],
    ids=["a quick disk", "a slow one", "a slow one with more"],
)
async def test_a_commit_takes_no_more_than_its_share(
    long_seconds: float, share: int, commits: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zablog.node.writer, "LONG_SECONDS", long_seconds)
    storage, ears = ScriptedStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    writer.put([save(1)])
    await begun(storage)
    writer.put([append(2, share), append(3, 1), append(4, 1)])
    assert writer.queued_bytes == share + 2

    storage.go.release(3)
    await ears.until(4)

    assert storage.commits == commits
    assert writer.queued_bytes == 0
    await writer.drain()


async def test_draining_writes_what_is_queued_and_seals_it() -> None:
    storage, ears = ScriptedStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    writer.watermark = Zxid(1, 1)
    writer.put([save(1)])
    writer.put([save(2)])
    storage.go.release(2)

    await writer.drain()

    assert [token for commit in storage.commits for token in commit] == [1, 2]
    assert storage.hints[-1] == Zxid(1, 1)
    assert storage.seals == 1
    assert not writer.thread.is_alive()


async def test_a_cancelled_drain_still_joins_the_thread() -> None:
    storage, ears = ScriptedStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    writer.put([save(1)])
    storage.go.release()
    with trio.CancelScope() as scope:
        scope.cancel()
        await writer.drain()

    assert storage.commits == [[1]]
    assert not writer.thread.is_alive()


async def test_after_a_failure_nothing_is_written_or_said_to_be_durable() -> None:
    storage, ears = ScriptedStorage(), Ears()
    storage.error = OSError(5, "Input/output error")
    writer = Writer(storage, ears.done.append, ears.failed.append)
    writer.put([save(1)])
    await begun(storage)
    writer.put([save(2)])
    storage.go.release(2)

    await writer.drain()

    assert ears.failed == [storage.error]
    assert (ears.done, storage.commits, storage.seals) == ([], [], 0)


async def test_a_commit_waits_for_no_zeros_and_the_end_does() -> None:
    storage, ears = ScriptedStorage(), Ears()
    storage.wal.spare.bytes = 0
    writer = Writer(storage, ears.done.append, ears.failed.append)
    writer.put([save(1)])
    storage.go.release(2)
    assert await trio.to_thread.run_sync(lambda: storage.prepared.wait(20))
    writer.put([save(2)])
    await ears.until(2)
    ended = trio.Event()

    async def drain() -> None:
        await writer.drain()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
        storage.prepare_may_end.set()

    assert writer.zeros is not None
    assert not writer.zeros.is_alive()


async def test_how_long_the_disk_has_been_at_it_can_be_seen_while_it_is() -> None:
    storage, ears = ScriptedStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    assert writer.commit_seconds == 0.0
    writer.put([save(1)])
    await begun(storage)
    first = writer.commit_seconds
    assert 0 <= first <= writer.commit_seconds

    storage.go.release()
    await ears.until(1)

    assert writer.commit_seconds == writer.last_seconds >= first
    await writer.drain()


async def test_a_full_disk_is_not_filled_with_zeros_at_each_commit() -> None:
    class FullDisk(ScriptedStorage):
        tries = 0

        def prepare(self) -> None:
            self.tries += 1
            self.prepared.set()
            raise OSError(28, "No space left on device")

    storage, ears = FullDisk(), Ears()
    storage.wal.spare.bytes = 0
    writer = Writer(storage, ears.done.append, ears.failed.append)
    writer.put([save(1)])
    storage.go.release()
    assert await trio.to_thread.run_sync(storage.prepared.wait, 20)
    assert writer.zeros is not None
    await trio.to_thread.run_sync(writer.zeros.join, 20)

    for token in (2, 3, 4):
        writer.put([save(token)])
        storage.go.release()
        await ears.until(token)
    await writer.drain()

    assert storage.tries == 1
    assert ears.failed == []


async def test_a_little_is_written_at_once_where_the_caller_may_wait() -> None:
    storage, ears = ScriptedStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    storage.go.release(2)

    writer.put([append(1, 100)], at_once=True)
    writer.put([append(2, 100), append(3, 100)], at_once=True)

    assert (ears.done, storage.commits, writer.queued_bytes) == ([1, 3], [[1], [2, 3]], 0)
    await writer.drain()
    assert storage.seals >= 1


@pytest.mark.parametrize("effect", [save(1), append(1, AT_ONCE_BYTES + 1)], ids=["epochs", "much"])
async def test_what_takes_long_is_the_threads(effect: DurableEffect) -> None:
    storage, ears = ScriptedStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    writer.put([effect], at_once=True)
    assert ears.done == []

    storage.go.release()
    await ears.until(1)
    await writer.drain()


async def test_a_file_that_is_nearly_full_is_the_threads() -> None:
    storage, ears = ScriptedStorage(), Ears()
    storage.wal.room = 100  # type: ignore[misc]  # the script's log
    writer = Writer(storage, ears.done.append, ears.failed.append)
    writer.put([append(1, 100)], at_once=True)
    assert ears.done == []

    storage.go.release()
    await ears.until(1)
    await writer.drain()


async def test_nothing_overtakes_what_the_thread_has_yet_to_report() -> None:
    """The thread is done, and its word still on its way to the event loop: a later token must not be reported before."""
    storage, ears = ScriptedStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    storage.go.release(2)
    writer.put([append(1, 1)])
    while writer.busy:  # the event loop stands still, and hears nothing
        pass

    writer.put([append(2, 1)], at_once=True)

    assert ears.done == []
    await ears.until(2)
    assert ears.done == [1, 2]
    await writer.drain()


class FakeClock:
    time = 0.0

    def monotonic(self) -> float:
        return self.time


async def test_a_disk_that_was_slow_is_left_to_the_thread_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowStorage(ScriptedStorage):
        seconds = 2 * QUICK_SECONDS

        def perform(self, effects: Sequence[DurableEffect], watermark: Zxid) -> None:
            super().perform(effects, watermark)
            clock.time += self.seconds

    clock = FakeClock()
    monkeypatch.setattr("zablog.node.writer.time", clock)
    storage, ears = SlowStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    storage.go.release(3)
    writer.put([append(1, 1)], at_once=True)
    assert ears.done == [1]

    storage.seconds = 0.0
    writer.put([append(2, 1)], at_once=True)
    assert ears.done == [1]
    await ears.until(2)
    while writer.busy:
        await trio.lowlevel.checkpoint()

    clock.time += WARY_TIMES * SlowStorage.seconds
    writer.put([append(3, 1)], at_once=True)
    assert ears.done == [1, 2, 3]
    await writer.drain()


async def test_an_error_at_once_is_told_like_any_other() -> None:
    storage, ears = ScriptedStorage(), Ears()
    storage.error = OSError(5, "Input/output error")
    writer = Writer(storage, ears.done.append, ears.failed.append)
    storage.go.release()

    writer.put([append(1, 1)], at_once=True)

    assert ears.failed == [storage.error]
    assert (ears.done, storage.commits) == ([], [])
    await writer.drain()


async def test_what_was_written_at_once_is_sealed_by_the_thread() -> None:
    """Also if the thread had sealed everything before, and slept."""
    storage, ears = ScriptedStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    storage.go.release(2)
    for token in (1, 2):
        writer.put([append(token, 1)], at_once=True)
        with trio.fail_after(20):
            while storage.seals < token:
                await trio.sleep(0.01)
    await writer.drain()


async def test_many_empty_entries_are_much() -> None:
    storage, ears = ScriptedStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    writer.put([Append(1, Entries(Zxid(1, 1), ZERO, [b""] * AT_ONCE_BYTES, 0))], at_once=True)
    assert ears.done == []

    storage.go.release()
    await ears.until(1)
    await writer.drain()


async def test_nothing_is_written_at_once_while_the_next_file_is_filled() -> None:
    storage, ears = ScriptedStorage(), Ears()
    storage.wal.spare.bytes = 0
    writer = Writer(storage, ears.done.append, ears.failed.append)
    writer.put([save(1)])
    storage.go.release(2)
    await ears.until(1)
    assert await trio.to_thread.run_sync(storage.prepared.wait, 20)
    while writer.busy:
        await trio.lowlevel.checkpoint()

    writer.put([append(2, 1)], at_once=True)

    assert ears.done == [1]
    await ears.until(2)
    storage.prepare_may_end.set()
    await writer.drain()


async def test_what_is_put_while_the_thread_finds_nothing_more_is_written() -> None:
    """It has looked for the last time, and not yet said that it rests: nobody wakes it."""
    looked, go = threading.Event(), threading.Event()

    class Paused(Writer):
        works = False

        @property
        def busy(self) -> bool:  # type: ignore[override]
            return self.works

        @busy.setter
        def busy(self, busy: bool) -> None:
            if not busy and threading.current_thread() is self.__dict__.get("thread") and not looked.is_set():
                looked.set()
                assert go.wait(20)
            self.works = busy

    storage, ears = ScriptedStorage(), Ears()
    storage.go.release(2)
    writer = Paused(storage, ears.done.append, ears.failed.append)
    writer.put([save(1)])
    assert await trio.to_thread.run_sync(looked.wait, 20)
    writer.put([save(2)])
    go.set()
    await ears.until(2)
    await writer.drain()


async def test_what_is_put_before_the_end_is_written() -> None:
    """The thread has found nothing to do, and looks whether it is to end: what is put and the end may both come between."""
    looked, go = threading.Event(), threading.Event()

    class Paused(Writer):
        ending = False

        @property
        def stopping(self) -> bool:  # type: ignore[override]
            if threading.current_thread() is self.thread and not looked.is_set():
                looked.set()
                assert go.wait(20)
            return self.ending

        @stopping.setter
        def stopping(self, ending: bool) -> None:
            self.ending = ending

    storage, ears = ScriptedStorage(), Ears()
    storage.go.release(2)
    writer = Paused(storage, ears.done.append, ears.failed.append)
    writer.put([save(1)])
    assert await trio.to_thread.run_sync(looked.wait, 20)
    writer.put([save(2)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.drain)
        await trio.testing.wait_all_tasks_blocked(0.01)
        go.set()
    assert storage.commits == [[1], [2]]


async def test_what_the_thread_writes_behind_a_seal_is_sealed_again() -> None:
    storage, ears = ScriptedStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    for token in (1, 2):
        seals = storage.seals
        storage.go.release()
        writer.put([save(token)])
        await ears.until(token)
        with trio.fail_after(20):
            while storage.seals == seals:
                await trio.sleep(0.01)
    await writer.drain()
