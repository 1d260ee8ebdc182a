"""Hands committed entries to the application, in order, in slices: no burst of commits keeps the event loop for long."""

import time

import trio

from zablog.core.trail import Entries
from zablog.core.zxid import Zxid
from zablog.node.application import Application
from zablog.node.errors import NodeStopped
from zablog.storage.history import History

SLICE_BYTES = 1 << 20
SLICE_SECONDS = 0.005
"""After so long other tasks have their turn."""


class Applier:
    """Everything through `applied` was applied; everything through `target` is committed."""

    def __init__(self, application: Application, history: History, applied: Zxid, target: Zxid) -> None:
        self.application = application
        self.history = history
        self.applied = applied
        self.target = target
        self.woken = trio.Event()
        self.moved = trio.lowlevel.ParkingLot()

    def deliver(self, upto: Zxid) -> None:
        """The watermark moved."""
        self.target = max(self.target, upto)
        self.woken.set()

    async def run(self) -> None:
        """For ever. Raises NodeStopped with what the application raised."""
        while True:
            await self.catch_up()
            await self.woken.wait()
            self.woken = trio.Event()

    async def catch_up(self) -> None:
        """Apply everything through `target`."""
        while self.applied < self.target:
            if self.history.in_memory(self.applied):
                self.apply_slice()
            else:
                entries = await trio.to_thread.run_sync(self.history.read, self.applied, self.target, SLICE_BYTES)
                assert entries is not None, "the law that what is committed is in our log"
                self.apply(entries)
                self.finish()
            await trio.lowlevel.checkpoint()

    def apply_slice(self) -> None:
        """From memory, as much as a turn of the event loop may take."""
        deadline = time.monotonic() + SLICE_SECONDS
        while self.applied < self.target and self.history.in_memory(self.applied):
            entries = self.history.read(self.applied, self.target, SLICE_BYTES)
            assert entries is not None, "the law that what is committed is in our log"
            self.apply(entries)
            if time.monotonic() > deadline:
                break
        self.finish()

    def apply(self, entries: Entries) -> None:
        apply, first = self.application.apply, entries.first
        for step, payload in enumerate(entries.payloads):
            zxid = Zxid(first.epoch, first.counter + step)
            try:
                apply(zxid, payload)
            except Exception as error:
                raise NodeStopped(f"the application failed at {zxid}: {error!r}") from error
        self.applied = entries.last

    def finish(self) -> None:
        self.application.applied(self.applied)
        self.moved.unpark_all()

    async def wait(self, zxid: Zxid) -> None:
        """Until everything through `zxid` is applied."""
        while self.applied < zxid:
            await self.moved.park()
