"""Segments that are kept over a restart: cut to what a snapshot says, their indexes read or made again, damage seen."""

import errno
from random import Random

import pytest
from google_crc32c import value as crc32c

from broker.errors import Corrupt
from broker.log import Log
from broker.log.kept import Tail, index_name, restore_files
from broker.log.log import Dirt
from tests.broker.log.test_log import TOPIC, batch_of, fill, values_from
from zablog.core.zxid import Zxid
from zablog.sim.disk import SimDisk

EVERYTHING = [b"%d.%d" % (number, row) for number in range(50) for row in range(number % 3 + 1)]


def tails_of(disk: SimDisk, dirt: list[Dirt]) -> list[Tail]:
    return [Tail(each.name, each.synced, disk.read(each.name, each.synced, each.bytes)) for each in dirt]


def settle(log: Log) -> None:
    """Everything is durable."""
    log.capture()
    log.clean(list(log.dirt()))


def restored(disk: SimDisk, rows: list, tails: list[Tail], segment_bytes_max: int = 700) -> Log:
    restore_files(disk, rows, tails)
    log = Log(disk, segment_bytes_max, rows, tails)
    log.remove_others()
    return log


@pytest.mark.parametrize("synced", ["nothing", "half", "all"])
@pytest.mark.parametrize("segment_bytes_max", [700, 1 << 20])
def test_what_came_after_the_capture_is_cut_and_the_rest_is_served(synced: str, segment_bytes_max: int) -> None:
    disk = SimDisk()
    log = Log(disk, segment_bytes_max)
    fill(log, 25)
    if synced == "half":
        settle(log)
    more = batch_of(b"more")
    log.append(Zxid(3, 1), 1010, TOPIC, 0, 49, 0, 1, more)
    log.flush()
    if synced == "all":
        settle(log)
    rows, tails = log.capture(), tails_of(disk, list(log.dirt()))
    log.append(Zxid(3, 2), 1010, TOPIC, 0, 50, 0, 1, batch_of(b"not in the snapshot"))
    log.append(Zxid(3, 2), 1010, TOPIC, 1, 0, 1, 1, batch_of(b"another partition"))
    log.flush()

    again = restored(disk, rows, tails, segment_bytes_max)

    partition = again.partition(TOPIC, 0)
    assert (partition.first, partition.end, partition.next) == (0, 50, 50)
    assert values_from(again, 0) == [*EVERYTHING[:49], b"more"]
    assert sum(disk.size(name) for name in partition.files) == partition.size == sum(disk.size(name) for name in disk.names())
    again.append(Zxid(3, 2), 1010, TOPIC, 0, 50, 0, 1, batch_of(b"again"))
    again.flush()
    assert values_from(again, 49) == [b"more", b"again"]
    assert again.capture()[0].segments[-1].crc == crc32c(disk.read(partition.files[-1], 0, 1 << 20))


def test_what_was_not_durable_comes_back_out_of_the_snapshot() -> None:
    disk = SimDisk()
    log = Log(disk, 700)
    fill(log, 25)
    settle(log)
    log.append(Zxid(3, 1), 1010, TOPIC, 0, 49, 0, 1, batch_of(b"more"))
    log.flush()
    log.capture()
    (dirt,) = log.dirt()
    rows, tails = log.capture(), tails_of(disk, [dirt])
    disk.truncate(dirt.name, dirt.synced)

    again = restored(disk, rows, tails)

    assert values_from(again, 0) == [*EVERYTHING[:49], b"more"]
    assert again.dirty_bytes == dirt.bytes, "it is not durable now, either"


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_segment_that_lacks_durable_bytes_is_seen(damage: str) -> None:
    disk = SimDisk()
    log = Log(disk, 700)
    fill(log, 25)
    rows, name = log.capture(), log.partition(TOPIC, 0).files[1]
    if damage == "missing":
        disk.unlink(name)
    else:
        disk.truncate(name, disk.size(name) - 1)

    with pytest.raises(Corrupt, match=name):
        restored(disk, rows, [])


def with_index(disk: SimDisk) -> tuple[Log, str]:
    """A log of one segment whose rows stand on disk in two chunks, but for the last ones."""
    log = Log(disk)
    fill(log, 20)
    log.capture()
    (dirt,) = log.dirt()
    name = index_name(dirt.name)
    disk.create(name)
    disk.write(name, 0, [dirt.segment.chunk()])
    for number in range(10):
        log.append(Zxid(4, number + 1), 2000, TOPIC, 0, 39 + number, 0, 1, batch_of(b"%d" % number))
    log.flush()
    disk.write(name, disk.size(name), [dirt.segment.chunk()])
    log.append(Zxid(5, 1), 2000, TOPIC, 0, 49, 0, 1, batch_of(b"last"))
    log.flush()
    return log, name


def everything_found(log: Log) -> list[tuple[int, int]]:
    partition = log.partition(TOPIC, 0)
    assert partition.read(0, 1 << 20)
    return [(partition.offset_at_time(time), partition.offset_at_zxid(Zxid(4, time % 12))) for time in range(995, 2005)]


def test_an_index_is_read_from_its_file_and_every_flipped_byte_of_it_is_harmless() -> None:
    disk = SimDisk()
    log, name = with_index(disk)
    expected, rows = everything_found(log), log.capture()
    whole = disk.read(name, 0, 1 << 20)
    for at in range(0, len(whole), 3):
        disk.truncate(name, 0)
        disk.write(name, 0, [whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]])
        assert everything_found(restored(disk, rows, [], 1 << 20)) == expected


def test_every_truncation_of_an_index_is_harmless_and_none_is_needed() -> None:
    disk = SimDisk()
    log, name = with_index(disk)
    expected, rows = everything_found(log), log.capture()
    for length in range(disk.size(name), -1, -7):
        disk.truncate(name, length)
        assert everything_found(restored(disk, rows, [], 1 << 20)) == expected
    disk.unlink(name)
    assert everything_found(restored(disk, rows, [], 1 << 20)) == expected


def test_an_index_of_more_than_the_snapshot_says_is_used_as_far_as_it_goes() -> None:
    disk = SimDisk()
    log = Log(disk)
    fill(log, 20)
    rows = log.capture()
    for number in range(10):
        log.append(Zxid(4, number + 1), 2000, TOPIC, 0, 39 + number, 0, 1, batch_of(b"%d" % number))
    log.flush()
    log.capture()
    (dirt,) = log.dirt()
    disk.create(index_name(dirt.name))
    disk.write(index_name(dirt.name), 0, [dirt.segment.chunk()])

    again = restored(disk, rows, [], 1 << 20)

    assert values_from(again, 0) == EVERYTHING[:39]
    assert disk.size(index_name(dirt.name)) == 0, "what speaks of bytes that are cut is cut, too"


def test_a_damaged_batch_is_seen_when_its_segment_is_read_for_its_index() -> None:
    disk = SimDisk()
    log = Log(disk)
    fill(log, 20)
    rows, (name,) = log.capture(), log.partition(TOPIC, 0).files
    disk.flip(name, 5, 3)
    again = restored(disk, rows, [], 1 << 20)

    with pytest.raises(Corrupt, match=name):
        again.partition(TOPIC, 0).read(0, 100)


def test_what_a_failed_sync_has_left_in_memory_is_not_taken_for_what_the_disk_has() -> None:
    """Seed 1101: the system shows what it was given, and thinks that it is on the disk. It is not, and no later sync brings it there."""
    disk = SimDisk()
    log = Log(disk)
    fill(log, 25)
    rows, tails = log.capture(), tails_of(disk, list(log.dirt()))
    (name,) = log.partition(TOPIC, 0).files
    disk.sync_names()
    disk.fail_after(0, OSError(errno.EIO, "the sync failed"))
    with pytest.raises(OSError, match="the sync failed"):
        disk.sync(name)
    disk.crash()

    again = restored(disk, rows, tails)
    disk.sync(name)
    disk.power_loss(Random(1))

    assert values_from(again, 0) == EVERYTHING[: len(values_from(log, 0))] == values_from(log, 0)
    assert crc32c(disk.read(name, 0, 1 << 20)) == rows[0].segments[0].crc
