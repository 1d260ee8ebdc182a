"""Everything that can happen to a peer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zablog.core.messages import Message
from zablog.core.trail import Mark, Payload
from zablog.core.zxid import PeerId, Zxid


class Link(NamedTuple):
    """One connection to one peer. A reconnection is another link: what the old one still had queued is nobody's message."""

    peer: PeerId
    generation: int


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A handshake succeeded: the peer's cluster id, node id, incarnation and version are what they should be."""

    link: Link


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The link is gone; nothing more will come from it."""

    link: Link


@dataclass(frozen=True, slots=True)
class Received:
    """A burst of messages, in the order in which they were sent."""

    link: Link
    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Durable:
    """Every durable effect through number `token` is on disk: written, synced, its directory entry too."""

    token: int


@dataclass(frozen=True, slots=True)
class Tick:
    """One unit of time went by."""


@dataclass(frozen=True, slots=True)
class Proposals:
    """The application wants these payloads in the log. Only handed in while `peer.room` is above zero."""

    payloads: Sequence[Payload]


@dataclass(frozen=True, slots=True)
class DigestRead:
    """The answer to a ReadDigest: our running digest at `zxid`."""

    link: Link
    zxid: Zxid
    digest: int


@dataclass(frozen=True, slots=True)
class Streamed:
    """A Stream has been handed to the link in full, through `upto`."""

    link: Link
    upto: Zxid


@dataclass(frozen=True, slots=True)
class Congested:
    """The link's outbox is full: send nothing more there than pings until a Stream of what it missed has gone through."""

    link: Link


@dataclass(frozen=True, slots=True)
class Staged:
    """The answer to a FetchSnapshot: all of it is here, verified and synced."""

    link: Link
    mark: Mark


@dataclass(frozen=True, slots=True)
class Fetched:
    """Our snapshot is being fetched over this link: it made progress."""

    link: Link


@dataclass(frozen=True, slots=True)
class ReadAsked:
    """An established leader is asked how far a linearizable read must see. No round of this kind is under way."""


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A snapshot at `snapshot` is durable, and the log begins at `base` now: what stood before is gone."""

    snapshot: Mark
    base: Mark


@dataclass(frozen=True, slots=True)
class Stalled:
    """Our disk has been at one group commit for so long that somebody else should lead."""


Event = (
    LinkUp
    | LinkDown
    | Received
    | Durable
    | Tick
    | Proposals
    | DigestRead
    | Streamed
    | Congested
    | Staged
    | Fetched
    | Checkpointed
    | Stalled
    | ReadAsked
)
