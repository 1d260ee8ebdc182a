"""Segments: what was appended is read back, by offset, time and zxid, across segments; every flipped byte is seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Corrupt, OffsetOutOfRange
from broker.log import Log, scan, split
from broker.log.stored import PREFIX_BYTES, Place, head_of, place_at
from broker.records import Record, encode_batch
from zablog.core.zxid import Zxid
from zablog.sim.disk import SimDisk
from zablog.storage.files import FileDisk

TOPIC = Zxid(1, 2)


def batch_of(*values: bytes) -> bytes:
    return encode_batch([Record(value) for value in values])


def fill(log: Log, batches: int, flush_every: int = 3, topic: Zxid = TOPIC, partition: int = 0) -> list[tuple[int, Zxid, int, bytes]]:
    """Append batches of 1, 2, 3, 1, … records; two share each zxid; time goes up every fifth. Returns (offset, zxid, time, batch)."""
    rows = []
    offset = 0
    for number in range(batches):
        zxid, time = Zxid(1 + number // 40, 10 + number // 2), 1000 + number // 5
        values = [b"%d.%d" % (number, row) for row in range(number % 3 + 1)]
        batch = batch_of(*values)
        log.append(zxid, time, topic, partition, offset, number % 2, len(values), batch)
        rows.append((offset, zxid, time, batch))
        offset += len(values)
        if number % flush_every == flush_every - 1:
            log.flush()
    log.flush()
    return rows


def values_from(log: Log, offset: int, bytes_max: int = 1 << 20) -> list[bytes]:
    partition = log.partition(TOPIC, 0)
    out: list[bytes] = []
    while offset < partition.end:
        stored = list(split(partition.read(offset, bytes_max)))
        assert stored[0].base_offset <= offset
        for each in stored:
            records = each.records()
            out += [record.value for record in records if record.offset >= offset]
            offset = records[-1].offset + 1
    return out


@pytest.fixture(params=["real", "simulated"])
def disk(request, tmp_path):
    return FileDisk(tmp_path) if request.param == "real" else SimDisk()


@pytest.mark.parametrize("bytes_max", [1, 300, 1 << 20])
@pytest.mark.parametrize("segment_bytes_max", [1, 700, 1 << 20])
def test_what_was_appended_is_read_from_any_offset(disk, segment_bytes_max, bytes_max):
    log = Log(disk, segment_bytes_max)
    fill(log, 50)
    everything = [b"%d.%d" % (number, row) for number in range(50) for row in range(number % 3 + 1)]

    partition = log.partition(TOPIC, 0)

    assert partition.first == 0 and partition.end == partition.next == len(everything)
    assert partition.size == sum(disk.size(name) for name in disk.names())
    for offset in range(0, partition.end, 7):
        assert values_from(log, offset, bytes_max) == everything[offset:]
    assert partition.read(partition.end, bytes_max) == b""


def test_read_takes_whole_batches_and_at_least_one():
    log = Log(SimDisk())
    rows = fill(log, 10)
    sizes = [PREFIX_BYTES + len(batch) for *_, batch in rows]

    for bytes_max in range(0, sum(sizes) + 50, 13):
        stored = log.partition(TOPIC, 0).read(0, bytes_max)
        fitting = [row for row in range(1, 11) if sum(sizes[:row]) <= bytes_max]
        assert len(stored) == sum(sizes[: max(fitting, default=1)])


def test_nothing_is_read_before_it_is_flushed():
    log = Log(SimDisk())
    log.append(Zxid(1, 5), 1, TOPIC, 0, 0, 0, 1, batch_of(b"a"))

    assert log.partition(TOPIC, 0).end == 0 and log.partition(TOPIC, 0).next == 1
    assert log.partition(TOPIC, 0).read(0, 100) == b""

    log.flush()

    assert log.partition(TOPIC, 0).end == 1


def test_flush_is_one_write_a_partition():
    operations: list[str] = []
    log = Log(SimDisk(operations.append))
    fill(log, 20, flush_every=100)
    fill(log, 20, flush_every=100, partition=1)
    writes = [operation for operation in operations if operation.startswith("write")]

    assert len(writes) == 2


def test_offset_outside_is_refused_with_the_bounds():
    log = Log(SimDisk())
    fill(log, 4)
    for offset in (-1, 8, 2**62):
        with pytest.raises(OffsetOutOfRange) as refused:
            log.partition(TOPIC, 0).read(offset, 100)
        assert (refused.value.first, refused.value.last) == (0, 7)
    with pytest.raises(OffsetOutOfRange):
        log.partition(TOPIC, 1).read(1, 100)
    assert log.partition(TOPIC, 1).read(0, 100) == b""


@pytest.mark.parametrize("segment_bytes_max", [1, 500, 1 << 20])
def test_offsets_are_found_by_time_and_by_zxid(segment_bytes_max):
    log = Log(SimDisk(), segment_bytes_max)
    rows = fill(log, 100)
    partition = log.partition(TOPIC, 0)

    for time in range(998, 1022):
        assert partition.offset_at_time(time) == next((offset for offset, _, at, _ in rows if at >= time), partition.end)
    for zxid in [Zxid(epoch, counter) for epoch in range(5) for counter in range(62)]:
        assert partition.offset_at_zxid(zxid) == next((offset for offset, at, _, _ in rows if at >= zxid), partition.end)


def test_stored_batch_describes_itself():
    disk = SimDisk()
    log = Log(disk, 600)
    rows = fill(log, 30)

    found = [stored for name in log.partition(TOPIC, 0).files for stored in scan(disk, name)]

    assert [(each.base_offset, each.zxid, each.time) for each in found] == [row[:3] for row in rows]
    assert [each.position for each in found] == [number % 2 for number in range(30)]
    for each, (_, _, _, batch) in zip(found, rows, strict=True):
        assert bytes(each.batch[16:]) == batch[16:], "what Kafka's checksum covers is untouched"
        assert int.from_bytes(each.batch[:8]) == each.base_offset
        assert int.from_bytes(each.batch[12:16]) == each.zxid.epoch


@given(st.data())
def test_every_flipped_bit_of_a_stored_batch_is_seen(data):
    batch = batch_of(b"abc", b"def")
    stored = bytearray(head_of(Place(7, Zxid(2, 9), 1, 1234, len(batch))) + batch[16:])
    assert [record.offset for each in split(stored) for record in each.records()] == [7, 8]
    bit = data.draw(st.integers(0, len(stored) * 8 - 1))

    stored[bit // 8] ^= 1 << bit % 8

    with pytest.raises(Corrupt):
        [each.records() for each in split(stored)]


@given(st.binary(max_size=200))
def test_garbage_is_no_stored_batch(garbage):
    with pytest.raises(Corrupt):
        place_at(garbage)
    if garbage:
        with pytest.raises(Corrupt):
            list(split(garbage))


def test_cut_off_segment_is_corrupt_with_its_place():
    disk = SimDisk()
    log = Log(disk)
    fill(log, 5)
    (name,) = log.partition(TOPIC, 0).files
    disk.truncate(name, disk.size(name) - 1)

    with pytest.raises(Corrupt, match=f"segment {name} at byte"):
        list(scan(disk, name))
    with pytest.raises(Corrupt, match=name):
        log.partition(TOPIC, 0).read(0, 1 << 20)


def test_deleted_topic_leaves_nothing_and_its_successor_begins_at_zero(disk):
    log = Log(disk, 500)
    fill(log, 20)
    fill(log, 20, topic=Zxid(1, 3))
    log.append(Zxid(9, 9), 2000, TOPIC, 5, 0, 0, 1, batch_of(b"gathered, not flushed"))

    log.delete_topic(TOPIC)
    log.delete_topic(TOPIC)
    log.flush()

    assert any(name.startswith("1.2-0-") for name in disk.names()), "the last checkpoint may speak of them still"
    for name in log.doomed():
        if disk.exists(name):  # an index may never have been written
            disk.unlink(name)
    assert all(name.startswith("1.3-0-") for name in disk.names()) and disk.names()
    assert log.partition(TOPIC, 0).end == 0 and log.partition(TOPIC, 0).files == []


def test_segments_found_at_start_are_removed_and_nothing_else(disk):
    fill(Log(disk), 5)
    disk.create("notes.txt")

    log = Log(disk)
    log.remove_others()

    assert disk.names() == ["notes.txt"]
    fill(log, 5)
    assert len(values_from(log, 0)) == 9


def test_a_long_pause_begins_a_new_segment():
    log = Log(SimDisk())
    for number, time in enumerate([1000, 1000 + 2**32, 1000 + 2**34]):
        log.append(Zxid(1, 10 + number), time, TOPIC, 0, number, 0, 1, batch_of(b"a"))
    log.flush()

    partition = log.partition(TOPIC, 0)
    assert len(partition.files) == 3
    assert [partition.offset_at_time(time) for time in (0, 1001, 1000 + 2**33, 2**40)] == [0, 1, 2, 3]


@pytest.mark.parametrize("left", [b"", b"the same segment, as a peer has it", bytes(5000)])
def test_a_segment_that_a_transfer_left_which_was_given_up_is_begun_anew(left: bytes) -> None:
    """Its name was taken, and the node stopped: what a follower had fetched of a snapshot lay there when it got the same from the log."""
    disk = SimDisk()
    log = Log(disk)
    rows = fill(log, 1)
    (name,) = disk.names()
    disk.unlink(name)
    disk.create(name)
    disk.write(name, 0, [left])
    disk.sync(name)

    log = Log(disk)
    assert fill(log, 1) == rows

    assert values_from(log, 0) == [b"0.0"]
    log.clean(log.dirt())
    assert disk.size(name) == log.partition(TOPIC, 0).indexes[-1].size
