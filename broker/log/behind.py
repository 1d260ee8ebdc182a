"""Segments are written behind: what is given piece by piece, a record here and a record there, goes to the system together.

A thousand topics that get a record each are a thousand writes, and a call costs more than its bytes. Nobody sees the difference: what
is about to be read, synced or cut is written before that. What is lost with the process was never durable; the write-ahead log
has it.
"""

import threading
from collections.abc import Sequence
from typing import Final

from zablog.core.trail import Payload
from zablog.storage.disk import Disk

WRITE_BYTES: Final = 64 << 10
"""What is gathered of a file is written once it is so much."""
GATHERED_BYTES_MAX: Final = 8 << 20
"""And the files that have waited longest are written when there is so much of all of them."""


class _Gathered:
    """The end of a file that the system has not been given yet."""

    __slots__ = ("begin", "pieces", "size")

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.pieces: list[bytes] = []
        self.size = 0


class WriteBehind:
    """A `Disk` before another one. Thread-safe as that one is: different threads may use different files, or sync and read the same one."""

    def __init__(self, disk: Disk, write_bytes: int | None = None) -> None:
        self._disk = disk
        self._write_bytes = WRITE_BYTES if write_bytes is None else write_bytes
        self._gathered: dict[str, _Gathered] = {}
        """The longest waiting first."""
        self._bytes = 0
        self._mutex = threading.RLock()
        self.failed: OSError | None = None
        """What became of the first write that failed."""
        self.names, self.exists, self.create, self.allocate = disk.names, disk.exists, disk.create, disk.allocate
        self.sync_names, self.child = disk.sync_names, disk.child

    def write(self, name: str, offset: int, pieces: Sequence[Payload]) -> None:
        """Gather it, or write it with all that was gathered before it. An OSError may be that of an earlier write; each is final."""
        size = sum(map(len, pieces))
        with self._mutex:
            if self.failed is not None:
                raise self.failed
            gathered = self._gathered.get(name)
            if gathered is not None and gathered.begin + gathered.size != offset:
                self._write_out(name)
                gathered = None
            if size >= self._write_bytes:
                self._write_out(name)
                self._write(name, offset, pieces)
                return
            if gathered is None:
                gathered = self._gathered[name] = _Gathered(offset)
            # A copy: a small piece must not keep the large frame in memory that it came in.
            gathered.pieces.append(b"".join(pieces))
            gathered.size += size
            self._bytes += size
            if gathered.size >= self._write_bytes:
                self._write_out(name)
            while self._bytes > GATHERED_BYTES_MAX:
                self._write_out(next(iter(self._gathered)))

    def size(self, name: str) -> int:
        self._write_out(name)
        return self._disk.size(name)

    def read(self, name: str, offset: int, length: int) -> bytes:
        self._show(name, offset + length)
        return self._disk.read(name, offset, length)

    def read_now(self, name: str, offset: int, length: int) -> Payload:
        self._show(name, offset + length)
        return self._disk.read_now(name, offset, length)

    def warm(self, name: str, begin: int, end: int) -> None:
        self._show(name, end)
        self._disk.warm(name, begin, end)

    def _show(self, name: str, end: int) -> None:
        """Write what is gathered of a file, if somebody is to read that far."""
        gathered = self._gathered.get(name)
        if self.failed is not None or (gathered is not None and end > gathered.begin):
            self._write_out(name)

    def sync(self, name: str) -> None:
        self._write_out(name)
        self._disk.sync(name)

    def cool(self, name: str, begin: int, end: int) -> None:
        self._disk.cool(name, begin, end)

    def truncate(self, name: str, length: int) -> None:
        self._write_out(name)
        self._disk.truncate(name, length)

    def rename(self, old: str, new: str) -> None:
        self._write_out(old)
        self._forget(new)
        self._disk.rename(old, new)

    def unlink(self, name: str) -> None:
        self._forget(name)
        self._disk.unlink(name)

    def close(self) -> None:
        """Let go of what is gathered, too: the directory may be another process's by now, and the write-ahead log has it."""
        with self._mutex:
            for name in list(self._gathered):
                self._forget(name)
        self._disk.close()

    def _write_out(self, name: str) -> None:
        with self._mutex:
            if self.failed is not None:
                raise self.failed
            gathered = self._gathered.get(name)
            if gathered is not None:
                self._write(name, gathered.begin, [b"".join(gathered.pieces)])
                self._forget(name)  # not before: who reads meanwhile, in another thread, sees that it has to wait for us

    def _write(self, name: str, offset: int, pieces: Sequence[Payload]) -> None:
        try:
            self._disk.write(name, offset, pieces)
        except OSError as error:
            self.failed = error
            raise

    def _forget(self, name: str) -> None:
        with self._mutex:
            gathered = self._gathered.pop(name, None)
            if gathered is not None:
                self._bytes -= gathered.size
