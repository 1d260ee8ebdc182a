"""The log where it is easy to get wrong: cuts half done, syncs that lied, bytes that look like batches, group commits."""

from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.driving import entries_after
from tests.zablog.storage.directories import born, contents, most_unsynced, small_log
from zablog.core.effects import Append, SaveEpochs, Truncate
from zablog.core.trail import Entries, Mark, Trail, extend_digest
from zablog.core.zxid import BEYOND, ZERO, Epoch, Zxid
from zablog.sim.disk import PowerLost, SimDisk
from zablog.storage import spare as spare_room
from zablog.storage import wal as wal_room
from zablog.storage.batch import (
    BATCH_BYTES,
    BatchHeader,
    FileHeader,
    NotAHeader,
    decode_batch_header,
    decode_body,
    decode_file_header,
    encode_body,
)
from zablog.storage.errors import Faulty, StorageFailed
from zablog.storage.manifest import Identity, Member, give_birth
from zablog.storage.repair import rebuilt
from zablog.storage.spare import PREPARED, ZEROS
from zablog.storage.storage import Storage
from zablog.storage.wal import WIDE_BYTES

PROMISE = SaveEpochs(1, Epoch(1), Epoch(1), None)


def long_log() -> tuple[SimDisk, Storage, list[Mark]]:
    """Eight entries in files of two, and the place behind each."""
    disk = born()
    storage = Storage.open(disk, 600)
    storage.perform([PROMISE], ZERO)
    marks = []
    for number in range(8):
        run = entries_after(storage.trail, 1, bytes([number]) * 150)
        marks.append(Mark(run.last, run.digest))
        storage.perform([Append(1, run)], ZERO)
    return disk, storage, marks


def entries_between(storage: Storage, after: Mark, last: Mark) -> Entries:
    entries = storage.read(after.zxid, last.zxid, 1 << 20)
    assert entries is not None
    return entries


def stop_at(disk: SimDisk, wanted: str) -> None:
    def step(operation: str) -> None:
        if operation == wanted:
            raise PowerLost

    disk.step = step


@pytest.mark.parametrize("seed", range(12))
def test_a_cut_that_died_before_it_was_durable_is_finished_or_undone_whole(seed: int) -> None:
    for at in range(25):
        disk, storage, marks = long_log()
        whole = contents(storage)
        stop_at(disk, "sync_names")  # the process is killed: the new file has its name, but not durably
        with pytest.raises(PowerLost):
            storage.perform([Truncate(1, marks[1])], ZERO)
        disk.step = lambda operation: None

        disk.fail_after(at, PowerLost())  # the power fails while the next process recovers
        try:
            Storage.open(disk, 600)
        except PowerLost:
            disk.power_loss(Random(seed))
        disk.step = lambda operation: None

        assert contents(Storage.open(disk, 600)) in (whole, whole[:2]), f"operation {at}"


@pytest.mark.parametrize("seed", range(12))
def test_a_sync_that_failed_is_made_good_before_anything_is_advertised(seed: int) -> None:
    for at in range(8):  # the last two fail nothing
        disk, _ = small_log()
        storage = Storage.open(disk, 600)
        effects = [Append(1, entries_after(storage.trail, 1, b"x")), SaveEpochs(2, Epoch(7), Epoch(7), None)]
        disk.fail_after(at, OSError(5, "Input/output error"))  # where it is a sync, the dirty pages are gone
        try:
            storage.perform(effects, ZERO)
        except StorageFailed:
            disk.crash()
        disk.step = lambda operation: None

        storage = Storage.open(disk, 600)
        advertised = (contents(storage), storage.accepted, storage.current)
        disk.power_loss(Random(seed))

        storage = Storage.open(disk, 600)
        assert (contents(storage), storage.accepted, storage.current) == advertised, f"operation {at}"


def test_a_payload_that_holds_the_log_of_another_node_is_no_batch_of_ours() -> None:
    other = Storage.open(born(), 6000)
    other.perform([PROMISE], ZERO)
    for _ in range(9):
        other.perform([Append(1, entries_after(other.trail, 1, b"x"))], ZERO)
    dump = other.wal.disk.read(other.wal.files[-1].name, 0, other.wal.files[-1].end)
    disk = SimDisk()
    incarnation = "ef" * 16
    give_birth(disk, Identity("ab" * 16, 2, incarnation, (Member(2, incarnation, "127.0.0.1:7402"),)))
    storage = Storage.open(disk, 6000)
    storage.perform([PROMISE, Append(2, entries_after(storage.trail, 1, dump))], ZERO)
    (log,) = storage.wal.files

    disk.flip(log.name, log.end - 5, 1)  # the last batch is damaged, behind what looks like later batches

    assert Storage.open(disk, 6000).suspect == Zxid(1, 1)


def test_a_suspect_mark_stays_until_it_is_cleared() -> None:
    disk, entries = small_log()
    storage = Storage.open(disk, 600)
    disk.flip(storage.wal.files[-1].name, storage.wal.files[-1].end - 1, 1)

    for _ in range(3):
        storage = Storage.open(disk, 600)
        assert (storage.suspect, contents(storage)) == (Zxid(1, 6), entries[:4])
    storage.perform([SaveEpochs(1, Epoch(2), Epoch(2), None)], ZERO)

    assert Storage.open(disk, 600).suspect is None


def test_a_batch_whose_header_is_unreadable_is_suspect_to_the_end_of_time() -> None:
    disk, entries = small_log()
    storage = Storage.open(disk, 600)
    log = storage.wal.files[-1]
    disk.flip(log.name, log.rows[-1][1] if len(log.rows) > 1 else log.end - BATCH_BYTES - 18, 1)

    storage = Storage.open(disk, 600)

    assert storage.suspect == BEYOND
    assert contents(storage) == entries[:4]


def test_successive_appends_are_one_write_and_one_sync() -> None:
    disk = born()
    storage = Storage.open(disk, 6000)
    trail = Trail()
    effects = []
    for number in range(20):
        run = entries_after(trail, 1, bytes([number]))
        trail.append(run)
        effects.append(Append(number, run))
    operations: list[str] = []
    storage.perform([PROMISE], ZERO)
    disk.step = operations.append

    storage.perform(effects, ZERO)

    assert operations == ["write", "sync"]
    assert contents(Storage.open(disk, 6000)) == [(Zxid(1, number + 1), bytes([number])) for number in range(20)]


def test_a_batch_holds_one_epoch() -> None:
    disk = born()
    storage = Storage.open(disk, 6000)
    trail = Trail()
    effects: list[SaveEpochs | Append] = [SaveEpochs(0, Epoch(3), Epoch(1), None)]
    for epoch in (1, 1, 2, 3, 3):
        run = entries_after(trail, epoch, b"x")
        trail.append(run)
        effects.append(Append(1, run))

    storage.perform(effects, ZERO)

    assert storage.batches == 3
    assert Storage.open(disk, 6000).trail == trail


@pytest.mark.slow
def test_any_number_of_tiny_entries_can_be_read_back() -> None:
    disk = born()
    storage = Storage.open(disk, 600)
    trail = Trail()
    effects: list[SaveEpochs | Append] = [PROMISE]
    for _ in range(6):
        run = entries_after(trail, 1, *[b""] * 200_000)
        trail.append(run)
        effects.append(Append(1, run))
    storage.perform(effects, ZERO)

    storage = Storage.open(disk, 600)

    assert (storage.suspect, storage.trail) == (None, trail)


def test_an_idle_writer_seals_with_the_latest_hint_and_only_once() -> None:
    disk, _ = small_log()
    storage = Storage.open(disk, 600)
    storage.seal_idle(Zxid(1, 6))
    operations: list[str] = []
    disk.step = operations.append

    storage.seal_idle()

    assert operations == []
    assert Storage.open(disk, 600).watermark == Zxid(1, 6)


def test_a_hint_above_the_log_is_lowered_to_a_place_of_it() -> None:
    disk, _ = small_log()
    storage = Storage.open(disk, 600)
    storage.perform([Append(1, entries_after(storage.trail, 1, b"x"))], Zxid(1, 99))

    assert Storage.open(disk, 600).watermark == Zxid(1, 7)


def test_reading_goes_across_cuts_and_files_at_any_size() -> None:
    disk, storage, marks = long_log()
    storage.perform([Truncate(1, marks[4]), SaveEpochs(2, Epoch(2), Epoch(1), None)], ZERO)
    storage.perform([Append(1, entries_after(storage.trail, 2, b"y", b"z"))], ZERO)
    expected = [*[(Zxid(1, number + 1), bytes([number]) * 150) for number in range(5)], (Zxid(2, 1), b"y"), (Zxid(2, 2), b"z")]

    assert contents(storage) == contents(Storage.open(disk, 600)) == expected
    for begin, after in enumerate([ZERO, *[zxid for zxid, _ in expected]]):
        for upto in [zxid for zxid, _ in expected[begin:]]:
            run = storage.read(after, upto, 1)
            assert run is not None
            assert (run.first, run.prev, len(run.payloads)) == (expected[begin][0], after, 1)
    assert storage.read(Zxid(2, 2), BEYOND, 1) is None


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1))
def test_no_bytes_are_taken_for_a_header_or_break_the_decoder(raw: bytes, salt: int) -> None:
    with pytest.raises(NotAHeader):
        decode_batch_header(raw, salt)
    with pytest.raises(NotAHeader):
        decode_file_header(raw)


@given(st.lists(st.binary(max_size=50), max_size=20), st.integers(0, 2**32 - 1), st.sampled_from([1, 2]))
def test_a_batch_reads_as_it_was_written(payloads: list[bytes], salt: int, format: int) -> None:
    prev, first = Mark(Zxid(1, 3), 5), Zxid(1, 4)
    digest = extend_digest(prev.digest, prev.zxid, first, payloads)
    pieces, size, check = encode_body(payloads, digest, format)
    header = BatchHeader(3, 2, first, len(payloads), prev, digest, Zxid(1, 2), 7, size, check)

    raw = header.encode(salt)

    assert len(raw) == BATCH_BYTES
    assert decode_batch_header(raw, salt) == header
    body = b"".join(pieces)
    assert len(body) == size
    assert [bytes(payload) for payload in decode_body(header, body, format)] == payloads
    with pytest.raises(NotAHeader):
        decode_batch_header(raw, salt ^ 1)


@pytest.mark.parametrize("wrap", [bytes, bytearray, lambda raw: memoryview(bytearray(raw))])
@pytest.mark.parametrize("size", [10, 100_000])
def test_payloads_may_be_views_of_a_buffer(wrap: type[bytes], size: int) -> None:
    raw = Random(1).randbytes(size)

    payloads = [wrap(raw), wrap(raw)]
    digest = extend_digest(0, ZERO, Zxid(1, 1), payloads)
    pieces, total, check = encode_body(payloads, digest)

    header = BatchHeader(1, 1, Zxid(1, 1), 2, Mark(ZERO, 0), digest, ZERO, 0, total, check)
    assert decode_body(header, b"".join(pieces)) == payloads


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20), st.integers(0, 2**20), st.integers(1, 255), st.sampled_from([1, 2]))
def test_a_body_that_is_another_than_was_written_is_found_out(payloads: list[bytes], at: int, flip: int, format: int) -> None:
    prev, first = Mark(Zxid(1, 3), 5), Zxid(2, 1)
    digest = extend_digest(prev.digest, prev.zxid, first, payloads)
    pieces, size, check = encode_body(payloads, digest, format)
    header = BatchHeader(3, 2, first, len(payloads), prev, digest, Zxid(1, 2), 7, size, check)
    body = b"".join(pieces)
    flipped = bytearray(body)
    flipped[at % size] ^= flip

    for damaged in {bytes(flipped), body[:-1], bytes(size)} - {body}:
        with pytest.raises(NotAHeader):
            decode_body(header, damaged, format)


def test_a_batch_is_told_from_one_of_other_payloads_by_its_identifier() -> None:
    identifiers = set()
    for payload in (b"a", b"b"):
        digest = extend_digest(0, ZERO, Zxid(1, 1), [payload])
        _, size, check = encode_body([payload], digest)
        identifiers.add(BatchHeader(1, 1, Zxid(1, 1), 1, Mark(ZERO, 0), digest, ZERO, 0, size, check).identifier(7) >> 32)

    assert len(identifiers) == 2


@pytest.mark.parametrize("damaged", [False, True])
def test_a_log_of_format_1_is_read_and_gone_on_with_in_a_new_file(damaged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(wal_room, "FILLED", 1)
        before.setattr(spare_room, "FILLED", 1)
        before.setattr(wal_room, "encode_body", partial(encode_body, format=1))
        disk, storage, marks = long_log()
    old, formats = contents(storage), {file.header.format for file in storage.wal.files}
    first = storage.wal.files[0].name
    whole = disk.read(first, 0, disk.size(first))
    if damaged:
        at = whole.index(bytes([1]) * 150)
        disk.write(first, at, [b"?"])
        with pytest.raises(Faulty, match="the checksum of the body is wrong") as caught:
            Storage.open(disk, 600)
        disk.write(first, 0, [whole])
        rebuilt_as = rebuilt(caught.value.fault, [entries_between(storage, marks[0], marks[1])])
        assert whole[caught.value.fault.offset :].startswith(rebuilt_as)

    storage = Storage.open(disk, 600)
    storage.perform([Append(1, entries_after(storage.trail, 1, b"new"))], ZERO)
    again = Storage.open(disk, 600)

    assert formats == {1}
    assert again.wal.files[-1].header.format == 2
    assert contents(again) == [*old, (Zxid(1, 9), b"new")]


@pytest.mark.parametrize("later", [4, 9])
def test_a_file_of_a_later_format_is_refused_in_words(later: int) -> None:
    header = FileHeader(1, b"o" * 16, 4096, 1, Mark(ZERO, 0), 0, later)

    with pytest.raises(NotAHeader, match=f"format {later}"):
        decode_file_header(header.encode())


def made(disk: SimDisk, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are allocated from now on."""
    names: list[str] = []
    allocate = disk.allocate
    monkeypatch.setattr(disk, "allocate", lambda name, length: (names.append(name), allocate(name, length)))
    return names


@pytest.mark.parametrize(("size", "allocated"), [(WIDE_BYTES, True), (WIDE_BYTES // 4, False)])
def test_the_next_file_is_allocated_behind_large_batches_and_filled_with_zeros_behind_small_ones(
    size: int, allocated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = born()
    storage = Storage.open(disk, 4 * WIDE_BYTES)
    storage.perform([PROMISE], ZERO)
    names = made(disk, monkeypatch)
    written: list[bytes] = []
    for number in range(40):
        written.append(bytes([number + 1]) * size)
        storage.perform([Append(1, entries_after(storage.trail, 1, written[-1]))], ZERO)
        storage.prepare()

    assert bool(names) is allocated
    assert set(names) <= {PREPARED}
    assert [payload for _, payload in contents(Storage.open(disk, 4 * WIDE_BYTES))] == written


def test_zeros_are_synced_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = born()
    storage = Storage.open(disk, 3 * len(ZEROS) + 100)
    most = most_unsynced(disk, monkeypatch)
    storage.prepare()

    assert disk.size(PREPARED) == 3 * len(ZEROS) + 100
    assert most[PREPARED] == len(ZEROS)


def test_a_file_system_that_allocates_nothing_gets_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = born()
    storage = Storage.open(disk, 4 * WIDE_BYTES)
    storage.perform([PROMISE], ZERO)

    def refuse(name: str, length: int) -> None:
        disk.create(name)
        raise OSError(95, "Operation not supported", name)

    monkeypatch.setattr(disk, "allocate", refuse)
    written: list[bytes] = []
    for number in range(20):
        written.append(bytes([number + 1]) * WIDE_BYTES)
        storage.perform([Append(1, entries_after(storage.trail, 1, written[-1]))], ZERO)
        storage.prepare()

    assert storage.wal.spare.wide
    assert [payload for _, payload in contents(Storage.open(disk, 4 * WIDE_BYTES))] == written
