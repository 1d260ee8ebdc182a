"""What is damaged of a log between whole batches is put back from entries that another node has; anything else is refused."""

from random import Random

import pytest

from tests.driving import entries_after
from tests.zablog.storage.directories import FILE_BYTES, born, contents, copy_of
from zablog.core.effects import Append, SaveEpochs
from zablog.core.trail import Entries, Mark, Trail
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.sim.disk import SimDisk
from zablog.storage.batch import FILE_BYTES as HEADER_BYTES
from zablog.storage.errors import Corrupt, Diverged, Faulty, StorageError
from zablog.storage.repair import Fault, rebuilt
from zablog.storage.storage import Storage


def a_log(files: bool) -> tuple[SimDisk, Storage]:
    """Batches of one and of several entries, seals between, a change of epoch, hints that lag behind; in one file or in several."""
    disk = born()
    storage = Storage.open(disk, FILE_BYTES if files else 1 << 16)
    storage.perform([SaveEpochs(1, Epoch(3), Epoch(3), None)], ZERO)
    trail, known = Trail(), ZERO
    for number in range(12):
        run = entries_after(trail, 1 if number < 7 else 3, *[b"%d.%d" % (number, step) * 20 for step in range(number % 3 + 1)])
        trail.append(run)
        storage.perform([Append(number, run)], known)
        if number % 2:
            known = run.last
        if number % 5 == 4:
            storage.seal_idle(known)
    storage.seal_idle(known)
    return disk, storage


def entries_of(storage: Storage, at: Zxid, upto: Zxid) -> list[Entries]:
    """What a peer with the same log answers."""
    runs: list[Entries] = []
    while at < upto:
        run = storage.read(at, upto, 1)
        assert run is not None
        runs.append(run)
        at = run.last
    return runs


def put_back(disk: SimDisk, fault: Fault, peer: Storage) -> None:
    storage = Storage.open_beyond(disk, FILE_BYTES)
    storage.put_back(fault.before, entries_of(peer, fault.before.zxid, storage.trail.base.zxid))


@pytest.mark.parametrize("files", [pytest.param(False, marks=pytest.mark.slow), True])
def test_every_flipped_byte_of_the_log_is_put_back_or_refused(files: bool) -> None:
    disk, storage = a_log(files)
    expected = contents(Storage.open(copy_of(disk), FILE_BYTES))
    repaired = 0
    for name in [name for name in disk.names() if name.startswith("wal-")]:
        whole = disk.read(name, 0, 1 << 20)
        used = len(whole.rstrip(b"\0")) + 8
        for at in range(0, used, 1 if not files else 3):
            copy = copy_of(disk)
            copy.flip(name, at, at % 8)
            try:
                Storage.open(copy_of(copy), FILE_BYTES)
            except Faulty as error:
                fault = error.fault
            except StorageError:
                assert at < HEADER_BYTES, "only a file's own header is not repaired"
                continue
            else:
                # An unsealed end is suspect, or the flip was in a seal that is the end, or behind it.
                assert at >= used - 2 * 128 or files, f"{name} {at}"
                continue
            assert fault.name == name and fault.offset <= at
            was = rebuilt(fault, entries_of(storage, fault.before.zxid, fault.after.zxid))
            assert whole[fault.offset : fault.offset + len(was)] == was, "to the bit"
            put_back(copy, fault, storage)
            repaired += 1
            copy.power_loss(Random(at))
            assert contents(Storage.open(copy, FILE_BYTES)) == expected
    assert repaired > 200


def faulty(disk: SimDisk, name: str, at: int) -> Fault:
    disk.flip(name, at, 1)
    with pytest.raises(Faulty) as caught:
        Storage.open(copy_of(disk), FILE_BYTES)
    return caught.value.fault


def test_other_entries_are_refused_and_nothing_is_written() -> None:
    disk, _ = a_log(False)
    name = next(name for name in disk.names() if name.startswith("wal-"))
    fault = faulty(disk, name, HEADER_BYTES + 300)
    before = disk.read(name, 0, 1 << 20)
    count = fault.after.zxid.counter - fault.before.zxid.counter
    other = Entries(Zxid(fault.after.zxid.epoch, fault.before.zxid.counter + 1), fault.before.zxid, [b"other"] * count, 0)

    for runs in ([other], []):
        with pytest.raises(Diverged):
            rebuilt(fault, runs)
        with pytest.raises(Diverged):
            Storage.open_beyond(disk, FILE_BYTES).put_back(fault.before, runs)

    assert disk.read(name, 0, 1 << 20) == before


def test_two_damaged_batches_side_by_side_are_put_back_though_nobody_knows_where_one_ended() -> None:
    disk, _ = a_log(False)
    _, storage = a_log(False)
    name = next(name for name in disk.names() if name.startswith("wal-"))
    first = faulty(disk, name, HEADER_BYTES + 10)
    raw = disk.read(name, 0, 1 << 20)
    following = raw.find(b"\xabZB\x01", first.offset + 4)
    disk.flip(name, following + 20, 1)

    with pytest.raises(Faulty, match="more than one batch") as caught:
        Storage.open(copy_of(disk), FILE_BYTES)
    fault = caught.value.fault
    with pytest.raises(Corrupt, match="side by side"):
        rebuilt(fault, entries_of(storage, fault.before.zxid, fault.after.zxid))
    put_back(disk, fault, storage)
    assert contents(Storage.open(disk, FILE_BYTES)) == contents(storage)


def test_two_damaged_batches_apart_are_put_back_with_all_between() -> None:
    disk, _ = a_log(False)
    whole, storage = a_log(False)
    name = next(name for name in disk.names() if name.startswith("wal-"))
    disk.flip(name, HEADER_BYTES + 10, 1)
    disk.flip(name, len(disk.read(name, 0, 1 << 20).rstrip(b"\0")) - 400, 1)
    with pytest.raises(Faulty) as caught:
        Storage.open(copy_of(disk), FILE_BYTES)
    put_back(disk, caught.value.fault, storage)
    assert contents(Storage.open(disk, FILE_BYTES)) == contents(Storage.open(whole, FILE_BYTES))


def test_a_batch_that_a_truncation_voided_in_part_is_put_back_as_far_as_it_counts() -> None:
    disk = born()
    storage = Storage.open(disk, 1 << 16)
    storage.perform([SaveEpochs(1, Epoch(1), Epoch(1), None)], ZERO)
    run = entries_after(Trail(), 1, b"a" * 50, b"b" * 50, b"c" * 50)
    storage.perform([Append(1, run)], ZERO)
    storage.truncate(Mark(Zxid(1, 2), storage.digest_at(Zxid(1, 2))))
    kept = entries_of(storage, ZERO, Zxid(1, 2))
    name = next(name for name in disk.names() if name.startswith("wal-"))
    fault = faulty(disk, name, HEADER_BYTES + 5)

    with pytest.raises(Corrupt, match="cannot be made again"):
        rebuilt(fault, kept)
    Storage.open_beyond(disk, FILE_BYTES).put_back(fault.before, kept)
    assert contents(Storage.open(disk, FILE_BYTES)) == [(Zxid(1, 1), b"a" * 50), (Zxid(1, 2), b"b" * 50)]
