"""The log writer's thread: group commits, word to the event loop, and its end. The disk is played by a script, one commit at a time."""

import threading
from collections.abc import Sequence

import trio
import trio.testing

from zablog.core.effects import Append, DurableEffect, SaveEpochs
from zablog.core.trail import Entries
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.node.writer import COMMIT_BYTES_MAX, Writer
from zablog.storage.storage import Storage


class Log:
    spare_bytes = 1


class ScriptedStorage(Storage):
    """Commits when it is let; remembers the tokens of each commit."""

    def __init__(self) -> None:
        self.commits: list[list[int]] = []
        self.hints: list[Zxid] = []
        self.seals = 0
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.error: BaseException | None = None
        self.prepared = threading.Event()
        self.prepare_may_end = threading.Event()
        self.wal = Log()  # type: ignore[assignment]  # all that the writer asks of the log

    def perform(self, effects: Sequence[DurableEffect], watermark: Zxid) -> None:
        self.begun.release()
        assert self.go.acquire(timeout=20)
        if self.error is not None:
            raise self.error
        self.commits.append([effect.token for effect in effects])
        self.hints.append(watermark)

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


async def test_a_commit_takes_no_more_than_its_share() -> None:
    storage, ears = ScriptedStorage(), Ears()
    writer = Writer(storage, ears.done.append, ears.failed.append)
    writer.put([save(1)])
    await begun(storage)
    writer.put([append(2, COMMIT_BYTES_MAX), append(3, 1), append(4, 1)])
    assert writer.queued_bytes == COMMIT_BYTES_MAX + 2

    storage.go.release(3)
    await ears.until(4)

    assert storage.commits == [[1], [2, 3], [4]]
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
    storage.wal.spare_bytes = 0
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
    storage.wal.spare_bytes = 0
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
