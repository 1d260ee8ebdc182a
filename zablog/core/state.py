"""What a peer knows: the durable part and its image on disk, the role it plays, and the laws the whole obeys.

Own state changes at once, own votes leave by post: `accepted`, `current` and `trail` describe memory, which may run ahead of the
disk, because every message that describes them waits in the gate until the disk has caught up. A failed write stops the node, so
memory that was ahead is never used.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Final

from zablog.core.effects import Deliver, DropLink, Effects, RoleChanged
from zablog.core.events import Link
from zablog.core.messages import AckEpoch, CEpoch, Notification, Vote
from zablog.core.quorum import Configuration
from zablog.core.trail import Entries, Mark, Trail
from zablog.core.zxid import COUNTER_MAX, Epoch, PeerId, Zxid


@dataclass(frozen=True, slots=True)
class Timing:
    """Every wait of the protocol, in ticks (10 ms each unless the node says otherwise). Bad values cost availability only."""

    ping: int = 5
    suspect: int = 30
    """A follower that hears nothing from its leader for so long looks for another."""
    echo: int = 25
    """A leader whose pings are not echoed by a quorum for so long steps down: before its followers suspect it."""
    finalize: int = 4
    """How long a quorum of equal votes waits for a better one, unless all voters agree."""
    resend_min: int = 5
    resend_max: int = 25
    heard: int = 100
    """How long a notification counts as heard, and its vote as cast. Some resends long."""
    connect: int = 15
    """A follower waits so long for a link to the leader it chose."""
    discovery: int = 50
    defect: int = 10
    """From then on a prospective leader gives up when a voter is seen looking in a later round."""
    sync: int = 200
    """A prospective leader without any progress of synchronization for so long gives up."""
    grace: int = 100
    """A leader tolerates a voter that has promised a higher epoch for so long, then makes room for a higher one."""
    ineligible: int = 50
    """A leader that lost its quorum is no candidate for so long: its incoming links may be dead. Likewise one that cannot decide."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be outstanding: proposed and not yet committed."""

    window_entries: int = 65_536
    window_bytes: int = 64 << 20
    counter_max: int = COUNTER_MAX
    """Small in tests: the counter never wraps; a new epoch begins instead."""


FAILED_MAX: Final = 3
"""Who failed so often in a row stands back for as long as it ever will: eight times `Timing.ineligible`."""


class Phase(IntEnum):
    """Where a follower or leader stands. The paper's phases 0 to 3."""

    ELECTION = 0
    DISCOVERY = 1
    SYNC = 2
    BROADCAST = 3


@dataclass(slots=True)
class Draining:
    """Between two roles: the log writer finishes what the old role gave it; the next role starts with a quiescent writer."""

    phase: ClassVar[Phase] = Phase.ELECTION
    reason: str


@dataclass(slots=True)
class Looking:
    """Phase 0. `tally` holds the votes of this round, `settled` what peers said who follow or lead already."""

    phase: ClassVar[Phase] = Phase.ELECTION
    vote: Vote
    heard: dict[PeerId, int] = field(default_factory=dict)
    """Peer -> tick of its last notification."""
    tally: dict[PeerId, Notification] = field(default_factory=dict)
    settled: dict[PeerId, Notification] = field(default_factory=dict)
    decide_at: int | None = None
    resend_at: int = 0
    resend_ticks: int = 0

    def forget(self, peer: PeerId) -> None:
        """What was heard from a peer that cannot be heard any more."""
        self.heard.pop(peer, None)
        self.tally.pop(peer, None)
        self.settled.pop(peer, None)


@dataclass(slots=True)
class Following:
    """`link` is None until a link to the leader is up; `acked` once NEWLEADER is acknowledged (its send may still wait in the gate)."""

    leader: PeerId
    since: int
    link: Link | None = None
    phase: Phase = Phase.DISCOVERY
    epoch: Epoch | None = None
    heard_at: int = 0
    repaired: bool = False
    """The leader has said by DIFF or TRUNC where our histories meet, or its snapshot is in the place of our history."""
    fetching: Mark | None = None
    """The leader's snapshot that we are to take."""
    acked: bool = False
    asked: Zxid | None = None
    """Where the leader's history ends, by its HISTORYQUERY that is not answered yet."""
    met: Zxid | None = None
    """The last common place of our histories, once the leader has asked for ours."""
    given: Zxid | None = None
    """The last entry of our history that the leader was sent, or the place where sending began."""


@dataclass(slots=True)
class Pull:
    """A prospective leader takes the best history of its quorum, which ends at `last`, from the follower on `link`."""

    link: Link
    last: Zxid
    asked: bool = False
    """HISTORYQUERY was sent, or waits in the gate, and is not answered."""
    meeting: Mark | None = None
    """Where our histories are said to meet, while our own digest there is looked up."""
    met: bool = False
    """Ours is a prefix of the follower's: its entries may come."""


@dataclass(slots=True)
class Learner:
    """What a leader knows of one that joined it."""

    link: Link
    cepoch: CEpoch
    invited: bool = False
    """NEWEPOCH was sent."""
    ack: AckEpoch | None = None
    after: Zxid | None = None
    """The last common place of our histories, once synchronization began."""
    position: Zxid | None = None
    """The last entry sent on the link, or the place where sending began."""
    offered: Mark | None = None
    """The snapshot that it is to take."""
    fetched_at: int = 0
    """The tick at which it was offered, or at which it took the last piece of it."""
    streaming: bool = False
    """A Stream is under way; it alone sends entries on the link."""
    live: bool = False
    """Proposals go to this link as they are made."""
    newleader_sent: bool = False
    acked: Zxid | None = None
    """Highest acknowledged zxid; None before ACK(NEWLEADER)."""
    told: Zxid | None = None
    """The highest watermark sent; None before UPTODATE."""
    echoed: int = 0
    """The tick at which the last echoed ping was sent."""
    nonce: int = 0
    """The highest nonce it has echoed."""


@dataclass(slots=True)
class Leading:
    """`initial` is last(I_e), fixed with the quorum of ACKEPOCH. In `acked` the leader counts itself like any voter."""

    since: int
    voters: frozenset[PeerId] = frozenset()
    """Who voted for us; they may know of us alone."""
    phase: Phase = Phase.DISCOVERY
    epoch: Epoch | None = None
    cepochs: dict[PeerId, CEpoch] = field(default_factory=dict)
    acks: dict[PeerId, AckEpoch] = field(default_factory=dict)
    learners: dict[PeerId, Learner] = field(default_factory=dict)
    pull: Pull | None = None
    """Set once in a reign, with the quorum of ACKEPOCH, if another has the best history of it."""
    initial: Zxid | None = None
    self_acked: Zxid | None = None
    nonce: int = 0
    """The highest nonce sent."""
    reading: tuple[int, Zxid] | None = None
    """A round of linearizable reads: which nonce a quorum must echo, and the watermark when it was sent."""
    outgrown_at: int | None = None
    """When a voter was first seen that promised a higher epoch than ours."""
    outstanding: deque[tuple[Zxid, int]] = field(default_factory=deque)
    """(last zxid, bytes) of each proposed run that is not committed."""
    outstanding_bytes: int = 0


Role = Draining | Looking | Following | Leading


@dataclass(slots=True)
class Image:
    """What would be left after a crash now, as far as the writer has told."""

    token: int
    accepted: Epoch
    current: Epoch
    last: Zxid


@dataclass(slots=True)
class State:
    """Everything a peer knows. One a process life; the phases read and change it."""

    id: PeerId
    configuration: Configuration
    accepted: Epoch
    current: Epoch
    suspect: Zxid | None
    trail: Trail
    watermark: Zxid
    timing: Timing
    """The shell may widen it between two steps, while its loop is late."""
    limits: Limits
    jitter: Callable[[int], int]
    durable: Image
    role: Role
    snapshot: Mark | None = None
    """The last checkpoint: the state of a committed place, not below the base of the log."""
    now: int = 0
    round: int = 0
    generation: int = 0
    ineligible_until: int = 0
    failed: int = 0
    """So many reigns of ours in a row came to no initial history; more than a few are as many."""
    shunned: frozenset[PeerId] = frozenset()
    """Followers whose history we set out to take since, and did not get: left out, if a quorum can do without them."""
    links: dict[PeerId, Link] = field(default_factory=dict)
    parted: bool = False
    """A leader: a link has ended since it was last looked whose learners are gone."""
    early: dict[PeerId, CEpoch] = field(default_factory=dict)
    """Peers that decided for us before we did."""
    pending: deque[tuple[int, Zxid | None, Epoch | None, Epoch | None]] = field(default_factory=deque)
    """Durable effects under way: token, and the last zxid or the epochs it will make durable."""

    # -- own state at once, the disk in order ---------------------------------------------------------------------------------

    def append(self, entries: Entries, out: Effects) -> None:
        """Entries that continue our history go to its end."""
        self.trail.append(entries)
        out.append(entries)
        self.pending.append((out.token, entries.last, None, None))

    def truncate(self, mark: Mark, out: Effects) -> None:
        """Forget what lies above `mark`; storage verifies the digest there before it cuts."""
        assert mark.zxid >= self.watermark, "the law that nothing delivered is ever truncated"
        self.trail.truncate(mark)
        out.truncate(mark)
        self.pending.append((out.token, mark.zxid, None, None))

    def install(self, mark: Mark, out: Effects) -> None:
        """The leader's snapshot in the place of our history: what it covers was committed, and is delivered with it."""
        assert mark.zxid > self.trail.last, "the law that no snapshot is taken at or below our own last entry"
        self.trail = Trail(mark)
        self.watermark = mark.zxid
        self.snapshot = mark
        out.install(mark)
        self.pending.append((out.token, mark.zxid, None, None))

    def promise(self, accepted: Epoch, out: Effects) -> None:
        """acceptedEpoch: never to follow a leader of a lower epoch again."""
        assert accepted > self.accepted, "the law that acceptedEpoch never decreases"
        self.accepted = accepted
        self.save_epochs(out)

    def settle(self, current: Epoch, out: Effects) -> None:
        """currentEpoch: our history is the one of `current`, and complete. Whatever was suspect has been repaired or given up."""
        assert self.current <= current <= self.accepted, "the law that currentEpoch never decreases nor exceeds acceptedEpoch"
        self.failed, self.shunned = 0, frozenset()
        if current > self.current or self.suspect is not None:
            self.current = current
            self.suspect = None
            self.save_epochs(out)

    def save_epochs(self, out: Effects) -> None:
        out.save_epochs(self.accepted, self.current, self.suspect)
        self.pending.append((out.token, None, self.accepted, self.current))

    def became_durable(self, token: int) -> None:
        """The writer reports: move the image."""
        assert token >= self.durable.token, "the law that the writer reports in order"
        self.durable.token = token
        while self.pending and self.pending[0][0] <= token:
            _, last, accepted, current = self.pending.popleft()
            if last is not None:
                self.durable.last = last
            if accepted is not None and current is not None:
                self.durable.accepted, self.durable.current = accepted, current

    def covers(self, zxid: Zxid) -> bool:
        """Is this a place of our log, or of what lies below its base, all of which is committed and in our snapshot?"""
        return zxid in self.trail or zxid < self.trail.base.zxid

    def stand_back(self, at_first: bool = True) -> None:
        """Our reign came to no initial history: others are to be tried, each time for twice as long, so that whoever can lead has its turn.

        `at_first`: also after the first of a row. But if somebody was left out, the next try is one with him.
        """
        if (at_first and not self.shunned) or self.failed:
            self.ineligible_until = self.now + (self.timing.ineligible << self.failed)
        self.failed, self.shunned = min(self.failed + 1, FAILED_MAX), frozenset()

    def commit_to(self, watermark: Zxid, out: Effects) -> None:
        """Everything through `watermark` is committed; what is new of it is delivered."""
        assert watermark <= self.trail.last, "the law that the watermark never exceeds our own last entry"
        if watermark > self.watermark:
            self.watermark = watermark
            out.emit(Deliver(watermark))

    # -- links and roles ------------------------------------------------------------------------------------------------------

    def drop(self, link: Link, reason: str, out: Effects) -> None:
        """Nothing more is heard from or said on this link."""
        if self.links.get(link.peer) == link:
            del self.links[link.peer]
            self.parted = self.parted or isinstance(self.role, Leading)
            self.early.pop(link.peer, None)
            if isinstance(self.role, Looking):
                self.role.forget(link.peer)
            out.emit(DropLink(link, reason))

    def enter(self, role: Role, reason: str, out: Effects) -> None:
        """Begin a role: what the old one still had waiting in the gate is void."""
        self.role = role
        self.generation += 1
        self.announce(reason, out)

    def announce(self, reason: str, out: Effects) -> None:
        """Tell the world which role and phase we are in."""
        out.emit(
            RoleChanged(
                self.generation, type(self.role).__name__.lower(), self.phase.name.lower(), self.epoch_in_force, self.leader, reason
            )
        )

    @property
    def phase(self) -> Phase:
        return self.role.phase

    @property
    def leader(self) -> PeerId | None:
        """Whom we follow, or ourselves while we lead."""
        match self.role:
            case Following(leader=leader):
                return leader
            case Leading():
                return self.id
        return None

    @property
    def epoch_in_force(self) -> Epoch:
        """The established epoch we take part in; outside of broadcast, currentEpoch."""
        if isinstance(self.role, Following | Leading) and self.role.phase is Phase.BROADCAST and self.role.epoch is not None:
            return self.role.epoch
        return self.current

    @property
    def self_vote(self) -> Vote:
        return Vote(self.current, self.trail.last, self.id)

    # -- quorums --------------------------------------------------------------------------------------------------------------

    def decides(self, peers: Iterable[PeerId], new_born: bool) -> bool:
        """May these peers decide? A new-born ensemble needs them all, so that each has promised before any data exists.

        From then on a copy of a birth directory, which would have forgotten its promises, is known by its acceptedEpoch of 0.
        """
        return self.configuration.is_everyone(peers) if new_born else self.configuration.is_quorum(peers)

    # -- the laws of the whole ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The laws of the whole. Runs after each step in simulation and tests."""
        durable, trail, watermark = self.durable, self.trail, self.watermark
        assert self.current <= self.accepted, "currentEpoch is at most acceptedEpoch"
        assert durable.accepted <= self.accepted, "the disk has promised no more than memory"
        assert durable.current <= self.current, "the disk is of no later epoch than memory"
        base, last, ends = trail.base.zxid, trail.last, trail.ends
        assert base <= watermark <= last, "the watermark lies within the log"
        assert watermark == last or watermark in trail, "the watermark is the zxid of an entry"
        assert self.snapshot is None or base <= self.snapshot.zxid <= watermark, "no log begins above its snapshot"
        assert len(ends) < 2 or ends[-2].zxid.epoch < ends[-1].zxid.epoch, "the epochs of a history ascend"  # only its end ever changes
        assert not self.pending or self.pending[0][0] > durable.token, "nothing durable is pending"
        match self.role:
            case Looking():
                assert not self.pending, "a role starts with a quiescent writer"
            case Following() as role:
                assert role.epoch is None or role.epoch <= self.accepted, "a follower has promised its leader's epoch"
                assert not role.acked or role.epoch == self.current, "NEWLEADER is acknowledged after currentEpoch is set"
                assert role.phase is not Phase.BROADCAST or role.acked, "nobody is up to date that has not acknowledged"
            case Leading() as role:
                assert role.epoch is None or role.epoch == self.accepted, "a leader has promised its own epoch"
                assert role.phase is Phase.DISCOVERY or role.initial is not None, "the initial history is fixed before it is sent"
                assert role.phase is not Phase.BROADCAST or role.self_acked is not None, "an established leader acknowledged itself"
                for learner in role.learners.values():
                    assert not learner.live or learner.position == last, "a live learner has been sent everything"
                    assert learner.acked is None or learner.newleader_sent, "nothing is counted before NEWLEADER was sent"
                    assert learner.told is None or learner.position is None or learner.told <= learner.position, (
                        "no watermark exceeds the last entry sent on the link"
                    )
            case Draining():
                pass
