"""Data directories on the simulated disk, for the tests of this room."""

from collections import Counter
from collections.abc import Sequence

import pytest

from tests.driving import entries_after
from zablog.core.effects import Append, SaveEpochs
from zablog.core.trail import Payload, Trail
from zablog.core.zxid import BEYOND, ZERO, Epoch, PeerId, Zxid
from zablog.sim.disk import SimDisk
from zablog.storage.manifest import Identity, Member, give_birth
from zablog.storage.storage import Storage

IDENTITY = Identity("ab" * 16, PeerId(1), "cd" * 16, (Member(PeerId(1), "cd" * 16, "127.0.0.1:7401"),))
FILE_BYTES = 2048


def born() -> SimDisk:
    disk = SimDisk()
    give_birth(disk, IDENTITY)
    return disk


def contents(storage: Storage) -> list[tuple[Zxid, bytes]]:
    """Every entry of the log, read back."""
    found: list[tuple[Zxid, bytes]] = []
    after = storage.trail.base.zxid
    while (run := storage.read(after, BEYOND, 100)) is not None:
        found += [(run.first.after(step), bytes(payload)) for step, payload in enumerate(run.payloads)]
        after = run.last
        assert storage.digest_at(run.last) == run.digest
    return found


def small_log() -> tuple[SimDisk, list[tuple[Zxid, bytes]]]:
    disk = born()
    storage = Storage.open(disk, 600)
    storage.perform([SaveEpochs(1, Epoch(1), Epoch(1), None)], ZERO)
    trail = Trail()
    for word in (b"one", b"two", b"three"):
        run = entries_after(trail, 1, word, word)
        trail.append(run)
        storage.perform([Append(1, run)], ZERO)
    return disk, contents(storage)


def copy_of(disk: SimDisk) -> SimDisk:
    copy = SimDisk()
    for name in disk.names():
        copy.create(name)
        copy.write(name, 0, [disk.read(name, 0, disk.size(name))])
        copy.sync(name)
    copy.sync_names()
    return copy


def most_unsynced(disk: SimDisk, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """From now on: of each file, the most bytes that ever waited for a sync."""
    waiting, most = Counter[str](), Counter[str]()
    write, sync = disk.write, disk.sync

    def written(name: str, offset: int, pieces: Sequence[Payload]) -> None:
        write(name, offset, pieces)
        waiting[name] += sum(map(len, pieces))
        most[name] = max(most[name], waiting[name])

    def synced(name: str) -> None:
        sync(name)
        waiting[name] = 0

    monkeypatch.setattr(disk, "write", written)
    monkeypatch.setattr(disk, "sync", synced)
    return most
