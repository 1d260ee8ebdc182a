"""Only the small language is understood, every refusal is a MessageError, and none takes long."""

from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zablog.wire import cbor
from zablog.wire.errors import MessageError

LEAVES: st.SearchStrategy[cbor.Value] = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()
SHALLOW = LEAVES
for _ in range(4):
    SHALLOW = LEAVES | st.lists(SHALLOW, max_size=4) | st.dictionaries(st.text(), SHALLOW, max_size=4)
VALUES = SHALLOW


@given(VALUES)
def test_every_value_of_the_language_round_trips(value: cbor.Value) -> None:
    assert cbor.loads(cbor.dumps(value)) == value


@given(st.binary(max_size=200))
def test_garbage_is_an_error_in_words(garbage: bytes) -> None:
    with suppress(MessageError):
        cbor.loads(garbage)


@given(st.binary(max_size=20), st.integers(0, 2**64 - 1))
def test_every_tag_is_refused(content: bytes, tag: int) -> None:
    with pytest.raises(MessageError):
        cbor.loads(b"\xdb" + tag.to_bytes(8, "big") + cbor2.dumps(content))


@pytest.mark.parametrize(
    ("encoded", "word"),
    [
        (b"\xa2\x61a\x01\x61a\x02", "Duplicate"),
        (b"\x9f\x01\xff", "indefinite"),
        (b"\xd8\x23\x63a+b", "tags are not accepted"),
        (b"\xc2\x41\x01", "tags are not accepted"),
        (b"\xd8\x1c\x81\xd8\x1d\x00", "tags are not accepted"),
        (b"\xa1\x41a\x02", "must be text"),
        (b"\xa1\x01\x02", "map key"),
        (b"\xf9\x3c\x00", "float"),
        (b"\xf7", "UndefinedType"),
        (b"\xe0", "CBORSimpleValue"),
        (b"\x81" * 9 + b"\x01", "depth"),
        (b"\x01\x02", "1 stray bytes"),
        (b"", "premature end"),
        (b"\x9b" + b"\xff" * 8, "premature end"),
        (b"\xbb" + b"\xff" * 8, "premature end"),
        (b"\x5b" + b"\xff" * 8, "premature end"),
        (b"\x62\xff\xff", "decoding text string"),
    ],
)
def test_what_the_language_leaves_out_is_refused(encoded: bytes, word: str) -> None:
    with pytest.raises(MessageError, match=word):
        cbor.loads(encoded)


def test_more_than_the_asker_takes_is_refused_unread() -> None:
    with pytest.raises(MessageError, match="11 bytes, and at most 10"):
        cbor.loads(cbor.dumps(b"0123456789"), bytes_max=10)
