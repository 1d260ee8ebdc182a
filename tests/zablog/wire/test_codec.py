"""The codec is total: every message comes back as it went, and every other content is a MessageError."""

from contextlib import suppress
from dataclasses import fields
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zablog.core.messages import (
    ROUND_MAX,
    Ack,
    AckEpoch,
    AckNewLeader,
    AckSnap,
    CEpoch,
    Commit,
    Diff,
    HistoryAnswer,
    HistoryQuery,
    Message,
    NewEpoch,
    NewLeader,
    Notification,
    Ping,
    Pong,
    Propose,
    Snap,
    Standing,
    Trunc,
    UpToDate,
    Vote,
)
from zablog.core.trail import Entries
from zablog.core.zxid import BEYOND, COUNTER_MAX, EPOCH_MAX, ZERO, Epoch, Zxid
from zablog.wire import cbor
from zablog.wire.codec import SLICE_BYTES_MIN, Kind, decode, encode
from zablog.wire.errors import MessageError
from zablog.wire.frames import FRAME_BYTES_MAX, Frame, FrameReader

EPOCHS = st.integers(0, EPOCH_MAX)
U64 = st.integers(0, 2**64 - 1)
PEERS = st.integers(1, 255)
ZXIDS = st.builds(Zxid, EPOCHS, st.integers(0, COUNTER_MAX)) | st.sampled_from((ZERO, BEYOND))
VOTES = st.builds(Vote, EPOCHS, ZXIDS, PEERS)
PAYLOADS = st.lists(st.binary(max_size=40) | st.just(bytes(SLICE_BYTES_MIN)), min_size=1, max_size=12)
ENTRIES = st.tuples(st.builds(Zxid, EPOCHS, st.integers(1, COUNTER_MAX - 20)), ZXIDS, PAYLOADS, U64).map(lambda given: Entries(*given))
MESSAGES = st.one_of(
    st.builds(
        Notification, st.sampled_from(Standing), st.integers(0, ROUND_MAX), VOTES, VOTES, EPOCHS, st.lists(PEERS, max_size=255).map(tuple)
    ),
    st.builds(CEpoch, EPOCHS, EPOCHS),
    st.builds(NewEpoch, EPOCHS),
    st.builds(AckEpoch, EPOCHS, st.booleans(), EPOCHS, ZXIDS, ZXIDS, st.none() | ZXIDS),
    *(st.builds(cls, EPOCHS, ZXIDS, U64) for cls in (HistoryAnswer, Diff, Trunc, Snap)),
    *(st.builds(cls, EPOCHS, ZXIDS) for cls in (HistoryQuery, AckSnap, NewLeader, AckNewLeader, UpToDate, Ack, Commit)),
    *(st.builds(cls, EPOCHS, U64) for cls in (Ping, Pong)),
    st.builds(Propose, EPOCHS, ENTRIES, ZXIDS),
)


def over_the_wire(message: Message) -> Message:
    (frame,) = FrameReader(FRAME_BYTES_MAX).feed(b"".join(encode(message)))
    return decode(frame)


@given(MESSAGES)
def test_every_message_comes_back_as_it_went(message: Message) -> None:
    assert over_the_wire(message) == message


def test_every_message_of_the_core_has_a_kind() -> None:
    assert len(get_args(Message)) == len(Kind)


@given(st.integers(0, 127), st.binary(max_size=80), st.binary(max_size=80))
def test_garbage_in_a_whole_frame_is_an_error_in_words(kind: int, header: bytes, payload: bytes) -> None:
    with suppress(MessageError):
        decode(Frame(kind, header, payload))


CBOR_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**64 - 1) | st.text(max_size=3), lambda inner: st.lists(inner, max_size=6), max_leaves=12
)


@given(st.sampled_from(Kind), CBOR_LIKE)
def test_well_formed_cbor_of_another_shape_is_an_error_in_words(kind: Kind, value: cbor.Value) -> None:
    with suppress(MessageError):
        message = decode(Frame(kind, cbor.dumps(value)))
        assert over_the_wire(message) == message


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (Kind.NEW_EPOCH, [EPOCH_MAX + 1], "NEW_EPOCH: epoch must be a number from 0 to 4294967295, not 4294967296"),
        (Kind.NEW_EPOCH, [True], "epoch must be a number"),
        (Kind.NEW_EPOCH, [1, 2], "an array of 1 fields was expected, not 2"),
        (Kind.NEW_LEADER, [1, [1, -1]], "NEW_LEADER.last: counter must be a number"),
        (Kind.NOTIFICATION, [3, 0, [0, [0, 0], 1], [0, [0, 0], 1], 0, [], True], "standing must be a number from 0 to 2"),
        (Kind.NOTIFICATION, [0, 0, [0, [0, 0], 0], [0, [0, 0], 1], 0, [], True], "leader must be a number from 1 to 255, not 0"),
        (Kind.NOTIFICATION, [0, 0, [0, [0, 0], 1], [0, [0, 0], 1], 0, [256], True], "peer must be a number from 1 to 255, not 256"),
        (Kind.HISTORY_QUERY, [1, [0, 0], 0], "HISTORY_QUERY: an array of 2 fields was expected, not 3"),
        (Kind.HISTORY_QUERY, [1, None], "HISTORY_QUERY.last: an array of 2 fields was expected, not NoneType"),
        (Kind.HISTORY_ANSWER, [1, [0, 0], -1], "HISTORY_ANSWER: digest must be a number from 0 to"),
        (Kind.ACK_EPOCH, [1, 1, 0, [0, 0], [0, 0], None], "counted must be true or false"),
    ],
)
def test_a_value_out_of_its_range_is_named(kind: Kind, values: list[cbor.Value], words: str) -> None:
    with pytest.raises(MessageError, match=words):
        decode(Frame(kind, cbor.dumps(values)))


def propose(*payloads: bytes) -> Propose:
    return Propose(Epoch(7), Entries(Zxid(7, 1), Zxid(6, 3), payloads, 99), ZERO)


@pytest.mark.parametrize("lengths", [(0, 0), (2**32 - 1, 4), (4, 3)])
def test_a_table_that_does_not_fit_its_entries_is_refused(lengths: tuple[int, int]) -> None:
    (frame,) = FrameReader().feed(b"".join(encode(propose(b"abc", b"defg"))))
    table = b"".join(length.to_bytes(4, "big") for length in lengths)
    if lengths == (4, 3):
        assert isinstance(decode(frame._replace(payload=table + b"abcdefg")), Propose), "the running digest will see the shift"
    else:
        with pytest.raises(MessageError, match="a table and entries of 8"):
            decode(frame._replace(payload=table + b"abcdefg"))


def test_small_entries_are_joined_and_big_ones_are_not_copied() -> None:
    big = bytes(200_000)

    assert len(encode(propose(b"a", b"b", b"c"))) == 1
    assert encode(propose(b"a", big))[2] is big


def test_a_small_entry_does_not_pin_the_frame_it_came_in() -> None:
    message = over_the_wire(propose(b"small", bytes(SLICE_BYTES_MIN)))

    assert isinstance(message, Propose)
    assert [type(payload) for payload in message.entries.payloads] == [bytes, memoryview]


def test_messages_have_the_fields_the_codec_knows() -> None:
    """A field that is added to a message must be added to its kind, or it would be lost without a sound."""
    counts = {cls.__name__: len(fields(cls)) for cls in get_args(Message)}

    assert counts == {
        "Notification": 7, "CEpoch": 2, "NewEpoch": 1, "AckEpoch": 6, "HistoryQuery": 2, "HistoryAnswer": 3, "Diff": 3, "Trunc": 3,
        "Snap": 3, "AckSnap": 2, "NewLeader": 2, "AckNewLeader": 2, "UpToDate": 2, "Propose": 3, "Ack": 2, "Commit": 2,
        "Ping": 2, "Pong": 2,
    }  # fmt: skip
