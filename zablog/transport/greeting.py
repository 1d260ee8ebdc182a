"""The handshake from both ends. It fixes who is at the other end of a link, for as long as the link lives.

Checked on both sides: protocol version, cluster, node, incarnation. Each refusal names the two values that do not agree, and is
told to the other side before the connection is closed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from zablog.core.zxid import PeerId
from zablog.transport.ends import Ends
from zablog.transport.errors import HandshakeFailed
from zablog.wire.frames import Frame, FrameReader
from zablog.wire.handshake import (
    CLIENT_VERSIONS,
    NO_LEVELS,
    PEER_VERSIONS,
    Handshake,
    Hello,
    Purpose,
    Refusal,
    Refused,
    Versions,
    Welcome,
    decode_handshake,
    encode_handshake,
)


@dataclass(frozen=True, slots=True)
class Self:
    """Who we are: born with the data directory, never changed."""

    cluster: str
    node: PeerId
    incarnation: str
    versions: Versions = PEER_VERSIONS
    levels: Versions = NO_LEVELS
    """The feature levels that our application can apply: of the build, not of the directory."""


@dataclass(frozen=True, slots=True)
class Contact:
    """Another member: who it must prove to be, and where it is looked for (HOST:PORT)."""

    node: PeerId
    incarnation: str
    addresses: tuple[str, ...]


async def call(ends: Ends, me: Self, contact: Contact, purpose: Purpose = Purpose.PEER) -> tuple[FrameReader, Versions]:
    """Introduce ourselves to a member we have dialled; its feature levels. Raises HandshakeFailed, WireError, OSError or trio's errors."""
    hello = Hello(me.versions, purpose, me.cluster, me.node, me.incarnation, contact.node, me.levels)
    await ends.send(encode_handshake(hello))
    reader = FrameReader()
    frame = await first_frame(ends, reader)
    if frame is None:
        raise HandshakeFailed(Refusal.PROTOCOL, "the connection was closed without an answer")
    match decode_handshake(frame):
        case Refused(code, text):
            raise HandshakeFailed(code, f"node {contact.node} refused us: {text}")
        case Hello():
            raise HandshakeFailed(Refusal.PROTOCOL, f"node {contact.node} answered a Hello with a Hello")
        case Welcome() as welcome:
            check_welcome(welcome, me, contact)
            reader.admit()
            return reader, welcome.levels


def check_welcome(welcome: Welcome, me: Self, contact: Contact) -> None:
    if not me.versions.lowest <= welcome.version <= me.versions.highest:
        raise HandshakeFailed(Refusal.VERSION, f"it chose protocol version {welcome.version}, and we speak {me.versions}")
    if welcome.cluster != me.cluster:
        raise HandshakeFailed(Refusal.WRONG_CLUSTER, _clusters("what answers", welcome.cluster, me.cluster))
    if welcome.node != contact.node:
        raise HandshakeFailed(Refusal.WRONG_TARGET, f"node {welcome.node} answers where node {contact.node} was looked for")
    if welcome.incarnation != contact.incarnation:
        raise HandshakeFailed(Refusal.WRONG_INCARNATION, _incarnations(contact.node, welcome.incarnation, contact.incarnation))


def judge(hello: Hello, me: Self, contacts: Mapping[PeerId, Contact]) -> int:
    """May this caller come in? The version to be spoken. Raises HandshakeFailed with the words he is told."""
    ours = CLIENT_VERSIONS if hello.purpose is Purpose.CLIENT else me.versions
    version = hello.versions.common(ours)
    if version is None:
        raise HandshakeFailed(Refusal.VERSION, f"the caller speaks protocol version {hello.versions}, node {me.node} speaks {ours}")
    if hello.cluster is not None and hello.cluster != me.cluster:
        raise HandshakeFailed(Refusal.WRONG_CLUSTER, _clusters("the caller", hello.cluster, me.cluster))
    if hello.target is not None and hello.target != me.node:
        raise HandshakeFailed(Refusal.WRONG_TARGET, f"the caller looked for node {hello.target}, and node {me.node} listens here")
    if hello.purpose is not Purpose.CLIENT:
        _judge_peer(hello, me, contacts)
    return version


def _judge_peer(hello: Hello, me: Self, contacts: Mapping[PeerId, Contact]) -> None:
    contact = contacts.get(hello.node) if hello.node is not None else None
    if hello.node == me.node:
        raise HandshakeFailed(Refusal.UNKNOWN_NODE, f"the caller says it is node {me.node}, and so are we")
    if contact is None:
        members = ", ".join(map(str, sorted([*contacts, me.node])))
        raise HandshakeFailed(Refusal.UNKNOWN_NODE, f"node {hello.node} is not a member of this cluster; its members are {members}")
    if hello.incarnation != contact.incarnation:
        raise HandshakeFailed(Refusal.WRONG_INCARNATION, _incarnations(contact.node, hello.incarnation, contact.incarnation))
    if hello.purpose is Purpose.PEER and contact.node < me.node:
        raise HandshakeFailed(Refusal.PROTOCOL, f"node {contact.node} called node {me.node}, and the higher number calls the lower")


def welcome(me: Self, version: int) -> Welcome:
    return Welcome(version, me.cluster, me.node, me.incarnation, me.levels)


async def first_frame(ends: Ends, reader: FrameReader) -> Frame | None:
    """The first frame of a connection; None if it ends before."""
    while not (frames := reader.frames(at_most=1)):
        count = await ends.receive_into(reader.space())
        if not count:
            return None
        reader.received(count)
    return frames[0]


async def say(ends: Ends, word: Handshake) -> None:
    await ends.send(encode_handshake(word))


def _clusters(who: str, theirs: str, ours: str) -> str:
    return f"{who} belongs to cluster {theirs}, and this is cluster {ours}"


def _incarnations(node: PeerId, theirs: str | None, known: str) -> str:
    return (
        f"what calls itself node {node} was born as {theirs}, and the member of that number as {known}: "
        f"a new data directory does not continue an old node"
    )
