"""Every byte of each kind of file flipped in turn, cut off at every length, each page zeroed, whole frames out of their place.

Each harm must be seen (refused with the room's own error), mended (everything is read as it was), or harmless for the same reason. What is
never allowed is that something else is read, or less. `python -m tests.sweeps.test_sweeps` prints the table of counts.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import pytest

from broker.checkpoint import append_rows
from broker.errors import Corrupt
from broker.log import Log
from broker.log.kept import index_name, restore_files
from broker.log.stored import check_batch, split
from broker.snapshot import decode
from tests.broker.log.test_log import TOPIC, fill
from tests.broker.test_snapshot import a_history, bytes_of
from tests.zablog.storage.directories import FILE_BYTES
from tests.zablog.storage.test_reused import in_reuse
from tests.zablog.storage.test_snapshots import snapshot_at, written
from zablog.sim.disk import SimDisk
from zablog.storage.errors import StorageError
from zablog.storage.storage import Storage, verified

PAGE = 4096

Harm = tuple[str, bytes]
"""What was done, and the file afterwards."""


@dataclass(frozen=True)
class Subject:
    """A kind of file: how a directory with one is made, which of its files is harmed, and what is read of it."""

    name: str
    make: Callable[[], tuple[object, SimDisk, str]]
    read: Callable[[object, SimDisk], object]
    """Everything that anybody would ever be given. Raises what a refusal is."""
    refuses: tuple[type[BaseException], ...]


def segments() -> tuple[object, SimDisk, str]:
    disk = SimDisk()
    log = Log(disk)
    fill(log, 90)
    rows = log.capture()
    (segment,) = log.partition(TOPIC, 0).indexes
    name = log.partition(TOPIC, 0).name(segment)
    append_rows(disk, index_name(name), segment.chunk())
    return rows, disk, name


def indexes() -> tuple[object, SimDisk, str]:
    rows, disk, name = segments()
    return rows, disk, index_name(name)


def records(rows: object, disk: SimDisk) -> object:
    """As a consumer gets them: the node reads whole batches, and the consumer verifies each."""
    assert isinstance(rows, list)
    restore_files(disk, rows, ())
    log = Log(disk, kept=rows)
    partition, out = log.partition(TOPIC, 0), []
    while len(out) < partition.end:
        for batch in split(partition.read(len(out), 1 << 12)):
            check_batch(batch)
            if batch.base_offset != len(out):
                raise Corrupt(f"offset {batch.base_offset} stands where {len(out)} should")
            out += [(record.offset, record.zxid, record.value) for record in batch.records()]
    return out


def checkpoints() -> tuple[object, SimDisk, str]:
    disk, storage, marks = written(10)
    snapshot = snapshot_at(disk, marks[5], bytes_of(a_history(2, 60)))
    storage.checkpoint(snapshot)
    return None, disk, snapshot.name


def state(_: object, disk: SimDisk) -> object:
    storage = Storage.open(disk, FILE_BYTES)
    assert storage.snapshot is not None
    return decode(verified(disk, storage.snapshot)).state.digest()


def metadata(kind: str) -> Callable[[], tuple[object, SimDisk, str]]:
    def make() -> tuple[object, SimDisk, str]:
        _, disk, _ = checkpoints()
        return None, disk, next(each for each in disk.names() if each.startswith(kind))

    return make


def promises(_: object, disk: SimDisk) -> object:
    """Of two copies one is harmed: the other mends it."""
    storage = Storage.open(disk, FILE_BYTES)
    return storage.identity, storage.accepted, storage.current, storage.trail.last, storage.manifest.contents


def logs() -> tuple[object, SimDisk, str]:
    disk, storage, _ = written(12)
    storage.seal_idle()
    return None, disk, storage.wal.files[-1].name


def reused_logs() -> tuple[object, SimDisk, str]:
    disk, storage, file, _ = in_reuse()
    storage.seal_idle()
    return None, disk, file.name


def history(_: object, disk: SimDisk) -> object:
    storage = Storage.open(disk, FILE_BYTES)
    if storage.suspect is not None:
        raise StorageError("the node says that it does not know its end: neither a have nor a lack")
    return storage.trail, storage.accepted, storage.current


SUBJECTS = (
    Subject("log", logs, history, (StorageError,)),
    Subject("reused log", reused_logs, history, (StorageError,)),
    Subject("segment", segments, records, (Corrupt,)),
    Subject("index", indexes, records, (Corrupt,)),
    Subject("checkpoint", checkpoints, state, (StorageError, Corrupt)),
    Subject("manifest", metadata("manifest"), promises, (StorageError,)),
    Subject("epochs", metadata("epochs"), promises, (StorageError,)),
)


def flips(raw: bytes) -> Iterator[Harm]:
    for at in range(len(raw)):
        yield f"byte {at} flipped", raw[:at] + bytes([raw[at] ^ (1 << at % 8)]) + raw[at + 1 :]


def cuts(raw: bytes) -> Iterator[Harm]:
    for length in range(len(raw)):
        yield f"cut to {length}", raw[:length]


def pages(raw: bytes) -> Iterator[Harm]:
    for size in (512, PAGE):
        for at in range(0, len(raw), size):
            if any(raw[at : at + size]):
                yield f"{size} bytes zeroed at {at}", raw[:at] + bytes(len(raw[at : at + size])) + raw[at + size :]


def misplaced(raw: bytes) -> Iterator[Harm]:
    """Pieces that are whole in themselves, in the place of others, swapped or doubled."""
    step = max(1, len(raw) // 40)
    for at in range(0, len(raw) - 2 * step, step):
        one, other = raw[at : at + step], raw[at + step : at + 2 * step]
        yield f"swapped at {at}", raw[:at] + other + one + raw[at + 2 * step :]
        yield f"doubled at {at}", raw[: at + step] + one + raw[at + 2 * step :]
    marks = [at for at in range(len(raw)) if raw.startswith(raw[:4], at)] if raw[:4].strip(b"\0") else []
    for one, other in pairwise(marks):
        yield f"frame at {other} over that at {one}", raw[:one] + raw[other : other + (other - one)] + raw[other:]


def sweep(subject: Subject, harms: Callable[[bytes], Iterator[Harm]]) -> Counter[str]:
    """How many harms were refused, and how many left what is read as it was. Raises AssertionError for any other end."""
    what, disk, name = subject.make()
    raw, before = disk.read(name, 0, 1 << 30), subject.read(what, disk)
    counts: Counter[str] = Counter()
    for words, harmed in harms(raw):
        if harmed == raw:
            continue
        what, disk, name = subject.make()
        disk.truncate(name, 0)
        disk.write(name, 0, [harmed])
        disk.sync(name)
        try:
            after = subject.read(what, disk)
        except subject.refuses:
            counts["refused"] += 1
        else:
            assert after == before, f"{subject.name}, {words}: something else is read"
            counts["read as it was"] += 1
    return counts


HARMS = (flips, cuts, pages, misplaced)


@pytest.mark.slow
@pytest.mark.parametrize("harms", HARMS, ids=lambda harms: harms.__name__)
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_no_harm_goes_unseen(subject: Subject, harms: Callable[[bytes], Iterator[Harm]]) -> None:
    assert sweep(subject, harms).total() > 0


def test_a_reader_that_believes_everything_is_caught() -> None:
    """The sweep can fail."""
    believer = Subject("segment", segments, lambda _, disk: [disk.read(name, 0, 100) for name in disk.names()], ())
    with pytest.raises(AssertionError, match="something else is read"):
        sweep(believer, lambda raw: islice(flips(raw), 5))


def table(subjects: Sequence[Subject] = SUBJECTS) -> None:
    print("| file | harm | tried | refused | read as it was |\n|---|---|---:|---:|---:|")
    for subject in subjects:
        for harms in HARMS:
            counts = sweep(subject, harms)
            print(f"| {subject.name} | {harms.__name__} | {counts.total():,} | {counts['refused']:,} | {counts['read as it was']:,} |")


if __name__ == "__main__":
    table()
