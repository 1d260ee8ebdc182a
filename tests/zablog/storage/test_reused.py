"""A file of the log that was another one before: what stood in it is never taken for ours, and damage at its end never for the end."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from random import Random

import pytest

from tests.driving import entries_after
from tests.zablog.storage.directories import FILE_BYTES, contents, copy_of
from tests.zablog.storage.test_snapshots import snapshot_at, written
from zablog.core.effects import Append
from zablog.core.trail import Mark
from zablog.core.zxid import BEYOND, ZERO, Zxid
from zablog.sim.disk import SECTOR, PowerLost, SimDisk
from zablog.storage import batch as batch_room
from zablog.storage.batch import BATCH_BYTES, BATCH_MAGIC, END_BYTES, END_MAGIC, FILLED, REUSED, EndMark, batch_headers, end_marks
from zablog.storage.errors import Corrupt, Faulty
from zablog.storage.inspection import inspect
from zablog.storage.reading import File
from zablog.storage.spare import PREPARED, RECYCLED, RECYCLED_MAX
from zablog.storage.storage import Storage

LONG = 4 * FILE_BYTES
"""Of a file with several sectors for a batch."""


def append(storage: Storage, *payloads: bytes) -> Mark:
    """One batch. Its place."""
    run = entries_after(storage.trail, 1, *payloads)
    storage.perform([Append(1, run)], ZERO)
    return Mark(run.last, run.digest)


def in_reuse(sizes: tuple[int, ...] = (100, 700, 60), file_bytes: int = FILE_BYTES) -> tuple[SimDisk, Storage, File, list[Mark]]:
    """A log whose last file was a reused one before, too, and holds batches of these sizes; the places behind each of them."""
    disk, storage, marks = written(40 * file_bytes // FILE_BYTES, file_bytes=file_bytes)
    storage.checkpoint(snapshot_at(disk, marks[-3]))
    for at in range(2 * RECYCLED_MAX):
        while storage.wal.room > file_bytes // 5:
            marks.append(append(storage, bytes([at]) * 60))
        storage.prepare()
        storage.wal.take_over(storage.wal.trail.end)
        storage.watermark = marks[-1].zxid
        storage.checkpoint(snapshot_at(disk, marks[-1]))
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
    assert raw.find(END_MAGIC, file.written) > 0, "and a mark, of a life in which it was reused"
    assert again.trail.end == places[-1]
    assert again.suspect is None
    assert contents(again) == before
    assert again.wal.files[-1].header == file.header
    place = append(again, b"and on")
    assert Storage.open(disk, FILE_BYTES).trail.end == place


def test_a_mark_of_another_life_of_the_file_says_nothing() -> None:
    """Where a torn batch was given up, its number was given out again: such a mark may name a later one than ours."""
    disk, storage, file, places = in_reuse()
    wal = storage.wal
    disk.write(file.name, file.written + 8, [EndMark(wal.sequence + 1, wal.previous, BEYOND).encode(file.salt + 1)])

    again = Storage.open(disk, FILE_BYTES)

    assert again.trail.end == places[-1]
    assert again.suspect is None


def test_a_file_is_written_over_and_not_filled_with_zeros_first() -> None:
    disk, storage, marks = written(40)
    storage.checkpoint(snapshot_at(disk, marks[38]))
    left = disk.read(storage.wal.spare.recycled[-1], 0, FILE_BYTES)

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
        put(disk, file, raw)
        disk.flip(file.name, at, bit)
        found.append(harmless(copy_of(disk), places, f"byte {at}"))

    assert found == ["suspect"] * (len(found) - END_BYTES) + ["suspect for nothing"] * END_BYTES


def ranges(length: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Parts of a file of so many bytes that touch what is between `begin` and `end`."""
    for low in (*range(0, end, 13), begin):
        for high in (*range(max(low + 1, begin), length, 97), begin, begin + BATCH_BYTES, end, length):
            if low < high and high > begin:
                yield low, high


def test_what_is_zeroed_at_the_end_is_missed() -> None:
    """Pages that a disk has forgotten: from a batch on, from its middle on, across the border of two."""
    disk, storage, file, places = in_reuse()
    raw, last = raw_of(disk, file), storage.wal.last_offset
    found = Counter()
    for low, high in ranges(len(raw), last, file.written):
        put(disk, file, raw[:low] + bytes(high - low) + raw[high:])
        found[harmless(copy_of(disk), places, f"zeros from {low} to {high}")] += 1

    assert found["suspect"] > found["refused"] > 0, "where the header of the file is zeroed as well"
    assert set(found) <= {"suspect", "refused", "suspect for nothing", "all there"}


@pytest.mark.parametrize("unit", [64, SECTOR])
def test_the_last_write_lost_in_part_is_missed(unit: int) -> None:
    """It was acknowledged, and some of it is again what it was before, in one piece.

    Not held, and not so: if its header and the mark behind it are lost, and something between them is not, that looks as if it had never
    been written (decision 26).
    """
    disk, storage, file, places = in_reuse((100, 60, 900))
    raw, before = raw_of(disk, file), disk.files[file.name].before
    pieces = [at for at in range(0, len(raw), unit) if raw[at : at + unit] != before[at : at + unit]]
    header, found = storage.wal.last_offset, Counter()
    for begin in pieces:
        for end in pieces:
            if begin <= end and not (begin <= header and end + unit >= file.end):
                put(disk, file, raw[:begin] + before[begin : end + unit] + raw[end + unit :])
                found[harmless(copy_of(disk), places, f"{begin} to {end + unit} are lost")] += 1

    assert found["suspect"] > 0
    assert set(found) <= {"suspect", "suspect for nothing"}


def test_a_torn_write_is_suspect_or_was_never_there() -> None:
    """Each sector, and each page, of a write that was never synced survives or does not."""
    seen = set()
    begun, _, file, places = in_reuse((100, 60), LONG)
    for seed in range(300):
        random, disk = Random(seed), copy_of(begun)
        storage = Storage.open(disk, LONG)
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


def test_a_process_killed_in_the_middle_of_a_batch_leaves_a_tail_that_is_suspect_as_far_as_it_was_to_go() -> None:
    """Or nothing at all. Whoever is suspect without end is believed by nobody, and one of two that are left could not go on."""
    disk, storage, file, places = in_reuse((100,))
    begun = copy_of(disk)
    writes: list[tuple[str, int, bytes]] = []
    write = disk.write
    disk.write = lambda name, offset, pieces: (writes.append((name, offset, b"".join(pieces))), write(name, offset, pieces))[1]  # type: ignore[method-assign]
    place = append(storage, bytes(range(250)) * 3)
    found = set()
    for at, (name, offset, whole) in enumerate(writes):
        for length in range(len(whole)):
            left = copy_of(begun)
            for earlier in writes[:at]:
                left.write(earlier[0], earlier[1], [earlier[2]])
            left.write(name, offset, [whole[:length]])

            again = Storage.open(left, FILE_BYTES)

            found.add((again.trail.last, again.suspect))

    assert [name for name, *_ in writes] == [file.name, file.name]
    assert found == {(places[-1].zxid, None), (places[-1].zxid, place.zxid)}


def test_what_readers_see_of_a_failed_sync_is_made_durable_at_the_next_start_with_its_mark() -> None:
    """The pages are clean, and the disk has what was before. Written again, they are not lost with the power."""
    disk, _, file, places = in_reuse()
    disk.files[file.name].durable[:] = disk.files[file.name].before

    Storage.open(disk, FILE_BYTES)
    disk.power_loss(Random(1))

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


@pytest.mark.parametrize("how", ["zeroed", "as it was before"])
def test_a_batch_damaged_with_another_behind_it_is_suspect_without_end(how: str) -> None:
    """The mark behind the second one says that there was one; what it held is not for us to say."""
    disk, storage, file, places = in_reuse((100,))
    mark = raw_of(disk, file)[file.end : file.written]
    begin, between = storage.wal.last_offset, file.end
    append(storage, b"another")
    raw = raw_of(disk, file)
    if how == "zeroed":
        put(disk, file, raw[: begin + 150] + bytes(between - begin) + raw[begin + 150 + between - begin :])
    else:
        put(disk, file, raw[:between] + mark + raw[between + len(mark) :])
        disk.flip(file.name, begin + 150, 2)

    again = Storage.open(disk, FILE_BYTES)

    assert again.trail.last < places[0].zxid
    assert again.suspect == BEYOND


def test_the_inspection_says_how_far_a_tail_is_suspect() -> None:
    disk, storage, file, _ = in_reuse()
    begun = copy_of(disk)
    place = append(storage, b"on its way")
    begun.write(file.name, storage.wal.files[-1].end, [raw_of(disk, file)[storage.wal.files[-1].end : storage.wal.files[-1].written]])

    (found,) = inspect(begun).findings

    assert f"suspect through {place.zxid}" in found.what


def second_batch(storage: Storage, places: list[Mark]) -> int:
    """Where it stands."""
    return next(offset for *_, offset, _ in storage.wal.batches(places[0].zxid))


def test_the_inspection_reads_up_to_damage_in_a_reused_file() -> None:
    disk, storage, file, places = in_reuse()
    disk.flip(file.name, second_batch(storage, places) + BATCH_BYTES + 20, 1)

    found = inspect(disk)

    assert found.unread
    assert [seen.entries.last for seen in found.batches()][-1] == places[0].zxid
    assert len(found.findings) == 1, "nothing else is said of its end"


def test_files_let_go_of_are_kept_from_one_life_to_the_next() -> None:
    disk, storage, marks = written(90)
    storage.checkpoint(snapshot_at(disk, marks[80]))
    kept = [name for name in disk.names() if name.startswith(RECYCLED)]

    again = Storage.open(disk, FILE_BYTES)

    assert len(kept) == RECYCLED_MAX
    assert sorted(again.wal.spare.recycled) == kept
    more = f"{RECYCLED}more.tmp"
    disk.create(more)
    disk.write(more, 0, [bytes(FILE_BYTES)])
    assert len(Storage.open(disk, FILE_BYTES).wal.spare.recycled) == RECYCLED_MAX
    assert len([name for name in disk.names() if name.startswith(RECYCLED)]) == RECYCLED_MAX


def test_files_of_another_size_are_not_taken() -> None:
    disk, storage, marks = written(70)
    storage.checkpoint(snapshot_at(disk, marks[60]))

    again = Storage.open(disk, 2 * FILE_BYTES)
    again.wal.take_over(again.wal.trail.end)
    place = append(again, b"x")

    assert not [name for name in disk.names() if name.startswith(RECYCLED)]
    assert Storage.open(disk, 2 * FILE_BYTES).trail.end == place


def test_a_batch_that_is_larger_than_a_file_gets_a_new_one() -> None:
    disk, storage, marks = written(70)
    storage.checkpoint(snapshot_at(disk, marks[60]))

    place = append(storage, b"x" * 2 * FILE_BYTES)

    header = storage.wal.files[-1].header
    assert header.format == FILLED
    assert disk.size(storage.wal.files[-1].name) == header.capacity > 2 * FILE_BYTES
    assert Storage.open(disk, FILE_BYTES).trail.end == place


def test_when_no_file_is_left_to_write_over_new_ones_are_full_of_zeros_again() -> None:
    disk, storage, _, _ = in_reuse(())
    formats = []
    for _ in range(RECYCLED_MAX + 2):
        storage.wal.take_over(storage.wal.trail.end)
        formats.append(storage.wal.files[-1].header.format)
        append(storage, b"x")
        assert Storage.open(copy_of(disk), FILE_BYTES).suspect is None

    assert formats[-1] == FILLED
    assert not raw_of(disk, storage.wal.files[-1])[storage.wal.files[-1].end :].strip(b"\0")


def test_a_torn_seal_leaves_nothing_to_be_suspect_of() -> None:
    """It held no entry. The log goes on in another file, where its number means nothing else."""
    disk, storage, file, places = in_reuse()
    begun = copy_of(disk)
    writes: list[tuple[int, bytes]] = []
    write = disk.write
    disk.write = lambda name, offset, pieces: (writes.append((offset, b"".join(pieces))), write(name, offset, pieces))[1]  # type: ignore[method-assign]
    storage.seal_idle()
    begun.write(file.name, writes[0][0], [writes[0][1]])

    again = Storage.open(begun, FILE_BYTES)

    assert again.trail.end == places[-1]
    assert again.suspect is None
    assert again.wal.files[-1].name != file.name
    place = append(again, b"and on")
    assert Storage.open(begun, FILE_BYTES).trail.end == place


def test_what_was_not_understood_is_not_written_back() -> None:
    """A bit that was read wrong, once, must not become one that is wrong on the disk."""
    disk, _, file, _ = in_reuse()
    raw, read, wrong = raw_of(disk, file), disk.read, [file.end + 5]

    def misread(name: str, offset: int, length: int) -> bytes:
        found = bytearray(read(name, offset, length))
        if name == file.name and wrong and len(found) > wrong[0]:
            found[wrong.pop()] ^= 4
        return bytes(found)

    disk.read = misread  # type: ignore[method-assign]
    assert Storage.open(disk, FILE_BYTES).suspect == BEYOND

    assert read(file.name, 0, len(raw)) == raw


def test_files_that_are_let_go_of_while_one_is_taken_are_all_known() -> None:
    disk, storage, marks = written(90)
    storage.checkpoint(snapshot_at(disk, marks[20]))
    rename, done = disk.rename, []

    def meanwhile(old: str, new: str) -> None:
        rename(old, new)
        if new == PREPARED and not done:
            done.append(old)
            storage.checkpoint(snapshot_at(disk, marks[40]))

    disk.rename = meanwhile  # type: ignore[method-assign]
    storage.prepare()

    assert sorted(storage.wal.spare.recycled) == [name for name in disk.names() if name.startswith(RECYCLED)]


def test_who_tidies_up_harms_nobody() -> None:
    disk, storage, marks = written(70)
    storage.checkpoint(snapshot_at(disk, marks[60]))
    for name in storage.wal.spare.recycled:
        disk.unlink(name)

    for _ in range(3):
        storage.wal.take_over(storage.wal.trail.end)
    place = append(storage, b"x")

    assert storage.wal.spare.recycled == []
    assert Storage.open(disk, FILE_BYTES).trail.end == place


def test_a_file_that_cannot_be_renamed_now_is_taken_later() -> None:
    disk, storage, marks = written(70)
    storage.checkpoint(snapshot_at(disk, marks[60]))
    kept = list(storage.wal.spare.recycled)
    disk.fail_after(0, OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        storage.prepare()

    assert storage.wal.spare.recycled == kept


@pytest.mark.parametrize("magic", [BATCH_MAGIC, END_MAGIC, BATCH_MAGIC + bytes(8)])
def test_a_file_full_of_magic_is_read_as_quickly_as_any_other(magic: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What clients have sent stands behind the end, and each thing in it that looks like a header would cost a start some time."""
    tried: list[int] = []
    decode = batch_room.decode_batch_header
    monkeypatch.setattr(batch_room, "decode_batch_header", lambda raw, salt, at=0: (tried.append(at), decode(raw, salt, at))[1])
    raw = magic * 1000

    assert list(end_marks(raw, 7, 0)) == []
    assert list(batch_headers(raw, 7, 9, 0)) == []
    assert tried == []
