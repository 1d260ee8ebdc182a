"""A batch is Kafka's v2, byte for byte, and nothing that is not one is read as one."""

import struct
import tracemalloc
from types import SimpleNamespace

import cramjam
import pytest
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.compression import EXPANSION, ROOM_BYTES_MIN, Codec, compress, decompress
from broker.errors import Corrupt
from broker.records import CONTENT_BYTES_MAX, BatchBuilder, Record, encode_batch, header_of, read_batch, varint, verify
from zablog.core.zxid import Zxid

VALUES = st.none() | st.binary(max_size=200)
HEADERS = st.lists(st.tuples(st.text(max_size=20).filter(lambda t: t.isprintable()), VALUES), max_size=3).map(tuple)
RECORDS = st.lists(st.builds(Record, value=VALUES, key=VALUES, headers=HEADERS, timestamp=st.integers(0, 2**48)), min_size=1, max_size=30)


def forged(header: bytes, content: bytes) -> bytes:
    """The checked part of a batch with the right length and checksum before it."""
    checked = header + content
    return struct.pack(">qiibI", 0, len(checked) + 9, -1, 2, crc32c(checked)) + checked


def checked_header(count: int, attributes: int = 0, last_delta: int | None = None) -> bytes:
    return struct.pack(">hiqqqhii", attributes, count - 1 if last_delta is None else last_delta, 0, 0, -1, -1, -1, count)


def test_batch_has_the_bytes_that_the_specification_says():
    record = Record(b"world", b"hello", (("h", b"v"),), 1_700_000_000_000)

    batch = encode_batch([record])

    content = bytes.fromhex("00 00 00 0a") + b"hello" + b"\x0a" + b"world" + bytes.fromhex("02 02") + b"h" + b"\x02" + b"v"
    content = varint(len(content)) + content
    header = struct.pack(">hiqqqhii", 0, 0, 1_700_000_000_000, 1_700_000_000_000, -1, -1, -1, 1)
    assert batch == forged(header, content)


def test_batch_that_another_client_made_is_read():
    # One record, key null, value "value", timestamp 1503648000000 + 0: as the Kafka protocol guide lays it out.
    content = bytes.fromhex("16 00 00 00 01 0a") + b"value" + b"\x00"
    batch = forged(struct.pack(">hiqqqhii", 0, 0, 1503648000000, 1503648000000, -1, -1, -1, 1), content)

    assert read_batch(batch) == [Record(b"value", None, (), 1503648000000)]


@given(RECORDS, st.sampled_from(Codec))
def test_every_record_comes_back(records, codec):
    batch = encode_batch(records, codec)

    read = read_batch(batch, "t", 3, 70, Zxid(2, 9))

    assert [(r.value, r.key, r.headers, r.timestamp) for r in read] == [(r.value, r.key, r.headers, r.timestamp) for r in records]
    assert [r.offset for r in read] == list(range(70, 70 + len(records)))
    assert {(r.topic, r.partition, r.zxid) for r in read} == {("t", 3, Zxid(2, 9))}


@pytest.mark.parametrize("sizes", [3, 1])
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 8191, 8192, 8193, 20_000])
def test_fast_path_writes_the_same_bytes_as_the_plain_one(count, sizes):
    values = [b"x" * (row % sizes * 60 + 7) for row in range(count)]
    plain, fast = BatchBuilder(), BatchBuilder()
    for value in values:
        plain.add(value, 5)

    fast.add_values(values[:10], 5)
    fast.add_values(values[10:], 5)

    assert fast.build() == plain.build()
    assert fast.size == plain.size == len(fast.build())
    assert [record.value for record in read_batch(fast.build())] == values
    assert [record.offset for record in read_batch(fast.build())] == list(range(count))


@given(st.lists(st.tuples(st.lists(st.binary(max_size=20), max_size=5), st.integers(0, 2**50)), min_size=1, max_size=8))
def test_runs_of_values_keep_their_timestamps(runs):
    builder = BatchBuilder()
    for values, timestamp in runs:
        builder.add_values(values, timestamp)
    if builder.count:
        assert [(r.value, r.timestamp) for r in read_batch(builder.build())] == [(v, t) for values, t in runs for v in values]


@given(st.integers(-(2**63), 2**63 - 1))
def test_varints_are_zigzag(number):
    encoded = varint(number)

    assert len(encoded) <= 10
    decoded = sum((byte & 127) << 7 * at for at, byte in enumerate(encoded))
    assert decoded >> 1 ^ -(decoded & 1) == number


def test_the_varints_that_are_kept_are_the_computed_ones() -> None:
    BatchBuilder()  # from now on they are kept
    kept = [varint(number) for number in range(1 << 14)]

    for number, each in enumerate(kept):
        assert sum((byte & 127) << 7 * place for place, byte in enumerate(each)) == 2 * number
        assert [byte >> 7 for byte in each] == [1] * (len(each) - 1) + [0] and (len(each) == 1 or each[-1])


@given(RECORDS, st.data())
def test_each_flipped_bit_behind_the_unchecked_fields_is_seen(records, data):
    batch = bytearray(encode_batch(records))
    bit = data.draw(st.integers(16 * 8, len(batch) * 8 - 1))

    batch[bit // 8] ^= 1 << bit % 8

    with pytest.raises(Corrupt):
        read_batch(batch)


@given(st.binary(max_size=300))
def test_garbage_is_corrupt_and_nothing_else(garbage):
    with pytest.raises(Corrupt):
        verify(garbage)


@given(st.integers(1, 50), st.binary(max_size=400), st.sampled_from(Codec))
@settings(deadline=None)  # what does not decompress is tried with ever more room
def test_garbage_under_a_right_checksum_is_corrupt_or_a_batch(count, garbage, codec):
    batch = forged(checked_header(count, codec), garbage)

    try:
        records = read_batch(batch)
    except Corrupt:
        return
    assert len(records) == count


@given(RECORDS, st.data())
def test_damaged_records_under_a_right_checksum_are_corrupt_or_as_many_as_claimed(records, data):
    batch = bytearray(encode_batch(records))
    at = data.draw(st.integers(61, len(batch) - 1))
    batch[at] = data.draw(st.integers(0, 255))

    try:
        read = read_batch(forged(bytes(batch[21:61]), bytes(batch[61:])))
    except Corrupt:
        return
    assert len(read) == len(records)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (checked_header(0), "0 records"),
        (checked_header(-1), "-1 records"),
        (checked_header(2**31 - 1), "2,147,483,647 records"),
        (checked_header(2, last_delta=2), "offset delta 2"),
        (checked_header(1, attributes=5), "attributes 0x5"),
        (checked_header(1, attributes=16), "attributes 0x10"),
        (checked_header(1, attributes=-1), "attributes"),
        (checked_header(1000), "1,000 records cannot fit"),
    ],
)
def test_header_is_compared_with_what_is_there(header, words):
    with pytest.raises(Corrupt, match=words):
        header_of(forged(header, b"\0" * 70))


def test_length_must_be_exact():
    batch = encode_batch([Record(b"a")])
    for wrong in (batch + b"\0", batch[:-1], batch + batch, b""):
        with pytest.raises(Corrupt):
            header_of(wrong)


@pytest.mark.parametrize("codec", [codec for codec in Codec if codec is not Codec.NONE])
def test_small_content_that_becomes_too_much_is_corrupt_and_takes_no_more_room_than_is_allowed(codec):
    bomb = forged(checked_header(5, codec), compress(codec, bytes(72 << 20)))

    tracemalloc.start()
    try:
        with pytest.raises(Corrupt, match="decompress"):
            read_batch(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < CONTENT_BYTES_MAX + 4 * len(bomb) + (1 << 20)


def test_snappy_is_read_with_and_without_the_frame_of_java():
    import cramjam

    plain = encode_batch([Record(b"abc" * 100), Record(b"d")])
    for content in (compress(Codec.SNAPPY, plain[61:]), bytes(cramjam.snappy.compress_raw(plain[61:]))):
        read = read_batch(forged(checked_header(2, Codec.SNAPPY), content))
        assert [record.value for record in read] == [b"abc" * 100, b"d"]


def test_log_append_time_is_the_batches_max_timestamp():
    batch = encode_batch([Record(b"a", timestamp=5), Record(b"b", timestamp=9)])
    stamped = struct.pack(">hiqq", 8, 1, 5, 77) + batch[43:]

    assert [record.timestamp for record in read_batch(forged(stamped, b""))] == [77, 77]


def test_record_is_frozen_however_it_was_made():
    fresh = read_batch(encode_batch([Record(b"a"), Record(b"b"), Record(b"c")]))

    for record in fresh:
        assert type(record) is Record
        with pytest.raises(AttributeError):
            record.value = b"x"
    assert fresh[1] == Record(b"b", offset=1) and hash(fresh[1]) == hash(Record(b"b", offset=1))


@pytest.mark.parametrize(("codec", "module"), [(Codec.GZIP, "gzip"), (Codec.LZ4, "lz4"), (Codec.ZSTD, "zstd")])
def test_there_is_no_more_room_than_so_many_bytes_can_become(codec: Codec, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by fuzzing: bytes that do not decompress were tried again with up to 64 MiB of room, 50 ms for a batch of 140 bytes."""
    rooms: list[int] = []

    def into(compressed: bytes, out: bytearray) -> int:
        rooms.append(len(out))
        raise cramjam.DecompressionError("bad bytes")

    monkeypatch.setattr(f"broker.compression.cramjam.{module}", SimpleNamespace(decompress_into=into))
    with pytest.raises(Corrupt):
        decompress(codec, bytes(100), 64 << 20)

    assert max(rooms) == min(64 << 20, 100 * EXPANSION[codec] + ROOM_BYTES_MIN)


def test_a_bare_block_of_snappy_that_claims_more_than_it_can_become_is_refused_at_once() -> None:
    claim = b"\xff\xff\xff\x1f"  # 67,108,863 bytes, as a varint
    with pytest.raises(Corrupt, match="claims"):
        decompress(Codec.SNAPPY, claim + bytes(100), 64 << 20)


@pytest.mark.parametrize("codec", [codec for codec in Codec if codec is not Codec.NONE])
@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 20, 16 << 20])
def test_what_shrinks_the_most_comes_back(codec: Codec, size: int) -> None:
    content = bytes(size)
    assert decompress(codec, compress(codec, content), 64 << 20) == content
