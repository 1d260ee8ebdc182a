"""Schedules round checkpoint, install and trim that a hostile reader found to break the storage: each states the law that it broke."""

from contextlib import suppress

import pytest

from tests.driving import entries_after
from tests.zablog.storage.directories import FILE_BYTES, born, copy_of
from tests.zablog.storage.test_snapshots import logs, snapshot_at, written
from zablog.core.effects import Append, SaveEpochs
from zablog.core.trail import Entries, Mark, Trail
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.sim.disk import PowerLost, SimDisk
from zablog.storage.errors import Corrupt, StorageError, Trimmed
from zablog.storage.history import History
from zablog.storage.storage import Storage

LEADERS = Mark(Zxid(3, 900), 7)


def test_history_gives_nothing_of_the_old_log_once_the_core_has_installed_a_snapshot() -> None:
    """Between the core's step and the writer's: the old log is on disk still, its uncommitted tail in it, and the watermark is above."""
    _, storage, marks = written(8)
    committed = marks[2].zxid
    history = History(storage)

    history.install(LEADERS)
    with suppress(Trimmed):
        run = history.read(committed, LEADERS.zxid, 10_000)  # what the application has not had yet of what is committed

        assert run is None, f"{run.first} was never committed"


def test_the_commit_hint_never_names_a_tail_that_the_installed_watermark_knows_nothing_of() -> None:
    """The core has taken a snapshot, the writer seals an idle log first, and dies: the old tail comes back, committed by our own word."""
    disk = born()
    storage = Storage.open(disk, FILE_BYTES)
    storage.perform([SaveEpochs(1, Epoch(1), Epoch(1), None), Append(2, entries_after(Trail(), 1, b"a", b"b"))], ZERO)
    assert Storage.open(copy_of(disk), FILE_BYTES).watermark == ZERO, "nothing of it is known to be committed"

    storage.seal_idle(LEADERS.zxid)

    assert Storage.open(disk, FILE_BYTES).watermark == ZERO


def operations(disk: SimDisk) -> list[str]:
    seen: list[str] = []
    disk.step = seen.append
    return seen


@pytest.mark.parametrize("install", [False, True], ids=["next file", "install"])
def test_a_missing_newest_file_is_noticed_whenever_the_node_was_killed_before(install: bool) -> None:
    """Killed between the renaming of a file and the manifest's word of it; up again, and acknowledging; then the file is lost."""

    def work(storage: Storage, disk: SimDisk, trail: Trail) -> None:
        if install:
            storage.install(snapshot_at(disk, LEADERS))
        else:
            storage.wal.take_over(Mark(trail.last, trail.digest))

    disk, storage, _ = written(5)
    storage.perform([SaveEpochs(1, Epoch(3), Epoch(1), None)], ZERO)
    seen = operations(disk)
    work(storage, disk, storage.trail)
    for at in range(len(seen)):
        disk, storage, _ = written(5)
        storage.perform([SaveEpochs(1, Epoch(3), Epoch(1), None)], ZERO)
        disk.fail_after(at, PowerLost())
        with suppress(PowerLost):
            work(storage, disk, storage.trail)
        disk.step = lambda operation: None
        again = Storage.open(disk, FILE_BYTES)
        again.perform([Append(1, entries_after(again.trail, 3, b"acknowledged"))], ZERO)
        disk.unlink(logs(disk)[-1])
        disk.sync_names()

        with pytest.raises(StorageError):
            lost = Storage.open(disk, FILE_BYTES)
            pytest.fail(f"killed before operation {at}, {seen[at]}: the node votes with {lost.trail.last}, and had acknowledged more")


class Interrupted(Trail):
    """A trail whose rebase finds a reader of another thread just there."""

    __slots__ = ("reader",)

    def rebase(self, mark: Mark) -> None:
        self.reader()
        super().rebase(mark)


def test_a_reader_beside_a_trim_gets_what_is_next_or_nothing() -> None:
    disk, storage, marks = written(40)
    trail = Interrupted(storage.wal.trail.base, storage.wal.trail.ends)
    storage.wal.trail = trail
    found: list[Entries | None] = []

    def reader() -> None:
        with suppress(Trimmed):
            found.append(storage.read(marks[1].zxid, marks[-1].zxid, 1000))

    trail.reader = reader
    storage.checkpoint(snapshot_at(disk, marks[30]))

    assert [run.prev for run in found if run is not None] in ([], [marks[1].zxid])


def test_a_place_that_was_trimmed_while_somebody_asked_for_its_digest_is_not_damage() -> None:
    """The core emits ReadDigest, the writer trims, the reader comes: `read` says Trimmed, `digest_at` cries of corruption."""
    disk, storage, marks = written(40)
    storage.checkpoint(snapshot_at(disk, marks[30]))

    with pytest.raises(StorageError) as caught:
        storage.digest_at(marks[1].zxid)

    assert not isinstance(caught.value, Corrupt)


def test_a_file_trimmed_from_under_a_reader_of_digests_is_no_error_of_the_disk() -> None:
    disk, storage, marks = written(40)
    read, done = disk.read, []

    def interrupted(name: str, offset: int, length: int) -> bytes:
        if not done:
            done.append(name)
            snapshot = snapshot_at(disk, marks[30])
            storage.checkpoint(snapshot)
        return read(name, offset, length)

    disk.read = interrupted  # type: ignore[method-assign]
    with suppress(StorageError):
        storage.digest_at(marks[1].zxid)  # FileNotFoundError is what falls out


def test_a_checkpoint_that_comes_behind_an_install_is_void_not_fatal() -> None:
    """The application was at it when the leader's snapshot took its place. Nothing is wrong with this disk."""
    disk, storage, marks = written(8)
    own = snapshot_at(disk, marks[2])
    storage.install(snapshot_at(disk, LEADERS))

    with suppress(StorageError):
        storage.checkpoint(own)

    assert storage.failure is None
    assert storage.snapshot is not None and storage.snapshot.mark == LEADERS
