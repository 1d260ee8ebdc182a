"""Any cut of the byte stream gives the same frames; any damage gives a FrameError; no length is believed before it is bounded."""

import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zablog.wire.errors import FrameError
from zablog.wire.frames import (
    AHEAD_BYTES,
    BUFFER_BYTES,
    BUFFER_BYTES_MIN,
    FRAME_BYTES_MAX,
    HANDSHAKE_BYTES_MAX,
    JOIN_BYTES_MAX,
    PREFIX_BYTES,
    Frame,
    FrameReader,
    pieces,
)

FRAMES = st.builds(Frame, st.integers(0, 127), st.binary(max_size=300), st.binary(max_size=2000))


def stream_of(frames: list[Frame]) -> bytes:
    return b"".join(bytes(piece) for frame in frames for piece in pieces(frame))


def read_in_cuts(reader: FrameReader, stream: bytes, cuts: random.Random) -> list[Frame]:
    """Receives the stream in pieces of any size, as a socket gives them."""
    out: list[Frame] = []
    at = 0
    while at < len(stream):
        space = reader.space()
        assert len(space) > 0, "there is always room to receive into"
        count = min(len(space), len(stream) - at, cuts.choice((1, 7, 100, 5_000, 70_000, 10**6)))
        space[:count] = stream[at : at + count]
        reader.received(count)
        at += count
        out += reader.frames()
    return out


@given(st.lists(FRAMES, max_size=20), st.integers(0, 2**32))
def test_any_cut_of_the_stream_gives_the_frames_that_were_sent(frames: list[Frame], seed: int) -> None:
    assert read_in_cuts(FrameReader(FRAME_BYTES_MAX), stream_of(frames), random.Random(seed)) == frames


@pytest.mark.parametrize("seed", range(20))
def test_big_and_small_frames_alternate_in_any_cut(seed: int) -> None:
    dice = random.Random(seed)
    sizes = [dice.choice((0, 10, 1000, 60_000, BUFFER_BYTES // 4 - 1, BUFFER_BYTES // 4 + 1, BUFFER_BYTES, 700_000)) for _ in range(30)]
    frames = [Frame(n % 128, dice.randbytes(dice.choice((0, 12, 16_000))), dice.randbytes(size)) for n, size in enumerate(sizes)]

    received = read_in_cuts(FrameReader(FRAME_BYTES_MAX), stream_of(frames), dice)

    assert received == frames


def test_of_a_big_payload_that_is_expected_little_is_received_where_it_must_be_copied_from() -> None:
    """And only there: a stream of smaller frames must not be read by small pieces for one big frame in it."""
    big, small, middling = (Frame(1, b"h" * 12, bytes(size)) for size in (BUFFER_BYTES + 1, 100, JOIN_BYTES_MAX // 2))
    reader = FrameReader(FRAME_BYTES_MAX)

    def receive(frame: Frame) -> list[int]:
        """How much room there was each time."""
        stream, rooms = stream_of([frame]), list[int]()
        while stream:
            space = reader.space()
            rooms.append(len(space))
            space[: len(stream)] = stream[: len(space)]
            reader.received(min(len(space), len(stream)))
            stream = stream[len(space) :]
            if frames := reader.frames():
                assert frames == [frame]
        return rooms

    assert receive(big)[0] == BUFFER_BYTES_MIN
    assert receive(big) == [AHEAD_BYTES, len(stream_of([big])) - AHEAD_BYTES]
    assert receive(small) == [AHEAD_BYTES]
    assert receive(small)[0] > AHEAD_BYTES
    receive(big)
    first, second, *_ = receive(middling)
    assert first == AHEAD_BYTES < len(stream_of([middling])) - AHEAD_BYTES <= second
    receive(big)
    assert receive(Frame(1, b"h" * 12, bytes(7000)))[1] > AHEAD_BYTES
    assert receive(small)[0] > AHEAD_BYTES


def test_one_wake_up_gives_all_complete_frames_and_keeps_the_rest() -> None:
    frames = [Frame(1, b"head", b"payload")] * 5
    stream = stream_of(frames)
    reader = FrameReader(FRAME_BYTES_MAX)

    assert reader.feed(stream[:-1]) == frames[:4]
    assert reader.feed(stream[-1:]) == frames[4:]


def test_a_stranger_is_given_one_frame_at_a_time_and_admitted_with_what_he_sent_already() -> None:
    big = Frame(70, b"", bytes(100_000))
    stream = stream_of([Frame(1, b"hello"), Frame(64, b"first"), big])
    reader = FrameReader()
    count = len(reader.space())
    reader.space()[:count] = stream[:count]
    reader.received(count)

    hello = reader.frames(at_most=1)
    reader.admit()

    assert hello == [Frame(1, b"hello")]
    assert reader.frames() + reader.feed(stream[count:]) == [Frame(64, b"first"), big]


def test_a_kept_payload_is_not_changed_by_what_is_received_later() -> None:
    reader = FrameReader(FRAME_BYTES_MAX)
    kept = reader.feed(stream_of([Frame(1, b"h", b"a" * 1000), Frame(1, b"h", b"b" * 100_000)]))

    for _ in range(10):
        reader.feed(stream_of([Frame(1, b"x", b"x" * 60_000), Frame(1, b"x", b"x" * 100_000)]))

    assert [bytes(frame.payload[:1]) * len(frame.payload) == frame.payload for frame in kept] == [True, True]


def test_a_length_above_the_limit_is_refused_before_memory_is_taken() -> None:
    too_long = stream_of([Frame(1, b"", bytes(HANDSHAKE_BYTES_MAX + 1))])

    with pytest.raises(FrameError, match="4,097 bytes, and at most 4,096"):
        FrameReader().feed(too_long[:PREFIX_BYTES])


@given(st.binary(min_size=PREFIX_BYTES, max_size=400), st.sampled_from((HANDSHAKE_BYTES_MAX, FRAME_BYTES_MAX)))
def test_garbage_is_an_error_in_words_or_still_waits(garbage: bytes, limit: int) -> None:
    reader = FrameReader(limit)
    with suppress(FrameError):
        assert reader.feed(garbage) == []


@given(FRAMES, st.data())
def test_a_flipped_bit_ahead_of_the_payload_is_seen(frame: Frame, data: st.DataObject) -> None:
    stream = bytearray(stream_of([frame]))
    bit = data.draw(st.integers(0, 8 * (PREFIX_BYTES + len(frame.header)) - 1))
    stream[bit // 8] ^= 1 << bit % 8

    try:
        frames = FrameReader(FRAME_BYTES_MAX).feed(bytes(stream))
    except FrameError:
        frames = []

    assert frames == []


def test_words_of_another_protocol_are_no_frame() -> None:
    with pytest.raises(FrameError, match="or this is not our protocol"):
        FrameReader().feed(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


def test_a_buffer_is_small_until_bursts_fill_it_and_then_grows_to_its_bound() -> None:
    """Most connections of a thousand are idle: 256 KiB for each of them were most of what a node held."""
    frame = Frame(5, b"head", bytes(1000))
    reader = FrameReader(FRAME_BYTES_MAX)
    sizes = [len(reader.space())]

    for _ in range(8):
        burst = stream_of([frame] * (len(reader.space()) // 1000 + 1))
        assert reader.feed(burst) == [frame] * (len(burst) // len(stream_of([frame])))
        sizes.append(len(reader._buffer))

    assert sizes[0] == BUFFER_BYTES_MIN
    assert sizes == sorted(sizes) and sizes[-1] == BUFFER_BYTES
