"""A batch as it is stored and served: our fixed prefix, then a Kafka v2 batch. Pure.

    check      u32   CRC-32C of the rest of the prefix and of the batch's first 16 bytes
    magic      u16   0x5A31
    position   u16   which part of its command
    length     u32   bytes of the batch
    zxid       u32 + u64
    time       u64   leader time, milliseconds since 1970
    offset     u64   base offset
    then the batch, whose base offset and leader epoch are filled in here: they stand outside of Kafka's CRC

All numbers are big-endian. The check covers what the batch's own CRC does not (its magic and CRC fields check themselves), so every
flipped byte is seen. A segment is such batches end to end; so is what a fetch answers.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from google_crc32c import value

from broker.errors import Corrupt
from broker.records import BATCH_BYTES_MAX, HEADER_BYTES, Record, read_batch, verify
from zablog.core.trail import Payload
from zablog.core.zxid import Zxid

MAGIC: Final = 0x5A31
_PREFIX: Final = struct.Struct(">IHHIIQQQ")
PREFIX_BYTES: Final = _PREFIX.size
_FILLED: Final = struct.Struct(">HHIIQQQqii")
"""What is checked: the prefix behind its check, then the batch's base offset, length and leader epoch."""
_FILLED_BYTES: Final = 16
_CHECK: Final = struct.Struct(">I")
HEAD_BYTES: Final = PREFIX_BYTES + _FILLED_BYTES


class Place(NamedTuple):
    """What the prefix says."""

    base_offset: int
    zxid: Zxid
    position: int
    time: int
    length: int
    """Bytes of the batch, without the prefix."""


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch out of a segment or a fetch, its prefix verified."""

    base_offset: int
    zxid: Zxid
    position: int
    """Which part of its command: records that share a zxid are ordered by this, then by offset."""
    time: int
    """Leader time, milliseconds since 1970."""
    batch: Payload

    def records(self, topic: str = "", partition: int = 0) -> list[Record]:
        """Its records, verified by the batch's own checksum. Raises Corrupt."""
        return read_batch(self.batch, topic, partition, self.base_offset, self.zxid)


def head_of(place: Place) -> bytes:
    """Prefix and filled-in beginning of a batch: what stands in a segment before the batch's bytes from 16 on."""
    base_offset, (epoch, counter), position, time, length = place
    # Kafka's leader epoch has 31 bits; ours has 32, and stands whole in the prefix.
    leader_epoch = epoch & 0x7FFFFFFF
    checked = _FILLED.pack(MAGIC, position, length, epoch, counter, time, base_offset, base_offset, length - 12, leader_epoch)
    return _CHECK.pack(value(checked)) + checked


def place_at(stored: Payload, at: int = 0) -> Place:
    """The verified prefix at `at`; the batch behind it may be cut off. Raises Corrupt."""
    if len(stored) - at < HEAD_BYTES:
        raise Corrupt(f"a stored batch begins {len(stored) - at} bytes before the end, and its head alone has {HEAD_BYTES}")
    check, magic, position, length, epoch, counter, time, base_offset = _PREFIX.unpack_from(stored, at)
    if magic != MAGIC:
        raise Corrupt(f"no stored batch begins here: magic {magic:#06x} instead of {MAGIC:#06x}")
    actual = value(bytes(memoryview(stored)[at + _CHECK.size : at + HEAD_BYTES]))
    if actual != check:
        raise Corrupt(f"the head of a stored batch failed its checksum: {actual:08x} instead of {check:08x}")
    if not HEADER_BYTES <= length <= BATCH_BYTES_MAX:
        raise Corrupt(f"a stored batch of {length:,} bytes: {HEADER_BYTES} to {BATCH_BYTES_MAX:,} are possible")
    return Place(base_offset, Zxid(epoch, counter), position, time, length)


def split(stored: Payload) -> Iterator[StoredBatch]:
    """The stored batches that `stored` consists of, end to end; each batch is a view into it. Raises Corrupt."""
    view = memoryview(stored)
    at = 0
    while at < len(view):
        base_offset, zxid, position, time, length = place_at(stored, at)
        end = at + PREFIX_BYTES + length
        if end > len(view):
            raise Corrupt(f"a stored batch at offset {base_offset} is cut off: {len(view) - at:,} bytes of {end - at:,}")
        yield StoredBatch(base_offset, zxid, position, time, view[at + PREFIX_BYTES : end])
        at = end


def check_batch(stored: StoredBatch) -> int:
    """Verify the batch's own checksum; how many records it has. Raises Corrupt."""
    return verify(stored.batch).records
