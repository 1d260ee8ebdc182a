"""The simulated disk: the twin of `zablog.storage.files`, with everything a power loss may do to bytes that were not synced.

Per directory: the names as they are now and as they are durable. Per file: the bytes as they are now, the bytes that are durable, and the
writes between. A process crash keeps what was written; a power loss keeps, drops, tears or reorders each unsynced write on its own.
A sync that fails drops what it should have written, as Linux does: the bytes stay readable, and no later sync makes them durable.
"""

import errno
from collections.abc import Callable, Sequence
from random import Random

from zablog.core.trail import Payload

SECTOR = 512
PAGE = 4096


class PowerLost(BaseException):
    """Raised out of an operation at which the simulated machine died; whoever is writing is dead with it."""


class SimFile:
    """The bytes of a file now, those that are durable, and the writes that are neither."""

    __slots__ = ("before", "durable", "now", "unsynced")

    def __init__(self) -> None:
        self.now = bytearray()
        self.durable = bytearray()
        self.before = b""
        """What was durable before the last sync."""
        self.unsynced: list[tuple[int, bytes | None, int]] = []
        """(offset, bytes) of a write, or (length, None) of a truncation; with the length of the file behind it."""

    def power_loss(self, random: Random) -> bool:
        """What is left is the durable bytes and any part of the rest. True if a write was torn."""
        torn = False
        for offset, written, _ in self.unsynced:
            fate = random.random()
            if written is None:
                if fate < 0.5:
                    resize(self.durable, offset)
            elif fate < 0.35:
                put(self.durable, offset, written)
            elif fate < 0.65:
                torn = True
                unit = random.choice((SECTOR, PAGE))
                for begin in range(offset - offset % unit, offset + len(written), unit):
                    if random.random() < 0.5:
                        low, high = max(begin, offset), min(begin + unit, offset + len(written))
                        put(self.durable, low, written[low - offset : high - offset])
            elif fate < 0.75 and len(self.durable) < offset + len(written):
                resize(self.durable, offset + len(written))  # the length grew, the data did not arrive
        self.unsynced.clear()
        self.now = bytearray(self.durable)
        return torn


def put(target: bytearray, offset: int, written: bytes) -> None:
    if len(target) < offset:
        resize(target, offset)
    target[offset : offset + len(written)] = written


def resize(target: bytearray, length: int) -> None:
    if length < len(target):
        del target[length:]
    else:
        target.extend(bytes(length - len(target)))


class SimDisk:
    """One directory of the simulated disk.

    `step` is called with the name of each operation before it happens: to count, to fail it by raising an OSError, or to lose the
    power there by raising PowerLost.
    """

    def __init__(self, step: Callable[[str], None] | None = None) -> None:
        self.step = step or (lambda operation: None)
        self.reading: Callable[[str], None] = lambda name: None
        """Called with the name of a file before it is read: to fail that by raising an OSError."""
        self.memory: Callable[[int], int] = lambda length: length
        """How many of the bytes that are to be read now, first ones, need not be waited for."""
        self.lies = 0
        """So many syncs of the log will report success and do nothing: what they should have written is gone at the next power loss."""
        self.files: dict[str, SimFile] = {}
        self.durable_names: dict[str, SimFile] = {}
        self.children: dict[str, SimDisk] = {}
        self.moves: list[tuple[str, str]] = []
        """Renames since the last `sync_names`."""
        self.torn_writes = 0

    # -- the port -----------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return sorted(self.files)

    def exists(self, name: str) -> bool:
        return name in self.files

    def size(self, name: str) -> int:
        return len(self.file(name).now)

    def read(self, name: str, offset: int, length: int) -> bytes:
        self.reading(name)
        return bytes(memoryview(self.file(name).now)[offset : offset + length])

    def read_now(self, name: str, offset: int, length: int) -> Payload:
        return self.read(name, offset, self.memory(length))

    def warm(self, name: str, begin: int, end: int) -> None:
        self.reading(name)

    def create(self, name: str) -> None:
        if name in self.files:
            raise FileExistsError(errno.EEXIST, "file exists", name)
        self.step("create")
        self.files[name] = SimFile()

    def allocate(self, name: str, length: int) -> None:
        self.create(name)
        self.write(name, 0, [bytes(length)])

    def write(self, name: str, offset: int, pieces: Sequence[Payload]) -> None:
        file = self.file(name)
        written = b"".join(pieces)
        try:
            self.step("write")
        except OSError:
            self.apply(file, offset, written[: len(written) // 2])  # a failed write may have happened in part
            raise
        except PowerLost:
            self.apply(file, offset, written)
            raise
        self.apply(file, offset, written)

    def apply(self, file: SimFile, offset: int, written: bytes) -> None:
        put(file.now, offset, written)
        file.unsynced.append((offset, written, len(file.now)))

    def sync(self, name: str) -> None:
        file = self.file(name)
        try:
            self.step("sync")
        except OSError:
            file.unsynced.clear()
            raise
        if self.lies and file.unsynced and name.startswith("wal-"):
            self.lies -= 1
            file.unsynced.clear()
            return
        if file.unsynced:
            file.before = bytes(file.durable)
        for offset, written, _ in file.unsynced:
            if written is None:
                resize(file.durable, offset)
            else:
                put(file.durable, offset, written)
        file.unsynced.clear()

    def cool(self, name: str, begin: int, end: int) -> None:
        """Nothing here is warmer than the rest."""

    def truncate(self, name: str, length: int) -> None:
        file = self.file(name)
        self.step("truncate")
        resize(file.now, length)
        file.unsynced.append((length, None, length))

    def rename(self, old: str, new: str) -> None:
        self.file(old)
        self.step("rename")
        self.files[new] = self.files.pop(old)
        self.moves.append((old, new))

    def unlink(self, name: str) -> None:
        self.file(name)
        self.step("unlink")
        del self.files[name]

    def sync_names(self) -> None:
        self.step("sync_names")
        self.durable_names = dict(self.files)
        self.moves.clear()

    def child(self, name: str) -> "SimDisk":
        if name not in self.children:
            made = self.children[name] = SimDisk(lambda operation: self.step(operation))
            made.reading = lambda file: self.reading(f"{name}/{file}")
            made.memory = lambda length: self.memory(length)
        return self.children[name]

    def close(self) -> None:
        pass

    def file(self, name: str) -> SimFile:
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return self.files[name]

    # -- what happens to disks ----------------------------------------------------------------------------------------------

    def power_loss(self, random: Random) -> None:
        """The machine loses its power: unsynced writes and names each meet their own fate."""
        names = sorted(set(self.files) | set(self.durable_names))
        survivors: dict[str, SimFile] = {}
        for name in names:
            now, before = self.files.get(name), self.durable_names.get(name)
            chosen = now if now is before or random.random() < 0.5 else before
            if chosen is not None:
                survivors[name] = chosen
        for old, new in self.moves:  # a rename is atomic: a file whose old name was durable keeps one of the two
            moved = self.durable_names.get(old)
            if moved is not None and all(moved is not file for file in survivors.values()):
                survivors[old if old not in self.files else new] = moved
        self.moves.clear()
        met = set()
        for name in sorted(survivors):
            file = survivors[name]
            if id(file) not in met:
                met.add(id(file))
                self.torn_writes += file.power_loss(random)
        # A rename that half survived leaves one file under one name only.
        seen: set[int] = set()
        self.files = {}
        for name in sorted(survivors, key=lambda name: (name.endswith(".tmp"), name)):
            if id(survivors[name]) not in seen:
                seen.add(id(survivors[name]))
                self.files[name] = survivors[name]
        self.durable_names = dict(self.files)
        for _, child in sorted(self.children.items()):
            child.power_loss(random)

    def crash(self) -> None:
        """The process dies; what was written stays written, and unsynced."""

    def fail_after(self, operations: int, error: BaseException) -> None:
        """The next `operations` operations succeed, the one after them raises `error`, those behind it succeed again."""
        before = self.step

        def step(operation: str) -> None:
            nonlocal operations
            operations -= 1
            if operations < 0:
                self.step = before
                raise error
            before(operation)

        self.step = step

    def age(self, name: str) -> None:
        """The file is again what it was before its last sync."""
        file = self.file(name)
        file.unsynced.clear()
        file.durable, file.now = bytearray(file.before), bytearray(file.before)

    def flip(self, name: str, offset: int, bit: int) -> None:
        """A bit rots at rest."""
        file = self.file(name)
        file.now[offset] ^= 1 << bit
        if offset < len(file.durable):
            file.durable[offset] ^= 1 << bit
