"""The checksum of two pieces end to end, and of a segment whose batches are not summed again."""

from random import Random

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.log import Log
from broker.log.checksum import joined
from broker.log.partition import SUM_BYTES
from broker.records import BatchBuilder, header_of
from zablog.core.zxid import Zxid
from zablog.sim.disk import SimDisk

TOPIC = Zxid(1, 1)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_two_pieces(first: bytes, second: bytes) -> None:
    whole = google_crc32c.value(first + second)
    assert joined(google_crc32c.value(first), google_crc32c.value(second), len(second)) == whole


@pytest.mark.parametrize("length", [0, 1, 255, 256, 65_535, 65_536, 1_000_003, 4 << 20])
def test_a_long_piece_behind_a_short_one(length: int) -> None:
    first, second = b"zablog", bytes(range(251)) * (length // 251 + 1)
    second = second[:length]
    assert joined(google_crc32c.value(first), google_crc32c.value(second), length) == google_crc32c.value(first + second)


def batch_of(size: int) -> bytes:
    builder = BatchBuilder()
    builder.add(bytes(range(256)) * (size // 256 + 1), 1_700_000_000_000, None, ())
    return builder.build()


def test_a_segment_of_large_and_small_batches_has_the_checksum_of_its_bytes() -> None:
    disk = SimDisk()
    log = Log(disk)
    for number, size in enumerate((SUM_BYTES - 200, 10, 3 * SUM_BYTES, SUM_BYTES, 200_000, 50, 60)):
        batch = batch_of(size)
        assert header_of(batch).records == 1
        log.append(Zxid(1, 2 + number), 1_700_000_000_000 + number, TOPIC, 0, number, 0, 1, memoryview(batch))
        if number != 4:
            log.flush()
    log.flush()

    (segment,) = log.capture()[0].segments
    assert segment.crc == google_crc32c.value(disk.read(*log.partition(TOPIC, 0).files, 0, 1 << 22))


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_written_together_has_the_checksum_of_its_bytes(seed: int) -> None:
    """What a node applies at its start, or when it catches up, is thousands of small batches in one write."""
    dice, disk = Random(seed), SimDisk()
    log = Log(disk)
    small, large = batch_of(dice.choice((10, 900, 5_000))), batch_of(SUM_BYTES)
    number = 0
    for _ in range(6):
        share_of_large = dice.choice((0, 0, 0.01, 0.5))
        for _ in range(dice.choice((1, 5, 2 * SUM_BYTES // len(small)))):
            batch = large if dice.random() < share_of_large else small
            log.append(Zxid(1, 2 + number), 1_700_000_000_000 + number, TOPIC, 0, number, 0, 1, memoryview(batch))
            number += 1
        log.flush()
        rows = log.capture()[0].segments
        files = log.partition(TOPIC, 0).files
        assert [row.crc for row in rows] == [google_crc32c.value(disk.read(name, 0, 1 << 26)) for name in files]


def test_what_becomes_of_bytes_in_memory_shows_in_the_segment() -> None:
    """Summed again they would be taken for what was meant."""
    disk, batch = SimDisk(), bytearray(batch_of(2 * SUM_BYTES))
    log = Log(disk)
    batch[-100] ^= 1
    log.append(Zxid(1, 2), 1_700_000_000_000, TOPIC, 0, 0, 0, 1, memoryview(batch))
    log.flush()

    (segment,) = log.capture()[0].segments
    assert segment.crc != google_crc32c.value(disk.read(*log.partition(TOPIC, 0).files, 0, 1 << 22))
