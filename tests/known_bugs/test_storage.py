"""Published bugs of the files: what a crash between two writes, a full disk or a missing file leads to (ZooKeeper's issue tracker)."""

from collections.abc import Sequence
from contextlib import suppress
from random import Random

import google_crc32c
import pytest

from tests.driving import entries_after
from tests.known_bugs.replay import crash_at_each_operation, known_bug, written
from tests.sim.mutants import disks, histories
from tests.zablog.storage.directories import FILE_BYTES, contents
from zablog.core.effects import Append, SaveEpochs, Truncate
from zablog.core.trail import Mark
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.sim.disk import SimDisk
from zablog.storage import storage as storage_file
from zablog.storage.batch import BATCH_BYTES
from zablog.storage.batch import FILE_BYTES as FILE_HEADER_BYTES
from zablog.storage.errors import Corrupt, MetadataLost, StorageError, StorageFailed
from zablog.storage.manifest import Snapshot
from zablog.storage.storage import Storage
from zablog.storage.wal import Wal


def opened(disk: SimDisk) -> Storage | StorageError:
    """The directory, or why it is refused."""
    disk.step = lambda operation: None
    try:
        return Storage.open(disk, FILE_BYTES)
    except StorageError as error:
        return error


def zxids(storage: Storage) -> list[Zxid]:
    return [zxid for zxid, _ in contents(storage)]


def synchronizing() -> tuple[SimDisk, Storage]:
    """A node of epoch 4 that has promised epoch 6."""
    disk, storage, _ = written((4, 2))
    storage.save(storage.epochs._replace(accepted=Epoch(6)))
    return disk, storage


def newleader() -> Sequence[Append | SaveEpochs]:
    """What a follower's disk is to do about entries 5.1 and 5.2, and NEWLEADER 6."""
    _, storage, _ = written((4, 2))
    trail = storage.trail
    run = entries_after(trail, 5, b"x" * 100, b"y" * 100)
    return [Append(1, run), SaveEpochs(2, Epoch(6), Epoch(6), None)]


@known_bug(histories.epoch_written_before_the_entries, "without its history")
def test_zookeeper_4643_no_crash_leaves_an_epoch_without_its_history() -> None:
    """currentEpoch was durable, the history was not; the node was elected over a fuller log, and cut it."""
    for disk in crash_at_each_operation(synchronizing, newleader()):
        storage = opened(disk)
        assert isinstance(storage, Storage)
        assert storage.current < 6 or storage.trail.last == Zxid(5, 2), "no node is of an epoch without its history"


@known_bug(disks.log_above_the_epoch_is_refused, "starts again")
def test_zookeeper_1653_every_crash_between_two_files_leaves_a_node_that_starts() -> None:
    """Also 2307, 2354 and 4269: the log was of a later epoch than the epoch file, and the node refused to start."""
    lasts = set()
    for disk in crash_at_each_operation(synchronizing, newleader()):
        storage = opened(disk)
        assert isinstance(storage, Storage), f"a node starts again after any crash: {storage}"
        lasts.add((storage.current, storage.trail.last))

    assert (4, Zxid(5, 2)) in lasts, "the crash between the two was among them"


@known_bug(disks.failed_sync_is_tried_again, "reported as written")
def test_zookeeper_2307_a_write_that_failed_is_not_reported_as_written() -> None:
    """Memory went on with an epoch or a log that the disk had refused."""
    for operations in range(4):
        disk, storage, _ = written((1, 2))
        run = entries_after(storage.trail, 1, b"z" * 100)
        disk.fail_after(operations, OSError(5, "Input/output error"))
        told = False
        with suppress(StorageFailed):
            storage.perform([Append(1, run)], ZERO)
            told = True
        if not told:
            with pytest.raises(StorageFailed):
                storage.perform([Append(2, run)], ZERO)
        disk.power_loss(Random(operations))
        after = opened(disk)
        assert isinstance(after, Storage)
        assert not told or after.trail.last == run.last, "nothing is reported as written that is not on disk"


def cut_one_too_many(patch: pytest.MonkeyPatch) -> None:
    original = Wal.cut

    def cut(self: Wal, mark: Mark) -> None:
        before = Zxid(mark.zxid.epoch, mark.zxid.counter - 1)
        digest = self.digest_at(before)
        assert digest is not None
        original(self, Mark(before, digest))

    patch.setattr(Wal, "cut", cut)


@known_bug(cut_one_too_many, "no more and no less")
def test_zookeeper_1156_a_truncation_cuts_what_it_should() -> None:
    disk, storage, marks = written((1, 6))

    storage.perform([Truncate(1, marks[4])], ZERO)

    assert zxids(storage) == [mark.zxid for mark in marks[1:5]], "what is cut is what was to be cut, no more and no less"
    again = opened(disk)
    assert isinstance(again, Storage)
    assert zxids(again) == [mark.zxid for mark in marks[1:5]]


def truncation_goes_on_whatever_happens(patch: pytest.MonkeyPatch) -> None:
    original = Storage.truncate

    def truncate(self: Storage, mark: Mark) -> None:
        with suppress(OSError):
            original(self, mark)

    patch.setattr(Storage, "truncate", truncate)


@known_bug(truncation_goes_on_whatever_happens, "is fatal")
def test_zookeeper_3701_a_full_disk_in_a_truncation_stops_the_node() -> None:
    failed = 0
    for operations in range(100):
        disk, storage, marks = written((1, 6))
        disk.fail_after(operations, OSError(28, "No space left on device"))
        try:
            storage.perform([Truncate(1, marks[4])], ZERO)
        except StorageFailed:
            failed += 1
            again = opened(disk)
            assert isinstance(again, Storage)
            assert zxids(again) in ([mark.zxid for mark in marks[1:]], [mark.zxid for mark in marks[1:5]])
        else:
            break
    assert failed > 2, "an error within a truncation is fatal"


@known_bug(histories.truncation_in_memory_only, "come back")
def test_a_truncation_that_was_reported_is_durable() -> None:
    """Code reading: truncation did not sync, and removed later segments last: what was cut could come back."""
    for seed in range(20):
        disk, storage, marks = written((1, 9))
        storage.perform([Truncate(1, marks[4])], ZERO)
        disk.power_loss(Random(seed))
        again = opened(disk)
        assert isinstance(again, Storage)
        assert again.trail.last == marks[4].zxid, "what was cut does not come back"


@known_bug(disks.names_are_not_synced, "the directory")
def test_a_renamed_file_is_there_after_a_power_loss() -> None:
    """Code reading: the directory was not synced after a file of epochs was renamed into place."""
    for seed in range(20):
        disk, _, marks = written((1, 30))
        disk.power_loss(Random(seed))
        again = opened(disk)
        assert isinstance(again, Storage), f"a file that was put to use is in the directory: {again}"
        assert again.trail.last == marks[-1].zxid


def snapshot_is_trusted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(storage_file, "verified", lambda disk, file: disk.read(file.name, 0, file.length) if disk.exists(file.name) else b"")


@known_bug(snapshot_is_trusted, "an empty state")
def test_zookeeper_2325_a_missing_snapshot_is_not_an_empty_state() -> None:
    disk, storage, marks = written((1, 6))
    disk.create("snapshot-1.4")
    disk.write("snapshot-1.4", 0, [b"state"])
    disk.sync("snapshot-1.4")
    storage.watermark = marks[4].zxid
    storage.checkpoint(Snapshot(marks[4], "snapshot-1.4", 5, google_crc32c.value(b"state")))
    assert storage.read_snapshot() == b"state"
    disk.unlink("snapshot-1.4")

    refused = False
    with suppress(Corrupt):
        storage.read_snapshot()
        refused = True
    assert not refused, "a missing snapshot is not an empty state"


def missing_log_is_an_empty_one(patch: pytest.MonkeyPatch) -> None:
    original = Wal.__init__

    def init(self: Wal, disk, owner, file_bytes, contents, rolled) -> None:
        original(self, disk, owner, file_bytes, contents, rolled)
        if not any(name.startswith("wal-") for name in disk.names()):
            self.take_over(Mark(ZERO, 0))

    patch.setattr(Wal, "__init__", init)


@known_bug(missing_log_is_an_empty_one, "an empty history")
def test_zookeeper_2325_a_missing_log_is_not_an_empty_history() -> None:
    disk, _, _ = written((1, 6))
    for name in [name for name in disk.names() if name.startswith("wal-")]:
        disk.unlink(name)

    assert isinstance(opened(disk), MetadataLost), "a missing log is not an empty history"


def damage_is_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Wal, "damaged", lambda self, *words, **more: None)


@known_bug(damage_is_the_end, "the end of the log")
def test_zeros_in_the_middle_are_not_the_end_of_the_log() -> None:
    """Code reading: a length of zero in the middle of a segment was read as its end."""
    disk, storage, _ = written((1, 6))
    name = storage.wal.files[0].name
    file = disk.files[name]
    offset = FILE_HEADER_BYTES
    file.now[offset : offset + BATCH_BYTES] = bytes(BATCH_BYTES)

    assert isinstance(opened(disk), Corrupt), "zeros with data behind them are not the end of the log"
