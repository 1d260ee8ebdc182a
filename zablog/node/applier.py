"""Hands committed entries to the application, in order, in slices: no burst of commits keeps the event loop for long.

The first slice is applied where its commit is known (`go_on`), since a client waits for the answer; the rest, and what is on disk alone,
is the work of a task.
"""

import time
from collections.abc import Callable

import trio

from zablog.core.trail import Entries
from zablog.core.zxid import Zxid
from zablog.node.application import Application
from zablog.node.errors import NodeStopped
from zablog.storage.errors import StorageError
from zablog.storage.history import History

READ_BYTES = 1 << 20
SLICE_SECONDS = 0.005
"""After so long other tasks have their turn."""
ENTRIES_A_LOOK = 32
"""So many entries are applied between two looks at the clock."""


class Applier:
    """Everything through `applied` was applied; everything through `target` is committed."""

    def __init__(self, application: Application, history: History, applied: Zxid, target: Zxid) -> None:
        self.application = application
        self.history = history
        self.applied = applied
        self.target = target
        self.entries: Entries | None = None
        self.at = 0
        """Of `entries`, which are committed, so many have been applied."""
        self.failed = False
        """The application, or whoever interrupted it: what it was given last, it is not given again."""
        self.applying = False
        """Somebody is at it, in a task or further up the stack."""
        self.held = False
        """Nothing is applied while a snapshot is on its way: what it will replace stays as it is."""
        self.woken = trio.Event()
        self.moved = trio.lowlevel.ParkingLot()
        """Those who wait for something to be applied."""
        self.burst: Callable[[], None] = lambda: None

    def deliver(self, upto: Zxid) -> None:
        """The watermark moved. `go_on` follows when the step is over."""
        self.target = max(self.target, upto)

    def go_on(self, at_once: bool) -> None:
        """Apply what was delivered, or leave it to the task if it takes long or is not in memory. Raises NodeStopped.

        Called between two steps, so that the application may propose; what that delivers is found by whoever is applying.
        """
        if self.applying or self.applied >= self.target:
            return
        if at_once and not self.held and not self.failed and self.entries is None and self.history.in_memory(self.applied):
            self.applying = True
            try:
                self.apply_slice()
            finally:
                self.applying = False
        if self.applied < self.target:
            self.woken.set()

    def hold(self) -> None:
        """Apply nothing from now on; see `release`."""
        self.held = True

    def release(self, restored: Zxid | None = None) -> None:
        """Go on, behind what the application has restored meanwhile."""
        if restored is not None:
            self.entries, self.at = None, 0
            self.applied = restored
            self.target = max(self.target, restored)
            self.moved.unpark_all()
        self.held = False
        self.woken.set()

    async def run(self) -> None:
        """For ever. Raises NodeStopped with what the application or the disk raised."""
        while True:
            await self.catch_up()
            await self.woken.wait()
            self.woken = trio.Event()

    async def catch_up(self) -> None:
        """Apply everything through `target`."""
        self.applying = True
        try:
            while self.applied < self.target and not self.held and not self.failed:
                if self.entries is None and not self.history.in_memory(self.applied):
                    await self.read_from_disk()
                else:
                    self.apply_slice()
                await trio.lowlevel.checkpoint()
        finally:
            self.applying = False

    async def read_from_disk(self) -> None:
        """The thread sees the disk alone, never the tail in memory, which is the event loop's.

        Nothing of it is of use where a snapshot takes the log's place, or has taken it while the disk was slow.
        """
        after, upto = self.applied, min(self.target, self.history.durable_last)
        try:
            entries = await trio.to_thread.run_sync(self.history.storage.read, after, upto, READ_BYTES)
        except (StorageError, OSError) as error:
            if self.held or self.applied != after:
                return
            raise NodeStopped(f"the log cannot be read above {after}: {error}") from error
        if not self.held and self.applied == after:
            assert entries is not None, "the law that what is committed is in our log"
            self.entries = entries

    def apply_slice(self) -> None:
        """As much as one turn of the event loop may take."""
        try:
            self.apply_until(time.monotonic() + SLICE_SECONDS)
        except BaseException:
            self.failed = True
            raise

    def apply_until(self, deadline: float) -> None:
        """Apply until it is so late, or nothing is left in memory."""
        while self.applied < self.target:
            if self.entries is None:
                if not self.history.in_memory(self.applied):
                    break
                self.entries = self.history.read(self.applied, self.target, READ_BYTES)
            self.apply_some()
            if time.monotonic() > deadline:
                break
        try:
            self.application.applied(self.applied)
        except Exception as error:
            raise NodeStopped(f"the application failed after {self.applied}: {error!r}") from error
        if self.moved:
            self.moved.unpark_all()
        self.burst()

    def apply_some(self) -> None:
        """The next few entries of those at hand."""
        assert self.entries is not None, "the law that what is committed is in our log"
        apply, (epoch, counter), payloads = self.application.apply, self.entries.first, self.entries.payloads
        end = min(self.at + ENTRIES_A_LOOK, len(payloads))
        for at in range(self.at, end):
            zxid = Zxid(epoch, counter + at)
            try:
                apply(zxid, payloads[at])
            except NodeStopped:
                raise
            except Exception as error:
                raise NodeStopped(f"the application failed at {zxid}: {error!r}") from error
        self.applied = Zxid(epoch, counter + end - 1)
        self.at = end
        if end == len(payloads):
            self.entries, self.at = None, 0
