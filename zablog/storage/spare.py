"""The next file of the log, ready before it is needed: one that the log has let go of, or a new one full of zeros, written or allocated.

Blocks that were written before make a sync cheap: it changes no more than their bytes. Where no file is there to be written over, zeros do
that. Blocks that are merely allocated read as zeros, too, and the first write of each changes what the file system knows of it: twice the
time for 4 KiB, but for large batches the lesser price, since zeros are a third of all that is written.
"""

import threading
from typing import Final

from zablog.storage.batch import FILLED, REUSED
from zablog.storage.disk import Disk
from zablog.storage.reading import File

ZEROS: Final = bytes(256 << 10)
"""Given to the disk piece by piece. A commit that comes meanwhile waits for one of them, and not for a whole file."""
PREPARED: Final = "prepared.tmp"
RECYCLED: Final = "recycled-"
RECYCLED_MAX: Final = 8
"""So many files that the log has let go of are kept, to be written over: their blocks are there, and so are their pages in memory."""


class Spare:
    """The prepared file, and what it is made of. `prepare` may run beside `keep`, in another thread."""

    def __init__(self, disk: Disk, file_bytes: int) -> None:
        self.disk = disk
        self.file_bytes = file_bytes
        self.lock = threading.Lock()
        """Over the prepared file: whoever makes it, or puts it to use."""
        self.bytes = 0
        """The size of the prepared file, 0 if there is none."""
        self.format = FILLED
        """What stands in it."""
        self.wide = False
        """Are batches large? Then a new file is allocated, not filled with zeros."""
        self.recycled: list[str] = []
        """Files of `file_bytes` that are to become prepared ones."""

    def adopt(self) -> None:
        """What an earlier process has kept is ours; what it left half made goes."""
        for name in self.disk.names():
            if name.startswith(RECYCLED) and len(self.recycled) < RECYCLED_MAX and self.disk.size(name) == self.file_bytes:
                self.recycled.append(name)
            elif name.endswith(".tmp"):
                self.disk.unlink(name)

    def keep(self, old: File) -> None:
        """The log has let go of this file."""
        if len(self.recycled) < RECYCLED_MAX and old.header.capacity == self.file_bytes:
            name = f"{RECYCLED}{old.header.generation:016x}.tmp"
            self.disk.rename(old.name, name)
            self.recycled.append(name)
        else:
            self.disk.unlink(old.name)

    def prepare(self) -> None:
        """Have a file ready: appending into blocks that are there costs a tenth of growing a file."""
        with self.lock:
            if self.bytes == 0:
                self.fill(self.file_bytes)

    def fill(self, capacity: int) -> None:
        """Make the prepared file, of so many bytes, in the place of any other."""
        if self.disk.exists(PREPARED):
            self.disk.unlink(PREPARED)
        self.format = FILLED
        if capacity == self.file_bytes and self.reused():
            self.format = REUSED
        elif self.wide and self.allocated(capacity):
            self.disk.sync(PREPARED)
        else:
            self.zeros(capacity)
        self.bytes = capacity

    def put_to_use(self, name: str) -> None:
        """It is complete: sync it, and let it have this name. Durable when it returns."""
        self.disk.sync(PREPARED)
        self.disk.rename(PREPARED, name)
        self.disk.sync_names()

    def reused(self) -> bool:
        """Take a file that the log has let go of. False if there is none."""
        while self.recycled:
            name = self.recycled.pop()  # at once: the writer's thread may add others meanwhile
            try:
                self.disk.rename(name, PREPARED)
            except FileNotFoundError:  # somebody has tidied up
                continue
            except OSError:
                self.recycled.append(name)
                raise
            self.disk.sync_names()  # before a byte of it changes: after a power cut no file of the log may be what another one became
            return True
        return False

    def allocated(self, capacity: int) -> bool:
        """Leave the zeros to the file system. False if it does not know how, or has no room: then writing them says why."""
        try:
            self.disk.allocate(PREPARED, capacity)
        except OSError:
            if self.disk.exists(PREPARED):
                self.disk.unlink(PREPARED)
            return False
        return True

    def zeros(self, capacity: int) -> None:
        self.disk.create(PREPARED)
        for offset in range(0, capacity, len(ZEROS)):
            self.disk.write(PREPARED, offset, [ZEROS[: capacity - offset]])
            self.disk.sync(PREPARED)
