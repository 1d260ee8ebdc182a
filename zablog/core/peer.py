"""The peer: one event in, a list of effects out. The table of contents of the protocol.

Looking ──elected──► Leading   ─┐
   ▲  └───elected──► Following ─┤ a phase gives up (`out.abandon`)
   └─────── Draining ◄──────────┘ the log writer finishes what the old role gave it
"""

from collections.abc import Callable, Sequence

from zablog.core import broadcast, discovery, election, heartbeat, pull, reads, synchronization
from zablog.core.effects import Effect, Effects
from zablog.core.events import (
    Checkpointed,
    Congested,
    DigestRead,
    Durable,
    Event,
    Fetched,
    Link,
    LinkDown,
    LinkUp,
    Proposals,
    ReadAsked,
    Received,
    Staged,
    Stalled,
    Streamed,
    Tick,
)
from zablog.core.messages import (
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
    Trunc,
    UpToDate,
)
from zablog.core.quorum import Configuration
from zablog.core.state import Draining, Following, Image, Leading, Learner, Limits, Looking, Phase, Pull, State, Timing
from zablog.core.trail import Mark, Trail
from zablog.core.zxid import Epoch, PeerId, Zxid


class Peer:
    """One process of the ensemble, from its recovered log to its end. Not thread-safe; `step` runs to completion.

    `watermark` is the recovered lower bound of what is committed: a place of `trail`. `jitter(n)` draws from 0 to n-1.
    Nothing happens before the first Tick.
    """

    def __init__(
        self,
        id: PeerId,
        configuration: Configuration,
        accepted: Epoch,
        current: Epoch,
        suspect: Zxid | None,
        trail: Trail,
        watermark: Zxid,
        timing: Timing,
        jitter: Callable[[int], int],
        limits: Limits | None = None,
        snapshot: Mark | None = None,
    ) -> None:
        self.state = State(
            id,
            configuration,
            accepted,
            current,
            suspect,
            trail,
            watermark,
            timing,
            limits or Limits(),
            jitter,
            durable=Image(0, accepted, current, trail.last),
            role=Draining("started"),
            snapshot=snapshot,
        )
        self.out = Effects()

    @property
    def last(self) -> Zxid:
        """The zxid of our last entry, durable or not."""
        return self.state.trail.last

    @property
    def watermark(self) -> Zxid:
        """Everything through here is known to be committed."""
        return self.state.watermark

    @property
    def room(self) -> int:
        """How many entries may be proposed now; 0 unless this peer leads an established epoch."""
        return broadcast.room(self.state, self.state.role) if isinstance(self.state.role, Leading) else 0

    def step(self, event: Event) -> Sequence[Effect]:
        """What must be done about `event`, in this order. After a Halt nothing more is done."""
        if self.out.halted:
            return ()
        state, out, phase = self.state, self.out, self.state.role.phase
        match event:
            case Tick():
                state.now += 1
                self.on_tick()
            case Received(link, messages):
                for message in messages:
                    if state.links.get(link.peer) != link or out.halted:
                        break  # dropped meanwhile: what it still had queued is nobody's message
                    self.receive(link, message)
                    self.settle_role()
            case Durable(token):
                state.became_durable(token)
                self.on_durable()
            case Proposals(payloads):
                assert isinstance(state.role, Leading), "the law that only a leader is handed proposals"
                broadcast.on_proposals(state, state.role, payloads, out)
            case ReadAsked():
                if isinstance(state.role, Leading) and state.phase is Phase.BROADCAST:  # else the role that was asked has ended
                    reads.on_read_asked(state, state.role, out)
            case LinkUp(link):
                self.on_link_up(link)
            case LinkDown(link):
                self.on_link_down(link)
            case DigestRead(link, zxid, digest):
                self.on_digest_read(link, zxid, digest)
            case Streamed(link, upto):
                if (learner := self.learner(link)) and learner.streaming:
                    synchronization.on_streamed(state, self.leading, learner, upto, out)
                elif isinstance(state.role, Following) and state.role.link == link and state.role.given is not None:
                    pull.give(state, state.role, upto, out)
            case Staged(link, mark):
                if isinstance(state.role, Following):
                    synchronization.on_staged(state, state.role, link, mark, out)
            case Fetched(link):
                if learner := self.learner(link):
                    synchronization.on_fetched(state, self.leading, learner)
            case Stalled():
                if isinstance(state.role, Leading):
                    heartbeat.on_stalled(state, out)
            case Checkpointed(snapshot, base):
                synchronization.on_checkpointed(state, snapshot, base, out)
            case Congested(link):
                if (learner := self.learner(link)) and learner.live:
                    learner.live = False
        self.settle_role()
        if phase is not Phase.BROADCAST and state.role.phase is Phase.BROADCAST:
            election.introduce(state, out)
        return out.take()

    def receive(self, link: Link, message: Message) -> None:
        """Who may say what to whom. Anything else closes the link."""
        state, out, role = self.state, self.out, self.state.role
        if isinstance(message, Notification):
            return election.on_notification(state, link.peer, message, out)
        match role:
            case Following() if role.link == link:
                role.heard_at = state.now
                match message:
                    case Propose():
                        return broadcast.on_propose(state, role, message, out)
                    case Commit():
                        return broadcast.on_commit(state, role, message, out)
                    case Ping():
                        return heartbeat.on_ping(state, role, message, out)
                    case NewEpoch():
                        return discovery.on_new_epoch(state, role, message, out)
                    case HistoryQuery():
                        return pull.on_history_query(state, role, message, out)
                    case Diff() | Trunc():
                        return synchronization.on_repair(state, role, message, out)
                    case Snap():
                        return synchronization.on_snap(state, role, message, out)
                    case NewLeader():
                        return synchronization.on_new_leader(state, role, message, out)
                    case UpToDate():
                        return synchronization.on_up_to_date(state, role, message, out)
                    case CEpoch():
                        return out.abandon(f"{link.peer} would follow us while we follow it")
                    case AckEpoch() | HistoryAnswer() | AckSnap() | AckNewLeader() | Ack() | Pong():
                        return out.abandon(f"illegal: {message} from our own leader")
            case Leading() if (learner := self.learner(link)) is not None:
                match message:
                    case Ack():
                        return broadcast.on_ack(state, role, learner, message, out)
                    case Pong():
                        return heartbeat.on_pong(state, role, learner, message, out)
                    case AckEpoch():
                        return discovery.on_ack_epoch(state, role, learner, message, out)
                    case HistoryAnswer():
                        return pull.on_history_answer(state, role, learner, message, out)
                    case Propose():
                        return pull.on_propose(state, role, learner, message, out)
                    case AckSnap():
                        return synchronization.on_ack_snap(state, role, learner, message, out)
                    case AckNewLeader():
                        return synchronization.on_ack_new_leader(state, role, learner, message, out)
                    case _:
                        return state.drop(link, f"illegal: {message} to our leader's ear", out)
            case Leading() if isinstance(message, CEpoch):
                return discovery.on_cepoch(state, role, link.peer, message, out)
            case Looking() | Draining() if isinstance(message, CEpoch):
                state.early[link.peer] = message
                return None
            case Following() if isinstance(message, CEpoch):
                return state.drop(link, "we do not lead", out)
            case _:
                pass
        return state.drop(link, f"illegal: {type(message).__name__} while we are {type(role).__name__.lower()}", out)

    def on_durable(self) -> None:
        """Our own fsync: the leader's own acks, or the end of draining."""
        state, out = self.state, self.out
        match state.role:
            case Draining(reason) if not state.pending and state.now > 0:
                election.look(state, reason, out)
            case Leading() as leading:
                discovery.on_self_durable(state, leading, out)
                pull.on_self_durable(state, leading, out)
                synchronization.on_self_durable(state, leading, out)
                broadcast.on_self_durable(state, leading, out)
            case _:
                pass

    def on_digest_read(self, link: Link, zxid: Zxid, digest: int) -> None:
        """Our own digest, where our history and another's are to meet."""
        match self.state.role:
            case Leading(pull=Pull(meeting=Mark() as meeting) as under_way) as leading if (under_way.link, meeting.zxid) == (link, zxid):
                pull.meet(self.state, leading, under_way, digest, self.out)
            case Leading() as leading if (learner := self.learner(link)) and learner.after == zxid and learner.position is None:
                synchronization.repair_history(self.state, leading, learner, digest, self.out)
            case Following(asked=Zxid(), met=met) as following if (following.link, met) == (link, zxid):
                pull.answer(self.state, following, digest, self.out)
            case _:
                pass

    def on_tick(self) -> None:
        state, out = self.state, self.out
        match state.role:
            case Draining(reason) if not state.pending:
                election.look(state, reason, out)
            case Looking() as looking:
                election.on_tick(state, looking, out)
            case Following() as following:
                heartbeat.on_follower_tick(state, following, out)
            case Leading() as leading:
                heartbeat.on_leader_tick(state, leading, out)
                last = state.trail.last
                if last.counter >= state.limits.counter_max and last.epoch == leading.epoch and last == state.watermark:
                    out.abandon(f"the counter of epoch {leading.epoch} is used up: a new epoch begins")
            case _:
                pass

    def on_link_up(self, link: Link) -> None:
        state, out = self.state, self.out
        if (old := state.links.get(link.peer)) is not None:
            self.on_link_down(Link(link.peer, old.generation))
            self.settle_role()
        state.links[link.peer] = link
        election.on_link_up(state, link.peer, out)
        if isinstance(state.role, Following) and state.role.leader == link.peer and state.role.link is None:
            discovery.join(state, state.role, out)

    def on_link_down(self, link: Link) -> None:
        state, out = self.state, self.out
        if state.links.get(link.peer) != link:
            return
        del state.links[link.peer]
        state.parted = state.parted or isinstance(state.role, Leading)
        state.early.pop(link.peer, None)
        match state.role:
            case Looking() as looking:
                election.on_link_down(state, looking, link.peer, out)
            case Following() as following if following.link == link:
                out.abandon(f"the link to leader {link.peer} is down")
            case _:
                pass

    def learner(self, link: Link) -> Learner | None:
        """Whom we know on this very link, if we lead."""
        if isinstance(self.state.role, Leading) and (learner := self.state.role.learners.get(link.peer)) and learner.link == link:
            return learner
        return None

    @property
    def leading(self) -> Leading:
        assert isinstance(self.state.role, Leading), "only a leader has learners"
        return self.state.role

    def settle_role(self) -> None:
        """After each message: learners whose link is gone are gone; a role that was abandoned ends, and its links with it."""
        state, out = self.state, self.out
        parted, state.parted = state.parted, False
        if parted and isinstance(state.role, Leading):
            leading = state.role
            gone = [peer for peer, learner in leading.learners.items() if state.links.get(peer) != learner.link]
            for peer in gone:
                del leading.learners[peer]
            if leading.pull is not None and leading.pull.link.peer in gone and leading.phase is Phase.DISCOVERY:
                out.abandon(f"the link to {leading.pull.link.peer} is down, whose history we were taking")
            if gone and leading.phase is Phase.DISCOVERY and out.abandoned is None:
                discovery.fix_history(state, leading, out)  # those who are left may be all that will come
            if gone and leading.phase is not Phase.DISCOVERY and not state.configuration.is_quorum([state.id, *leading.learners]):
                out.abandon("the links to a quorum are down")
        if out.abandoned is None:
            return
        reason, out.abandoned = out.abandoned, None
        if isinstance(state.role, Leading) and state.role.pull is not None and state.role.phase is Phase.DISCOVERY:
            state.shunned |= {state.role.pull.link.peer}
        links: list[Link] = []
        match state.role:
            case Following(link=Link() as link):
                links = [link]
            case Leading(learners=learners):
                links = [learner.link for _, learner in sorted(learners.items())]
            case _:
                pass
        state.enter(Draining(reason), reason, out)
        for link in links:
            state.drop(link, f"role ended: {reason}", out)
        if not state.pending:
            election.look(state, reason, out)
