"""A data directory looked at from outside: every byte of it flipped in turn, with and without a replica, and two logs that differ."""

from collections.abc import Iterator, Sequence

import pytest

from tests.driving import entries_after
from tests.zablog.storage.directories import born, copy_of, small_log
from zablog.core.effects import Append, SaveEpochs
from zablog.core.trail import Trail
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.sim.disk import SimDisk
from zablog.storage.inspection import Inspection, divergence, inspect
from zablog.storage.spare import PREPARED
from zablog.storage.storage import Storage


def log_of(words: Sequence[bytes], committed: int, file_bytes: int = 4096) -> SimDisk:
    """A log of one epoch, two entries a batch, of which so many are known to be committed."""
    disk = born()
    storage = Storage.open(disk, file_bytes)
    storage.perform([SaveEpochs(1, Epoch(1), Epoch(1), None)], ZERO)
    trail = Trail()
    for begin in range(0, len(words), 2):
        run = entries_after(trail, 1, *words[begin : begin + 2])
        trail.append(run)
        storage.perform([Append(1, run)], min(Zxid(1, committed), run.last))
    return disk


def several_files() -> SimDisk:
    return log_of([b"word %d" % number for number in range(20)], 20, file_bytes=600)


def flipped(disk: SimDisk, name: str, at: int, bits: int = 0x20) -> SimDisk:
    copy = copy_of(disk)
    (byte,) = copy.read(name, at, 1)
    copy.write(name, at, [bytes([byte ^ bits])])
    return copy


def used(whole: Inspection) -> Iterator[tuple[str, int]]:
    """Every byte that says anything, with its file: of both copies of the metadata, and of the log to its end."""
    for name in ("manifest.a", "manifest.b", "epochs.a", "epochs.b"):
        yield from ((name, at) for at in range(whole.overlay.size(name)))
    for file in whole.wal.files:
        yield from ((file.name, at) for at in range(file.end))


def entries(seen: Inspection) -> list[tuple[Zxid, bytes]]:
    return [
        (batch.entries.first.after(step), bytes(payload)) for batch in seen.batches() for step, payload in enumerate(batch.entries.payloads)
    ]


def test_a_whole_directory_has_no_findings() -> None:
    disk, held = small_log()

    whole = inspect(disk)

    assert (whole.findings, whole.unread, entries(whole)) == ([], "", held)


def test_a_file_that_goes_meanwhile_is_no_finding() -> None:
    """A running node has let go of it."""
    disk, held = small_log()
    gone = [name for name in disk.names() if name.startswith("wal-")]

    def reading(name: str) -> None:
        if name in gone:
            gone.remove(name)
            raise FileNotFoundError(2, "no such file", name)

    disk.reading = reading

    whole = inspect(disk)

    assert gone == []
    assert (whole.findings, whole.unread, entries(whole)) == ([], "", held)


@pytest.mark.slow
def test_with_a_replica_every_flipped_byte_is_named() -> None:
    disk = several_files()
    replica = inspect(copy_of(disk))
    places = list(used(replica))
    assert len(places) > 2000 and len(replica.wal.files) > 1

    for name, at in places:
        seen = inspect(flipped(disk, name, at), [replica])

        assert [(found.file, found.offset) for found in seen.findings] == [(name, at)], seen.findings
        assert seen.findings[0].harmless == (not name.startswith("wal-"))
        if name.startswith("wal-"):
            assert seen.findings[0].zxid is not None


@pytest.mark.slow
def test_alone_every_flipped_byte_is_found_in_its_batch_and_the_log_is_read_up_to_it() -> None:
    disk = several_files()
    whole = inspect(disk)
    held = entries(whole)
    begins = {(batch.file.name, batch.offset): batch.header.first for batch in whole.batches()}
    mended = 0

    for name, at in used(whole):
        if name.startswith("wal-"):
            seen = inspect(flipped(disk, name, at))

            (found,) = seen.findings
            assert found.file == name and found.offset is not None and found.offset <= at
            if found.offset == at:
                mended += 1
            elif found.offset:
                first = begins[name, found.offset]
                assert entries(seen) == [entry for entry in held if entry[0] < first], "what is before the damage is shown"
    assert mended > 100, "a header tells by its checksum which byte it was"


def test_a_byte_behind_the_end_of_the_log_that_is_not_zero_is_named() -> None:
    disk, held = small_log()
    file = inspect(disk).wal.files[-1]

    for at in range(file.end, disk.size(file.name)):
        seen = inspect(flipped(disk, file.name, at))

        assert [(found.file, found.offset) for found in seen.findings] == [(file.name, at)]
        assert entries(seen) == held and seen.tail() == "suspect"


def test_a_file_that_is_cut_off_at_any_length_is_found() -> None:
    disk, _ = small_log()
    for file in inspect(disk).wal.files:
        for length in range(disk.size(file.name)):
            copy = copy_of(disk)
            copy.truncate(file.name, length)

            assert any(found.file == file.name for found in inspect(copy).findings), (file.name, length)


@pytest.mark.parametrize("at", ["first", "middle", "last"])
def test_a_missing_file_of_the_log_is_found(at: str) -> None:
    disk = several_files()
    files = inspect(disk).wal.files
    assert len(files) > 2
    disk.unlink({"first": files[0], "middle": files[len(files) // 2], "last": files[-1]}[at].name)

    assert inspect(disk).findings


def test_what_is_looked_at_stays_as_it_is() -> None:
    disk, _ = small_log()
    disk.create(PREPARED)
    broken = flipped(disk, inspect(disk).wal.files[0].name, 130)
    before = {name: broken.read(name, 0, broken.size(name)) for name in broken.names()}

    inspect(broken)

    assert {name: broken.read(name, 0, broken.size(name)) for name in broken.names()} == before


def test_logs_that_are_whole_and_differ_are_told_apart_at_the_first_entry() -> None:
    words = [b"word %d" % number for number in range(40)]
    other = [*words[:25], b"w?rd 25", *words[26:]]
    ours, theirs = inspect(log_of(words, 40)), inspect(log_of(other, 40))
    assert ours.findings == theirs.findings == []

    found = divergence(ours, theirs)

    assert found is not None and found.zxid == Zxid(1, 26) and found.offset is not None
    assert ours.overlay.read(found.file, found.offset - 1, 7) == b"word 25"
    assert divergence(ours, inspect(log_of(words, 40))) is None


def test_what_is_not_committed_may_differ() -> None:
    words = [b"word %d" % number for number in range(40)]
    other = [*words[:30], *[b"another"] * 10]

    assert divergence(inspect(log_of(words, 30)), inspect(log_of(other, 30))) is None
    found = divergence(inspect(log_of(words, 40)), inspect(log_of(other, 40)))
    assert found is not None and found.zxid == Zxid(1, 31)


def test_a_promise_that_is_older_than_the_log_is_found() -> None:
    disk = born()
    old = {name: disk.read(name, 0, disk.size(name)) for name in ("epochs.a", "epochs.b")}
    storage = Storage.open(disk, 4096)
    storage.perform([SaveEpochs(1, Epoch(3), Epoch(3), None)], ZERO)
    storage.perform([Append(1, entries_after(Trail(), 3, b"one"))], ZERO)
    for name, raw in old.items():
        disk.truncate(name, 0)
        disk.write(name, 0, [raw])

    (found,) = inspect(disk).findings

    assert found.file == "epochs.a" and found.zxid == Zxid(3, 1)
