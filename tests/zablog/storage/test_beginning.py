"""A log that is damaged below a committed snapshot begins at the snapshot: what is above it stays, and nothing else changes."""

from collections.abc import Callable
from contextlib import suppress
from random import Random

import google_crc32c
import pytest

from tests.driving import entries_after
from tests.zablog.storage.directories import FILE_BYTES, contents, copy_of
from tests.zablog.storage.test_repair import entries_of
from tests.zablog.storage.test_snapshots import logs, snapshot_at, written
from zablog.core.effects import Append, SaveEpochs
from zablog.core.trail import Mark
from zablog.core.zxid import BEYOND, ZERO, Epoch, Zxid
from zablog.sim.disk import PowerLost, SimDisk
from zablog.storage.batch import BATCH_MAGIC
from zablog.storage.errors import Corrupt, Diverged, Faulty
from zablog.storage.manifest import Snapshot
from zablog.storage.storage import Storage


def above(storage: Storage, zxid: Zxid) -> list[tuple[Zxid, bytes]]:
    """The entries of a log above a place."""
    found: list[tuple[Zxid, bytes]] = []
    while (run := storage.read(zxid, BEYOND, 100)) is not None:
        found += [(run.first.after(step), bytes(payload)) for step, payload in enumerate(run.payloads)]
        zxid = run.last
    return found


def batches_of(disk: SimDisk) -> list[tuple[str, int]]:
    """Where the batches of a log stand."""
    found = []
    for name in logs(disk):
        raw, at = disk.read(name, 0, disk.size(name)), -1
        while (at := raw.find(BATCH_MAGIC, at + 1)) >= 0:
            found.append((name, at))
    return found


@pytest.mark.parametrize("side_by_side", [1, 2, 5])
def test_wherever_the_log_is_damaged_it_begins_at_any_snapshot_above_and_at_none_below(side_by_side: int) -> None:
    disk, storage, marks = written(20)
    whole = contents(storage)
    places = batches_of(disk)
    begun = refused = 0
    for first in range(len(places) - side_by_side):
        for at in range(0, len(marks), 3):
            copy = copy_of(disk)
            for name, offset in places[first : first + side_by_side]:
                copy.flip(name, offset + 5 + (first * 7) % 200, first % 8)
            with pytest.raises(Faulty):
                Storage.open(copy_of(copy), FILE_BYTES)
            snapshot = snapshot_at(copy, marks[at])
            try:
                Storage.open_beyond(copy, FILE_BYTES).begin_at(snapshot)
            except Corrupt:
                assert at < first + side_by_side
                with pytest.raises(Faulty):
                    Storage.open(copy, FILE_BYTES)
                refused += 1
                continue
            assert at >= first + side_by_side, "it covers everything that is damaged"
            begun += 1
            copy.power_loss(Random(at))
            again = Storage.open(copy, FILE_BYTES)
            assert (again.snapshot, again.trail.base, again.trail.last) == (snapshot, marks[at], marks[-1].zxid)
            assert above(again, marks[at].zxid) == [(zxid, payload) for zxid, payload in whole if zxid > marks[at].zxid]
            assert again.watermark >= marks[at].zxid and again.suspect is None
            run = entries_after(again.trail, 1, b"and on")
            again.perform([Append(1, run)], again.watermark)
            assert Storage.open(copy, FILE_BYTES).trail.last == run.last
    assert begun > 20 and refused > 20


def damaged() -> tuple[SimDisk, list[Mark]]:
    disk, _, marks = written(20)
    name, offset = batches_of(disk)[3]
    disk.flip(name, offset + 40, 2)
    return disk, marks


def test_a_snapshot_above_the_whole_log_leaves_nothing_of_it_and_promises_its_epoch() -> None:
    disk, _ = damaged()
    mark = Mark(Zxid(7, 12), 0xABC)

    Storage.open_beyond(disk, FILE_BYTES).begin_at(snapshot_at(disk, mark))

    again = Storage.open(disk, FILE_BYTES)
    assert (again.trail.base, again.trail.last, above(again, mark.zxid)) == (mark, mark.zxid, [])
    assert (again.accepted, again.current, again.suspect) == (Epoch(7), Epoch(1), None)


def test_a_snapshot_of_another_history_is_refused() -> None:
    disk, marks = damaged()
    for mark in (Mark(marks[9].zxid, 0xBAD), Mark(Zxid(0, 99), 0)):
        with pytest.raises((Diverged, Corrupt)):
            Storage.open_beyond(disk, FILE_BYTES).begin_at(snapshot_at(disk, mark))
        with pytest.raises(Faulty):
            Storage.open(copy_of(disk), FILE_BYTES)


def test_no_snapshot_below_our_own_takes_its_place() -> None:
    disk, storage, marks = written(20)
    storage.checkpoint(snapshot_at(disk, marks[12]), keep_bytes=1 << 30)
    name, offset = batches_of(disk)[3]
    disk.flip(name, offset + 40, 2)

    with pytest.raises(Corrupt, match="does not cover"):
        Storage.open_beyond(disk, FILE_BYTES).begin_at(snapshot_at(disk, marks[10]))


@pytest.mark.parametrize("at", [8, 20])
def test_a_damaged_end_stays_suspect_unless_the_snapshot_is_above_it(at: int) -> None:
    disk, marks = damaged()
    name, offset = batches_of(disk)[-1]
    disk.flip(name, offset + 100, 1)  # the body: the header says through where the range goes

    Storage.open_beyond(disk, FILE_BYTES).begin_at(snapshot_at(disk, marks[at]))

    again = Storage.open(disk, FILE_BYTES)
    assert again.suspect == (marks[20].zxid if at == 8 else None)
    assert again.trail.last == marks[19 if at == 8 else 20].zxid


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power lost"])
@pytest.mark.parametrize("by", ["snapshot", "snapshot above the log", "entries"])
def test_a_crash_at_any_operation_leaves_the_damage_to_be_mended_again_or_mended(by: str, power: bool) -> None:
    _, peer, _ = written(20)

    def mend(disk: SimDisk, step: Callable[[SimDisk], None]) -> None:
        with pytest.raises(Faulty) as caught:
            Storage.open(copy_of(disk), FILE_BYTES)
        before = caught.value.fault.before
        name = f"snapshot-{mark.zxid}"
        if by != "entries" and not disk.exists(name):
            snapshot_at(disk, mark)
        storage = Storage.open_beyond(disk, FILE_BYTES)
        step(disk)
        if by == "entries":
            storage.put_back(before, entries_of(peer, before.zxid, storage.trail.base.zxid))
        else:
            storage.begin_at(Snapshot(mark, name, 5, google_crc32c.value(b"state")))

    steps: list[str] = []
    disk, marks = damaged()
    mark = marks[9] if by != "snapshot above the log" else Mark(Zxid(7, 12), 0xABC)
    mend(disk, lambda disk: setattr(disk, "step", steps.append))
    seen = set()
    for at in range(len(steps) + 1):
        for fate in range(6 if power else 1):
            disk, marks = damaged()
            with suppress(PowerLost):
                mend(disk, lambda disk, at=at: disk.fail_after(at, PowerLost()))  # type: ignore[misc]  # the loop's own
            disk.step = lambda operation: None
            if power:
                disk.power_loss(Random(1000 * at + fate))
            try:
                Storage.open(copy_of(disk), FILE_BYTES)
                seen.add(True)
            except Faulty:
                seen.add(False)
                assert Storage.open_beyond(copy_of(disk), FILE_BYTES).snapshot is None
                mend(disk, lambda disk: None)
            opened = Storage.open(disk, FILE_BYTES)
            base = mark if by != "entries" else marks[0]
            assert (opened.trail.base, opened.trail.last) == (base, max(base.zxid, marks[-1].zxid))
            assert above(opened, base.zxid) == [pair for pair in contents(peer) if pair[0] > base.zxid]
            opened.perform([SaveEpochs(1, Epoch(8), Epoch(8), None)], ZERO)
    assert len(steps) > 6 and seen == {False, True}


@pytest.mark.parametrize("begin", [False, True], ids=["opened", "begun at a snapshot"])
def test_a_damaged_end_of_several_batches_is_suspect_without_an_end(begin: bool) -> None:
    """Found by a hostile reader: the range ended with the first of them, and the node was a witness that the others did not exist."""
    disk, _, marks = written(20)
    places = batches_of(disk)
    if begin:
        disk.flip(places[3][0], places[3][1] + 40, 2)
    disk.flip(places[-2][0], places[-2][1] + 150, 1)  # the body of the last but one
    disk.flip(places[-1][0], places[-1][1] + 20, 1)  # the header of the last

    if begin:
        Storage.open_beyond(disk, FILE_BYTES).begin_at(snapshot_at(disk, marks[19]))

    assert Storage.open(disk, FILE_BYTES).suspect == BEYOND


def test_a_file_whose_end_is_lost_is_put_back() -> None:
    disk, _, _ = written(20)
    first = logs(disk)[0]
    end = [offset for name, offset in batches_of(disk) if name == first][-1]
    disk.write(first, end, [bytes(disk.size(first) - end)])
    disk.sync(first)

    with pytest.raises(Faulty, match="goes on at") as caught:
        Storage.open(copy_of(disk), FILE_BYTES)
    storage = Storage.open_beyond(disk, FILE_BYTES)
    before = caught.value.fault.before
    _, whole, _ = written(20)
    storage.put_back(before, entries_of(whole, before.zxid, storage.trail.base.zxid))

    assert contents(Storage.open(disk, FILE_BYTES)) == contents(whole)
