"""The machines' disks: the simulated disk with what else a node asks of its directory, and what else may happen to it."""

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from zablog.core.trail import Payload
from zablog.sim.disk import SimDisk
from zablog.storage.errors import DirectoryInUse

ROOM_BYTES = 1 << 40


class ShellDisk(SimDisk):
    """A node's data directory."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.locked_by: trio.lowlevel.Task | None = None
        self.room_bytes = ROOM_BYTES
        """How much is free on it. With nothing free, no file is made and none grows."""
        self.hang_seconds = 0.0
        """The next sync of the log takes so much longer: the machine's disk says nothing for a while."""
        self.stand_still: Callable[[float], None] = lambda seconds: None
        """In a thread: wait."""
        self.pause: Callable[[], float] = lambda: 0.0
        """How long a sync takes that nobody stands still for."""
        self.sync_end: int | None = None
        """What the node waits at for a sync that it has begun, on those machines where one may be begun."""
        self.syncing: str | None = None
        self.over_at: float | None = None
        """When that is over."""
        self.begun = trio.lowlevel.ParkingLot()

    def lock(self) -> None:
        if self.locked_by is not None:
            raise DirectoryInUse(f"{self.path} is in use by another process: one process serves a data directory.")
        self.locked_by = trio.lowlevel.current_task()
        self.syncing = self.over_at = None

    def close(self) -> None:
        if self.locked_by is trio.lowlevel.current_task():
            self.locked_by = None

    def free(self) -> int:
        return self.room_bytes

    def create(self, name: str) -> None:
        self._insist_on_room(name)
        super().create(name)

    def _insist_on_room(self, name: str) -> None:
        if not self.room_bytes:
            raise OSError(errno.ENOSPC, "No space left on device", name)

    def write(self, name: str, offset: int, pieces: Sequence[Payload]) -> None:
        assert name != self.syncing, "the law that nothing is written to a file while the kernel syncs it"
        super().write(name, offset, pieces)

    def sync(self, name: str) -> None:
        assert name != self.syncing, "the law that nobody syncs a file while the kernel does"
        if name.startswith("wal-"):
            self.stand_still(self._hang())
        super().sync(name)

    def _hang(self) -> float:
        seconds, self.hang_seconds = self.hang_seconds, 0.0
        return seconds

    def begin_sync(self, name: str) -> None:
        assert self.syncing is None, "the law that one sync is begun at a time"
        self.syncing = name
        self.over_at = trio.current_time() + self.pause() + self._hang()
        self.begun.unpark_all()

    async def sync_over(self) -> None:
        """`wait_readable` at the end of a sync."""
        while self.over_at is None:
            await self.begun.park()
        await trio.sleep_until(self.over_at)

    def finish_sync(self, wait: bool) -> bool:
        if self.syncing is None or self.over_at is None or (not wait and trio.current_time() < self.over_at):
            return False
        name, self.syncing, self.over_at = self.syncing, None, None
        super().sync(name)
        return True
