"""The messages of `zablog.core` as frames, and back: every message round-trips, every other content is a MessageError.

Hot messages (Propose, Ack, Commit, Ping, Pong) have fixed `struct` headers, the others are a CBOR array of their fields. Only
Propose has a payload: a table of the entries' lengths (u32 each), then the entries. It needs no checksum of its own: the core
verifies the running digest, which a flipped bit or a shifted boundary changes.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from itertools import accumulate
from typing import Final

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
from zablog.core.trail import Entries, Payload
from zablog.core.zxid import COUNTER_MAX, Epoch, Zxid
from zablog.wire import cbor
from zablog.wire.errors import MessageError
from zablog.wire.frames import JOIN_BYTES_MAX, Frame, head
from zablog.wire.schema import Fields

SLICE_BYTES_MIN: Final = 16 << 10
"""From here on a decoded payload is a view into its frame's own buffer instead of a copy. The entries of one frame are kept and
forgotten at about the same time, so a view pins little that is not wanted anyway; below this a copy is cheaper than a view."""
ENTRIES_MAX: Final = 1 << 20
"""Entries in one Propose: a frame full of empty entries would cost the reader a hundred times its own size."""


class Kind(IntEnum):
    """The kinds of frames between peers. A number is never given to something else."""

    PROPOSE = 16
    ACK = 17
    COMMIT = 18
    PING = 19
    PONG = 20
    NOTIFICATION = 21
    CEPOCH = 22
    NEW_EPOCH = 23
    ACK_EPOCH = 24
    DIFF = 25
    TRUNC = 26
    SNAP = 27
    NEW_LEADER = 28
    ACK_NEW_LEADER = 29
    UP_TO_DATE = 30
    ACK_SNAP = 31
    HISTORY_QUERY = 32
    HISTORY_ANSWER = 33


_PROPOSE: Final = struct.Struct(">IIQIQQIQI")
"""epoch; first; prev; digest; watermark; number of entries."""
_PLACE: Final = struct.Struct(">IIQ")
"""epoch; zxid."""
_NONCE: Final = struct.Struct(">IQ")
"""epoch; nonce."""


def encode(message: Message) -> list[Payload]:
    """`message` as pieces for `sendmsg`; big payloads are not copied."""
    match message:
        case Propose():
            return _encode_propose(message)
        case Ack():
            return [head(Kind.ACK, _PLACE.pack(message.epoch, *message.zxid), 0)]
        case Commit():
            return [head(Kind.COMMIT, _PLACE.pack(message.epoch, *message.watermark), 0)]
        case Ping():
            return [head(Kind.PING, _NONCE.pack(message.epoch, message.nonce), 0)]
        case Pong():
            return [head(Kind.PONG, _NONCE.pack(message.epoch, message.nonce), 0)]
        case _:
            kind, fields = _rows(message)
            return [head(kind, cbor.dumps(fields), 0)]


def decode(frame: Frame) -> Message:
    """The message in `frame`. Raises MessageError."""
    kind, header, payload = frame
    if kind == 16:
        return _decode_propose(header, payload)
    if payload:
        raise MessageError(f"a frame of kind {kind} has no payload, and this one has {len(payload)} bytes")
    try:
        if kind == 17:
            epoch, *place = _PLACE.unpack(header)
            return Ack(Epoch(epoch), Zxid(*place))
        if kind == 18:
            epoch, *place = _PLACE.unpack(header)
            return Commit(Epoch(epoch), Zxid(*place))
        if kind == 19:
            return Ping(*_NONCE.unpack(header))
        if kind == 20:
            return Pong(*_NONCE.unpack(header))
    except struct.error as error:
        raise MessageError(f"{Kind(kind).name}: {error}") from None
    return _decode_rows(kind, header)


def _encode_propose(message: Propose) -> list[Payload]:
    entries = message.entries
    lengths = [len(payload) for payload in entries.payloads]
    count, size = len(lengths), sum(lengths)
    assert 0 < count <= ENTRIES_MAX, f"a proposal has between one and {ENTRIES_MAX} entries, not {count}"
    header = _PROPOSE.pack(message.epoch, *entries.first, *entries.prev, entries.digest, *message.watermark, count)
    first = head(Kind.PROPOSE, header, 4 * count + size) + struct.pack(f">{count}I", *lengths)
    if size <= JOIN_BYTES_MAX:
        return [b"".join((first, *entries.payloads))]
    return [first, *entries.payloads]


def _decode_propose(header: bytes, payload: Payload) -> Propose:
    try:
        epoch, first_epoch, first_counter, prev_epoch, prev_counter, digest, mark_epoch, mark_counter, count = _PROPOSE.unpack(header)
    except struct.error as error:
        raise MessageError(f"PROPOSE: {error}") from None
    if not 0 < count <= ENTRIES_MAX or first_counter == 0 or first_counter + count - 1 > COUNTER_MAX:
        raise MessageError(f"PROPOSE: {count} entries from {first_epoch}.{first_counter} on are no run of entries")
    table_bytes = 4 * count
    if table_bytes > len(payload):
        raise MessageError(f"PROPOSE: a table of {count} lengths does not fit into {len(payload)} bytes")
    lengths = struct.unpack_from(f">{count}I", payload)
    if table_bytes + sum(lengths) != len(payload):
        raise MessageError(f"PROPOSE: a table and entries of {table_bytes} + {sum(lengths)} bytes in a payload of {len(payload)}")
    entries = Entries(Zxid(first_epoch, first_counter), Zxid(prev_epoch, prev_counter), _cut(payload, table_bytes, lengths), digest)
    return Propose(Epoch(epoch), entries, Zxid(mark_epoch, mark_counter))


def _cut(payload: Payload, begin: int, lengths: Sequence[int]) -> list[Payload]:
    """The entries that stand one behind the other from `begin` on."""
    if len(lengths) == 1 and lengths[0] < SLICE_BYTES_MIN and type(payload) is bytes:
        return [payload[begin:]]
    view = memoryview(payload).toreadonly()
    begins = accumulate(lengths, initial=begin)
    return [
        bytes(view[begin : begin + length]) if length < SLICE_BYTES_MIN else view[begin : begin + length]
        for begin, length in zip(begins, lengths, strict=False)
    ]


_Rows = tuple[Kind, list[cbor.Value]]
_Cold = (
    Notification
    | CEpoch
    | NewEpoch
    | AckEpoch
    | HistoryQuery
    | HistoryAnswer
    | Diff
    | Trunc
    | Snap
    | AckSnap
    | NewLeader
    | AckNewLeader
    | UpToDate
)


def _rows(message: _Cold) -> _Rows:
    """The fields of a message that is not hot, in the order of its class."""
    match message:
        case Notification(standing, round, vote, self_vote, accepted, heard, whole):
            return Kind.NOTIFICATION, [standing.value, round, _vote_row(vote), _vote_row(self_vote), accepted, list(heard), whole]
        case CEpoch(accepted, current):
            return Kind.CEPOCH, [accepted, current]
        case NewEpoch(epoch):
            return Kind.NEW_EPOCH, [epoch]
        case AckEpoch(epoch, counted, current, last, base, suspect):
            return Kind.ACK_EPOCH, [epoch, counted, current, list(last), list(base), None if suspect is None else list(suspect)]
        case HistoryQuery(epoch, last):
            return Kind.HISTORY_QUERY, [epoch, list(last)]
        case HistoryAnswer(epoch, after, digest):
            return Kind.HISTORY_ANSWER, [epoch, list(after), digest]
        case Diff(epoch, after, digest):
            return Kind.DIFF, [epoch, list(after), digest]
        case Trunc(epoch, after, digest):
            return Kind.TRUNC, [epoch, list(after), digest]
        case Snap(epoch, zxid, digest):
            return Kind.SNAP, [epoch, list(zxid), digest]
        case AckSnap(epoch, zxid):
            return Kind.ACK_SNAP, [epoch, list(zxid)]
        case NewLeader(epoch, last):
            return Kind.NEW_LEADER, [epoch, list(last)]
        case AckNewLeader(epoch, last):
            return Kind.ACK_NEW_LEADER, [epoch, list(last)]
        case UpToDate(epoch, watermark):
            return Kind.UP_TO_DATE, [epoch, list(watermark)]


def _decode_rows(number: int, header: bytes) -> Message:
    try:
        kind = Kind(number)
    except ValueError:
        raise MessageError(f"there is no message of kind {number} between peers") from None
    fields = Fields.decode(kind.name, header, _COUNTS[kind])
    match kind:
        case Kind.NOTIFICATION:
            standing = Standing(fields.number("standing", 0, 2))
            round = fields.number("round", 0, ROUND_MAX)
            vote, self_vote = _vote(fields, "vote"), _vote(fields, "self vote")
            accepted, heard = fields.epoch("accepted"), fields.peers("heard")
            return Notification(standing, round, vote, self_vote, accepted, heard, fields.flag("whole"))
        case Kind.CEPOCH:
            return CEpoch(fields.epoch("accepted"), fields.epoch("current"))
        case Kind.NEW_EPOCH:
            return NewEpoch(fields.epoch("epoch"))
        case Kind.ACK_EPOCH:
            epoch, counted, current = fields.epoch("epoch"), fields.flag("counted"), fields.epoch("current")
            return AckEpoch(epoch, counted, current, fields.zxid("last"), fields.zxid("base"), fields.zxid_or_none("suspect"))
        case Kind.HISTORY_QUERY:
            return HistoryQuery(fields.epoch("epoch"), fields.zxid("last"))
        case Kind.HISTORY_ANSWER:
            return HistoryAnswer(fields.epoch("epoch"), fields.zxid("after"), fields.number("digest"))
        case Kind.DIFF:
            return Diff(fields.epoch("epoch"), fields.zxid("after"), fields.number("digest"))
        case Kind.TRUNC:
            return Trunc(fields.epoch("epoch"), fields.zxid("after"), fields.number("digest"))
        case Kind.SNAP:
            return Snap(fields.epoch("epoch"), fields.zxid("zxid"), fields.number("digest"))
        case Kind.ACK_SNAP:
            return AckSnap(fields.epoch("epoch"), fields.zxid("zxid"))
        case Kind.NEW_LEADER:
            return NewLeader(fields.epoch("epoch"), fields.zxid("last"))
        case Kind.ACK_NEW_LEADER:
            return AckNewLeader(fields.epoch("epoch"), fields.zxid("last"))
        case Kind.UP_TO_DATE:
            return UpToDate(fields.epoch("epoch"), fields.zxid("watermark"))
        case _:
            raise AssertionError(f"hot messages are decoded above, {kind.name} is one")


_COUNTS: Final = {
    Kind.NOTIFICATION: 7,
    Kind.CEPOCH: 2,
    Kind.NEW_EPOCH: 1,
    Kind.ACK_EPOCH: 6,
    Kind.HISTORY_QUERY: 2,
    Kind.HISTORY_ANSWER: 3,
    Kind.DIFF: 3,
    Kind.TRUNC: 3,
    Kind.SNAP: 3,
    Kind.ACK_SNAP: 2,
    Kind.NEW_LEADER: 2,
    Kind.ACK_NEW_LEADER: 2,
    Kind.UP_TO_DATE: 2,
}


def _vote_row(vote: Vote) -> list[cbor.Value]:
    return [vote.current, list(vote.last), vote.leader]


def _vote(fields: Fields, what: str) -> Vote:
    vote = Fields(f"{fields.name}.{what}", fields.value(), 3)
    return Vote(vote.epoch("current"), vote.zxid("last"), vote.peer("leader"))
