"""The client protocol's requests and responses. Each request carries a number chosen by the client; its response carries it back.

Requests are pipelined and may be answered in any order. Topics are named by id in everything but Metadata and CreateTopic: a
deleted and recreated topic is another topic. Any node answers reads; what changes something is answered by the leader, and by
others with the Failed of code `not_leading`, which says where the leader is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from broker.state import LEVELS
from broker.state.commands import FOR_EVER, Part, Retention, Turn
from zablog.core.trail import Payload
from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid
from zablog.wire.handshake import Versions


class Level(IntEnum):
    """How safe a write is before it is acknowledged."""

    NONE = 0
    """Received by the leader."""
    LEADER = 1
    """On the leader's disk."""
    QUORUM = 2
    """Committed: on the disks of a quorum."""
    ALL = 3
    """On the disk of every voter."""


# Requests


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? Answered at once."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """Who is in the cluster, who leads, which topics are there."""

    names: tuple[str, ...] | None = ()
    """The topics wanted; None means all. Unknown ones are left out of the answer."""


@dataclass(frozen=True, slots=True)
class AllocateProducer:
    gaps: bool = False
    """May sequences be skipped? For producers of level `none` or `leader`."""


@dataclass(frozen=True, slots=True)
class CreateTopic:
    turn: Turn
    name: str
    partitions: int
    retention: Retention = FOR_EVER


@dataclass(frozen=True, slots=True)
class AlterTopic:
    """Give a topic other settings; all of them."""

    turn: Turn
    topic: Zxid
    retention: Retention


@dataclass(frozen=True, slots=True)
class DeleteTopic:
    turn: Turn
    topic: Zxid


@dataclass(frozen=True, slots=True)
class SetLimits:
    """Change some of the cluster's limits, by name; see `broker.state.limits`."""

    turn: Turn
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class DescribeTopics:
    topics: tuple[Zxid, ...]


class Produce(NamedTuple):
    """Append every part in one proposal, or none. (Hot messages are tuples: they are made in a fifth of the time.)"""

    turn: Turn
    level: Level
    parts: Sequence[Part]


class FetchFrom(NamedTuple):
    topic: Zxid
    partition: int
    offset: int
    """The first record wanted; the answer may begin earlier, with the batch that holds it."""
    bytes_max: int
    """The answer has at least one whole batch, however big, if there is one."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Stored batches from several partitions."""

    partitions: Sequence[FetchFrom]
    bytes_max: int
    """Over all partitions; at least one batch comes anyway."""
    wait_ms: int = 0
    """How long to wait if there is nothing yet."""


class Where(IntEnum):
    """What an OffsetQuery asks for."""

    FIRST = 0
    END = 1
    """The offset that the next record will get."""
    TIME = 2
    """The first batch whose leader time is not below `value`, milliseconds since 1970; the end if there is none."""
    ZXID = 3
    """The first batch whose zxid is not below `zxid`; the end if there is none."""


class OffsetQuery(NamedTuple):
    topic: Zxid
    partition: int
    where: Where
    time: int = 0
    zxid: Zxid = ZERO


@dataclass(frozen=True, slots=True)
class Offsets:
    queries: tuple[OffsetQuery, ...]


@dataclass(frozen=True, slots=True)
class ReadIndex:
    """What must a read have seen, on whichever node, to see everything that was acknowledged before this was asked? For the leader."""


@dataclass(frozen=True, slots=True)
class WaitApplied:
    """Answer once `zxid` is applied, or when the wait is over. Whatever is asked on this connection behind the answer sees it."""

    zxid: Zxid
    wait_ms: int


@dataclass(frozen=True, slots=True)
class Status:
    """How is the node that answers?"""


Request = (
    Ping
    | Metadata
    | AllocateProducer
    | CreateTopic
    | AlterTopic
    | DeleteTopic
    | SetLimits
    | DescribeTopics
    | Produce
    | Fetch
    | Offsets
    | ReadIndex
    | WaitApplied
    | Status
)


# Responses


@dataclass(frozen=True, slots=True)
class Failed:
    """The request was refused or could not be carried out. See `broker.errors.error_of`."""

    code: str
    text: str
    hint: str = ""
    maybe_written: bool = False
    leader: PeerId | None = None
    """Who leads, as far as the node knows: for `not_leading`."""
    leader_address: str | None = None


@dataclass(frozen=True, slots=True)
class Ponged:
    """Yes."""


class NodeAddress(NamedTuple):
    id: PeerId
    address: str


class TopicEntry(NamedTuple):
    id: Zxid
    name: str
    partitions: int


@dataclass(frozen=True, slots=True)
class ClusterMetadata:
    cluster: str
    node: PeerId
    """Who answers."""
    epoch: Epoch
    leader: PeerId | None
    nodes: tuple[NodeAddress, ...]
    topics: tuple[TopicEntry, ...]
    limits: tuple[tuple[str, int], ...] = ()
    """What the cluster takes, by name; a name that a client does not know is none of its business."""


@dataclass(frozen=True, slots=True)
class ProducerAllocated:
    producer: Zxid


@dataclass(frozen=True, slots=True)
class TopicCreated:
    topic: Zxid


@dataclass(frozen=True, slots=True)
class TopicAltered:
    topic: Zxid


@dataclass(frozen=True, slots=True)
class TopicDeleted:
    topic: Zxid


@dataclass(frozen=True, slots=True)
class LimitsSet:
    """They hold."""


class PartitionDetails(NamedTuple):
    first: int
    end: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TopicDetails:
    id: Zxid
    name: str
    created: int
    """Leader time of its creation, milliseconds since 1970."""
    partitions: tuple[PartitionDetails, ...]
    retention: Retention = FOR_EVER


@dataclass(frozen=True, slots=True)
class TopicsDescribed:
    """In the order of the request; None for a topic that is not there."""

    topics: tuple[TopicDetails | None, ...]


class Produced(NamedTuple):
    level: Level
    """The level that was reached."""
    zxid: Zxid
    offsets: tuple[int, ...]
    """The base offset of each part; empty at the levels `none` and `leader`."""


class FetchStatus(IntEnum):
    """What became of one partition of a Fetch."""

    OK = 0
    TOPIC_NOT_FOUND = 1
    PARTITION_NOT_FOUND = 2
    OFFSET_OUT_OF_RANGE = 3
    CORRUPT = 4


class FetchedPartition(NamedTuple):
    status: FetchStatus
    first: int
    """The first offset there is."""
    end: int
    """The offset that the next record will get."""
    batches: Payload
    """Whole stored batches end to end, as `broker.log.stored` reads them; empty if there is nothing at or behind the offset."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """In the order of the request."""

    applied: Zxid
    """How far the answering node had applied the log."""
    partitions: Sequence[FetchedPartition]


class OffsetFound(NamedTuple):
    status: FetchStatus
    offset: int = 0


@dataclass(frozen=True, slots=True)
class OffsetsFound:
    """In the order of the request."""

    offsets: tuple[OffsetFound, ...]
    applied: Zxid


@dataclass(frozen=True, slots=True)
class ReadIndexed:
    """A node that has applied this much: a quorum has confirmed that the answering node led after it was asked."""

    upto: Zxid


@dataclass(frozen=True, slots=True)
class Applied:
    """How far the answering node has applied the log."""

    zxid: Zxid


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What the answering node knows of another."""

    id: PeerId
    address: str
    connected: bool
    zxid: Zxid | None
    """The last entry it acknowledged, if the answering node leads it."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    cluster: str
    id: PeerId
    address: str
    role: str
    """looking, following or leading"""
    phase: str
    epoch: Epoch
    leader: PeerId | None
    last: Zxid
    watermark: Zxid
    applied: Zxid
    suspect: Zxid | None
    pid: int
    peers: tuple[PeerStatus, ...] = ()
    level: int = 1
    """The feature level of what it has applied."""
    levels: Versions = LEVELS
    """Those that its build knows."""
    silence_ms: int = 0
    """How long it bears a silent leader: longer than it was told to while its own loop is late."""

    @property
    def lag(self) -> int:
        """Committed entries that are not applied yet; counted within the epoch, so 0 right after a change of it."""
        same = self.watermark.epoch == self.applied.epoch
        return max(0, self.watermark.counter - self.applied.counter) if same else 0


Response = (
    Failed
    | Ponged
    | ClusterMetadata
    | ProducerAllocated
    | TopicCreated
    | TopicAltered
    | TopicDeleted
    | LimitsSet
    | TopicsDescribed
    | Produced
    | Fetched
    | OffsetsFound
    | ReadIndexed
    | Applied
    | NodeStatus
)
