"""The log writer: one thread that makes durable effects durable, taking all that has queued up at once (group commit).

The driver never waits for it. A second, short-lived thread fills the next file of the log with zeros, so that no commit waits for that.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

import trio

from zablog.core.effects import Append, DurableEffect
from zablog.core.zxid import ZERO, Zxid
from zablog.storage.storage import Storage

IDLE_SECONDS = 0.25
"""An idle writer seals its last batch after so long."""
COMMIT_BYTES_MAX = 8 << 20
"""A group commit takes about so much; what is behind it waits for the next."""


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
        self.queued_bytes = 0
        self.sync_seconds = 0.0
        """How long the last group commit took, for those who watch for slow disks."""
        self.begun_at: float | None = None
        """When the commit under way began (monotonic seconds)."""
        self.busy = False
        self.preparing = False
        self.stopping = False
        self.waiting = trio.lowlevel.ParkingLot()
        self.wake = threading.Semaphore(0)
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
            self.wake.release()

    async def relief(self) -> None:
        """Wait until another commit is done."""
        await self.waiting.park()

    async def drain(self) -> None:
        """Let the writer finish what it has, and end its thread. Not cancelled half way: a thread must not outlive its owner."""
        self.stopping = True
        self.wake.release()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.thread.join)

    # -- the thread ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self.loop()
        except BaseException as error:  # whatever it is, nothing after it may be acknowledged
            self.tell(self.failed, error)

    def loop(self) -> None:
        while True:
            if not self.wake.acquire(timeout=IDLE_SECONDS) and not self.queue:
                self.storage.seal_idle(self.watermark)
                self.wake.acquire()
            while self.queue:
                self.commit(self.take())
            self.busy = False
            if self.queue:  # put between the last look and the line above
                self.busy = True
                self.wake.release()
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
        self.sync_seconds = time.monotonic() - self.begun_at
        self.begun_at = None
        size = sum(effect.entries.size for effect in effects if isinstance(effect, Append))
        self.tell(self.completed, effects[-1].token, size)
        if self.storage.wal.spare_bytes == 0 and not self.preparing:
            self.preparing = True
            threading.Thread(target=self.prepare, name="zablog-zeros", daemon=True).start()

    def prepare(self) -> None:
        with contextlib.suppress(OSError):  # the commit that needs the file will meet the same error, and that one is final
            self.storage.prepare()
        self.preparing = False

    def tell(self, call: Callable[..., None], *words: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # nobody is left to be told
            self.token.run_sync_soon(call, *words)

    def completed(self, token: int, size: int) -> None:
        """Event loop: everything through `token` is durable."""
        self.queued_bytes -= size
        self.waiting.unpark_all()
        self.done(token)
