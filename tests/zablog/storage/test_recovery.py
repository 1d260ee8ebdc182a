"""Whatever the disk does at whatever moment, the directory opens to what was durable, or says why not."""

from collections.abc import Iterator
from random import Random

import pytest

from tests.driving import entries_after
from tests.pace import few
from tests.zablog.storage.directories import FILE_BYTES, IDENTITY, born, contents, copy_of, small_log
from zablog.core.effects import Append, DurableEffect, SaveEpochs, Truncate
from zablog.core.trail import Mark, Trail
from zablog.core.zxid import BEYOND, ZERO, Epoch, Zxid
from zablog.sim.disk import PowerLost, SimDisk
from zablog.storage.errors import AlreadyBorn, Corrupt, Diverged, MetadataLost, NotBorn, StorageError, StorageFailed
from zablog.storage.history import History
from zablog.storage.manifest import give_birth
from zablog.storage.storage import Storage


class Script:
    """A history of group commits, truncations and epochs, and what it leaves behind after each step."""

    def __init__(self, seed: int, steps: int = 14) -> None:
        random = Random(seed)
        trail = Trail()
        entries: list[tuple[Zxid, bytes]] = []
        marks = [Mark(ZERO, 0)]
        epoch, token, epochs = 1, 0, (1, 0)
        self.steps: list[list[DurableEffect]] = [[SaveEpochs(0, Epoch(1), Epoch(0), None)]]
        self.images: list[tuple[list[tuple[Zxid, bytes]], tuple[int, int]]] = [([], (0, 0)), ([], (1, 0))]
        for _ in range(steps):
            effects: list[DurableEffect] = []
            for _ in range(random.randint(1, 3)):
                token += 1
                kind = random.random()
                if kind < 0.65:
                    payloads = [random.randbytes(random.randint(0, 120)) for _ in range(random.randint(1, 4))]
                    run = entries_after(trail, epoch, *payloads)
                    trail.append(run)
                    entries = entries + [(run.first.after(step), payload) for step, payload in enumerate(payloads)]
                    marks.append(Mark(run.last, run.digest))
                    effects.append(Append(token, run))
                elif kind < 0.8 and len(marks) > 1:
                    mark = random.choice(marks[-4:])
                    trail.truncate(mark)
                    marks = [other for other in marks if other.zxid <= mark.zxid]
                    entries = [entry for entry in entries if entry[0] <= mark.zxid]
                    effects.append(Truncate(token, mark))
                    epoch += 1
                    epochs = (epoch, epochs[1])
                    effects.append(SaveEpochs(token, Epoch(epoch), Epoch(epochs[1]), None))
                else:
                    epoch += 1
                    epochs = (epoch, epoch)
                    effects.append(SaveEpochs(token, Epoch(epoch), Epoch(epoch), None))
            self.steps.append(effects)
            self.images.append((entries, epochs))


def run_until_power_fails(script: Script, at: int) -> tuple[SimDisk, int]:
    """Perform the script on a fresh disk that dies at operation `at`; returns the disk and the number of steps completed."""
    disk = born()
    count = 0

    def step(operation: str) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise PowerLost

    done = 0
    disk.step = step
    try:
        storage = Storage.open(disk, FILE_BYTES)
        for effects in script.steps:
            storage.perform(effects, ZERO)
            done += 1
    except PowerLost:
        pass
    disk.step = lambda operation: None
    return disk, done


def legal(entries: list[tuple[Zxid, bytes]], under_way: list[list[DurableEffect]]) -> list[list[tuple[Zxid, bytes]]]:
    """Every log that may be found if the power failed within this step: what was there, plus its effects in order, one by one."""
    images = [entries]
    for effect in (effect for effects in under_way for effect in effects):
        match effect:
            case Append(_, run):
                entries = entries + [(run.first.after(step), bytes(payload)) for step, payload in enumerate(run.payloads)]
            case Truncate(_, mark):
                entries = [entry for entry in entries if entry[0] <= mark.zxid]
        images.append(entries)
    return images


def operations(script: Script) -> int:
    disk = born()
    count = 0

    def step(operation: str) -> None:
        nonlocal count
        count += 1

    disk.step = step
    storage = Storage.open(disk, FILE_BYTES)
    for effects in script.steps:
        storage.perform(effects, ZERO)
    return count


def crashes() -> Iterator[tuple[int, int]]:
    for seed in range(4):
        yield seed, 0
        yield seed, 1


@pytest.mark.parametrize(("seed", "fate"), few(crashes(), fast=2))
def test_power_lost_before_any_single_operation_keeps_all_that_was_performed(seed: int, fate: int) -> None:
    script = Script(seed)
    for at in range(1, operations(script) + 2):
        disk, done = run_until_power_fails(script, at)
        if fate:
            disk.power_loss(Random(seed * 1000 + at))

        storage = Storage.open(disk, FILE_BYTES)

        found, epochs = contents(storage), (storage.accepted, storage.current)
        before, after = script.images[done], script.images[min(done + 1, len(script.steps))]
        assert epochs >= before[1]
        assert epochs <= after[1]
        assert found in legal(before[0], script.steps[done : done + 1]), f"operation {at}: neither what was performed nor on the way to it"
        assert storage.trail.last == (found[-1][0] if found else ZERO)
        again = Storage.open(disk, FILE_BYTES)
        assert contents(again) == found
        run = entries_after(again.trail, 1000, b"and on")
        again.perform([SaveEpochs(1, Epoch(1000), again.current, None), Append(2, run)], ZERO)
        assert contents(Storage.open(disk, FILE_BYTES)) == [*found, (run.first, b"and on")]


def verdict(disk: SimDisk, original: list[tuple[Zxid, bytes]]) -> str:
    try:
        storage = Storage.open(disk, 600)
    except Corrupt:
        return "corrupt"
    except StorageError as error:
        return type(error).__name__
    found = contents(storage)
    if found == original and storage.suspect is None:
        return "harmless"
    assert storage.suspect is not None, "entries are gone and nobody says so"
    assert found == original[: len(found)]
    assert len(found) >= 4, "only the last batch may be suspect"
    return "suspect"


def test_every_flipped_bit_of_the_log_is_seen() -> None:
    disk, original = small_log()
    (*_, log) = [name for name in disk.names() if name.startswith("wal-")]
    seen: dict[str, int] = {}
    for offset in range(disk.size(log)):
        damaged = copy_of(disk)
        damaged.flip(log, offset, offset % 8)

        outcome = verdict(damaged, original)

        seen[outcome] = seen.get(outcome, 0) + 1
        assert outcome in ("corrupt", "suspect")
    assert seen["corrupt"] > 0
    assert seen["suspect"] > 0


def test_every_shorter_log_is_refused() -> None:
    disk, original = small_log()
    (*_, log) = [name for name in disk.names() if name.startswith("wal-")]
    for length in range(disk.size(log)):
        damaged = copy_of(disk)
        damaged.truncate(log, length)

        assert verdict(damaged, original) == "corrupt"


@pytest.mark.parametrize("name", ["epochs", "manifest"])
def test_one_damaged_copy_of_a_record_is_mended(name: str) -> None:
    disk, original = small_log()
    for which in "ab":
        for offset in range(disk.size(f"{name}.{which}")):
            damaged = copy_of(disk)
            damaged.flip(f"{name}.{which}", offset, offset % 8)

            assert verdict(damaged, original) == "harmless"

            other = "b" if which == "a" else "a"
            damaged.flip(f"{name}.{other}", offset, 0)
            assert verdict(damaged, original) == "harmless"


@pytest.mark.parametrize("name", ["epochs", "manifest"])
def test_two_damaged_copies_are_lost_promises(name: str) -> None:
    disk, _ = small_log()
    disk.flip(f"{name}.a", 30, 1)
    disk.flip(f"{name}.b", 31, 1)

    with pytest.raises(MetadataLost, match="must not vote"):
        Storage.open(disk, 600)


def test_an_empty_directory_is_not_a_data_directory() -> None:
    with pytest.raises(NotBorn, match="cluster init"):
        Storage.open(SimDisk())


def test_nothing_is_born_where_something_is() -> None:
    with pytest.raises(AlreadyBorn):
        give_birth(born(), IDENTITY)


def test_a_missing_first_file_is_not_an_empty_log() -> None:
    disk = born()
    storage = Storage.open(disk, 600)
    trail = Trail()
    for _ in range(8):
        run = entries_after(trail, 1, bytes(200))
        trail.append(run)
        storage.perform([Append(1, run)], ZERO)
    first = next(name for name in disk.names() if name.startswith("wal-"))
    disk.unlink(first)

    with pytest.raises(Corrupt, match="missing"):
        Storage.open(disk, 600)


def test_a_truncation_is_verified_before_anything_is_cut() -> None:
    disk, original = small_log()
    storage = Storage.open(disk, 600)

    with pytest.raises(Diverged):
        storage.perform([Truncate(1, Mark(Zxid(1, 3), 12345))], ZERO)

    assert contents(Storage.open(disk, 600)) == original


def test_a_failed_sync_is_final() -> None:
    disk, _ = small_log()
    storage = Storage.open(disk, 600)

    def fail(operation: str) -> None:
        if operation == "sync":
            raise OSError(5, "Input/output error")

    disk.step = fail
    run = entries_after(storage.trail, 1, b"x")
    with pytest.raises(StorageFailed):
        storage.perform([Append(1, run)], ZERO)

    disk.step = lambda operation: None
    with pytest.raises(StorageFailed, match="earlier"):
        storage.perform([Append(1, run)], ZERO)


def test_a_sealed_last_batch_that_is_damaged_is_corruption() -> None:
    disk, original = small_log()
    storage = Storage.open(disk, 600)
    storage.seal_idle()
    log = storage.wal.files[-1]
    flipped = storage.wal.files[-1].rows[0][1] + 150
    assert log.end > flipped
    disk.flip(log.name, flipped, 3)

    assert verdict(disk, original) == "corrupt"


def test_the_commit_hint_survives() -> None:
    disk, _ = small_log()
    storage = Storage.open(disk, 600)
    storage.perform([Append(1, entries_after(storage.trail, 1, b"x"))], Zxid(1, 4))

    assert Storage.open(disk, 600).watermark == Zxid(1, 4)


@pytest.mark.parametrize("seed", range(6))
def test_the_history_reads_the_same_from_memory_and_from_disk(seed: int) -> None:
    script = Script(seed, steps=20)
    disk = born()
    storage = Storage.open(disk, FILE_BYTES)
    history = History(storage, memory_bytes=200)
    random = Random(seed)
    for effects, (image, _) in zip(script.steps, script.images[1:], strict=True):
        for effect in effects:
            if isinstance(effect, Append):
                history.append(effect.entries)
            elif isinstance(effect, Truncate):
                history.truncate(effect.mark)
        storage.perform(effects, ZERO)
        history.durable(storage.trail.last)

        found: list[tuple[Zxid, bytes]] = []
        after = ZERO
        while (run := history.read(after, BEYOND, random.choice((1, 100, 1000)))) is not None:
            assert run.prev == after
            found += [(run.first.after(step), bytes(payload)) for step, payload in enumerate(run.payloads)]
            after = run.last
            assert history.digest_at(after) == run.digest == storage.digest_at(after)
        assert found == image
