"""The log writer: one thread that makes durable effects durable, taking all that has queued up at once (group commit).

The driver never waits for it. A second, short-lived thread fills the next file of the log with zeros, so that no commit waits for that.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import structlog
import trio

from zablog.core.effects import Append, DurableEffect
from zablog.core.zxid import ZERO, Zxid
from zablog.storage.storage import Storage

IDLE_SECONDS = 0.25
"""An idle writer seals its last batch after so long."""
COMMIT_BYTES_MAX = 8 << 20
"""A group commit takes about so much; what is behind it waits for the next."""
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

    def put(self, effects: Sequence[DurableEffect]) -> None:
        """Event loop: these must become durable, after all before them."""
        for effect in effects:
            if isinstance(effect, Append):
                self.queued_bytes += effect.entries.size
        self.queue.extend(effects)
        if not self.busy:
            self.busy = True
            self.wake.put(None)

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
        self.wake.put(None)
        with trio.CancelScope(shield=True):
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
            try:
                self.wake.get(timeout=IDLE_SECONDS)
            except Empty:
                if not self.queue and not self.jobs:
                    self.storage.seal_idle(self.watermark)
                self.wake.get()
            while self.queue or self.jobs:
                if self.queue:
                    self.commit(self.take())
                if self.jobs:
                    self.jobs.pop(0)()
            self.busy = False
            if self.queue or self.jobs:  # put between the last look and the line above
                self.busy = True
                self.wake.put(None)
            elif self.stopping:
                self.storage.seal_idle(self.watermark)
                return

    def take(self) -> list[DurableEffect]:
        """All that is queued, or about as much as one commit should hold."""
        size, count = 0, 0
        for effect in list(self.queue):
            if size > COMMIT_BYTES_MAX:
                break
            size += effect.entries.size if isinstance(effect, Append) else 0
            count += 1
        taken = self.queue[:count]
        del self.queue[:count]
        return taken

    def commit(self, effects: list[DurableEffect]) -> None:
        self.begun_at = time.monotonic()
        self.storage.perform(effects, self.watermark)
        now = time.monotonic()
        seconds, self.begun_at = now - self.begun_at, None
        self.last_seconds = seconds
        size = sum(effect.entries.size for effect in effects if isinstance(effect, Append))
        self.tell(self.completed, effects[-1].token, size, seconds)
        idle = self.zeros is None or not self.zeros.is_alive()
        if idle and self.storage.wal.spare_bytes == 0 and now >= self.zeros_again_at:
            self.zeros = threading.Thread(target=self.prepare, name="zablog-zeros", daemon=True)
            self.zeros.start()

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
        """Event loop: everything through `token` is durable."""
        if seconds > SLOW_SECONDS:
            log.warning("slow disk", node=self.storage.identity.node, seconds=round(seconds, 3), bytes=size)
        self.queued_bytes -= size
        self.waiting.unpark_all()
        self.done(token)
