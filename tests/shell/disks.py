"""The machines' disks: the simulated disk with what else a node asks of its directory, and what else may happen to it."""

import errno
from collections.abc import Callable
from pathlib import Path

import trio

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
        self.hang: Callable[[], None] = lambda: None
        """Called before the next sync of the log: the machine's disk says nothing for a while."""

    def lock(self) -> None:
        if self.locked_by is not None:
            raise DirectoryInUse(f"{self.path} is in use by another process: one process serves a data directory.")
        self.locked_by = trio.lowlevel.current_task()

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

    def sync(self, name: str) -> None:
        if name.startswith("wal-"):
            hang, self.hang = self.hang, lambda: None
            hang()
        super().sync(name)
