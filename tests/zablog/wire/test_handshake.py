"""The first words: they come back as they went, fit into what a stranger may send, and anything else is refused in words."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zablog.wire import cbor
from zablog.wire.errors import MessageError
from zablog.wire.frames import Frame, FrameReader
from zablog.wire.handshake import (
    HELLO,
    Handshake,
    Hello,
    Purpose,
    Refused,
    Versions,
    Welcome,
    decode_handshake,
    encode_handshake,
)

NUMBERS = st.integers(0, 65535)
NAMES = st.text(max_size=64)
PEERS = st.integers(1, 255)
VERSIONS = st.builds(Versions, NUMBERS, NUMBERS)
WORDS = st.one_of(
    st.builds(Hello, VERSIONS, st.just(Purpose.PEER), NAMES, PEERS, NAMES, PEERS, VERSIONS),
    st.builds(Hello, VERSIONS, st.just(Purpose.CLIENT), st.none() | NAMES),
    st.builds(Welcome, NUMBERS, NAMES, PEERS, NAMES, VERSIONS),
    st.builds(Refused, NUMBERS, st.text(max_size=900)),
)


@given(WORDS)
def test_every_word_comes_back_as_it_went(word: Handshake) -> None:
    (frame,) = FrameReader().feed(b"".join(encode_handshake(word)))

    assert decode_handshake(frame) == word


@given(st.integers(0, 127), st.binary(max_size=100), st.binary(max_size=5))
def test_garbage_is_an_error_in_words(kind: int, header: bytes, payload: bytes) -> None:
    with suppress(MessageError):
        decode_handshake(Frame(kind, header, payload))


def test_a_peer_that_does_not_say_who_it_is_is_refused() -> None:
    with pytest.raises(MessageError, match="a peer names its cluster"):
        decode_handshake(Frame(HELLO, cbor.dumps([1, 1, 1, "c", None, "i", 2, 1, 1])))


def test_an_endless_refusal_is_cut_to_what_fits() -> None:
    (frame,) = FrameReader().feed(b"".join(encode_handshake(Refused(1, "…" * 5000))))

    assert decode_handshake(frame) == Refused(1, "…" * 900)


def test_the_highest_common_version_is_chosen() -> None:
    assert Versions(1, 3).common(Versions(2, 5)) == 3
    assert Versions(1, 1).common(Versions(2, 2)) is None
