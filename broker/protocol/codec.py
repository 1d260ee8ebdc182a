"""The client protocol's messages as frames, and back: every message round-trips, every other content is a MessageError.

The hot ones (Produce, Fetch and their responses) have `struct` headers with a table of rows where there are several, and their
batches are the frame's payload, untouched: they carry checksums of their own. Every other message is a CBOR array in the payload,
because a list of topics outgrows a header, under a header with the request's number and the CRC-32C of that payload.

Longer than most files because every message is written and read in one place, side by side.
"""

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, TypeVar

from google_crc32c import value as crc32c

from broker.protocol.messages import (
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
    Request,
    Response,
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
)
from broker.state.commands import (
    FOR_EVER,
    LEVEL_MAX,
    NAME_CHARACTERS_MAX,
    PARTITIONS_MAX,
    PARTS_MAX,
    SAYABLE,
    SEQUENCE_MAX,
    TEXT_CHARACTERS_MAX,
    TIME_MAX,
    MalformedCommand,
    Turn,
    decode_parts,
    encode_parts,
    limits_field,
    retention_field,
    turn_field,
)
from zablog.core.trail import Payload
from zablog.core.zxid import Zxid
from zablog.wire import cbor
from zablog.wire.errors import MessageError
from zablog.wire.frames import JOIN_BYTES_MAX, Frame, head
from zablog.wire.handshake import Versions
from zablog.wire.schema import Fields

REQUEST_BYTES_MAX: Final = 32 << 10
"""The largest request in CBOR. A hostile one makes up to 80 times its size of Python objects, at 0.25 µs a byte."""
ROWS_MAX: Final = 500
"""So many partitions or topics a client asks about at once; more in several requests."""
RESPONSE_BYTES_MAX: Final = 32 << 20
"""The largest response in CBOR: every topic of a cluster, or every partition of some topics."""
FETCH_PARTITIONS_MAX: Final = 500
"""Partitions in one Fetch: their rows stand in the frame's header."""
TOPICS_MAX: Final = 100_000
"""Topics in one list."""

T = TypeVar("T")


class Kind(IntEnum):
    """The kinds of frames between clients and nodes. A number is never given to something else."""

    PRODUCE = 64
    PRODUCED = 65
    FETCH = 66
    FETCHED = 67
    FAILED = 68
    PING = 70
    PONGED = 71
    METADATA = 72
    CLUSTER_METADATA = 73
    ALLOCATE_PRODUCER = 74
    PRODUCER_ALLOCATED = 75
    CREATE_TOPIC = 76
    TOPIC_CREATED = 77
    DELETE_TOPIC = 78
    TOPIC_DELETED = 79
    DESCRIBE_TOPICS = 80
    TOPICS_DESCRIBED = 81
    OFFSETS = 82
    OFFSETS_FOUND = 83
    STATUS = 84
    NODE_STATUS = 85
    ALTER_TOPIC = 86
    TOPIC_ALTERED = 87
    SET_LIMITS = 88
    LIMITS_SET = 89
    READ_INDEX = 90
    READ_INDEXED = 91
    WAIT_APPLIED = 92
    APPLIED = 93


_PRODUCE: Final = struct.Struct(">QHIQQQBH")
"""number; producer epoch; producer; sequence; lowest unanswered; level; number of parts."""
_PRODUCED: Final = struct.Struct(">QBIQH")
"""number; level; zxid; number of offsets, which are the payload: 1,000 of them need not fit into a header."""
_FETCH: Final = struct.Struct(">QIIH")
"""number; bytes_max; wait_ms; number of rows."""
_FETCH_ROW: Final = struct.Struct(">IQIQI")
"""topic; partition; offset; bytes_max."""
_FETCHED: Final = struct.Struct(">QIQH")
"""number; applied; number of rows."""
_FETCHED_ROW: Final = struct.Struct(">BQQI")
"""status; first; end; bytes of its batches."""
_BODY: Final = struct.Struct(">QI")
"""number; CRC-32C of the payload: the header of every message in CBOR."""
_LEVELS: Final = tuple(Level)
_STATUSES: Final = tuple(FetchStatus)
_OFFSET_MAX: Final = 2**63 - 1


def encode_request(number: int, request: Request) -> list[Payload]:
    """`request` as pieces for `sendmsg`; its batches are not copied if they are big."""
    match request:
        case Produce(turn, level, parts):
            producer, epoch, sequence, lowest = turn
            header = _PRODUCE.pack(number, epoch, *producer, sequence, lowest, level, len(parts))
            return _with_payload(Kind.PRODUCE, header, encode_parts(parts))
        case Fetch(partitions, bytes_max, wait_ms):
            pack = _FETCH_ROW.pack
            rows = [pack(*row.topic, row.partition, row.offset, row.bytes_max) for row in partitions]
            return [head(Kind.FETCH, b"".join((_FETCH.pack(number, bytes_max, wait_ms, len(rows)), *rows)), 0)]
        case Ping():
            return _body(Kind.PING, number, [])
        case Metadata(names):
            return _body(Kind.METADATA, number, [names])
        case AllocateProducer(gaps):
            return _body(Kind.ALLOCATE_PRODUCER, number, [gaps])
        case CreateTopic(turn, name, count, retention):
            return _body(Kind.CREATE_TOPIC, number, [turn, name, count, retention])
        case AlterTopic(turn, topic, retention):
            return _body(Kind.ALTER_TOPIC, number, [turn, topic, retention])
        case DeleteTopic(turn, topic):
            return _body(Kind.DELETE_TOPIC, number, [turn, topic])
        case SetLimits(turn, values):
            return _body(Kind.SET_LIMITS, number, [turn, values])
        case DescribeTopics(topics):
            return _body(Kind.DESCRIBE_TOPICS, number, [topics])
        case Offsets(queries):
            return _body(Kind.OFFSETS, number, [queries])
        case ReadIndex():
            return _body(Kind.READ_INDEX, number, [])
        case WaitApplied(zxid, wait_ms):
            return _body(Kind.WAIT_APPLIED, number, [zxid, wait_ms])
        case Status():
            return _body(Kind.STATUS, number, [])


def encode_response(number: int, response: Response) -> list[Payload]:
    """The answer to request `number` as pieces for `sendmsg`."""
    match response:
        case Produced(level, zxid, offsets):
            header = _PRODUCED.pack(number, level, *zxid, len(offsets))
            return _with_payload(Kind.PRODUCED, header, [struct.pack(f">{len(offsets)}Q", *offsets)])
        case Fetched(applied, partitions):
            rows = [_FETCHED_ROW.pack(row.status, row.first, row.end, len(row.batches)) for row in partitions]
            header = b"".join((_FETCHED.pack(number, *applied, len(rows)), *rows))
            return _with_payload(Kind.FETCHED, header, [row.batches for row in partitions if row.batches])
        case Failed(code, text, hint, maybe_written, leader, address):
            text, hint = text[:TEXT_CHARACTERS_MAX], hint[:TEXT_CHARACTERS_MAX]
            return _body(Kind.FAILED, number, [str(code), text, hint, maybe_written, leader, address])
        case Ponged():
            return _body(Kind.PONGED, number, [])
        case ClusterMetadata(cluster, node, epoch, leader, nodes, topics, limits):
            return _body(Kind.CLUSTER_METADATA, number, [cluster, node, epoch, leader, nodes, topics, limits])
        case ProducerAllocated(producer):
            return _body(Kind.PRODUCER_ALLOCATED, number, [producer])
        case TopicCreated(topic):
            return _body(Kind.TOPIC_CREATED, number, [topic])
        case TopicAltered(topic):
            return _body(Kind.TOPIC_ALTERED, number, [topic])
        case TopicDeleted(topic):
            return _body(Kind.TOPIC_DELETED, number, [topic])
        case LimitsSet():
            return _body(Kind.LIMITS_SET, number, [])
        case TopicsDescribed(described):
            rows_or_none: list[cbor.Value] = [
                None if each is None else [each.id, each.name, each.created, each.partitions, each.retention] for each in described
            ]
            return _body(Kind.TOPICS_DESCRIBED, number, [rows_or_none])
        case OffsetsFound(found, applied):
            return _body(Kind.OFFSETS_FOUND, number, [found, applied])
        case ReadIndexed(upto):
            return _body(Kind.READ_INDEXED, number, [upto])
        case Applied(zxid):
            return _body(Kind.APPLIED, number, [zxid])
        case NodeStatus():
            return _body(Kind.NODE_STATUS, number, _node_status_fields(response))


def decode_request(frame: Frame) -> tuple[int, Request]:
    """The request's number and the request; a Produce's batches are views into the frame's payload. Raises MessageError."""
    kind = frame.kind
    if kind == 64:
        return _decode_produce(frame)
    if kind == 66:
        return _decode_fetch(frame)
    return _decode_body(frame, _REQUESTS, REQUEST_BYTES_MAX, "request")


def decode_response(frame: Frame) -> tuple[int, Response]:
    """The number of the request that it answers, and the response; fetched batches are views into the payload. Raises MessageError."""
    kind = frame.kind
    if kind == 65:
        return _decode_produced(frame)
    if kind == 67:
        return _decode_fetched(frame)
    return _decode_body(frame, _RESPONSES, RESPONSE_BYTES_MAX, "response")


# The hot ones


def _with_payload(kind: Kind, header: bytes, payload: Sequence[Payload]) -> list[Payload]:
    size = sum(map(len, payload))
    first = head(kind, header, size)
    return [b"".join((first, *payload))] if size <= JOIN_BYTES_MAX else [first, *payload]


def _decode_produce(frame: Frame) -> tuple[int, Produce]:
    try:
        number, epoch, *producer, sequence, lowest, level, count = _PRODUCE.unpack(frame.header)
        if level > Level.ALL or sequence > SEQUENCE_MAX or lowest > SEQUENCE_MAX:
            raise MessageError(f"Produce: level {level}, sequence {sequence}, lowest unanswered {lowest}: out of range")
        return number, Produce(Turn(Zxid(*producer), epoch, sequence, lowest), _LEVELS[level], decode_parts(frame.payload, count))
    except (struct.error, MalformedCommand) as error:
        raise MessageError(f"Produce: {error}") from None


def _decode_produced(frame: Frame) -> tuple[int, Produced]:
    try:
        number, level, *zxid, count = _PRODUCED.unpack(frame.header)
        offsets = struct.unpack(f">{count}Q", frame.payload)
    except struct.error as error:
        raise MessageError(f"Produced: {error}") from None
    if level > Level.ALL or count > PARTS_MAX:
        raise MessageError(f"Produced: level {level}, {count} offsets: out of range")
    return number, Produced(_LEVELS[level], Zxid(*zxid), offsets)


def _decode_fetch(frame: Frame) -> tuple[int, Fetch]:
    header = frame.header
    if frame.payload:
        raise MessageError(f"Fetch: no payload was expected, not {len(frame.payload)} bytes")
    try:
        number, bytes_max, wait_ms, count = _FETCH.unpack_from(header)
        rows = [FetchFrom(Zxid(epoch, counter), *row) for epoch, counter, *row in _FETCH_ROW.iter_unpack(header[_FETCH.size :])]
    except struct.error as error:
        raise MessageError(f"Fetch: {error}") from None
    if len(rows) != count or not 1 <= count <= FETCH_PARTITIONS_MAX:
        raise MessageError(f"Fetch: {count} partitions announced, {len(rows)} listed, and 1 to {FETCH_PARTITIONS_MAX} are taken")
    return number, Fetch(rows, bytes_max, wait_ms)


def _decode_fetched(frame: Frame) -> tuple[int, Fetched]:
    header, payload = frame.header, memoryview(frame.payload)
    begin = 0
    rows: list[FetchedPartition] = []
    try:
        number, *applied, count = _FETCHED.unpack_from(header)
        for status, first, end, size in _FETCHED_ROW.iter_unpack(header[_FETCHED.size :]):
            if status >= len(FetchStatus) or begin + size > len(payload):
                raise MessageError(f"Fetched: status {status}, {size:,} bytes and {len(payload) - begin:,} left: out of range")
            rows.append(FetchedPartition(_STATUSES[status], first, end, payload[begin : begin + size]))
            begin += size
    except struct.error as error:
        raise MessageError(f"Fetched: {error}") from None
    if len(rows) != count or begin != len(payload):
        raise MessageError(f"Fetched: {count} partitions announced, {len(rows)} listed, {len(payload) - begin:,} stray bytes")
    return number, Fetched(Zxid(*applied), rows)


# The others


def _body(kind: Kind, number: int, fields: Sequence[cbor.Value]) -> list[Payload]:
    encoded = cbor.dumps(fields)
    return _with_payload(kind, _BODY.pack(number, crc32c(encoded)), [encoded])


def _node_status_fields(each: NodeStatus) -> list[cbor.Value]:
    who: list[cbor.Value] = [each.cluster, each.id, each.address, each.role, each.phase, each.epoch, each.leader]
    peers: list[cbor.Value] = [[peer.id, peer.address, peer.connected, peer.zxid] for peer in each.peers]
    return [*who, each.last, each.watermark, each.applied, each.suspect, each.pid, peers, each.level, *each.levels, each.silence_ms]


def _decode_body(frame: Frame, known: dict[int, tuple[str, int, Callable[[Fields], T]]], bytes_max: int, what: str) -> tuple[int, T]:
    if frame.kind not in known:
        raise MessageError(f"no {what} is a frame of kind {frame.kind}")
    name, count, read = known[frame.kind]
    if len(frame.header) != _BODY.size:
        raise MessageError(f"{name}: a header of {_BODY.size} bytes was expected, not {len(frame.header)}")
    number, check = _BODY.unpack(frame.header)
    encoded = bytes(frame.payload)
    if crc32c(encoded) != check:
        raise MessageError(f"{name}: failed its checksum")
    value = cbor.loads(encoded, bytes_max)
    return number, read(Fields(name, _with_retention(value, count) if frame.kind == Kind.CREATE_TOPIC else value, count))


def _with_retention(value: object, count: int) -> object:
    """A row of `count` fields that ends with a retention; as it was sent before there was one, records are kept for ever."""
    return [*value, list(FOR_EVER)] if isinstance(value, list) and len(value) == count - 1 else value


def _rows(fields: Fields, what: str, count_max: int) -> tuple[Fields, int]:
    """The next field as a list: its own Fields, and how many there are."""
    value = fields.value()
    if type(value) is not list or len(value) > count_max:
        raise fields.refuse(what, f"a list of at most {count_max}", value)
    return Fields(f"{fields.name}.{what}", value, len(value)), len(value)


def _each(fields: Fields, what: str, count_max: int, width: int, read: Callable[[Fields], T]) -> tuple[T, ...]:
    """The next field as a list of rows of `width` fields."""
    rows, count = _rows(fields, what, count_max)
    return tuple(read(Fields(rows.name, rows.value(), width)) for _ in range(count))


def _names(fields: Fields) -> Metadata:
    value = fields.value()
    if value is None:
        return Metadata(None)
    if type(value) is not list or len(value) > TOPICS_MAX:
        raise fields.refuse("names", f"null or a list of at most {TOPICS_MAX}", value)
    names = Fields("Metadata.names", value, len(value))
    return Metadata(tuple(names.text("name", TEXT_CHARACTERS_MAX) for _ in value))


def _create_topic(fields: Fields) -> CreateTopic:
    # Names and numbers that make no sense are refused by the state in its own words, not by closing the connection here.
    turn, name = turn_field(fields), fields.text("name", TEXT_CHARACTERS_MAX)
    return CreateTopic(turn, name, fields.number("partitions", *SAYABLE), retention_field(fields))


def _topics(fields: Fields) -> DescribeTopics:
    rows, count = _rows(fields, "topics", TOPICS_MAX)
    return DescribeTopics(tuple(rows.zxid("topic") for _ in range(count)))


def _query(row: Fields) -> OffsetQuery:
    topic, partition, where = row.zxid("topic"), row.number("partition", 0, 2**32 - 1), row.number("where", 0, max(Where))
    return OffsetQuery(topic, partition, Where(where), row.number("time", 0, TIME_MAX), row.zxid("zxid"))


def _failed(fields: Fields) -> Failed:
    code, text, hint = fields.text("code", 100), fields.text("text", TEXT_CHARACTERS_MAX), fields.text("hint", TEXT_CHARACTERS_MAX)
    maybe_written = fields.flag("maybe written")
    return Failed(code, text, hint, maybe_written, fields.peer_or_none("leader"), fields.text_or_none("address", 1000))


def _cluster_metadata(fields: Fields) -> ClusterMetadata:
    cluster, node, epoch = fields.text("cluster", 100), fields.peer("node"), fields.epoch("epoch")
    leader = fields.peer_or_none("leader")
    nodes = _each(fields, "nodes", 255, 2, lambda row: NodeAddress(row.peer("id"), row.text("address", 1000)))
    topics = _each(fields, "topics", TOPICS_MAX, 3, _topic_entry)
    return ClusterMetadata(cluster, node, epoch, leader, nodes, topics, limits_field(fields))


def _topic_entry(row: Fields) -> TopicEntry:
    return TopicEntry(row.zxid("id"), row.text("name", NAME_CHARACTERS_MAX), row.number("partitions", 1, PARTITIONS_MAX))


def _topics_described(fields: Fields) -> TopicsDescribed:
    rows, count = _rows(fields, "topics", TOPICS_MAX)
    return TopicsDescribed(tuple(_topic_details(rows) for _ in range(count)))


def _topic_details(rows: Fields) -> TopicDetails | None:
    value = rows.value()
    if value is None:
        return None
    row = Fields(rows.name, _with_retention(value, 5), 5)
    topic, name, created = row.zxid("id"), row.text("name", NAME_CHARACTERS_MAX), row.number("created", 0, TIME_MAX)
    partitions = _each(row, "partitions", PARTITIONS_MAX, 3, _partition_details)
    return TopicDetails(topic, name, created, partitions, retention_field(row))


def _partition_details(row: Fields) -> PartitionDetails:
    return PartitionDetails(row.number("first", 0, _OFFSET_MAX), row.number("end", 0, _OFFSET_MAX), row.number("bytes"))


def _offset_found(row: Fields) -> OffsetFound:
    return OffsetFound(FetchStatus(row.number("status", 0, max(FetchStatus))), row.number("offset", 0, _OFFSET_MAX))


def _peer_status(row: Fields) -> PeerStatus:
    return PeerStatus(row.peer("id"), row.text("address", 1000), row.flag("connected"), row.zxid_or_none("zxid"))


def _node_status(fields: Fields) -> NodeStatus:
    cluster, node, address = fields.text("cluster", 100), fields.peer("id"), fields.text("address", 1000)
    role, phase, epoch = fields.text("role", 100), fields.text("phase", 100), fields.epoch("epoch")
    leader = fields.peer_or_none("leader")
    last, watermark, applied = fields.zxid("last"), fields.zxid("watermark"), fields.zxid("applied")
    suspect, pid = fields.zxid_or_none("suspect"), fields.number("pid")
    peers = _each(fields, "peers", 255, 4, _peer_status)
    level, lowest, highest = (fields.number(what, 0, LEVEL_MAX) for what in ("level", "lowest level", "highest level"))
    levels = Versions(lowest, highest)
    silence = fields.number("silence_ms")
    return NodeStatus(
        cluster, node, address, role, phase, epoch, leader, last, watermark, applied, suspect, pid, peers, level, levels, silence
    )


_REQUESTS: Final[dict[int, tuple[str, int, Callable[[Fields], Request]]]] = {
    Kind.PING: ("Ping", 0, lambda _: Ping()),
    Kind.METADATA: ("Metadata", 1, _names),
    Kind.ALLOCATE_PRODUCER: ("AllocateProducer", 1, lambda fields: AllocateProducer(fields.flag("gaps"))),
    Kind.CREATE_TOPIC: ("CreateTopic", 4, _create_topic),
    Kind.ALTER_TOPIC: ("AlterTopic", 3, lambda fields: AlterTopic(turn_field(fields), fields.zxid("topic"), retention_field(fields))),
    Kind.DELETE_TOPIC: ("DeleteTopic", 2, lambda fields: DeleteTopic(turn_field(fields), fields.zxid("topic"))),
    Kind.SET_LIMITS: ("SetLimits", 2, lambda fields: SetLimits(turn_field(fields), limits_field(fields))),
    Kind.DESCRIBE_TOPICS: ("DescribeTopics", 1, _topics),
    Kind.OFFSETS: ("Offsets", 1, lambda fields: Offsets(_each(fields, "queries", TOPICS_MAX, 5, _query))),
    Kind.READ_INDEX: ("ReadIndex", 0, lambda _: ReadIndex()),
    Kind.WAIT_APPLIED: ("WaitApplied", 2, lambda fields: WaitApplied(fields.zxid("zxid"), fields.number("wait_ms", 0, 2**32 - 1))),
    Kind.STATUS: ("Status", 0, lambda _: Status()),
}
"""By kind: the name, the number of fields, and how to read them."""

_RESPONSES: Final[dict[int, tuple[str, int, Callable[[Fields], Response]]]] = {
    Kind.FAILED: ("Failed", 6, _failed),
    Kind.PONGED: ("Ponged", 0, lambda _: Ponged()),
    Kind.CLUSTER_METADATA: ("ClusterMetadata", 7, _cluster_metadata),
    Kind.PRODUCER_ALLOCATED: ("ProducerAllocated", 1, lambda fields: ProducerAllocated(fields.zxid("producer"))),
    Kind.TOPIC_CREATED: ("TopicCreated", 1, lambda fields: TopicCreated(fields.zxid("topic"))),
    Kind.TOPIC_ALTERED: ("TopicAltered", 1, lambda fields: TopicAltered(fields.zxid("topic"))),
    Kind.TOPIC_DELETED: ("TopicDeleted", 1, lambda fields: TopicDeleted(fields.zxid("topic"))),
    Kind.LIMITS_SET: ("LimitsSet", 0, lambda _: LimitsSet()),
    Kind.TOPICS_DESCRIBED: ("TopicsDescribed", 1, _topics_described),
    Kind.OFFSETS_FOUND: (
        "OffsetsFound",
        2,
        lambda fields: OffsetsFound(_each(fields, "offsets", TOPICS_MAX, 2, _offset_found), fields.zxid("applied")),
    ),
    Kind.READ_INDEXED: ("ReadIndexed", 1, lambda fields: ReadIndexed(fields.zxid("upto"))),
    Kind.APPLIED: ("Applied", 1, lambda fields: Applied(fields.zxid("zxid"))),
    Kind.NODE_STATUS: ("NodeStatus", 17, _node_status),
}
