"""The port to the disk on a real file system."""

import errno
import fcntl
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from zablog.core.trail import Payload
from zablog.storage.errors import DirectoryInUse, NotBorn
from zablog.storage.kernelsync import KernelSync

PIECES_MAX = 1024
"""IOV_MAX: what one vectored write takes."""
DESCRIPTORS_MAX = 128
AHEAD_BYTES = 4 << 20
"""Whoever reads what is not in memory will hardly stop there."""
PIECE_BYTES = 64 << 10


class FileDisk:
    """One directory. Thread-safe for different files; one file has one writer. `create=True` makes the directory itself.

    `writable=False` opens files for reading alone: for media that cannot be written to, and so that the system vouches for it.
    """

    def __init__(self, path: str | os.PathLike[str], create: bool = False, writable: bool = True) -> None:
        self.path = Path(path)
        self.flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
        if create:
            make_durably(self.path.absolute())
        if not self.path.is_dir():
            raise NotBorn(f"{self.path} is no directory: `zablog cluster init` makes data directories, a server never does.")
        self.prefix = os.path.join(self.path, "")
        self.descriptors: OrderedDict[str, Opened] = OrderedDict()
        self.mutex = threading.RLock()
        self.lock_descriptor: int | None = None
        self.kernel_sync: KernelSync | None = None
        self.overlaps = True
        """Could there be one?"""
        self.tells_waiting = hasattr(os, "RWF_NOWAIT")
        """Can the system say that a read would have to wait for the disk?"""

    def lock(self) -> None:
        """Keep other processes out until `close`. DirectoryInUse if one is in."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise DirectoryInUse(f"{self.path} is in use by another process: one process serves a data directory.") from error
            raise
        self.lock_descriptor = descriptor

    def names(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self.path) if entry.is_file())

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def size(self, name: str) -> int:
        return os.stat(self.path / name).st_size

    def read(self, name: str, offset: int, length: int) -> bytes:
        with self.borrow(name) as descriptor:
            raw = os.pread(descriptor, length, offset)
            while 0 < len(raw) < length and (more := os.pread(descriptor, length - len(raw), offset + len(raw))):
                raw += more
            return raw

    def read_now(self, name: str, offset: int, length: int) -> Payload:
        if self.tells_waiting:
            room = bytearray(length)
            try:
                with self.borrow(name) as descriptor:
                    count = os.preadv(descriptor, (room,), offset, os.RWF_NOWAIT)
                return room if count == length else memoryview(room)[:count]
            except BlockingIOError:
                return b""
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM):
                    raise
                self.tells_waiting = False  # this file system does not know, or this container does not let us ask
        return self.read(name, offset, length)

    def warm(self, name: str, begin: int, end: int) -> None:
        with self.borrow(name) as descriptor:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, begin, end - begin + AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            for at in range(begin, end, PIECE_BYTES):
                os.pread(descriptor, min(PIECE_BYTES, end - at), at)

    def create(self, name: str) -> None:
        os.close(os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))

    def write(self, name: str, offset: int, pieces: Sequence[Payload]) -> None:
        with self.borrow(name) as descriptor:
            for begin in range(0, len(pieces), PIECES_MAX):
                some = pieces[begin : begin + PIECES_MAX]
                expected = sum(map(len, some))
                written = os.pwritev(descriptor, some, offset)
                if written != expected:
                    raise OSError(
                        errno.ENOSPC, f"wrote {written} of {expected} bytes at {offset}: is the disk full?", str(self.path / name)
                    )
                offset += written

    def sync(self, name: str) -> None:
        with self.borrow(name) as descriptor:
            os.fdatasync(descriptor)

    @property
    def sync_end(self) -> int | None:
        if self.kernel_sync is None and self.overlaps:
            self.kernel_sync = KernelSync.open()
            self.overlaps = self.kernel_sync is not None
        return self.kernel_sync.descriptor if self.kernel_sync is not None else None

    def begin_sync(self, name: str) -> None:
        assert self.kernel_sync is not None, "whoever begins has looked whether there is an end"
        with self.borrow(name) as descriptor:  # no longer: the kernel has a hold on the file itself
            self.kernel_sync.begin(descriptor)

    def finish_sync(self, wait: bool) -> bool:
        assert self.kernel_sync is not None, "whoever finishes has looked whether there is an end"
        return self.kernel_sync.finish(wait)

    def cool(self, name: str, begin: int, end: int) -> None:
        if hasattr(os, "posix_fadvise"):
            with self.borrow(name) as descriptor:
                os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)

    def truncate(self, name: str, length: int) -> None:
        with self.borrow(name) as descriptor:
            os.ftruncate(descriptor, length)

    def rename(self, old: str, new: str) -> None:
        with self.mutex:
            self.forget(old)
            self.forget(new)
            os.replace(self.path / old, self.path / new)

    def unlink(self, name: str) -> None:
        with self.mutex:
            self.forget(name)
            os.unlink(self.path / name)

    def sync_names(self) -> None:
        sync_directory(self.path)

    def free(self) -> int:
        """Bytes that we may still write to this file system."""
        room = os.statvfs(self.path)
        return room.f_bavail * room.f_frsize

    def allocate(self, name: str, length: int) -> None:
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, length)
        finally:
            os.close(descriptor)

    def child(self, name: str) -> "FileDisk":
        path = self.path / name
        path.mkdir(exist_ok=True)
        self.sync_names()  # also if it was there: who made it may have died before this line
        return FileDisk(path)

    def close(self) -> None:
        with self.mutex:
            for name in list(self.descriptors):
                self.forget(name)
            if self.kernel_sync is not None:
                self.kernel_sync.close()
                self.kernel_sync, self.overlaps = None, False
            if self.lock_descriptor is not None:
                os.close(self.lock_descriptor)
                self.lock_descriptor = None

    def borrow(self, name: str) -> "Borrowed":
        """A descriptor of the file, which no other thread closes meanwhile."""
        with self.mutex:
            opened = self.descriptors.get(name)
            if opened is None:
                opened = self.descriptors[name] = Opened(os.open(self.prefix + name, self.flags))
                if len(self.descriptors) > DESCRIPTORS_MAX:
                    self.forget(next(iter(self.descriptors)))
            else:
                self.descriptors.move_to_end(name)
            opened.borrowers += 1
            return Borrowed(self, opened)

    def give_back(self, opened: "Opened") -> None:
        with self.mutex:
            opened.borrowers -= 1
            if opened.forgotten and not opened.borrowers:
                os.close(opened.descriptor)

    def forget(self, name: str) -> None:
        """The name has another meaning from now on, or none. Under the mutex."""
        if (opened := self.descriptors.pop(name, None)) is not None:
            opened.forgotten = True
            if not opened.borrowers:
                os.close(opened.descriptor)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durably(path: Path) -> None:
    """Make a directory and those above it. A directory whose name its parent could forget would take all promises in it along."""
    missing = [directory for directory in (path, *path.parents) if not directory.is_dir()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in reversed(missing):
        sync_directory(directory.parent)


class Opened:
    """A file's descriptor and how many use it. Closed once it is forgotten and nobody does."""

    __slots__ = ("borrowers", "descriptor", "forgotten")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.borrowers = 0
        self.forgotten = False


class Borrowed:
    """A descriptor for the length of a `with` block."""

    __slots__ = ("disk", "opened")

    def __init__(self, disk: FileDisk, opened: Opened) -> None:
        self.disk = disk
        self.opened = opened

    def __enter__(self) -> int:
        return self.opened.descriptor

    def __exit__(self, *_: object) -> None:
        self.disk.give_back(self.opened)
