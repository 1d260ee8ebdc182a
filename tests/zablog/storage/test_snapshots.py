"""Checkpoints, trimming and installed snapshots: the manifest's switch is the one step, and a crash leaves what was or what will be."""

import errno
from contextlib import suppress
from random import Random

import google_crc32c
import pytest

from tests.driving import entries_after
from tests.zablog.storage.directories import FILE_BYTES, born, contents
from zablog.core.effects import Append, SaveEpochs
from zablog.core.trail import Mark, Trail
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.sim.disk import PowerLost, SimDisk
from zablog.storage.errors import Corrupt, MetadataLost, NewerFormat, StorageError, Trimmed
from zablog.storage.manifest import Contents, Manifest, Snapshot
from zablog.storage.snapshots import Part, gathered, put_piece
from zablog.storage.spare import PREPARED, RECYCLED_MAX, Spare
from zablog.storage.storage import Storage


def written(entries: int, disk: SimDisk | None = None, file_bytes: int = FILE_BYTES) -> tuple[SimDisk, Storage, list[Mark]]:
    """A log of so many entries of epoch 1, each a batch of its own, in several files; and every place of it."""
    disk = disk or born()
    storage = Storage.open(disk, file_bytes)
    storage.perform([SaveEpochs(1, Epoch(1), Epoch(1), None)], ZERO)
    trail, marks = Trail(), [Mark(ZERO, 0)]
    for number in range(entries):
        run = entries_after(trail, 1, b"%03d" % number * 60)
        trail.append(run)
        storage.perform([Append(1, run)], marks[-1].zxid)
        marks.append(Mark(run.last, run.digest))
    storage.watermark = marks[-1].zxid
    return disk, storage, marks


def snapshot_at(disk: SimDisk, mark: Mark, words: bytes = b"state") -> Snapshot:
    """What an application would have put on the disk."""
    name = f"snapshot-{mark.zxid}"
    disk.create(name)
    disk.write(name, 0, [words])
    disk.sync(name)
    disk.sync_names()
    return Snapshot(mark, name, len(words), google_crc32c.value(words))


def logs(disk: SimDisk) -> list[str]:
    return [name for name in disk.names() if name.startswith("wal-")]


def test_a_checkpoint_lets_go_of_the_log_that_it_covers() -> None:
    disk, storage, marks = written(40)
    before = logs(disk)

    storage.checkpoint(snapshot_at(disk, marks[30]))

    assert len(logs(disk)) < len(before)
    assert ZERO < storage.trail.base.zxid <= marks[30].zxid
    again = Storage.open(disk, FILE_BYTES)
    assert again.trail == storage.trail
    assert again.snapshot == storage.snapshot
    assert again.read_snapshot() == b"state"
    assert again.watermark >= marks[30].zxid
    assert again.digest_at(marks[30].zxid) == marks[30].digest
    run = again.read(marks[30].zxid, marks[-1].zxid, 1)
    assert run is not None
    assert run.first == marks[31].zxid


def test_a_checkpoint_keeps_as_much_log_as_it_is_told() -> None:
    disk, storage, marks = written(40)
    kept = logs(disk)

    storage.checkpoint(snapshot_at(disk, marks[30]), keep_bytes=1 << 30)

    assert logs(disk) == kept
    assert storage.trail.base.zxid == ZERO


def test_what_was_trimmed_is_refused_not_skipped() -> None:
    disk, storage, marks = written(40)
    storage.checkpoint(snapshot_at(disk, marks[30]))

    with pytest.raises(Trimmed, match="in the snapshot"):
        storage.read(ZERO, marks[-1].zxid, 1000)


def test_a_later_checkpoint_removes_the_file_of_the_earlier_one() -> None:
    disk, storage, marks = written(40)
    storage.checkpoint(snapshot_at(disk, marks[10]))

    storage.checkpoint(snapshot_at(disk, marks[30], b"later"))

    assert [name for name in disk.names() if name.startswith("snapshot")] == [f"snapshot-{marks[30].zxid}"]
    assert Storage.open(disk, FILE_BYTES).read_snapshot() == b"later"


def test_an_installed_snapshot_replaces_the_log_whole() -> None:
    disk, storage, _ = written(5)
    mark = Mark(Zxid(3, 900), 0xABCDEF)

    storage.install(snapshot_at(disk, mark))

    assert storage.trail == Trail(mark)
    run = entries_after(storage.trail, 3, b"behind the snapshot")
    storage.perform([SaveEpochs(2, Epoch(3), Epoch(3), None), Append(3, run)], mark.zxid)
    again = Storage.open(disk, FILE_BYTES)
    assert again.trail.base == mark
    assert again.trail.last == Zxid(3, 901)
    assert again.watermark == mark.zxid
    assert len(logs(disk)) == 1


def operations_of(install: bool) -> int:
    disk, storage, marks = written(40)
    snapshot = snapshot_at(disk, Mark(Zxid(3, 900), 7) if install else marks[30])
    count = 0

    def step(operation: str) -> None:
        nonlocal count
        count += 1

    disk.step = step
    (storage.install if install else storage.checkpoint)(snapshot)
    return count


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power lost"])
@pytest.mark.parametrize("install", [False, True], ids=["checkpoint", "install"])
def test_a_crash_at_any_operation_leaves_the_old_state_or_the_new_one(install: bool, power: bool) -> None:
    total = operations_of(install)
    seen = set()
    for at in range(total + 1):
        for fate in range(4 if power else 1):
            disk, storage, marks = written(40)
            snapshot = snapshot_at(disk, Mark(Zxid(3, 900), 7) if install else marks[30])
            if install:
                storage.perform([SaveEpochs(2, Epoch(3), Epoch(1), None)], ZERO)
            disk.fail_after(at, PowerLost())
            with suppress(PowerLost):
                (storage.install if install else storage.checkpoint)(snapshot)
            disk.step = lambda operation: None
            if power:
                disk.power_loss(Random(1000 * at + fate))

            again = Storage.open(disk, FILE_BYTES)

            new = again.snapshot == snapshot
            assert new or again.snapshot is None
            seen.add(new)
            assert again.trail.last == (snapshot.mark.zxid if install and new else marks[-1].zxid)
            begin = snapshot.mark.zxid if new else ZERO
            if new:
                assert again.read_snapshot() == b"state"
            if not install:
                run = again.read(begin, marks[-1].zxid, 1)
                assert run is not None and run.prev == begin
            once_more = Storage.open(disk, FILE_BYTES)
            assert (once_more.trail, once_more.snapshot) == (again.trail, again.snapshot)
            run = entries_after(once_more.trail, 4, b"and on")
            once_more.perform([SaveEpochs(1, Epoch(4), once_more.current, None), Append(2, run)], ZERO)
            assert Storage.open(disk, FILE_BYTES).trail.last == run.last
    assert seen == ({False, True} if power else {True}), "a killed process leaves the copy that it was writing, which is the newer one"


def test_a_missing_newest_file_is_not_a_shorter_log() -> None:
    """Found when the manifest named no files: the log simply ended earlier, and the node voted with that."""
    disk, _, _ = written(40)
    disk.unlink(logs(disk)[-1])
    disk.sync_names()

    with pytest.raises(Corrupt, match="was put to use and is missing"):
        Storage.open(disk, FILE_BYTES)


def test_every_missing_file_of_the_log_is_noticed() -> None:
    disk, _, _ = written(40)
    for name in logs(disk):
        damaged, _, _ = written(40)
        damaged.unlink(name)
        damaged.sync_names()

        with pytest.raises(StorageError):
            Storage.open(damaged, FILE_BYTES)


def test_a_log_that_ends_below_its_snapshot_is_refused() -> None:
    """The files of the log were put back from an older copy: promises and snapshot are newer than they are."""
    disk, storage, marks = written(40)
    first = storage.wal.files[0].header
    manifest = Manifest(disk)
    manifest.load()
    manifest.switch(manifest.contents._replace(snapshot=snapshot_at(disk, Mark(marks[-1].zxid.after(1), 1))))
    assert first.start.zxid == ZERO

    with pytest.raises(Corrupt, match="the log was durable"):
        Storage.open(disk, FILE_BYTES)


def test_every_flipped_byte_of_a_snapshot_is_seen() -> None:
    disk, storage, marks = written(40)
    storage.checkpoint(snapshot_at(disk, marks[30], bytes(range(200))))
    for offset in range(200):
        disk.flip(f"snapshot-{marks[30].zxid}", offset, offset % 8)
        with pytest.raises(Corrupt, match="another checksum"):
            storage.read_snapshot()
        disk.flip(f"snapshot-{marks[30].zxid}", offset, offset % 8)
    assert storage.read_snapshot() == bytes(range(200))


def test_a_manifest_of_a_later_format_is_refused_in_words() -> None:
    disk, storage, _ = written(1)
    body = storage.manifest.encode().replace(b'"format": 2', b'"format": 3')
    storage.manifest.copies.save(body)

    with pytest.raises(NewerFormat, match="use the version that wrote it"):
        Storage.open(disk, FILE_BYTES)


def test_a_manifest_of_format_1_names_no_files_and_is_read() -> None:
    disk, storage, _ = written(3)
    found = contents(storage)
    words = storage.manifest.encode().decode().replace('"format": 2', '"format": 1')
    storage.manifest.copies.save((words[: words.index(',\n "base"')] + "\n}").encode())

    again = Storage.open(disk, FILE_BYTES)

    assert contents(again) == found


def test_a_manifest_that_says_nonsense_of_its_contents_is_lost_metadata() -> None:
    disk, storage, _ = written(1)
    for words in (b'"first": null', b'"first": "x"'):
        storage.manifest.copies.save(storage.manifest.encode().replace(b'"first": 1', words))
        with pytest.raises(MetadataLost, match="says nothing usable"):
            Storage.open(disk, FILE_BYTES)


def test_a_new_born_directory_begins_at_the_origin() -> None:
    manifest = Manifest(born())
    manifest.load()

    assert manifest.contents == Contents()


def test_a_damaged_last_batch_within_which_the_snapshot_stands_loses_nothing_of_it() -> None:
    """Seed 1010: the last batch rotted, and the log ended below its snapshot, which is whole and holds more."""
    disk, storage, marks = written(40)
    storage.checkpoint(snapshot_at(disk, marks[40]))
    wal = storage.wal
    disk.flip(wal.files[-1].name, wal.last_offset + 150, 3)

    again = Storage.open(disk, FILE_BYTES)

    assert again.trail == Trail(marks[40])
    assert again.suspect is None, "the range that the damaged batch held is in the snapshot"
    assert again.read_snapshot() == b"state"
    run = entries_after(again.trail, 1, b"and on")
    again.perform([Append(2, run)], ZERO)
    assert Storage.open(disk, FILE_BYTES).trail.last == run.last


def test_a_damaged_last_batch_and_a_damaged_snapshot_within_it_are_refused() -> None:
    disk, storage, marks = written(40)
    storage.checkpoint(snapshot_at(disk, marks[40]))
    wal = storage.wal
    disk.flip(wal.files[-1].name, wal.last_offset + 150, 3)
    disk.flip(f"snapshot-{marks[40].zxid}", 2, 1)

    with pytest.raises(Corrupt, match="another checksum"):
        Storage.open(disk, FILE_BYTES)


def test_files_that_the_log_let_go_of_become_the_next_ones() -> None:
    disk, storage, marks = written(70)
    storage.prepare()
    storage.checkpoint(snapshot_at(disk, marks[60]))
    assert len(storage.wal.spare.recycled) == RECYCLED_MAX
    made: list[str] = []
    create = disk.create
    disk.create = lambda name: (made.append(name), create(name))[1]  # type: ignore[method-assign]

    trail = storage.trail
    for _ in range(20):
        run = entries_after(trail, 1, b"x" * (FILE_BYTES // 3))
        trail.append(run)
        storage.perform([Append(1, run)], ZERO)
        storage.prepare()

    assert len(storage.wal.spare.recycled) == 0
    assert made.count(PREPARED) < 4
    assert Storage.open(disk, FILE_BYTES).trail.last == trail.last


def power_cuts_while_files_are_reused() -> None:
    """At any step of it. Raises what a start raises, and AssertionError where something is gone."""

    def work(disk: SimDisk, storage: Storage, mark: Mark) -> None:
        storage.checkpoint(snapshot_at(disk, mark))
        storage.prepare()
        for _ in range(3):
            storage.perform([Append(1, entries_after(storage.trail, 1, b"y" * (FILE_BYTES // 2)))], ZERO)
            storage.prepare()

    disk, storage, marks = written(40)
    steps: list[str] = []
    disk.step = steps.append  # type: ignore[assignment]
    work(disk, storage, marks[30])
    for at in range(len(steps)):
        for seed in range(8):
            disk, storage, marks = written(40)
            disk.fail_after(at, PowerLost())
            with suppress(PowerLost):
                work(disk, storage, marks[30])
            disk.step = lambda operation: None
            disk.power_loss(Random(seed))

            again = Storage.open(disk, FILE_BYTES)

            assert again.trail.last >= marks[-1].zxid, f"cut before operation {at}, {steps[at]}, seed {seed}"
            assert again.digest_at(marks[-1].zxid) == marks[-1].digest


def test_a_power_cut_at_any_step_of_recycling_leaves_the_log() -> None:
    power_cuts_while_files_are_reused()


def test_a_file_that_is_written_over_before_its_new_name_is_durable_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fill = Spare.fill

    def hasty(self: Spare, capacity: int) -> None:
        with monkeypatch.context() as silence:
            silence.setattr(SimDisk, "sync_names", lambda self: self.step("sync_names"))
            fill(self, capacity)

    monkeypatch.setattr(Spare, "fill", hasty)
    with pytest.raises(Corrupt, match="says of itself that it is"):
        power_cuts_while_files_are_reused()


def test_a_reader_whose_file_is_made_anew_meanwhile_finds_no_damage() -> None:
    disk, storage, marks = written(40)
    read, done = disk.read, []

    def interrupted(name: str, offset: int, length: int) -> bytes:
        if not done:
            done.append(name)
            storage.checkpoint(snapshot_at(disk, marks[30]))
            return bytes(length)  # what a descriptor that was opened before would show by now
        return read(name, offset, length)

    disk.read = interrupted  # type: ignore[method-assign]

    assert storage.read(marks[1].zxid, marks[-1].zxid, 1000) is None


def test_a_digest_that_is_trimmed_away_while_it_is_looked_for_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader stopped for it: the log was trimmed, by its writer, between the first look of a reader and the second."""
    disk, storage, marks = written(10)
    find = storage.wal.digest_at

    def late(zxid: Zxid) -> int | None:
        monkeypatch.setattr(storage.wal, "digest_at", find)
        storage.checkpoint(snapshot_at(disk, marks[7], b"state"))
        return find(zxid)

    monkeypatch.setattr(storage.wal, "digest_at", late)

    with pytest.raises(Trimmed):
        storage.digest_at(marks[1].zxid)
    assert storage.trail.base.zxid > marks[1].zxid


def test_a_trail_says_where_it_begins_before_it_lets_go() -> None:
    class Watched(Trail):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "ends" and hasattr(self, "base"):
                bases.append(self.base)
            super().__setattr__(name, value)

    bases = list[Mark]()
    _, storage, marks = written(10)
    trail = Watched(storage.trail.base, list(storage.trail.ends))
    bases.clear()
    trail.rebase(marks[5])

    assert bases == [marks[5]]


@pytest.mark.parametrize("operation", [0, 1])
def test_nothing_stays_of_a_piece_that_the_disk_did_not_take(operation: int) -> None:
    """The next life would read it from memory, and take the part for whole."""
    disk = SimDisk()
    disk.create("part")
    put_piece(disk, "part", 0, b"first")
    disk.fail_after(operation, OSError(errno.EIO, "it failed"))

    with pytest.raises(OSError, match="it failed"):
        put_piece(disk, "part", 5, b"second")

    assert disk.read("part", 0, 100) == b"first"
    put_piece(disk, "part", 5, b"again")
    disk.sync_names()
    disk.power_loss(Random(1))
    assert disk.read("part", 0, 100) == b"firstagain"


def test_a_part_that_took_a_rotten_ones_place_stays_there_though_the_transfer_breaks_off() -> None:
    """Seed 1474: its name was made durable at the end of the transfer, with all others."""
    disk = SimDisk()
    disk.create("part")
    put_piece(disk, "part", 0, b"rotten")
    disk.sync_names()
    for want in gathered(disk, Part("part", 6, google_crc32c.value(b"as new"))):
        if want.begin == 0:
            put_piece(disk, want.file, 0, b"as new")
    disk.power_loss(Random(1))

    assert disk.read("part", 0, 100) == b"as new"
