"""Records and record batches: bytes and back. Pure.

A batch is Kafka's record batch v2, byte for byte (the public specification: kafka.apache.org, "Record Batch"):

    base offset i64, batch length i32, leader epoch i32, magic i8, crc u32       not covered by the CRC-32C
    attributes i16, last offset delta i32, base timestamp i64, max timestamp i64,
    producer id i64, producer epoch i16, base sequence i32, number of records i32
    then the records, compressed as a whole or not; each
    length, attributes i8, timestamp delta, offset delta, key length, key, value length, value, number of headers, headers
    with zigzag varints for every number but the attributes, and -1 for the length of what is null

Numbers are big-endian. Who writes a batch leaves base offset and leader epoch to the log. Whatever is read here is anybody's bytes:
every fault of theirs is `Corrupt`, no count or length of theirs is believed before it was compared with what is there.

Longer than most files because the writer's and the reader's fast paths must be seen beside the form they shortcut.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final, NamedTuple, TypeVar

from google_crc32c import extend
from google_crc32c import value as crc32c

from broker.compression import Codec, compress, decompress
from broker.errors import Corrupt
from zablog.core.trail import Payload
from zablog.core.zxid import ZERO, Zxid

RECORD_BYTES_MAX: Final = 1 << 20
"""The default limit of a record: key, value and headers."""
BATCH_BYTES_MAX: Final = 4 << 20
"""The largest batch, as it is stored."""
RECORDS_MAX: Final = 1 << 20
"""Records in one batch."""
CONTENT_BYTES_MAX: Final = 64 << 20
"""The largest content of a compressed batch."""

Headers = tuple[tuple[str, bytes | None], ...]

T = TypeVar("T")


def quickly(fresh: object, frozen: type[T]) -> T:
    """`fresh` as one of `frozen`, a frozen class with the same slots in the same order.

    A frozen class sets its eight fields past its own `__setattr__`, which takes 0.55 µs where this takes 0.3; there is one a record.
    """
    fresh.__class__ = frozen
    return fresh  # type: ignore[return-value]  # it is one now


@dataclass(frozen=True, slots=True)
class Record:
    """One record. The second half is known once it has been read from a topic."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    """In order; a name may come twice."""
    timestamp: int = 0
    """When its producer made it, milliseconds since 1970."""
    topic: str = ""
    partition: int = 0
    offset: int = 0
    zxid: Zxid = ZERO
    """Its place in the one order over all topics: that of the proposal it came with."""

    @property
    def size(self) -> int:
        """Bytes of key, value and headers: what `RECORD_BYTES_MAX` limits."""
        return content_bytes(self.value, self.key, self.headers)


def content_bytes(value: bytes | None, key: bytes | None = None, headers: Headers = ()) -> int:
    """Bytes of key, value and headers together."""
    size = (len(value) if value else 0) + (len(key) if key else 0)
    for name, each in headers:
        size += len(name.encode()) + (len(each) if each else 0)
    return size


class BatchHeader(NamedTuple):
    """The fixed part of a batch that has the right form."""

    base_offset: int
    leader_epoch: int
    crc: int
    codec: Codec
    log_append_time: bool
    """Is every record's timestamp the batch's max timestamp?"""
    base_timestamp: int
    max_timestamp: int
    records: int


HEADER: Final = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES: Final = HEADER.size
_CHECKED_FROM: Final = 21
"""Where the part begins that the CRC covers."""
_RECORD_BYTES_MIN: Final = 7
"""Length, attributes, two deltas, null key, null value, no headers."""
_LOG_APPEND_TIME: Final = 8
_CODECS: Final = tuple(Codec)


def header_of(batch: Payload) -> BatchHeader:
    """The header, if this is exactly one batch such as a producer may send. Raises Corrupt.

    Looks at the header alone, so its cost does not depend on the batch: the checksum is `verify`'s, the records are `read_batch`'s.
    """
    if not HEADER_BYTES <= len(batch) <= BATCH_BYTES_MAX:
        raise Corrupt(f"a record batch of {len(batch):,} bytes: {HEADER_BYTES} to {BATCH_BYTES_MAX:,} are taken")
    base_offset, length, leader_epoch, magic, crc, attributes, last_delta, base_timestamp, max_timestamp, _, _, _, count = (
        HEADER.unpack_from(batch)
    )
    if magic != 2:
        raise Corrupt(f"a record batch of magic {magic}: only 2 is taken")
    if length != len(batch) - 12:
        raise Corrupt(f"a record batch that claims {length:,} bytes behind its length, and has {len(batch) - 12:,}")
    if attributes & ~15 or attributes & 7 > 4:
        raise Corrupt(f"a record batch with attributes {attributes:#x}: only compression (0 to 4) and timestamp type are taken")
    if not 1 <= count <= RECORDS_MAX or last_delta != count - 1:
        raise Corrupt(f"a record batch of {count:,} records whose last has offset delta {last_delta:,}: 1 to {RECORDS_MAX:,}, without gaps")
    codec = _CODECS[attributes & 7]
    if codec is Codec.NONE and count * _RECORD_BYTES_MIN > len(batch) - HEADER_BYTES:
        raise Corrupt(f"{count:,} records cannot fit into {len(batch) - HEADER_BYTES:,} bytes")
    return BatchHeader(base_offset, leader_epoch, crc, codec, bool(attributes & _LOG_APPEND_TIME), base_timestamp, max_timestamp, count)


def verify(batch: Payload) -> BatchHeader:
    """The header of a batch whose form and checksum are right. Raises Corrupt."""
    header = header_of(batch)
    actual = crc32c(bytes(memoryview(batch)[_CHECKED_FROM:]))
    if actual != header.crc:
        raise Corrupt(f"a record batch failed its checksum: {actual:08x} instead of {header.crc:08x}")
    return header


# Writing


class BatchBuilder:
    """Gathers the records of one batch. `size` is exact (before compression), so the caller can stop in time."""

    __slots__ = ("_base_timestamp", "_max_timestamp", "_pieces", "count", "size")

    def __init__(self) -> None:
        _keep_varints()
        self._pieces: list[bytes] = []
        self._base_timestamp = 0
        self._max_timestamp = 0
        self.count = 0
        self.size = HEADER_BYTES

    def add(self, value: bytes | None, timestamp: int, key: bytes | None = None, headers: Headers = ()) -> None:
        """One more record; `timestamp` in milliseconds since 1970."""
        assert self.count < RECORDS_MAX, f"a batch has at most {RECORDS_MAX:,} records"
        if not self.count:
            self._base_timestamp = self._max_timestamp = timestamp
        elif timestamp > self._max_timestamp:
            self._max_timestamp = timestamp
        body = [b"\0", varint(timestamp - self._base_timestamp), varint(self.count)]
        body += (b"\x01",) if key is None else (varint(len(key)), key)
        body += (b"\x01",) if value is None else (varint(len(value)), value)
        body.append(varint(len(headers)))
        for name, each in headers:
            encoded = name.encode()
            body += (varint(len(encoded)), encoded)
            body += (b"\x01",) if each is None else (varint(len(each)), each)
        length = sum(map(len, body))
        prefix = varint(length)
        self._pieces.append(prefix)
        self._pieces += body
        self.size += len(prefix) + length
        self.count += 1

    def add_values(self, values: Sequence[bytes], timestamp: int) -> None:
        """Many records without key and headers, of one time: what a stream of lines is. About 0.15 µs a record."""
        assert self.count + len(values) <= RECORDS_MAX, f"a batch has at most {RECORDS_MAX:,} records"
        if not self.count:
            self._base_timestamp = self._max_timestamp = timestamp
        elif timestamp > self._max_timestamp:
            self._max_timestamp = timestamp
        delta = varint(timestamp - self._base_timestamp)
        done = 0
        while done < len(values):
            # Records whose offset delta has as many bytes share their other pieces, if their values are equally long.
            width = len(varint(self.count))
            end = min(len(values), done + _WIDTH_ENDS[width] - self.count)
            self._add_run(values[done:end], delta, width)
            done = end

    def _add_run(self, values: Sequence[bytes], delta: bytes, width: int) -> None:
        offsets = _VARINTS[self.count : self.count + len(values)]
        if len(offsets) < len(values):
            offsets = [varint(self.count + row) for row in range(len(values))]
        ends = {size: _ends(size, delta, width) for size in set(map(len, values))}
        if len(ends) == 1:
            ((before, after, whole),) = ends.values()
            self._pieces += chain.from_iterable(zip(repeat(before), offsets, repeat(after), values, repeat(b"\0")))
            self.size += whole * len(values)
        else:
            for offset, value in zip(offsets, values, strict=True):
                before, after, whole = ends[len(value)]
                self._pieces += (before, offset, after, value, b"\0")
                self.size += whole
        self.count += len(values)

    def build(self, codec: Codec = Codec.NONE) -> bytes:
        """The batch. At least one record was added."""
        assert self.count, "a batch has at least one record"
        content = b"".join(self._pieces)
        if codec is not Codec.NONE:
            content = compress(codec, content)
        checked = _CHECKED_HEADER.pack(codec, self.count - 1, self._base_timestamp, self._max_timestamp, -1, -1, -1, self.count)
        crc = extend(crc32c(checked), content)
        # The content is copied once more, and no oftener: of large records that is what a batch costs.
        return b"".join((_UNCHECKED_HEADER.pack(0, len(checked) + len(content) + 9, -1, 2, crc), checked, content))


def encode_batch(records: Iterable[Record], codec: Codec = Codec.NONE) -> bytes:
    """One batch of these records, at least one; their topic, partition, offset and zxid are not part of it."""
    builder = BatchBuilder()
    for record in records:
        builder.add(record.value, record.timestamp, record.key, record.headers)
    return builder.build(codec)


def varint(number: int) -> bytes:
    """Zigzag varint of a signed 64-bit number."""
    if 0 <= number < _VARINTS_KEPT:
        return _VARINTS[number]
    rest = (number << 1 ^ number >> 63) & 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _ends(value_bytes: int, delta: bytes, width: int) -> tuple[bytes, bytes, int]:
    """What stands before and behind the offset delta of a plain record, and the record's bytes in all."""
    after = b"\x01" + varint(value_bytes)
    length = 1 + len(delta) + width + len(after) + value_bytes + 1
    before = varint(length) + b"\0" + delta
    return before, after, len(before) + width + len(after) + value_bytes + 1


_CHECKED_HEADER: Final = struct.Struct(">hiqqqhii")
_UNCHECKED_HEADER: Final = struct.Struct(">qiibI")
_VARINTS: Final[list[bytes]] = []
"""Those of the first numbers, once a batch is built or read: a server does neither, and has no use for a megabyte of them."""
_VARINTS_KEPT = 0


def _keep_varints() -> None:
    global _VARINTS_KEPT
    if not _VARINTS_KEPT:
        one = [bytes((number << 1,)) for number in range(1 << 6)]
        two = [bytes((number << 1 & 127 | 128, number >> 6)) for number in range(1 << 6, 1 << 13)]
        three = [bytes((number << 1 & 127 | 128, number >> 6 & 127 | 128, number >> 13)) for number in range(1 << 13, 1 << 14)]
        _VARINTS[:] = one + two + three  # in one go, whichever thread it is
        _VARINTS_KEPT = len(_VARINTS)


_WIDTH_ENDS: Final = {1: 1 << 6, 2: 1 << 13, 3: 1 << 20}
"""How many offset deltas fit into so many bytes."""


# Reading


def read_batch(
    batch: Payload, topic: str = "", partition: int = 0, base_offset: int | None = None, zxid: Zxid = ZERO, *, checked: bool = False
) -> list[Record]:
    """All records of a batch. `base_offset` replaces the one in the header; `checked` says that `verify` was called before.

    Raises Corrupt if the form, the checksum, or anything within a record is not right.
    """
    _keep_varints()
    header = header_of(batch) if checked else verify(batch)
    content = bytes(memoryview(batch)[HEADER_BYTES:])
    if header.codec is not Codec.NONE:
        content = decompress(header.codec, content, CONTENT_BYTES_MAX)
        if header.records * _RECORD_BYTES_MIN > len(content):
            raise Corrupt(f"{header.records:,} records cannot fit into {len(content):,} bytes")
    offset = header.base_offset if base_offset is None else base_offset
    return _read_records(content, header, topic, partition, offset, zxid)


@dataclass(slots=True)
class _Fresh:
    """A Record before it is frozen; see `quickly`."""

    value: bytes | None
    key: bytes | None
    headers: Headers
    timestamp: int
    topic: str
    partition: int
    offset: int
    zxid: Zxid


def _read_records(content: bytes, header: BatchHeader, topic: str, partition: int, base_offset: int, zxid: Zxid) -> list[Record]:
    """The records that `content` consists of. Raises Corrupt."""
    end = len(content)
    base_timestamp, fixed = header.base_timestamp, header.max_timestamp if header.log_append_time else None
    out: list[Record] = []
    at = 0
    # Records without key and headers that are equally long mostly differ only in value and offset delta. So for each length the last
    # such record is remembered: the bytes before its offset delta and between that and its value, where the value stands, and the
    # timestamp. Then comparing bytes replaces reading five numbers.
    known: dict[int, tuple[bytes, bytes, int, int]] = {}
    try:
        for delta in range(header.records):
            begin = at
            if (low := content[at]) > 127 and (high := content[at + 1]) < 128 and not low & 1:
                # A length of two bytes, as of nearly every record between 64 bytes and 8 KiB.
                length, at = (low & 127 | high << 7) >> 1, at + 2
            else:
                length, at = _number(content, at)
            stop = at + length
            if length < _RECORD_BYTES_MIN - 1 or stop > end:
                raise Corrupt(f"a record of {length:,} bytes, and {end - at:,} are left in its batch")
            offset_delta = varint(delta)
            if length in known:
                before, after, value_at, timestamp = known[length]
                value_at += begin
                if content[begin:value_at] == before + offset_delta + after and not content[stop - 1]:
                    out.append(
                        quickly(
                            _Fresh(content[value_at : stop - 1], None, (), timestamp, topic, partition, base_offset + delta, zxid), Record
                        )
                    )
                    at = stop
                    continue
            timestamp_delta, at = _number(content, at + 1)
            timestamp = base_timestamp + timestamp_delta if fixed is None else fixed
            offset_at = at
            if content.startswith(offset_delta, at):
                at += len(offset_delta)
            else:
                found, at = _number(content, at)
                if found != delta:
                    raise Corrupt(f"record {delta:,} of a batch has offset delta {found:,}")
            after_at = at
            key, at = _bytes(content, at, stop)
            value, at = _bytes(content, at, stop)
            headers: Headers = ()
            if at < end and not content[at]:
                if key is None and value is not None:
                    value_at = at - len(value)
                    known[length] = (content[begin:offset_at], content[after_at:value_at], value_at - begin, timestamp)
                at += 1
            else:
                headers, at = _headers(content, at, stop)
            if at != stop:
                raise Corrupt(f"a record of {length:,} bytes ends {abs(stop - at):,} bytes off its length")
            out.append(quickly(_Fresh(value, key, headers, timestamp, topic, partition, base_offset + delta, zxid), Record))
    except IndexError:
        raise Corrupt("a batch ends within a record") from None
    if at != end:
        raise Corrupt(f"{end - at:,} stray bytes behind the last record of a batch")
    return out


def _number(content: bytes, at: int) -> tuple[int, int]:
    """The varint at `at`, and where it ends. IndexError if it does not end."""
    byte = content[at]
    if byte < 128:
        return byte >> 1 ^ -(byte & 1), at + 1
    result = shift = 0
    while byte > 127:
        result |= (byte & 127) << shift
        shift += 7
        at += 1
        byte = content[at]
        if shift > 63:
            raise Corrupt("a number of more than 64 bits in a record")
    result |= byte << shift
    if result > 0xFFFFFFFFFFFFFFFF:
        raise Corrupt("a number of more than 64 bits in a record")
    return result >> 1 ^ -(result & 1), at + 1


def _bytes(content: bytes, at: int, stop: int) -> tuple[bytes | None, int]:
    """A key or value with its length before it, and where it ends, which is not behind `stop`."""
    length, at = _number(content, at)
    if length == -1:
        return None, at
    if length < 0 or at + length > stop:
        raise Corrupt(f"a key or value of {length:,} bytes, and {stop - at:,} are left in its record")
    return content[at : at + length], at + length


def _headers(content: bytes, at: int, stop: int) -> tuple[Headers, int]:
    count, at = _number(content, at)
    if count < 0 or count * 2 > stop - at:
        raise Corrupt(f"{count:,} headers, and {stop - at:,} bytes are left in their record")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        name, at = _bytes(content, at, stop)
        value, at = _bytes(content, at, stop)
        if name is None:
            raise Corrupt("a header without a name")
        try:
            headers.append((name.decode(), value))
        except UnicodeDecodeError:
            raise Corrupt(f"a header's name is not UTF-8: {name[:40]!r}") from None
    return tuple(headers), at
