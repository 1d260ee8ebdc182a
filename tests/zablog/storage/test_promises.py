"""A node that has lost what it promised, or the history it promised about, is refused in words."""

import pytest

from tests.driving import entries_after
from tests.zablog.storage.directories import born, contents, copy_of, small_log
from zablog.core.effects import Append, SaveEpochs
from zablog.core.zxid import ZERO, Epoch
from zablog.sim.disk import SimDisk
from zablog.storage.errors import Corrupt, MetadataLost, StorageFailed
from zablog.storage.manifest import Identity, Member, give_birth
from zablog.storage.storage import Storage


@pytest.mark.parametrize("record", ["epochs", "manifest"])
def test_a_record_missing_beside_a_log_is_a_lost_promise_not_an_unborn_directory(record: str) -> None:
    disk, _ = small_log()
    disk.unlink(f"{record}.a")
    disk.unlink(f"{record}.b")

    with pytest.raises(MetadataLost, match="must not vote"):
        Storage.open(disk, 600)


@pytest.mark.parametrize("record", ["epochs", "manifest"])
@pytest.mark.parametrize("copy", ["a", "b"])
def test_one_missing_copy_is_made_again(record: str, copy: str) -> None:
    disk, entries = small_log()
    disk.unlink(f"{record}.{copy}")

    assert contents(Storage.open(disk, 600)) == entries
    assert disk.exists(f"{record}.{copy}")


def test_a_wiped_log_beside_its_promises_is_refused() -> None:
    disk, _ = small_log()
    for name in disk.names():
        if name.startswith("wal-"):
            disk.unlink(name)

    with pytest.raises(MetadataLost, match="the log is gone"):
        Storage.open(disk, 600)


def test_an_old_copy_of_the_epochs_record_is_known_by_the_log() -> None:
    disk = born()
    before = copy_of(disk)
    storage = Storage.open(disk, 600)
    storage.perform([SaveEpochs(1, Epoch(3), Epoch(3), None), Append(2, entries_after(storage.trail, 3, b"x"))], ZERO)
    for name in ("epochs.a", "epochs.b"):
        disk.unlink(name)
        disk.create(name)
        disk.write(name, 0, [before.read(name, 0, before.size(name))])

    with pytest.raises(MetadataLost, match="old copy"):
        Storage.open(disk, 600)


def test_the_log_of_another_node_is_not_ours() -> None:
    ours, theirs = small_log()[0], SimDisk()
    incarnation = "ef" * 16
    give_birth(theirs, Identity("ab" * 16, 1, incarnation, (Member(1, incarnation, "127.0.0.1:7401"),)))
    Storage.open(theirs, 600)
    (log,) = [name for name in theirs.names() if name.startswith("wal-")]
    for name in ours.names():
        if name.startswith("wal-"):
            ours.unlink(name)
    ours.create(log)
    ours.write(log, 0, [theirs.read(log, 0, theirs.size(log))])

    with pytest.raises(Corrupt, match="incarnation"):
        Storage.open(ours, 600)


@pytest.mark.parametrize("which", ["accepted", "current"])
def test_epochs_never_decrease(which: str) -> None:
    storage = Storage.open(small_log()[0], 600)
    storage.perform([SaveEpochs(1, Epoch(5), Epoch(4), None)], ZERO)
    lower = SaveEpochs(2, Epoch(4), Epoch(4), None) if which == "accepted" else SaveEpochs(2, Epoch(5), Epoch(3), None)

    with pytest.raises(AssertionError, match="never decreases"):
        storage.perform([lower], ZERO)


def test_current_epoch_may_be_below_the_last_entry() -> None:
    disk, entries = small_log()  # W7: a crash between the history and currentEpoch is legal
    storage = Storage.open(disk, 600)
    storage.perform([SaveEpochs(1, Epoch(2), Epoch(1), None), Append(2, entries_after(storage.trail, 2, b"x"))], ZERO)

    storage = Storage.open(disk, 600)

    assert (storage.trail.last.epoch, storage.current) == (2, 1)
    assert contents(storage) == [*entries, ((2, 1), b"x")]


def test_whatever_fails_within_a_write_is_final() -> None:
    disk, _ = small_log()
    storage = Storage.open(disk, 600)
    disk.fail_after(0, MemoryError())
    effects = [Append(1, entries_after(storage.trail, 1, b"x"))]
    with pytest.raises(MemoryError):
        storage.perform(effects, ZERO)

    with pytest.raises(StorageFailed, match="must not write again"):
        storage.perform(effects, ZERO)


@pytest.mark.parametrize(("record", "other"), [("epochs", "manifest"), ("manifest", "epochs")])
@pytest.mark.parametrize("copy", ["a", "b"])
def test_the_copy_of_another_record_that_was_written_in_the_wrong_place_is_mended(record: str, other: str, copy: str) -> None:
    disk, entries = small_log()
    storage = Storage.open(disk, 600)
    for _ in range(20):  # of two whole copies the higher version counts: let it be that of the wrong one
        if other == "epochs":
            storage.epochs_file.save(storage.epochs)
        else:
            storage.manifest.switch(storage.manifest.contents)
    raw = disk.read(f"{other}.a", 0, disk.size(f"{other}.a"))
    disk.truncate(f"{record}.{copy}", 0)
    disk.write(f"{record}.{copy}", 0, [raw])

    again = Storage.open(disk, 600)

    assert contents(again) == entries
    assert (again.epochs, again.manifest.contents) == (storage.epochs, storage.manifest.contents)
