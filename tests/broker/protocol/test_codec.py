"""Every request and response round-trips through real frames; garbage is a MessageError, whatever it looks like."""

from contextlib import suppress

import pytest
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.protocol import (
    AllocateProducer,
    AlterTopic,
    Applied,
    ClusterMetadata,
    CreateTopic,
    DeleteTopic,
    DescribeTopics,
    Failed,
    Fetch,
    Fetched,
    FetchedPartition,
    FetchFrom,
    FetchStatus,
    Level,
    LimitsSet,
    Metadata,
    NodeAddress,
    NodeStatus,
    OffsetFound,
    OffsetQuery,
    Offsets,
    OffsetsFound,
    PartitionDetails,
    PeerStatus,
    Ping,
    Ponged,
    Produce,
    Produced,
    ProducerAllocated,
    ReadIndex,
    ReadIndexed,
    SetLimits,
    Status,
    TopicAltered,
    TopicCreated,
    TopicDeleted,
    TopicDetails,
    TopicEntry,
    TopicsDescribed,
    WaitApplied,
    Where,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from broker.protocol.codec import _BODY, Kind
from broker.state import Part, Retention, Turn
from zablog import Versions
from zablog.core.zxid import Epoch, PeerId, Zxid
from zablog.wire import cbor
from zablog.wire.errors import MessageError
from zablog.wire.frames import FRAME_BYTES_MAX, Frame, FrameReader

TURN = Turn(Zxid(3, 2**40), 1, 17, 12)
TOPIC = Zxid(2, 5)

REQUESTS = [
    Ping(),
    Metadata(),
    Metadata(None),
    Metadata(("a", "b")),
    AllocateProducer(),
    AllocateProducer(gaps=True),
    CreateTopic(TURN, "orders", 3),
    CreateTopic(TURN, "orders", 3, Retention(2**53 - 1, 2**63 - 1, 2**63 - 1)),
    AlterTopic(TURN, TOPIC, Retention(1, 2, 3)),
    DeleteTopic(TURN, TOPIC),
    DescribeTopics((TOPIC, Zxid(2, 6))),
    DescribeTopics(()),
    Produce(TURN, Level.QUORUM, [Part(TOPIC, 0, b"x" * 70), Part(TOPIC, 9_999, b"")]),
    Produce(TURN, Level.ALL, [Part(TOPIC, 0, b"x" * 1_000_000)]),
    Produce(TURN, Level.NONE, [Part(TOPIC, row, b"") for row in range(1000)]),
    Fetch([FetchFrom(TOPIC, 0, 2**50, 1 << 20)], 1 << 20, 500),
    Fetch([FetchFrom(TOPIC, row, row, 1) for row in range(500)], 1, 0),
    Offsets((OffsetQuery(TOPIC, 0, Where.END), OffsetQuery(TOPIC, 1, Where.TIME, 99), OffsetQuery(TOPIC, 2, Where.ZXID, 0, Zxid(1, 9)))),
    Status(),
    ReadIndex(),
    WaitApplied(TOPIC, 2**32 - 1),
    SetLimits(Turn(TOPIC, 0, 9, 9), (("topics", 5), ("nonsense", -1))),
]

RESPONSES = [
    Failed("not_leading", "node 2 does not lead", "ask node 1", True, PeerId(1), "127.0.0.1:7401"),
    Failed("topic_not_found", "there is no topic a"),
    Ponged(),
    ClusterMetadata(
        "c" * 32, PeerId(1), Epoch(4), PeerId(2),
        (NodeAddress(PeerId(1), "h:1"), NodeAddress(PeerId(2), "h:2")), (TopicEntry(TOPIC, "a", 3),),
        (("topics", 9), ("a limit to come", 2**40)),
    ),
    LimitsSet(),
    ReadIndexed(TOPIC),
    Applied(Zxid(2**32 - 1, 2**64 - 1)),
    ClusterMetadata("c", PeerId(1), Epoch(0), None, (), tuple(TopicEntry(Zxid(1, row), "n" * 240, 1) for row in range(10_000))),
    ProducerAllocated(TOPIC),
    TopicCreated(TOPIC),
    TopicAltered(TOPIC),
    TopicDeleted(TOPIC),
    TopicsDescribed((None, TopicDetails(TOPIC, "a", 77, (PartitionDetails(0, 9, 1234), PartitionDetails(1, 1, 0)), Retention(1, 2, 3)))),
    Produced(Level.QUORUM, Zxid(5, 6), (1, 2, 2**60)),
    Produced(Level.NONE, Zxid(5, 6), ()),
    Produced(Level.ALL, Zxid(5, 6), tuple(range(1000))),
    Fetched(Zxid(5, 6), [FetchedPartition(FetchStatus.OK, 0, 9, b"abc"), FetchedPartition(FetchStatus.OFFSET_OUT_OF_RANGE, 2, 9, b"")]),
    Fetched(Zxid(5, 6), [FetchedPartition(FetchStatus.OK, 0, 9, b"x" * 500_000) for _ in range(3)]),
    OffsetsFound((OffsetFound(FetchStatus.OK, 7), OffsetFound(FetchStatus.TOPIC_NOT_FOUND)), Zxid(1, 1)),
    NodeStatus(
        "c" * 32, PeerId(1), "h:1", "leading", "broadcast", Epoch(3), PeerId(1), Zxid(3, 9), Zxid(3, 8), Zxid(3, 5), None, 4711,
        (PeerStatus(PeerId(2), "h:2", True, Zxid(3, 9)), PeerStatus(PeerId(3), "h:3", False, None)),
        2, Versions(1, 4), 300,
    ),
    NodeStatus("c", PeerId(1), "h", "looking", "election", Epoch(3), None, Zxid(3, 9), Zxid(3, 8), Zxid(2, 5), Zxid(3, 9), 1),
]  # fmt: skip


def frames_of(pieces) -> list[Frame]:
    return FrameReader(limit=FRAME_BYTES_MAX).feed(b"".join(pieces))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: type(each).__name__)
def test_requests_round_trip(request_):
    (frame,) = frames_of(encode_request(2**64 - 1, request_))

    assert decode_request(frame) == (2**64 - 1, request_)
    with pytest.raises(MessageError):
        decode_response(frame)


@pytest.mark.parametrize("response", RESPONSES, ids=lambda each: type(each).__name__)
def test_responses_round_trip(response):
    (frame,) = frames_of(encode_response(7, response))

    assert decode_response(frame) == (7, response)
    with pytest.raises(MessageError):
        decode_request(frame)


def body_frame(kind, fields):
    encoded = cbor.dumps(fields)
    return Frame(kind, _BODY.pack(1, crc32c(encoded)), encoded)


def test_what_was_said_of_topics_before_there_was_retention_is_understood():
    created = body_frame(Kind.CREATE_TOPIC, [list(TURN), "orders", 3])
    described = body_frame(Kind.TOPICS_DESCRIBED, [[None, [list(TOPIC), "a", 77, [[0, 9, 1234]]]]])

    assert decode_request(created) == (1, CreateTopic(TURN, "orders", 3, Retention()))
    assert decode_response(described) == (1, TopicsDescribed((None, TopicDetails(TOPIC, "a", 77, (PartitionDetails(0, 9, 1234),)))))
    with pytest.raises(MessageError):
        decode_request(body_frame(Kind.CREATE_TOPIC, [list(TURN), "orders"]))


def test_big_batches_are_not_copied():
    batch = b"x" * 1_000_000

    pieces = encode_request(1, Produce(TURN, Level.QUORUM, [Part(TOPIC, 0, batch)]))

    assert any(piece is batch for piece in pieces)


def test_lag_counts_what_is_committed_and_not_applied():
    assert [each.lag for each in RESPONSES if isinstance(each, NodeStatus)] == [3, 0]


@given(st.integers(0, 127), st.binary(max_size=100), st.binary(max_size=200))
def test_garbage_is_a_message_error_and_nothing_else(kind, header, payload):
    for decode in (decode_request, decode_response):
        with suppress(MessageError):
            number, _ = decode(Frame(kind, header, payload))
            assert 0 <= number < 2**64


@given(st.sampled_from(REQUESTS + RESPONSES), st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_messages_are_message_errors_or_messages(message, data):
    encode, decode = (encode_request, decode_request) if message in REQUESTS else (encode_response, decode_response)
    (frame,) = frames_of(encode(3, message))
    header, payload = bytearray(frame.header), bytearray(frame.payload)
    target = data.draw(st.sampled_from([part for part in (header, payload) if part]))
    for _ in range(data.draw(st.integers(1, 3))):
        target[data.draw(st.integers(0, len(target) - 1))] = data.draw(st.integers(0, 255))
    del target[data.draw(st.integers(0, len(target))) :]

    with suppress(MessageError):
        decode(Frame(frame.kind, bytes(header), bytes(payload)))


def test_cbor_under_a_right_checksum_with_a_wrong_schema_is_refused():
    shapes = [[], [None], [[1, 2]], [[[1, 2], 0, 1]], {"a": 1}, 7, ["a" * 2000, 1, []], [[[0, 0], 0, 0, 0], "a", -1]]
    for kind in Kind:
        for shape in shapes:
            frame = body_frame(kind, shape)
            for decode in (decode_request, decode_response):
                with suppress(MessageError):
                    decode(frame)
