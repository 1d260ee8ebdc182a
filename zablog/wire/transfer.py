"""What is said on a connection that fetches a snapshot: the follower asks, piece by piece, and the leader answers in that order.

| asked | answered | |
|---|---|---|
| Ask | Found, Gone | is there a snapshot of this place still? From here on it is kept for us |
| Seek | Found, Gone | is there one of this place or above? Else one is made, if so much is applied: by somebody whose own is damaged |
| Get | Piece, Gone | bytes of the snapshot's own file (the part without a name), or of another part of it |
| Read | Run, Gone | entries of the log: by somebody who has a damaged batch between two whole ones |

`Piece` carries its bytes raw, as the frame's payload. Nothing here is checked by a sum: what was fetched is verified as a whole.
"""

from dataclasses import dataclass
from typing import Final

from zablog.core.messages import Propose
from zablog.core.trail import Entries, Mark, Payload
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.wire import cbor
from zablog.wire.codec import Kind, decode, encode
from zablog.wire.errors import MessageError
from zablog.wire.frames import Frame, pieces
from zablog.wire.schema import Fields

ASK: Final = 48
FOUND: Final = 49
GET: Final = 50
PIECE: Final = 51
GONE: Final = 52
READ: Final = 53
SEEK: Final = 54

PIECE_BYTES_MAX: Final = 1 << 20
SNAPSHOT_BYTES_MAX: Final = 1 << 31
"""A snapshot's own file, which is held in memory; its parts are not."""
NAME_CHARACTERS_MAX: Final = 255
TEXT_CHARACTERS_MAX: Final = 900


@dataclass(frozen=True, slots=True)
class Ask:
    """The snapshot at this place is wanted."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class Seek:
    """A snapshot at this place or above it is wanted."""

    least: Zxid


@dataclass(frozen=True, slots=True)
class Found:
    """The snapshot's place; its own file has so many bytes, with this CRC-32C."""

    mark: Mark
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class Get:
    """Bytes of a part; the snapshot's own file has no name."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Piece:
    """All bytes that were asked for."""

    data: Payload


@dataclass(frozen=True, slots=True)
class Gone:
    """It is not here (any longer), and why."""

    text: str


@dataclass(frozen=True, slots=True)
class Read:
    """The next entries above this place, not above `upto`."""

    after: Mark
    upto: Zxid


@dataclass(frozen=True, slots=True)
class Run:
    """Entries that follow one another; on the wire they are a Propose."""

    entries: Entries


Word = Ask | Seek | Found | Get | Piece | Gone | Read | Run


def encode_word(word: Word) -> list[Payload]:
    match word:
        case Ask(mark):
            return pieces(Frame(ASK, cbor.dumps([list(mark.zxid), mark.digest])))
        case Seek(least):
            return pieces(Frame(SEEK, cbor.dumps([list(least)])))
        case Found(mark, length, crc):
            return pieces(Frame(FOUND, cbor.dumps([list(mark.zxid), mark.digest, length, crc])))
        case Get(name, offset, length):
            return pieces(Frame(GET, cbor.dumps([name, offset, length])))
        case Piece(data):
            return pieces(Frame(PIECE, b"", data))
        case Read(after, upto):
            return pieces(Frame(READ, cbor.dumps([list(after.zxid), after.digest, list(upto)])))
        case Run(entries):
            return encode(Propose(Epoch(entries.first.epoch), entries, ZERO))
        case Gone(text):
            return pieces(Frame(GONE, cbor.dumps([text[:TEXT_CHARACTERS_MAX]])))


def decode_word(frame: Frame) -> Word:
    """Raises MessageError."""
    if frame.kind == PIECE:
        if frame.header or len(frame.payload) > PIECE_BYTES_MAX:
            raise MessageError(f"a piece of a snapshot has at most {PIECE_BYTES_MAX:,} bytes and no header")
        return Piece(frame.payload)
    if frame.kind == Kind.PROPOSE:
        message = decode(frame)
        assert isinstance(message, Propose), "the law that a kind is of one class"
        return Run(message.entries)
    if frame.payload:
        raise MessageError(f"a frame of kind {frame.kind} has no payload, and this one has {len(frame.payload)} bytes")
    match frame.kind:
        case 48:
            fields = Fields.decode("Ask", frame.header, 2)
            return Ask(Mark(fields.zxid("zxid"), fields.number("digest")))
        case 49:
            fields = Fields.decode("Found", frame.header, 4)
            mark = Mark(fields.zxid("zxid"), fields.number("digest"))
            return Found(mark, fields.number("length", 0, SNAPSHOT_BYTES_MAX), fields.number("crc", 0, 2**32 - 1))
        case 50:
            fields = Fields.decode("Get", frame.header, 3)
            name = fields.text("name", NAME_CHARACTERS_MAX)
            return Get(name, fields.number("offset", 0, 2**40), fields.number("length", 1, PIECE_BYTES_MAX))
        case 53:
            fields = Fields.decode("Read", frame.header, 3)
            return Read(Mark(fields.zxid("after"), fields.number("digest")), fields.zxid("upto"))
        case 54:
            return Seek(Fields.decode("Seek", frame.header, 1).zxid("least"))
        case 52:
            return Gone(Fields.decode("Gone", frame.header, 1).text("text", TEXT_CHARACTERS_MAX))
        case _:
            raise MessageError(f"a frame of kind {frame.kind} on a connection that fetches a snapshot")
