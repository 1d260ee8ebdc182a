"""What is proposed: the commands that change the replicated state, and their bytes.

A command's payload is a kind byte, a version byte, and what the kind needs: a fixed `struct` header and the batches as they came
for `Produce`, which is hot, strict CBOR for the others. `decode` is total: whatever bytes it is given, it answers a command or
raises MalformedCommand. Each command carries the leader's time; each that a client asks for, but `AllocateProducer`, the turn of its
producer.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from zablog.core.trail import Payload
from zablog.core.zxid import COUNTER_MAX, EPOCH_MAX, Zxid
from zablog.wire import cbor
from zablog.wire.errors import MessageError
from zablog.wire.schema import Fields

COMMAND_BYTES_MAX: Final = 8 << 20
"""The largest command, headers included."""
PARTS_MAX: Final = 1000
"""Batches in one Produce. Its answer, which is kept for as long as it may be asked for again, has an offset for each."""
NAME_CHARACTERS_MAX: Final = 249
PARTITIONS_MAX: Final = 10_000
"""Partitions of one topic."""
TEXT_CHARACTERS_MAX: Final = 10_000
SAYABLE: Final = (-(2**63), 2**63 - 1)
"""What a command can say is wider than what is allowed, so that nonsense is refused in words and under its sequence."""
TIME_MAX: Final = 2**53 - 1
"""Milliseconds since 1970: far enough away, and exact in every language's JSON."""
SEQUENCE_MAX: Final = 2**63 - 1
LIMITS_MAX: Final = 100
"""In one SetLimits."""
LEVEL_MAX: Final = 2**16 - 1
BOUNDS_MAX: Final = 1000
"""In one MoveBounds; what is more waits for the next."""


class MalformedCommand(Exception):
    """These bytes are not a command. Only a build that proposes what it should not can make apply see one."""


class UnknownCommand(MalformedCommand):
    """A kind or version of command that this build does not know: a later build's. Who skipped it would diverge from who knows it."""


class Turn(NamedTuple):
    """Whose command this is and where it stands among that producer's commands. Sequences count 1, 2, 3, …"""

    producer: Zxid
    """The zxid of the command that allocated it."""
    epoch: int
    """Of the producer: a later holder of the same id has a higher one. 0 to 65535."""
    sequence: int
    lowest_unanswered: int
    """The producer has the answers to everything below; this command's own sequence if nothing else is under way."""


class Part(NamedTuple):
    """One record batch for one partition."""

    topic: Zxid
    partition: int
    batch: Payload
    """A Kafka v2 record batch."""


@dataclass(frozen=True, slots=True)
class AllocateProducer:
    """Make a producer id: the zxid of this command."""

    time: int
    gaps: bool = False
    """May sequences be skipped? For producers of level `none` or `leader`, which may lose records but never repeat them."""


class Retention(NamedTuple):
    """How long a topic's records are kept; 0 is for ever. What the first of them lets go, goes."""

    ms: int = 0
    """Records whose leader time is further back, segment by segment."""
    bytes: int = 0
    """In each partition, at least so many bytes are kept; older segments go."""
    records: int = 0
    """In each partition, exactly so many records can be read."""


FOR_EVER: Final = Retention()


@dataclass(frozen=True, slots=True)
class CreateTopic:
    turn: Turn
    time: int
    name: str
    partitions: int
    retention: Retention = FOR_EVER


@dataclass(frozen=True, slots=True)
class AlterTopic:
    turn: Turn
    time: int
    topic: Zxid
    retention: Retention


class Bound(NamedTuple):
    """Records of a partition below `first` are let go of."""

    topic: Zxid
    settings: int
    """The version of the topic's settings that it follows from: it is void under any other."""
    partition: int
    first: int


@dataclass(frozen=True, slots=True)
class MoveBounds:
    """The leader's own command, of no producer: applied twice, or late, it does no harm, since bounds only move forward."""

    time: int
    bounds: tuple[Bound, ...]


@dataclass(frozen=True, slots=True)
class DeleteTopic:
    turn: Turn
    time: int
    topic: Zxid


@dataclass(frozen=True, slots=True)
class SetLimits:
    """Give some of the cluster's limits other values; those that are not named keep theirs."""

    turn: Turn
    time: int
    values: tuple[tuple[str, int], ...]
    """Names as in `Limits`."""


@dataclass(frozen=True, slots=True)
class RaiseLevel:
    """The leader's own command, of no producer: the feature level is `level` from here on. It is void if the level is as high already."""

    time: int
    level: int


class Produce(NamedTuple):
    """Append every part, or none. (A tuple, because there are so many of them.)"""

    turn: Turn
    time: int
    parts: Sequence[Part]


Command = AllocateProducer | CreateTopic | AlterTopic | DeleteTopic | MoveBounds | SetLimits | RaiseLevel | Produce

_ALLOCATE_PRODUCER: Final = b"\x01\x01"
_CREATE_TOPIC_FOR_EVER: Final = b"\x02\x01"
"""Without settings, as it was at first: logs may hold it."""
_CREATE_TOPIC: Final = b"\x02\x02"
_DELETE_TOPIC: Final = b"\x03\x01"
_ALTER_TOPIC: Final = b"\x04\x01"
_MOVE_BOUNDS: Final = b"\x05\x01"
_SET_LIMITS: Final = b"\x06\x01"
_RAISE_LEVEL: Final = b"\x07\x01"
_PRODUCE: Final = b"\x10\x01"
"""Kind and version. A kind is never given to something else; what changes a command's form or meaning is another version of it."""

_PRODUCE_HEADER: Final = struct.Struct(">2sHIQQQQH")
"""kind and version; producer epoch; producer; sequence; lowest unanswered; time; number of parts."""
_ROW: Final = struct.Struct(">IQHI")
"""topic; partition; bytes of the batch. One a part, behind the header; then the batches."""


def encode(command: Command) -> bytes:
    """The payload to propose."""
    match command:
        case Produce(turn, time, parts):
            producer, epoch, sequence, lowest = turn
            header = _PRODUCE_HEADER.pack(_PRODUCE, epoch, *producer, sequence, lowest, time, len(parts))
            return b"".join((header, *encode_parts(parts)))
        case AllocateProducer(time, gaps):
            return _ALLOCATE_PRODUCER + cbor.dumps([time, gaps])
        case CreateTopic(turn, time, name, partitions, retention):
            return _CREATE_TOPIC + cbor.dumps([turn, time, name, partitions, retention])
        case AlterTopic(turn, time, topic, retention):
            return _ALTER_TOPIC + cbor.dumps([turn, time, topic, retention])
        case MoveBounds(time, bounds):
            return _MOVE_BOUNDS + cbor.dumps([time, bounds])
        case SetLimits(turn, time, values):
            return _SET_LIMITS + cbor.dumps([turn, time, values])
        case RaiseLevel(time, level):
            return _RAISE_LEVEL + cbor.dumps([time, level])
        case DeleteTopic(turn, time, topic):
            return _DELETE_TOPIC + cbor.dumps([turn, time, topic])


def decode(payload: Payload) -> Command:
    """The command in `payload`; a Produce's batches are views into it. Raises MalformedCommand."""
    if len(payload) > COMMAND_BYTES_MAX:
        raise MalformedCommand(f"a command of {len(payload):,} bytes, and at most {COMMAND_BYTES_MAX:,} are taken")
    kind = bytes(payload[:2])
    if kind == _PRODUCE:
        return _decode_produce(payload)
    body = bytes(payload[2:])
    try:
        if kind in (_CREATE_TOPIC, _CREATE_TOPIC_FOR_EVER):
            fields = Fields.decode("CreateTopic", body, 5 if kind == _CREATE_TOPIC else 4)
            turn, time = turn_field(fields), _time(fields)
            name, partitions = fields.text("name", TEXT_CHARACTERS_MAX), fields.number("partitions", *SAYABLE)
            return CreateTopic(turn, time, name, partitions, retention_field(fields) if kind == _CREATE_TOPIC else FOR_EVER)
        if kind == _ALTER_TOPIC:
            fields = Fields.decode("AlterTopic", body, 4)
            return AlterTopic(turn_field(fields), _time(fields), fields.zxid("topic"), retention_field(fields))
        if kind == _MOVE_BOUNDS:
            fields = Fields.decode("MoveBounds", body, 2)
            return MoveBounds(_time(fields), _bounds(fields))
        if kind == _SET_LIMITS:
            fields = Fields.decode("SetLimits", body, 3)
            return SetLimits(turn_field(fields), _time(fields), limits_field(fields))
        if kind == _RAISE_LEVEL:
            fields = Fields.decode("RaiseLevel", body, 2)
            return RaiseLevel(_time(fields), fields.number("level", 0, LEVEL_MAX))
        if kind == _DELETE_TOPIC:
            fields = Fields.decode("DeleteTopic", body, 3)
            return DeleteTopic(turn_field(fields), _time(fields), fields.zxid("topic"))
        if kind == _ALLOCATE_PRODUCER:
            fields = Fields.decode("AllocateProducer", body, 2)
            return AllocateProducer(_time(fields), fields.flag("gaps"))
    except MessageError as error:
        raise MalformedCommand(str(error)) from None
    if len(kind) < 2:
        raise MalformedCommand(f"a command of {len(kind)} bytes has no kind and version")
    raise UnknownCommand(f"a command of kind {kind[0]}, version {kind[1]}, which this version of zablog does not know")


def encode_parts(parts: Sequence[Part]) -> list[Payload]:
    """The table of the parts, then their batches: the form in which they travel, too."""
    pack = _ROW.pack
    table = b"".join([pack(*topic, partition, len(batch)) for topic, partition, batch in parts])
    return [table, *[part.batch for part in parts]]


def decode_parts(body: Payload, count: int, begin: int = 0) -> list[Part]:
    """What `encode_parts` made, from `begin` to the end of `body`; the batches are views into it. Raises MalformedCommand."""
    view = memoryview(body)
    whole = len(view)
    row, at = begin, begin + count * _ROW.size
    if not 1 <= count <= PARTS_MAX or at > whole:
        raise MalformedCommand(f"{count:,} parts announced in {whole - begin:,} bytes, and 1 to {PARTS_MAX:,} are taken")
    parts = []
    for _ in range(count):
        epoch, counter, partition, size = _ROW.unpack_from(view, row)
        end = at + size
        if end > whole:
            raise MalformedCommand(f"a batch of {size:,} bytes announced, and {whole - at:,} are left")
        parts.append(Part(Zxid(epoch, counter), partition, view[at:end]))
        row += _ROW.size
        at = end
    if at != whole:
        raise MalformedCommand(f"{whole - at:,} stray bytes behind the last batch")
    return parts


def turn_field(fields: Fields) -> Turn:
    """The next of `fields` as a turn. Raises MessageError."""
    each = Fields(f"{fields.name}.turn", fields.value(), 4)
    producer = each.zxid("producer")
    epoch, sequence = each.number("epoch", 0, 2**16 - 1), each.number("sequence", 0, SEQUENCE_MAX)
    return Turn(producer, epoch, sequence, each.number("lowest unanswered", 0, SEQUENCE_MAX))


def retention_field(fields: Fields) -> Retention:
    """The next of `fields` as a retention. Raises MessageError."""
    each = Fields(f"{fields.name}.retention", fields.value(), 3)
    ms, size = each.number("ms", 0, TIME_MAX), each.number("bytes", 0, SEQUENCE_MAX)
    return Retention(ms, size, each.number("records", 0, SEQUENCE_MAX))


def limits_field(fields: Fields) -> tuple[tuple[str, int], ...]:
    """The next of `fields` as names and values of limits. Raises MessageError."""
    value = fields.value()
    if type(value) is not list or len(value) > LIMITS_MAX:
        raise fields.refuse("limits", f"a list of at most {LIMITS_MAX}", value)
    rows = [Fields(f"{fields.name}.limit", row, 2) for row in value]
    return tuple((row.text("name", TEXT_CHARACTERS_MAX), row.number("value", *SAYABLE)) for row in rows)


def _bounds(fields: Fields) -> tuple[Bound, ...]:
    value = fields.value()
    if type(value) is not list or not 1 <= len(value) <= BOUNDS_MAX:
        raise fields.refuse("bounds", f"a list of 1 to {BOUNDS_MAX}", value)
    rows = [Fields("MoveBounds.bound", row, 4) for row in value]
    return tuple(
        Bound(
            row.zxid("topic"),
            row.number("settings", 0, SEQUENCE_MAX),
            row.number("partition", 0, PARTITIONS_MAX),
            row.number("first", 0, SEQUENCE_MAX),
        )
        for row in rows
    )


def _decode_produce(payload: Payload) -> Produce:
    if len(payload) < _PRODUCE_HEADER.size:
        raise MalformedCommand(f"a produce command of {len(payload)} bytes is shorter than its header")
    _, epoch, producer_epoch, producer_counter, sequence, lowest, time, count = _PRODUCE_HEADER.unpack_from(payload)
    if sequence > SEQUENCE_MAX or lowest > SEQUENCE_MAX or time > TIME_MAX:
        raise MalformedCommand(f"sequence {sequence}, lowest unanswered {lowest}, time {time}: beyond their ranges")
    turn = Turn(Zxid(producer_epoch, producer_counter), epoch, sequence, lowest)
    return Produce(turn, time, decode_parts(payload, count, _PRODUCE_HEADER.size))


def _time(fields: Fields) -> int:
    return fields.number("time", 0, TIME_MAX)


assert _PRODUCE_HEADER.size == 42 and _ROW.size == 18, "struct formats without padding"
assert EPOCH_MAX < 2**32 and COUNTER_MAX < 2**64, "a zxid fits into 12 bytes"
