"""A snapshot's file: the replicated state and the partitions' files as they were at one place of the log. Bytes and back. Pure.

    magic    8 bytes  "ZBSNAP", then the format's version (u16)
    section  ...      u32 length, u8 kind, u32 CRC-32C, then CBOR: rows of one table, at most `ROWS` of them

The file as a whole is verified by the checksum that the manifest, or the leader that sent it, gave; those of the sections tell where it
is damaged. What is in it may still come from a later version, or from a peer that is broken, so whatever does not fit is Corrupt.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from google_crc32c import value as crc32c

from broker.errors import Code, Corrupt
from broker.log.kept import PartitionRow, SegmentRow, Tail
from broker.state import (
    LEVELS,
    Answer,
    Appended,
    BoundsMoved,
    LevelRaised,
    LimitsSet,
    ProducerAllocated,
    Refused,
    Retention,
    State,
    Topic,
    TopicAltered,
    TopicCreated,
    TopicDeleted,
    name_problem,
)
from broker.state.levels import UnknownLevel, check
from broker.state.limits import DEFAULTS
from broker.state.producers import Producer, Producers
from zablog.core.zxid import COUNTER_MAX, EPOCH_MAX, Zxid
from zablog.wire import MessageError, cbor
from zablog.wire.handshake import Versions

VERSION: Final = 2
"""Format 1, which is read, has no feature level, no limits, and no windows of producers. A node that knows only the cluster's present
feature level must be able to read what its leader sends: a later format is written from the level on that brings it."""
MAGIC: Final = b"ZBSNAP" + VERSION.to_bytes(2, "big")
ROWS: Final = 256
TAILS_BYTES: Final = 64 << 10
"""A section of tails has about so many bytes."""
SECTION_BYTES_MAX: Final = 64 << 20
_HEAD: Final = struct.Struct(">IBI")

Item = TypeVar("Item")


class Kind(IntEnum):
    """What the rows of a section are."""

    HEAD = 1
    TOPICS = 2
    ENDS = 3
    PRODUCERS = 4
    ANSWERS = 5
    PARTITIONS = 6
    TAILS = 7
    FOOT = 8
    """The last one: how many sections there are."""
    LIMITS = 9


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was captured."""

    state: State
    partitions: Sequence[PartitionRow]
    tails: Sequence[Tail]


class _Decoded(NamedTuple):
    head: list[list[int]]
    topics: list[Topic]
    ends: list[tuple[Zxid, int, int, int]]
    producers: list[tuple[Zxid, Producer]]
    answers: list[tuple[Zxid, int, Answer]]
    partitions: list[PartitionRow]
    tails: list[Tail]
    foot: list[list[int]]
    limits: dict[str, int]


# -- writing ------------------------------------------------------------------------------------------------------------------


def encode(snapshot: Snapshot) -> Iterator[bytes]:
    """The file in pieces, none of which takes long to make."""
    yield MAGIC
    count = 0
    for kind, rows in _sections(snapshot):
        body = cbor.dumps(rows)
        yield _HEAD.pack(len(body), kind, crc32c(body)) + body
        count += 1
    body = cbor.dumps([[count]])
    yield _HEAD.pack(len(body), Kind.FOOT, crc32c(body)) + body


def _sections(snapshot: Snapshot) -> Iterator[tuple[Kind, list[cbor.Value]]]:
    state = snapshot.state
    yield Kind.HEAD, [[*state.applied, state.time, state.level]]
    yield Kind.LIMITS, [[name, value] for name, value in state.limits.values().items()]
    for topics in _batches(state.topics.values()):
        yield (
            Kind.TOPICS,
            [[*topic.id, topic.name, topic.partitions, topic.created, list(topic.retention), topic.settings] for topic in topics],
        )
    for places in _batches(state.ends.items()):
        yield Kind.ENDS, [[*topic, partition, end, state.firsts.get((topic, partition), 0)] for (topic, partition), end in places]
    for producers in _batches(state.producers.rows.items()):
        yield Kind.PRODUCERS, [[*who, *row[:5], *row.used] for who, row in producers]
    for answers in _batches(state.producers.answers.items()):
        yield Kind.ANSWERS, [[*who, sequence, *_answer_row(answer)] for (who, sequence), answer in answers]
    for partitions in _batches(snapshot.partitions):
        yield Kind.PARTITIONS, [_partition_row(partition) for partition in partitions]
    waiting: list[cbor.Value] = []
    size = 0
    for tail in snapshot.tails:
        waiting.append([tail.name, tail.begin, tail.data])
        size += len(tail.data)
        if size > TAILS_BYTES:
            yield Kind.TAILS, waiting
            waiting, size = [], 0
    if waiting:
        yield Kind.TAILS, waiting


def _batches(rows: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, ROWS)):
        yield batch


def _partition_row(row: PartitionRow) -> cbor.Value:
    return [*row.topic, row.partition, row.first, row.next, [[*segment[:5], *segment.base_zxid] for segment in row.segments]]


def _answer_row(answer: Answer) -> list[cbor.Value]:
    match answer:
        case Appended(zxid, offsets):
            return [1, *zxid, list(offsets)]
        case ProducerAllocated(producer):
            return [2, *producer]
        case TopicCreated(topic):
            return [3, *topic]
        case TopicDeleted(topic):
            return [4, *topic]
        case TopicAltered(topic):
            return [6, *topic]
        case LimitsSet():
            return [7]
        case BoundsMoved() | LevelRaised():
            raise AssertionError("the law that what nobody asked for is not kept for anybody")
        case Refused(code, text, maybe_written):
            return [5, code.value, text, maybe_written]


# -- reading ------------------------------------------------------------------------------------------------------------------


def decode(raw: bytes, levels: Versions = LEVELS) -> Snapshot:
    """Raises Corrupt; UnknownLevel for what a build of these feature levels cannot go on from."""
    if raw[:6] != MAGIC[:6]:
        raise Corrupt("this is no snapshot of a broker")
    version = int.from_bytes(raw[6:8], "big")
    if version > VERSION:
        what = f"a snapshot of format {version}, and this version of zablog reads 1 to {VERSION}"
        raise UnknownLevel(f"{what}: install the version of zablog that the other nodes run")
    if not version:
        raise Corrupt("a snapshot of format 0, which there never was")
    tables = _Decoded([], [], [], [], [], [], [], [], {})
    at, count = len(MAGIC), 0
    try:
        while at < len(raw):
            length, kind, check = _HEAD.unpack_from(raw, at)
            begin = at + _HEAD.size
            if begin + length > len(raw) or tables.foot:
                raise ValueError("a section is cut off, or stands behind the last one")
            if crc32c(raw[begin : begin + length]) != check:
                raise ValueError(f"the checksum of a section of {length:,} bytes is wrong")
            _decode_section(tables, version, levels, Kind(kind), cbor.loads(raw[begin : begin + length], SECTION_BYTES_MAX))
            at = begin + length
            count += 1
        return _assembled(tables, count)
    except (struct.error, MessageError, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise Corrupt(f"not a snapshot, at byte {at:,}: {error}") from error


def _decode_section(tables: _Decoded, version: int, levels: Versions, kind: Kind, rows: object) -> None:
    if not isinstance(rows, list):
        raise TypeError("a section is not a list of rows")
    match kind:
        case Kind.HEAD:
            tables.head.extend(_numbers(row, 4) if version > 1 else [*_numbers(row, 3), 1] for row in rows)
            for head in tables.head:  # before anything is looked at that the level may have given another meaning
                check(head[3], levels)
        case Kind.LIMITS:
            tables.limits.update((str(name), _number(value)) for name, value in rows)
        case Kind.FOOT:
            tables.foot.extend(_numbers(row, 1) for row in rows)
        case Kind.TOPICS:
            for epoch, counter, name, partitions, created, retention, settings in rows:
                if name_problem(name):
                    raise ValueError(name_problem(name))
                kept = Retention(*_numbers(retention, 3))
                tables.topics.append(Topic(_zxid(epoch, counter), name, _number(partitions), _number(created), kept, _number(settings)))
        case Kind.ENDS:
            for row in rows:
                epoch, counter, partition, end, first = _numbers(row, 5)
                tables.ends.append((_zxid(epoch, counter), partition, end, first))
        case Kind.PRODUCERS:
            for epoch, counter, producer_epoch, gaps, *numbers, used_epoch, used_counter in rows:
                sequence, lowest, window = _numbers(numbers if version > 1 else [*numbers, DEFAULTS.producer_window], 3)
                used = _zxid(used_epoch, used_counter)
                producer = Producer(_number(producer_epoch), gaps is True, sequence, lowest, window, used)
                tables.producers.append((_zxid(epoch, counter), producer))
        case Kind.ANSWERS:
            for epoch, counter, sequence, *words in rows:
                tables.answers.append((_zxid(epoch, counter), _number(sequence), _answer(words)))
        case Kind.PARTITIONS:
            for epoch, counter, partition, first, following, segments in rows:
                segments_kept = tuple(_segment(_numbers(segment, 7)) for segment in segments)
                tables.partitions.append(
                    PartitionRow(_zxid(epoch, counter), _number(partition), _number(first), _number(following), segments_kept)
                )
        case Kind.TAILS:
            for name, begin, data in rows:
                if type(name) is not str or type(data) is not bytes:
                    raise TypeError("a tail has a name and bytes")
                tables.tails.append(Tail(name, _number(begin), data))


def _assembled(tables: _Decoded, count: int) -> Snapshot:
    if len(tables.head) != 1 or tables.foot != [[count - 1]]:
        raise ValueError(f"{count} sections, and they are not all, or not one whole")
    epoch, counter, time, level = tables.head[0]
    limits = DEFAULTS.changed(tables.limits)
    if isinstance(limits, str):
        raise ValueError(limits)
    state = State(applied=_zxid(epoch, counter), time=time, limits=limits, level=level)
    for topic in tables.topics:
        state.topics[topic.id] = topic
        state.names[topic.name] = topic.id
    for id, partition, end, first in tables.ends:
        if partition >= state.topics[id].partitions:
            raise ValueError(f"topic {id} has no partition {partition}")
        if first > end:
            raise ValueError(f"partition {partition} of topic {id} begins with {first:,}, behind its end {end:,}")
        state.ends[id, partition] = end
        if first:
            state.firsts[id, partition] = first
    answers = {(who, sequence): answer for who, sequence, answer in tables.answers}
    state.producers = Producers(rows=OrderedDict(tables.producers), answers=answers)
    places = {(row.topic, row.partition) for row in tables.partitions}
    if len(places) != len(tables.partitions):
        raise ValueError("a partition is there twice")
    for (id, partition), end in state.ends.items():
        if end and (id, partition) not in places:
            raise ValueError(f"partition {partition} of topic {id} is not there, and {end:,} records were given to it")
    for row in tables.partitions:
        if state.ends[row.topic, row.partition] != row.next or any(segment.size <= 0 for segment in row.segments):
            raise ValueError(f"partition {row.partition} of topic {row.topic} does not end where the state says")
        if state.firsts.get((row.topic, row.partition), 0) != row.first:
            raise ValueError(f"partition {row.partition} of topic {row.topic} does not begin where the state says")
    return Snapshot(state, tables.partitions, tables.tails)


def _answer(words: list[object]) -> Answer:
    match words:
        case [1, epoch, counter, list(offsets)]:
            return Appended(_zxid(epoch, counter), tuple(_numbers(offsets, len(offsets))))
        case [2, epoch, counter]:
            return ProducerAllocated(_zxid(epoch, counter))
        case [3, epoch, counter]:
            return TopicCreated(_zxid(epoch, counter))
        case [4, epoch, counter]:
            return TopicDeleted(_zxid(epoch, counter))
        case [6, epoch, counter]:
            return TopicAltered(_zxid(epoch, counter))
        case [7]:
            return LimitsSet()
        case [5, str(code), str(text), bool(maybe_written)]:
            return Refused(Code(code), text, maybe_written)
        case _:
            raise ValueError("an answer that is none of ours")


def _segment(row: list[int]) -> SegmentRow:
    base_offset, base_time, end_offset, size, crc, epoch, counter = row
    return SegmentRow(base_offset, base_time, end_offset, size, crc, _zxid(epoch, counter))


def _zxid(epoch: object, counter: object) -> Zxid:
    if type(epoch) is not int or type(counter) is not int or not (0 <= epoch <= EPOCH_MAX and 0 <= counter <= COUNTER_MAX):
        raise ValueError(f"{epoch!r}, {counter!r} is no zxid")
    return Zxid(epoch, counter)


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is not a number from 0 to 2**63")
    return value


def _numbers(values: object, count: int) -> list[int]:
    if type(values) is not list or len(values) != count:
        raise ValueError(f"a row of {count} numbers was expected")
    return [_number(value) for value in values]
