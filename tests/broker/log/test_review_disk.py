"""Indexes that lie and segments that are not what their names say: what a hostile reading of the disk found."""

import pytest

from broker.checkpoint import append_rows
from broker.errors import Corrupt
from broker.log import Log
from broker.log.kept import index_name
from tests.broker.log.test_kept import everything_found, restored, settle, tails_of
from tests.broker.log.test_log import TOPIC, batch_of
from zablog.core.zxid import Zxid
from zablog.sim.disk import SimDisk

OTHER = Zxid(1, 3)


@pytest.fixture
def worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written down for every few batches."""
    monkeypatch.setattr("broker.log.log.INDEX_BYTES_MIN", 1)


def append(log: Log, first: int, batches: int) -> None:
    """Batches of one record each, from offset `first` on."""
    for number in range(first, first + batches):
        log.append(Zxid(1, 10 + number), 1000 + number, TOPIC, 0, number, 0, 1, batch_of(b"%03d" % number))
    log.flush()
    log.capture()


@pytest.mark.usefixtures("worthwhile")
@pytest.mark.parametrize("order", [(1, 0), (1,), (0, 0, 1), (0, 1, 1), (1, 1, 0)])
def test_rows_that_came_to_the_disk_out_of_order_are_made_anew(order: tuple[int, ...]) -> None:
    """The flusher and a checkpoint write rows down side by side, each those that it found first."""
    disk = SimDisk()
    log = Log(disk)
    chunks: list[bytes] = []
    for first in (0, 10):
        append(log, first, 10)
        ((name, chunk),) = log.new_rows(list(log.dirt()))
        chunks.append(chunk)
    before = everything_found(log)
    for each in order:
        append_rows(disk, name, chunks[each])

    settle(log)
    again = restored(disk, log.capture(), [], 64 << 20)

    assert everything_found(again) == before


@pytest.mark.usefixtures("worthwhile")
@pytest.mark.parametrize(("batches", "records"), [(10, 3), (7, 1), (7, 3)], ids=["as long", "shorter", "shorter, of more records"])
def test_the_index_of_another_segment_is_not_believed(batches: int, records: int) -> None:
    disk, foreign = SimDisk(), SimDisk()
    log, other = Log(disk), Log(foreign)
    append(log, 0, 10)
    settle(log)
    for number in range(batches):
        other.append(Zxid(2, number), 5000, TOPIC, 0, records * number, 0, records, batch_of(b"%03d" % number))
    other.flush()
    other.capture()
    before = everything_found(log)
    ((name, chunk),) = other.new_rows(list(other.dirt()))
    append_rows(disk, name, chunk)

    again = restored(disk, log.capture(), [], 64 << 20)

    assert everything_found(again) == before


@pytest.mark.parametrize("what", ["doubled", "of another topic", "of a later time", "in another order"])
def test_a_segment_of_other_batches_is_corrupt_wherever_they_come_from(what: str) -> None:
    disk = SimDisk()
    log = Log(disk)
    append(log, 0, 10)
    settle(log)
    (name,) = log.partition(TOPIC, 0).files
    raw = disk.read(name, 0, disk.size(name))
    length = len(raw) // 10
    batches = [raw[begin : begin + length] for begin in range(0, len(raw), length)]
    match what:
        case "doubled":
            batches[5] = batches[4]
        case "in another order":
            batches[4], batches[5] = batches[5], batches[4]
        case _:
            foreign = SimDisk()
            other = Log(foreign)
            time = 1 if what == "of another topic" else 2**40
            for number in range(10):
                other.append(Zxid(1, 10 + number), time, OTHER, 0, number, 0, 1, batch_of(b"%03d" % number))
            other.flush()
            (file,) = other.partition(OTHER, 0).files
            batches = [foreign.read(file, 0, foreign.size(file))]
    disk.write(name, 0, [b"".join(batches)])

    again = restored(disk, log.capture(), tails_of(disk, list(log.dirt())), 64 << 20)

    with pytest.raises(Corrupt, match=f"segment {name}"):
        again.load_last_rows()
    assert not disk.exists(index_name(name))


@pytest.mark.parametrize("what", ["tail too short", "tail too long", "gap", "doubled", "end", "beginning"])
def test_a_snapshot_whose_segments_do_not_fit_together_is_corrupt_before_a_file_is_touched(what: str) -> None:
    disk = SimDisk()
    log = Log(disk, 300)
    append(log, 0, 10)
    (row,), tails = log.capture(), tails_of(disk, list(log.dirt()))
    first, second, *_ = row.segments
    match what:
        case "tail too short":
            tails[-1] = tails[-1]._replace(data=tails[-1].data[:-1])
        case "tail too long":
            tails[-1] = tails[-1]._replace(data=tails[-1].data + b"x")
        case "gap":
            row = row._replace(segments=(first, *row.segments[2:]))
        case "doubled":
            row = row._replace(segments=(first, second, second, *row.segments[2:]))
        case "end":
            row = row._replace(segments=row.segments[:-1])
        case "beginning":
            row = row._replace(segments=row.segments[1:])
    before = {name: disk.read(name, 0, disk.size(name)) for name in disk.names()}

    with pytest.raises(Corrupt, match="snapshot"):
        restored(disk, [row], tails, 300)

    assert {name: disk.read(name, 0, disk.size(name)) for name in disk.names()} == before
