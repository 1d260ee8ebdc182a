"""The log writer: one thread that makes durable effects durable, taking all that has queued up at once (group commit).

The driver does not wait for it. But to wake a thread and to be woken by it takes longer than a quick disk needs for a little, and both need
the interpreter's lock. So what is little is written on the event loop, where nothing would be overtaken, and the kernel syncs it meanwhile
(`beside`), if it can; and a follower, which has nothing better to do, writes and syncs a few kilobytes where it stands (`at_once`). A disk
that was slow lately gets none of that.

A second, short-lived thread makes the next file of the log ready, so that no commit waits for that.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import structlog
import trio

from zablog.core.effects import Append, DurableEffect
from zablog.core.zxid import ZERO, Zxid
from zablog.storage.batch import BATCH_BYTES, END_BYTES
from zablog.storage.errors import StorageFailed
from zablog.storage.storage import Storage

IDLE_SECONDS = 0.25
"""An idle writer seals its last batch after so long."""
COMMIT_BYTES = 3 << 20
"""A group commit takes about so much; what is behind it waits for the next. All that is under way in one commit would be answered together,
asked for together, and come together again, with nothing to do meanwhile: 3 MiB are 5 % faster than 8 at 64 KiB a record."""
COMMIT_BYTES_MAX = 8 << 20
LONG_SECONDS = 0.05
"""Unless the last one took longer than this: such a disk is given more at a time."""
AT_ONCE_BYTES = 4 << 10
"""Nobody waits on the event loop for the sync of more than that."""
BESIDE_BYTES = 768 << 10
"""More than that is worth a thread, which copies while the event loop goes on."""
ENTRY_BYTES = 8
"""More than an entry takes in the log beside its payload,"""
REST_BYTES = BATCH_BYTES + END_BYTES + 64
"""and than a batch takes beside its entries."""
LOOK_SECONDS = 0.1
"""The driver looks at least so often whether the disk is done, where nothing keeps it."""
QUICK_SECONDS = 0.005
"""A disk that takes longer for so little is not quick."""
QUICK_BYTES_PER_SECOND = 50e6
"""And what it may take for more."""
WARY_TIMES = 30
"""A disk that was not quick is left to the thread for so many times as long: so the event loop stands still for a thirtieth of the time."""
SLOW_SECONDS = 1.0
"""A commit that takes longer is worth a line in the log."""
ZEROS_AGAIN_SECONDS = 10.0

log = structlog.get_logger("zablog.node")


class Writer:
    """`put` effects; `done(token)` and `failed(error)` are called on the event loop.

    `queued_bytes` tells how much waits: readers of links hold back when it is much.
    """

    def __init__(self, storage: Storage, done: Callable[[int], None], failed: Callable[[BaseException], None]) -> None:
        self.storage = storage
        self.done = done
        self.failed = failed
        self.watermark: Zxid = ZERO
        self.queue: list[DurableEffect] = []
        self.jobs: list[Callable[[], None]] = []
        """What else only this thread may do to the storage."""
        self.queued_bytes = 0
        self.last_seconds = 0.0
        """How long the last group commit took, for those who watch for slow disks."""
        self.begun_at: float | None = None
        """When the commit under way began (monotonic seconds)."""
        self.busy = False
        self.put_token = self.left_token = self.durable_token = 0
        """Of the last effect that was put, that was left to the thread, and that the event loop was told to be durable."""
        self.turn = threading.Lock()
        """Whoever holds it is at the storage."""
        self.beside: Sequence[DurableEffect] = ()
        """What was written on the event loop and is being synced by the kernel: the turn lasts until that is over."""
        self.sync_end = storage.overlapping.sync_end if storage.overlapping else None
        """A descriptor that is readable then; None if the kernel does not sync for us."""
        self.seen_at = 0.0
        """When it was last seen not to be over."""
        self.sealed = False
        """The thread has nothing to do, and waits for whoever wakes it. Under `turn`."""
        self.wary_until = 0.0
        """The disk was slow: not before then is anything synced on the event loop,"""
        self.beside_wary_until = 0.0
        """or written there."""
        self.zeros: threading.Thread | None = None
        """Fills the next file of the log."""
        self.zeros_again_at = 0.0
        """Not before then: a full disk must not be tried at each commit."""
        self.stopping = False
        self.waiting = trio.lowlevel.ParkingLot()
        self.wake: SimpleQueue[None] = SimpleQueue()  # cheaper than a Semaphore, which is made of locks in Python
        self.token = trio.lowlevel.current_trio_token()
        self.thread = threading.Thread(target=self.run, name="zablog-writer", daemon=True)
        self.thread.start()

    @trio.lowlevel.enable_ki_protection  # Ctrl-C must leave nobody's turn, and nothing that is finished twice
    def put(self, effects: Sequence[DurableEffect], at_once: bool = False) -> None:
        """Event loop: these must become durable, after all before them.

        `at_once`: the caller has nothing better to do than to wait for it. Then it may be done, and told, before this returns.
        """
        self.put_token = effects[-1].token
        if at_once and not self.queue and self.is_quick and self.take_turn():
            if self.little(effects) <= AT_ONCE_BYTES:
                self.commit_at_once(effects)
                return
            self.turn.release()
        self.queued_bytes += size_of(effects)
        self.queue.extend(effects)
        self.go_on()

    def go_on(self) -> None:
        """Event loop: what is queued is next, here or in the thread. While something is beside, the end of that comes first."""
        if not self.queue or self.beside:
            return
        here = self.sync_end is not None and not self.stopping and time.monotonic() >= self.beside_wary_until
        if here and self.take_turn():
            if self.little(self.queue) <= BESIDE_BYTES:
                effects, self.queue = self.queue, []
                self.commit_beside(effects)
                return
            self.turn.release()
        self.rouse()

    def rouse(self) -> None:
        """Event loop: the thread has something to do."""
        self.left_token = self.put_token
        if not self.busy:
            self.busy = True
            self.wake.put(None)

    def take_turn(self) -> bool:
        """Event loop: may one write here now? Not while there is anything, or any word of anything, that would be overtaken."""
        if self.busy or self.jobs or not self.turn.acquire(blocking=False):
            return False
        if self.left_token <= self.durable_token:
            return True
        self.turn.release()
        return False

    @property
    def is_quick(self) -> bool:
        """Would a thread take longer than the disk, as far as one can tell?"""
        filling = self.zeros is not None and self.zeros.is_alive()  # no disk is quick beside that
        return not filling and time.monotonic() >= self.wary_until

    def little(self, effects: Sequence[DurableEffect]) -> float:
        """Our turn: their bytes in the log; no end of them if they are no single batch, or may begin another file, which takes longer."""
        size, epochs = REST_BYTES, set[int]()
        for effect in effects:
            if not isinstance(effect, Append):
                return math.inf
            epochs.add(effect.entries.first[0])
            size += effect.entries.size + ENTRY_BYTES * len(effect.entries.payloads)
        return size if len(epochs) == 1 and size <= self.storage.wal.room else math.inf

    def commit_at_once(self, effects: Sequence[DurableEffect]) -> None:
        """Event loop, its turn: write and sync them here."""
        try:
            seconds = self.perform(effects)
        except BaseException as error:
            self.broke(error)
            return
        self.turn.release()
        self.unseal()
        self.completed(effects[-1].token, 0, seconds)

    def commit_beside(self, effects: Sequence[DurableEffect]) -> None:
        """Event loop, its turn: write them here, and let the kernel sync them. `watch` hears of it."""
        self.begun_at = self.seen_at = time.monotonic()
        try:
            begun = self.storage.begin(effects, self.watermark)
        except BaseException as error:
            self.broke(error)
            return
        self.beside = effects
        seconds = time.monotonic() - self.begun_at
        if seconds > QUICK_SECONDS:
            self.beside_wary_until = self.begun_at + (1 + WARY_TIMES) * seconds
        self.unseal()
        if not begun:
            self.sync_end = None
            self.synced()

    async def watch(self) -> None:
        """Hear what the kernel has synced, until the end."""
        while self.sync_end is not None and not self.stopping:
            await trio.lowlevel.wait_readable(self.sync_end)
            self.look()

    @trio.lowlevel.enable_ki_protection  # as above
    def look(self) -> None:
        """Event loop: is what is beside synced by now? The descriptor may say so in vain, or nobody have come to hear it."""
        if self.sync_end is None or self.stopping:
            return
        try:
            over = self.storage.finish(wait=False)
        except BaseException as error:
            self.beside = ()
            self.broke(error)
            return
        if over:
            self.synced()
        else:
            self.seen_at = time.monotonic()

    def synced(self) -> None:
        """Event loop: what was beside is durable. What has come meanwhile is next."""
        assert self.begun_at is not None, "the law that what is beside was begun"
        effects, self.beside = self.beside, ()
        # The disk may have been done long ago, and the event loop have stood still.
        self.last_seconds = min(time.monotonic(), self.seen_at + LOOK_SECONDS) - self.begun_at
        self.begun_at = None
        self.turn.release()
        self.completed(effects[-1].token, size_of(effects), self.last_seconds)
        self.go_on()

    def unseal(self) -> None:
        """Event loop: something was written here. The thread is to seal it when nothing comes behind it."""
        if self.sealed:
            self.sealed = False
            self.wake.put(None)

    def broke(self, error: BaseException) -> None:
        """Event loop, our turn: what was being written here is not durable, and nothing will be any more."""
        self.sync_end = None
        self.turn.release()
        self.failed(error)
        if not isinstance(error, Exception):
            raise error

    @trio.lowlevel.enable_ki_protection  # as above
    def ask(self, job: Callable[[], None]) -> None:
        """Event loop: do this between two commits. Whatever it raises is final."""
        self.jobs.append(job)
        if not self.busy:
            self.busy = True
            self.wake.put(None)

    async def relief(self) -> None:
        """Wait until another commit is done."""
        await self.waiting.park()

    async def drain(self) -> None:
        """Let the writer finish what it has, and end its thread. Not cancelled half way: a thread must not outlive its owner."""
        self.stopping = True
        with trio.CancelScope(shield=True):
            try:
                if self.beside:
                    await trio.to_thread.run_sync(self.storage.finish)
            except StorageFailed as error:
                self.failed(error)
            finally:
                if self.beside:
                    self.beside = ()
                    self.turn.release()
                self.wake.put(None)
                await trio.to_thread.run_sync(self.thread.join)

    @property
    def commit_seconds(self) -> float:
        """How long the commit under way has taken so far, or the last one took."""
        begun_at = self.begun_at
        return self.last_seconds if begun_at is None else time.monotonic() - begun_at

    # -- the thread ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self.loop()
        except BaseException as error:  # whatever it is, nothing after it may be acknowledged
            self.tell(self.failed, error)
        finally:
            if self.zeros is not None:  # when we are gone, the directory is another's
                self.zeros.join()

    def loop(self) -> None:
        while True:
            self.rest()
            while self.queue or self.jobs:
                with self.turn:
                    if self.queue:
                        self.commit(self.take())
                    if self.jobs:
                        self.jobs.pop(0)()
            stopping = self.stopping  # before the last look: what was put before that is written
            self.busy = False
            if self.queue or self.jobs:  # put between the last look and the line above
                self.busy = True
                self.wake.put(None)
            elif stopping:
                with self.turn:
                    self.storage.seal_idle(self.watermark)
                return

    def rest(self) -> None:
        """Wait for work. When nothing was written for a while, what is last in the log is sealed."""
        while not self.sealed:
            batches = self.storage.batches
            with contextlib.suppress(Empty):
                return self.wake.get(timeout=IDLE_SECONDS)
            with self.turn:
                if not self.queue and not self.jobs and batches == self.storage.batches:
                    self.storage.seal_idle(self.watermark)
                    self.sealed = True
        return self.wake.get()

    def take(self) -> list[DurableEffect]:
        """All that is queued, or about as much as one commit should hold."""
        size, count = 0, 0
        enough = COMMIT_BYTES if self.last_seconds < LONG_SECONDS else COMMIT_BYTES_MAX
        for effect in list(self.queue):
            if size > enough:
                break
            size += effect.entries.size if isinstance(effect, Append) else 0
            count += 1
        taken = self.queue[:count]
        del self.queue[:count]
        return taken

    def commit(self, effects: list[DurableEffect]) -> None:
        self.left_token = effects[-1].token
        seconds = self.perform(effects)
        self.sealed = False
        self.tell(self.completed, effects[-1].token, size_of(effects), seconds)
        idle = self.zeros is None or not self.zeros.is_alive()
        if idle and self.storage.wal.spare.bytes == 0 and time.monotonic() >= self.zeros_again_at:
            self.zeros = threading.Thread(target=self.prepare, name="zablog-zeros", daemon=True)
            self.zeros.start()

    def perform(self, effects: Sequence[DurableEffect]) -> float:
        """Whoever's turn it is: make them durable. How long it took, in seconds."""
        self.begun_at = time.monotonic()
        self.storage.perform(effects, self.watermark)
        now = time.monotonic()
        seconds, self.begun_at = now - self.begun_at, None
        self.last_seconds = seconds
        if seconds > QUICK_SECONDS + size_of(effects) / QUICK_BYTES_PER_SECOND:
            self.wary_until = now + WARY_TIMES * seconds
        return seconds

    def prepare(self) -> None:
        """The other thread."""
        try:
            self.storage.prepare()
        except OSError:  # the commit that needs the file will meet the same error, and that one is final
            self.zeros_again_at = time.monotonic() + ZEROS_AGAIN_SECONDS

    def tell(self, call: Callable[..., None], *words: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # nobody is left to be told
            self.token.run_sync_soon(call, *words)

    def completed(self, token: int, size: int, seconds: float) -> None:
        """Event loop: everything through `token` is durable, `size` bytes of what was queued with it."""
        if seconds > SLOW_SECONDS:
            log.warning("slow disk", node=self.storage.identity.node, seconds=round(seconds, 3), bytes=size)
        self.durable_token = token
        self.queued_bytes -= size
        if self.waiting:
            self.waiting.unpark_all()
        self.done(token)


def size_of(effects: Sequence[DurableEffect]) -> int:
    """Bytes of payload."""
    return sum([effect.entries.size for effect in effects if isinstance(effect, Append)])
