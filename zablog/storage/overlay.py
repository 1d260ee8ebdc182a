"""A disk over another one, which it only reads: for looking at a data directory with the code that would mend it."""

from collections.abc import Sequence

from zablog.core.trail import Payload
from zablog.storage.disk import Disk


class Overlay:
    """Changes stay in memory."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.changed: dict[str, bytearray] = {}
        self.gone: set[str] = set()

    def names(self) -> list[str]:
        return sorted((set(self.disk.names()) | set(self.changed)) - self.gone)

    def exists(self, name: str) -> bool:
        return name in self.changed or (name not in self.gone and self.disk.exists(name))

    def size(self, name: str) -> int:
        return len(self.changed[name]) if name in self.changed else self.disk.size(name)

    def read(self, name: str, offset: int, length: int) -> bytes:
        if name in self.changed:
            return bytes(self.changed[name][offset : offset + length])
        return self.disk.read(name, offset, length)

    def read_now(self, name: str, offset: int, length: int) -> Payload:
        return self.read(name, offset, length)

    def warm(self, name: str, begin: int, end: int) -> None:
        """Whoever reads here may wait."""

    def create(self, name: str) -> None:
        self.changed[name] = bytearray()
        self.gone.discard(name)

    def allocate(self, name: str, length: int) -> None:
        self.create(name)
        self.truncate(name, length)

    def write(self, name: str, offset: int, pieces: Sequence[Payload]) -> None:
        whole = self.mine(name)
        raw = b"".join(pieces)
        whole.extend(bytes(max(0, offset - len(whole))))
        whole[offset : offset + len(raw)] = raw

    def sync(self, name: str) -> None:
        pass

    def cool(self, name: str, begin: int, end: int) -> None:
        """Nothing is written here."""

    def truncate(self, name: str, length: int) -> None:
        whole = self.mine(name)
        del whole[length:]
        whole.extend(bytes(length - len(whole)))

    def rename(self, old: str, new: str) -> None:
        self.changed[new] = self.mine(old)
        self.unlink(old)
        self.gone.discard(new)

    def unlink(self, name: str) -> None:
        self.changed.pop(name, None)
        self.gone.add(name)

    def sync_names(self) -> None:
        pass

    def child(self, name: str) -> Disk:
        raise NotImplementedError("an overlay is of one directory")

    def close(self) -> None:
        self.disk.close()

    def mine(self, name: str) -> bytearray:
        if name not in self.changed:
            self.changed[name] = bytearray(self.disk.read(name, 0, self.disk.size(name)))
        return self.changed[name]
