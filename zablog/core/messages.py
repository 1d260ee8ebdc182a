"""What peers say to each other: one class a message, the paper's name in its docstring.

| message | paper | who | when |
|---|---|---|---|
| Notification | (oracle) | peer to peer | looking for a leader, or asked by one who looks |
| CEpoch | CEPOCH | follower to leader | first word on joining a leader |
| NewEpoch | NEWEPOCH | leader to follower | the leader's promise of the new epoch is durable |
| AckEpoch | ACK-E | follower to leader | the follower's promise is durable |
| HistoryQuery | | leader to follower | a quorum acknowledged the epoch, and this follower has the best history of it |
| HistoryAnswer | | follower to leader | where the histories meet; entries follow if the leader's ends there |
| Diff, Trunc, Snap | NEWLEADER(e', I) | leader to follower | a quorum acknowledged the epoch; how the history is repaired |
| AckSnap | | follower to leader | the snapshot is installed, durably |
| NewLeader | NEWLEADER | leader to follower | the follower has been sent all of the initial history |
| AckNewLeader | ACK-LD | follower to leader | history, then epoch, durable |
| UpToDate | COMMIT-LD | leader to follower | established, and this follower acknowledged |
| Propose | PROPOSE | leader to follower, or back | entries: of the initial history while synchronizing, new ones later; those asked for |
| Ack | ACK | follower to leader | everything through this zxid is durable |
| Commit | COMMIT | leader to follower | the watermark moved and no proposal is about to carry it |
| Ping, Pong | | leader to follower and back | liveness in both directions |
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from zablog.core.trail import Entries
from zablog.core.zxid import Epoch, PeerId, Zxid

ROUND_MAX: Final = 2**62
"""Rounds of an election stop rising here; one bad frame must not push a peer's round out of what the wire carries."""


class Standing(IntEnum):
    """What a peer says it is doing, in a notification."""

    LOOKING = 0
    FOLLOWING = 1
    LEADING = 2


class Vote(NamedTuple):
    """A candidate and its credentials, in the order in which votes compare: currentEpoch, last zxid, id."""

    current: Epoch
    last: Zxid
    leader: PeerId


@dataclass(frozen=True, slots=True)
class Notification:
    """Fast leader election: the sender's standing, its round and its vote, and itself as a candidate.

    `vote` names the leader the sender is for; while FOLLOWING or LEADING its `current` is the epoch in force.
    `self_vote` is the sender's own candidacy. `heard` lists the peers whose notifications reached the sender lately: a candidate
    that a quorum cannot reach must not be voted for. `whole` is false while the sender's tail is suspect: it may hold less than
    its credentials say, so whoever is whole is the better candidate.
    """

    standing: Standing
    round: int
    vote: Vote
    self_vote: Vote
    accepted: Epoch
    heard: tuple[PeerId, ...]
    whole: bool = True


@dataclass(frozen=True, slots=True)
class CEpoch:
    """CEPOCH: the sender wants to follow; it has promised `accepted` (f.p) and follows history of `current` (f.a)."""

    accepted: Epoch
    current: Epoch


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """NEWEPOCH: the prospective leader names an epoch above all it heard of; its own promise is durable."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class AckEpoch:
    """ACK-E: the sender has promised `epoch`. `counted` is false when it had promised it before.

    `suspect` is the end of a range above `last` that may have been lost to a torn or rotten last batch: the sender is no
    witness that entries in it do not exist.
    """

    epoch: Epoch
    counted: bool
    current: Epoch
    last: Zxid
    base: Zxid
    suspect: Zxid | None


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """You have the best history of a quorum that promised `epoch`: where does it go on from mine, which ends at `last`?"""

    epoch: Epoch
    last: Zxid


@dataclass(frozen=True, slots=True)
class HistoryAnswer:
    """`after` is our last common place, `digest` the sender's running digest there.

    If the leader's history ends at `after`, the sender's entries above it follow, as Propose; else the leader asks again from there.
    """

    epoch: Epoch
    after: Zxid
    digest: int


@dataclass(frozen=True, slots=True)
class Diff:
    """Your history is a prefix of mine: entries above `after` follow. `digest` is the leader's running digest there."""

    epoch: Epoch
    after: Zxid
    digest: int


@dataclass(frozen=True, slots=True)
class Trunc:
    """Cut your history above `after`, our last common place, once the digest there has been verified; entries follow."""

    epoch: Epoch
    after: Zxid
    digest: int


@dataclass(frozen=True, slots=True)
class Snap:
    """Your history ends before mine begins: a snapshot at `zxid` comes beside the message stream, entries above it follow."""

    epoch: Epoch
    zxid: Zxid
    digest: int


@dataclass(frozen=True, slots=True)
class AckSnap:
    """The snapshot at `zxid` has replaced the sender's history, durably: go on from there."""

    epoch: Epoch
    zxid: Zxid


@dataclass(frozen=True, slots=True)
class NewLeader:
    """NEWLEADER: you have been sent everything through `last`, which covers the initial history of `epoch`."""

    epoch: Epoch
    last: Zxid


@dataclass(frozen=True, slots=True)
class AckNewLeader:
    """ACK-LD: history through `last`, then currentEpoch, are durable here."""

    epoch: Epoch
    last: Zxid


@dataclass(frozen=True, slots=True)
class UpToDate:
    """COMMIT-LD: the leader is established; everything through `watermark`, which you have been sent, is committed."""

    epoch: Epoch
    watermark: Zxid


@dataclass(frozen=True, slots=True)
class Propose:
    """PROPOSE: successive entries. `watermark` tells how far the log is committed, and is ignored before UPTODATE.

    To a leader: of the sender's history, for which it has asked.
    """

    epoch: Epoch
    entries: Entries
    watermark: Zxid


@dataclass(frozen=True, slots=True)
class Ack:
    """ACK, cumulative: everything through `zxid` is durable here."""

    epoch: Epoch
    zxid: Zxid


@dataclass(frozen=True, slots=True)
class Commit:
    """COMMIT, cumulative: everything through `watermark`, which you have been sent, is committed."""

    epoch: Epoch
    watermark: Zxid


@dataclass(frozen=True, slots=True)
class Ping:
    """The leader is alive and asks whether its followers can be heard. May overtake entries, so it carries no watermark."""

    epoch: Epoch
    nonce: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The echo of a ping: the sender heard it and has promised no higher epoch."""

    epoch: Epoch
    nonce: int


Message = (
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
    | Propose
    | Ack
    | Commit
    | Ping
    | Pong
)
