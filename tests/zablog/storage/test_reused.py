"""A file of the log that was another one before: what stood in it is never taken for ours, and damage at its end never for the end."""

from collections.abc import Iterator
from contextlib import suppress
from random import Random

import pytest

from tests.driving import entries_after
from tests.zablog.storage.directories import FILE_BYTES, contents
from tests.zablog.storage.test_snapshots import snapshot_at, written
from zablog.core.effects import Append
from zablog.core.trail import Mark
from zablog.core.zxid import BEYOND, ZERO, Zxid
from zablog.sim.disk import PAGE, SECTOR, PowerLost, SimDisk
from zablog.storage.batch import BATCH_BYTES, BATCH_MAGIC, END_BYTES, REUSED
from zablog.storage.errors import Corrupt, Faulty
from zablog.storage.inspection import inspect
from zablog.storage.reading import File
from zablog.storage.storage import Storage
from zablog.storage.wal import PREPARED

LONG = 4 * FILE_BYTES
"""Of a file with several sectors for a batch."""


def append(storage: Storage, *payloads: bytes) -> Mark:
    """One batch. Its place."""
    run = entries_after(storage.trail, 1, *payloads)
    storage.perform([Append(1, run)], ZERO)
    return Mark(run.last, run.digest)


def in_reuse(sizes: tuple[int, ...] = (100, 700, 60), file_bytes: int = FILE_BYTES) -> tuple[SimDisk, Storage, File, list[Mark]]:
    """A log whose last file was another one before and holds batches of these sizes; the places behind each of them."""
    disk, storage, marks = written(40 * file_bytes // FILE_BYTES, file_bytes=file_bytes)
    storage.checkpoint(snapshot_at(disk, marks[-3]))
    storage.prepare()
    storage.wal.take_over(storage.wal.trail.end)
    file = storage.wal.files[-1]
    assert file.header.format == REUSED
    places = [append(storage, bytes([at + 1]) * size) for at, size in enumerate(sizes)]
    assert storage.wal.files[-1] is file
    return disk, storage, file, places


def raw_of(disk: SimDisk, file: File) -> bytes:
    return disk.read(file.name, 0, file.header.capacity)


def put(disk: SimDisk, file: File, raw: bytes) -> None:
    disk.write(file.name, 0, [raw])
    disk.sync(file.name)


def test_what_an_earlier_use_has_left_is_not_ours() -> None:
    disk, storage, file, places = in_reuse()
    raw, before = raw_of(disk, file), contents(storage)

    again = Storage.open(disk, FILE_BYTES)

    assert raw.find(BATCH_MAGIC, file.written) > 0, "whole batches of the file's earlier life stand behind"
    assert again.trail.end == places[-1]
    assert again.suspect is None
    assert contents(again) == before
    assert again.wal.files[-1].header == file.header
    place = append(again, b"and on")
    assert Storage.open(disk, FILE_BYTES).trail.end == place


def test_a_file_is_written_over_and_not_filled_with_zeros_first() -> None:
    disk, storage, marks = written(40)
    storage.checkpoint(snapshot_at(disk, marks[38]))
    left = disk.read(storage.wal.recycled[-1], 0, FILE_BYTES)

    storage.prepare()

    assert disk.read(PREPARED, 0, FILE_BYTES) == left


@pytest.mark.parametrize("count", range(4))
def test_a_log_ends_where_it_ended(count: int) -> None:
    disk, storage, _, _ = in_reuse((100, 700, 60)[:count])
    last = storage.trail.end
    if count != 1:
        storage.seal_idle()

    again = Storage.open(disk, FILE_BYTES)

    assert again.trail.end == last
    assert again.suspect is None


def test_a_batch_may_end_anywhere_before_the_end_of_the_file() -> None:
    room = FILE_BYTES - in_reuse(())[2].written - BATCH_BYTES - 4
    for size in range(room - END_BYTES - 2, room + END_BYTES + 3):
        disk, storage, file, _ = in_reuse(())
        place = append(storage, bytes([7]) * size)

        again = Storage.open(disk, FILE_BYTES)

        assert (storage.wal.files[-1] is file) is (size <= room)
        assert again.trail.end == place
        assert again.suspect is None


def harmless(disk: SimDisk, places: list[Mark], words: str) -> str:
    """Open it: refused, suspect far enough, or all there. Anything else is an acknowledged entry lost in silence."""
    last = places[-1]
    try:
        storage = Storage.open(disk, FILE_BYTES)
    except Corrupt:
        return "refused"
    if storage.trail.end == last:
        return "suspect for nothing" if storage.suspect else "all there"
    assert storage.suspect is not None, f"{words}: entries above {storage.trail.last} are gone, and nobody says so"
    assert storage.suspect >= last.zxid, f"{words}: {last.zxid} is gone, and only what is through {storage.suspect} is said to be"
    return "suspect"


@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_in_the_last_batch_or_in_the_mark_behind_it_is_seen(bit: int) -> None:
    disk, storage, file, places = in_reuse()
    raw = raw_of(disk, file)
    found = []
    for at in range(storage.wal.last_offset, file.written):
        disk.flip(file.name, at, bit)
        found.append(harmless(disk, places, f"byte {at}"))
        disk, storage, file, places = in_reuse()
        assert raw_of(disk, file) == raw

    assert found == ["suspect"] * (len(found) - END_BYTES) + ["suspect for nothing"] * END_BYTES


def ranges(length: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Parts of a file of so many bytes that touch what is between `begin` and `end`."""
    for low in range(0, end, 13):
        for high in (*range(max(low + 1, begin), length, 97), begin, begin + BATCH_BYTES, end, length):
            if low < high and high > begin:
                yield low, high


def test_what_is_zeroed_at_the_end_is_missed() -> None:
    """Pages that a disk has forgotten: from a batch on, from its middle on, across the border of two."""
    disk, storage, file, places = in_reuse()
    raw, last = raw_of(disk, file), storage.wal.last_offset
    for low, high in ranges(len(raw), last, file.written):
        if high == len(raw):
            continue  # zeros up to the end of the file are the end of the log, in every file
        disk, _, file, places = in_reuse()
        put(disk, file, raw[:low] + bytes(high - low) + raw[high:])
        harmless(disk, places, f"zeros from {low} to {high}")


@pytest.mark.parametrize("unit", [64, SECTOR])
def test_the_last_write_lost_in_part_is_missed(unit: int) -> None:
    """It was acknowledged, and some of it is again what it was before."""
    disk, _, file, places = in_reuse((100, 60, 900))
    raw, before = raw_of(disk, file), disk.files[file.name].before
    pieces = [at for at in range(0, len(raw), unit) if raw[at : at + unit] != before[at : at + unit]]
    first, final = pieces[0], pieces[-1]
    for begin in pieces:
        for end in pieces:
            if begin <= end and not (begin == first and end == final):
                disk, _, file, places = in_reuse((100, 60, 900))
                put(disk, file, raw[:begin] + before[begin : end + unit] + raw[end + unit :])
                harmless(disk, places, f"{begin} to {end + unit} are lost")


def test_a_torn_write_is_suspect_or_was_never_there() -> None:
    """Each sector, and each page, of a write that was never synced survives or does not."""
    seen = set()
    for seed in range(300):
        random = Random(seed)
        disk, storage, file, places = in_reuse((100, 60), LONG)
        to_border = -(file.end + BATCH_BYTES + 8 + len(b"and another")) % SECTOR  # then the mark is in a sector of its own
        disk.fail_after(1, PowerLost())  # of the sync
        with suppress(PowerLost):
            append(storage, random.randbytes(random.choice((10, to_border, 3000))), b"and another")
        disk.step = lambda operation: None
        disk.power_loss(random)

        again = Storage.open(disk, LONG)

        seen.add((again.trail.last, again.suspect))
        assert again.trail.last >= places[-1].zxid
        assert again.digest_at(places[-1].zxid) == places[-1].digest
        append(again, b"and on")

    last, torn = places[-1].zxid, Zxid(places[-1].zxid.epoch, places[-1].zxid.counter + 2)
    assert seen == {(last, None), (torn, None), (last, torn), (last, BEYOND), (torn, BEYOND)}


def test_a_torn_batch_with_its_mark_behind_it_is_suspect_through_its_own_end() -> None:
    disk, storage, file, places = in_reuse()
    disk.flip(file.name, storage.wal.last_offset + BATCH_BYTES + 10, 3)

    assert Storage.open(disk, FILE_BYTES).suspect == places[-1].zxid


@pytest.mark.parametrize("unit", [SECTOR, PAGE])
def test_what_readers_see_of_a_failed_sync_is_made_durable_at_the_next_start_with_its_mark(unit: int) -> None:
    """The pages are clean, and the disk has what was before. Written again, they are not lost with the power."""
    disk, _, file, places = in_reuse()
    disk.files[file.name].durable[:] = disk.files[file.name].before

    Storage.open(disk, FILE_BYTES)
    disk.power_loss(Random(unit))

    again = Storage.open(disk, FILE_BYTES)
    assert again.trail.end == places[-1]
    assert again.suspect is None


@pytest.mark.parametrize("marked", [True, False])
def test_a_middle_that_looks_like_an_end_is_none(marked: bool) -> None:
    """The place of a batch shows the mark that stood there before, and a whole batch stands behind it."""
    disk, _, file, _ = in_reuse((100,))
    mark = raw_of(disk, file)[file.end : file.written]
    disk, storage, again, _ = in_reuse()
    assert again.header == file.header
    disk.write(file.name, file.end, [mark])
    disk.sync(file.name)
    if not marked:
        disk.flip(file.name, again.end, 0)

    with pytest.raises(Faulty, match=f"offset {file.end}"):
        Storage.open(disk, FILE_BYTES)
    assert storage.wal.files[-1].name == file.name


def test_the_inspection_finds_a_flipped_bit_in_the_mark() -> None:
    disk, _, file, places = in_reuse()
    for at in (file.end, file.written - 1):
        disk.flip(file.name, at, 2)

        found = inspect(disk)

        assert [(finding.file, finding.offset, finding.zxid) for finding in found.findings] == [(file.name, at, places[-1].zxid)]
        assert "one byte is wrong" in found.findings[0].what
        disk.flip(file.name, at, 2)
    assert inspect(disk).findings == []


def test_the_inspection_reads_up_to_damage_in_a_reused_file() -> None:
    disk, storage, file, places = in_reuse()
    disk.flip(file.name, file.header.capacity and storage.wal.files[-1].rows[0][1] + BATCH_BYTES + 20, 1)

    found = inspect(disk)

    assert found.unread
    assert [seen.entries.last for seen in found.batches()][-1] < places[0].zxid
