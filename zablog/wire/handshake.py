"""The first words on every connection: who calls whom, to what end, in which versions.

The dialler says `Hello`; the other side answers `Welcome` with the version it chose, or `Refused` with the reason in words, and
closes. Nothing else may be sent before the answer. These three keep their form for ever: two builds of any age must be able to
tell each other why they cannot talk.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from zablog.core.trail import Payload
from zablog.core.zxid import PeerId
from zablog.wire import cbor
from zablog.wire.errors import MessageError
from zablog.wire.frames import HANDSHAKE_BYTES_MAX, Frame, pieces
from zablog.wire.schema import Fields

HELLO: Final = 1
WELCOME: Final = 2
REFUSED: Final = 3

NAME_CHARACTERS_MAX: Final = 64
TEXT_CHARACTERS_MAX: Final = 900
"""A refusal must fit into a handshake frame whatever alphabet it is written in."""


class Versions(NamedTuple):
    """The protocol versions a build can speak, both ends included."""

    lowest: int
    highest: int

    def common(self, other: "Versions") -> int | None:
        """The highest version both sides speak."""
        highest = min(self.highest, other.highest)
        return highest if highest >= max(self.lowest, other.lowest) else None

    def __str__(self) -> str:
        return str(self.lowest) if self.lowest == self.highest else f"{self.lowest} to {self.highest}"


PEER_VERSIONS: Final = Versions(1, 1)
CLIENT_VERSIONS: Final = Versions(1, 2)
"""2: ReadIndex and WaitApplied."""
NO_LEVELS: Final = Versions(0, 0)
"""Of an application without feature levels, and of a client."""


class Purpose(IntEnum):
    PEER = 1
    CLIENT = 2
    SNAPSHOT = 3
    """A member fetches a snapshot, beside the link on which the members speak."""


class Refusal(IntEnum):
    """Why a handshake failed."""

    PROTOCOL = 1
    """What came was not a handshake of ours."""
    VERSION = 2
    WRONG_CLUSTER = 3
    UNKNOWN_NODE = 4
    """The caller is not a member of this cluster."""
    WRONG_INCARNATION = 5
    """The caller has a member's number, and is not the member that was born with it."""
    WRONG_TARGET = 6
    """The caller wanted to reach another node than the one that listens here."""
    NOT_HERE = 7
    """This purpose is not served here (now)."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who calls. Peers fill in everything; a client names the cluster and the node it means to reach only if it knows them."""

    versions: Versions
    purpose: Purpose
    cluster: str | None = None
    node: PeerId | None = None
    incarnation: str | None = None
    target: PeerId | None = None
    levels: Versions = NO_LEVELS
    """The feature levels of the log that the caller's application can apply."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """Who answers, and the version to be spoken from here on."""

    version: int
    cluster: str
    node: PeerId
    incarnation: str
    levels: Versions = NO_LEVELS
    """As in Hello."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The connection is closed after this. The text names the values that do not agree."""

    code: int
    """A `Refusal`, or a number that a later build made up."""
    text: str


Handshake = Hello | Welcome | Refused


def encode_handshake(word: Handshake) -> list[Payload]:
    values: list[cbor.Value]
    match word:
        case Hello():
            kind = HELLO
            values = [*word.versions, word.purpose.value, word.cluster, word.node, word.incarnation, word.target, *word.levels]
        case Welcome():
            kind, values = WELCOME, [word.version, word.cluster, word.node, word.incarnation, *word.levels]
        case Refused():
            kind, values = REFUSED, [int(word.code), word.text[:TEXT_CHARACTERS_MAX]]
    header = cbor.dumps(values)
    assert len(header) <= HANDSHAKE_BYTES_MAX, "a handshake frame fits into what a stranger may send"
    return pieces(Frame(kind, header))


def decode_handshake(frame: Frame) -> Handshake:
    """The handshake message in a frame. Raises MessageError."""
    if frame.payload:
        raise MessageError(f"a handshake frame has no payload, and this one has {len(frame.payload)} bytes")
    match frame.kind:
        case 1:
            return _decode_hello(Fields.decode("Hello", frame.header, 9))
        case 2:
            fields = Fields.decode("Welcome", frame.header, 6)
            version = fields.number("version", 0, 2**16 - 1)
            cluster, node = fields.text("cluster", NAME_CHARACTERS_MAX), fields.peer("node")
            return Welcome(version, cluster, node, fields.text("incarnation", NAME_CHARACTERS_MAX), _versions(fields, "level"))
        case 3:
            fields = Fields.decode("Refused", frame.header, 2)
            return Refused(fields.number("code", 0, 2**16 - 1), fields.text("text", TEXT_CHARACTERS_MAX))
        case _:
            raise MessageError(f"a connection begins with a handshake, not with a frame of kind {frame.kind}")


def _decode_hello(fields: Fields) -> Hello:
    versions = _versions(fields, "version")
    number = fields.number("purpose", 0, 2**16 - 1)
    if number not in tuple(Purpose):
        raise fields.refuse("purpose", "1 (peer), 2 (client) or 3 (snapshot)", number)
    purpose = Purpose(number)
    cluster = fields.text_or_none("cluster", NAME_CHARACTERS_MAX)
    node = fields.peer_or_none("node")
    incarnation = fields.text_or_none("incarnation", NAME_CHARACTERS_MAX)
    target = fields.peer_or_none("target")
    if purpose is not Purpose.CLIENT and None in (cluster, node, incarnation, target):
        raise MessageError("Hello: a peer names its cluster, its node, its incarnation and the node it wants to reach")
    return Hello(versions, purpose, cluster, node, incarnation, target, _versions(fields, "level"))


def _versions(fields: Fields, what: str) -> Versions:
    return Versions(fields.number(f"lowest {what}", 0, 2**16 - 1), fields.number(f"highest {what}", 0, 2**16 - 1))
