"""The words of a transfer: they come back as they went, and anything else is refused in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zablog.core.trail import Mark
from zablog.core.zxid import Zxid
from zablog.wire import cbor
from zablog.wire.errors import MessageError
from zablog.wire.frames import Frame, FrameReader
from zablog.wire.transfer import PIECE_BYTES_MAX, SNAPSHOT_BYTES_MAX, Ask, Found, Get, Gone, Piece, Seek, Word, decode_word, encode_word

U64 = st.integers(0, 2**64 - 1)
ZXIDS = st.builds(Zxid, st.integers(0, 2**32 - 1), st.integers(0, 2**62))
MARKS = st.builds(Mark, ZXIDS, U64)
WORDS = st.one_of(
    st.builds(Ask, MARKS),
    st.builds(Seek, ZXIDS),
    st.builds(Found, MARKS, st.integers(0, SNAPSHOT_BYTES_MAX), st.integers(0, 2**32 - 1)),
    st.builds(Get, st.text(max_size=255), st.integers(0, 2**40), st.integers(1, PIECE_BYTES_MAX)),
    st.builds(Piece, st.binary(max_size=200)),
    st.builds(Gone, st.text(max_size=900)),
)


@given(WORDS)
def test_every_word_comes_back_as_it_went(word: Word) -> None:
    (frame,) = FrameReader(1 << 20).feed(b"".join(encode_word(word)))

    assert decode_word(frame) == word


@pytest.mark.parametrize(
    "frame",
    [
        Frame(47, b""),
        Frame(53, b""),
        Frame(48, cbor.dumps([[1, 2]])),
        Frame(48, cbor.dumps([[1, 2], 2**64 - 1, 3])),
        Frame(49, cbor.dumps([[1, 2], 3, -1, 0])),
        Frame(50, cbor.dumps(["a", 0, PIECE_BYTES_MAX + 1])),
        Frame(50, cbor.dumps(["a", 0, 0])),
        Frame(50, cbor.dumps(["a" * 256, 0, 1])),
        Frame(50, cbor.dumps(["a", 0, 1]), b"payload"),
        Frame(51, b"header", b"payload"),
        Frame(51, b"", bytes(PIECE_BYTES_MAX + 1)),
        Frame(52, cbor.dumps([7])),
        Frame(52, b"\xff"),
    ],
)
def test_anything_else_is_refused(frame: Frame) -> None:
    with pytest.raises(MessageError):
        decode_word(frame)


@given(st.integers(48, 52), st.binary(max_size=60))
def test_garbage_is_refused_and_nothing_else_is_raised(kind: int, garbage: bytes) -> None:
    try:
        decode_word(Frame(kind, garbage))
    except MessageError:
        return
    assert kind != 51 or not garbage
