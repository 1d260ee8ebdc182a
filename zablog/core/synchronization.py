"""Phase 2: the leader makes each follower's history equal to its own initial history, then asks for the promise to keep it.

Follower: entries, then currentEpoch, then ACK(NEWLEADER), each durable before the next (W6: the order whose lack lost data in
ZOOKEEPER-4643, 3911, 4646 and 4785). Leader: established by a quorum of those acks, its own included.
"""

from enum import IntEnum
from typing import NamedTuple

from zablog.core.broadcast import acked_by, advance, stream
from zablog.core.effects import Effects, FetchSnapshot, ReadDigest
from zablog.core.events import Link
from zablog.core.messages import AckNewLeader, AckSnap, Diff, NewLeader, Snap, Trunc, UpToDate
from zablog.core.state import Following, Leading, Learner, Phase, State
from zablog.core.trail import Mark, Trail
from zablog.core.zxid import Zxid


class Repair(IntEnum):
    """How a follower's history is made equal to the leader's."""

    DIFF = 0
    TRUNC = 1
    SNAP = 2
    FENCE = 3


class Plan(NamedTuple):
    """`after` is the last common place; entries above it are sent."""

    repair: Repair
    after: Zxid


def plan(trail: Trail, last: Zxid, base: Zxid) -> Plan:
    """The table of synchronization, for a follower whose durable history reaches from `base` to `last`.

    Membership is tested, never mere range: a follower's uncommitted tail of an old epoch can lie within the range
    (ZOOKEEPER-1154). The common place is right because a history with an entry of epoch e extends the initial history of e, and
    so does every later leader's.
    """
    if last < trail.base.zxid:
        return Plan(Repair.SNAP, trail.base.zxid)
    if last in trail:
        return Plan(Repair.DIFF, last)
    common = trail.floor(last)
    if common < base:
        return Plan(Repair.FENCE, common)
    return Plan(Repair.TRUNC, common)


# -- leader -------------------------------------------------------------------------------------------------------------------


def begin(state: State, leading: Leading, out: Effects) -> None:
    """Leader: a quorum acknowledged the epoch. Our history is the initial history of this epoch; make it so on disk, and send it."""
    assert leading.epoch is not None, "the initial history is that of an epoch"
    assert leading.pull is None or state.trail.last == leading.pull.last, "the history that was chosen is here"
    assert not state.pending, "the law that the initial history is durable before it is anybody's"
    leading.phase = Phase.SYNC
    leading.since = state.now
    leading.initial = state.trail.last
    state.settle(leading.epoch, out)
    state.announce("a quorum acknowledged the epoch", out)
    for learner in list(leading.learners.values()):
        if learner.ack is not None:
            meet(state, leading, learner, out)


def meet(state: State, leading: Leading, learner: Learner, out: Effects) -> None:
    """Leader: find where our histories meet."""
    assert learner.ack is not None and learner.after is None, "a learner is synchronized once a link"
    assert leading.epoch is not None, "only a leader with an epoch synchronizes"
    repair, after = plan(state.trail, learner.ack.last, learner.ack.base)
    if repair is Repair.SNAP:
        assert state.snapshot is not None, "the law that a log begins above the origin only behind a snapshot"
        learner.offered, learner.fetched_at = state.snapshot, state.now
        return out.send(learner.link, Snap(leading.epoch, *state.snapshot))
    if repair is Repair.FENCE:
        return state.drop(learner.link, f"fenced: our last common place {after} lies below its base {learner.ack.base}", out)
    learner.after = after
    digest = state.trail.digest_at(after)
    if digest is None:
        out.emit(ReadDigest(learner.link, after))
    else:
        repair_history(state, leading, learner, digest, out)
    return None


def repair_history(state: State, leading: Leading, learner: Learner, digest: int, out: Effects) -> None:
    """Leader: say where our histories meet, with the digest there; then read to the learner from that place."""
    assert learner.ack is not None and learner.after is not None and leading.epoch is not None, "the place was found"
    kind = Diff if learner.after == learner.ack.last else Trunc
    out.send(learner.link, kind(leading.epoch, learner.after, digest))
    learner.position = learner.after
    follow_up(state, leading, learner, out)


def on_ack_snap(state: State, leading: Leading, learner: Learner, message: AckSnap, out: Effects) -> None:
    """Leader: our snapshot is in the place of the learner's history. If our log begins above it by now, there is a newer one."""
    offered, learner.offered = learner.offered, None
    if offered is None or (message.epoch, message.zxid) != (leading.epoch, offered.zxid):
        return state.drop(learner.link, f"illegal: {message} in {leading.phase.name}", out)
    if offered.zxid < state.trail.base.zxid:
        return state.drop(learner.link, f"our log does not reach back to the snapshot at {offered.zxid} any longer", out)
    learner.after = learner.position = offered.zxid
    leading.since = state.now
    return follow_up(state, leading, learner, out)


def on_fetched(state: State, leading: Leading, learner: Learner) -> None:
    """Leader: a learner has taken another piece of our snapshot, which is progress."""
    learner.fetched_at = state.now
    if leading.phase is Phase.SYNC:
        leading.since = state.now


def on_checkpointed(state: State, snapshot: Mark, base: Mark, out: Effects) -> None:
    """Any role: our log begins at `base` now. A learner that we would have read to from below it comes back for the snapshot."""
    if state.snapshot is not None and snapshot.zxid < state.snapshot.zxid:
        return  # the writer's older news: a leader's snapshot has taken the place of all that since
    state.snapshot = snapshot
    if base.zxid > state.trail.base.zxid:
        state.trail.rebase(base)
    if isinstance(state.role, Following) and not state.role.repaired:
        reached = state.role.given if state.role.given is not None else state.role.met
        if reached is not None and reached < base.zxid:
            out.abandon(f"our log begins at {base.zxid} now, above {reached}, from where the leader takes our history")
    if isinstance(state.role, Leading):
        for _, learner in sorted(state.role.learners.items()):
            reached = learner.position if learner.position is not None else learner.after
            if learner.offered is not None:
                reached = learner.offered.zxid
            if reached is not None and reached < base.zxid:
                state.drop(learner.link, f"our log begins at {base.zxid} now, above {reached}: it needs a snapshot", out)


def on_streamed(state: State, leading: Leading, learner: Learner, upto: Zxid, out: Effects) -> None:
    """Leader: the learner has been sent everything through `upto`."""
    assert upto in state.trail, "the law that a stream reads our own log"
    learner.streaming = False
    learner.position = upto
    if leading.phase is Phase.SYNC:
        leading.since = state.now
    follow_up(state, leading, learner, out)


def follow_up(state: State, leading: Leading, learner: Learner, out: Effects) -> None:
    """Leader: stream what is missing still; at the tail the learner goes live, and hears NEWLEADER if it has not yet."""
    assert leading.epoch is not None, "only a leader with an epoch synchronizes"
    stream(state, leading, learner, out)
    if not learner.streaming:
        learner.live = True
        if not learner.newleader_sent:
            learner.newleader_sent = True
            out.send(learner.link, NewLeader(leading.epoch, state.trail.last))


def on_ack_new_leader(state: State, leading: Leading, learner: Learner, message: AckNewLeader, out: Effects) -> None:
    """Leader: this learner holds the initial history, and is bound to this epoch."""
    if message.epoch != leading.epoch or not learner.newleader_sent or learner.acked is not None or not state.covers(message.last):
        return state.drop(learner.link, f"illegal: {message} in {leading.phase.name}", out)
    assert leading.initial is not None, "the initial history is fixed before NEWLEADER is sent"
    if message.last < leading.initial:
        return state.drop(learner.link, f"illegal: ACK(NEWLEADER) at {message.last}, below the initial history {leading.initial}", out)
    learner.acked = message.last
    if leading.phase is Phase.BROADCAST:
        bring_up_to_date(state, leading, learner, out)
        return advance(state, leading, out)  # it may be the ack that entries proposed meanwhile were waiting for
    leading.since = state.now
    return establish(state, leading, out)


def on_self_durable(state: State, leading: Leading, out: Effects) -> None:
    """Leader: our own initial history and currentEpoch are durable, which is our own ACK(NEWLEADER)."""
    if leading.self_acked is None and state.durable.current == leading.epoch:
        leading.self_acked = state.durable.last
        establish(state, leading, out)


def establish(state: State, leading: Leading, out: Effects) -> None:
    """Leader: with a quorum bound to it, itself among them, the initial history is committed and the epoch established."""
    if leading.self_acked is None or not state.configuration.is_quorum(acked_by(state, leading)):
        return
    assert leading.initial is not None, "the initial history is fixed"
    leading.phase = Phase.BROADCAST
    state.commit_to(leading.initial, out)
    state.announce("established", out)
    for learner in leading.learners.values():
        learner.echoed = max(learner.echoed, state.now) if learner.acked is not None else learner.echoed
        if learner.acked is not None:
            bring_up_to_date(state, leading, learner, out)


def bring_up_to_date(state: State, leading: Leading, learner: Learner, out: Effects) -> None:
    """Leader: COMMIT-LD with the watermark as it is now, not as it was when the epoch began."""
    assert leading.epoch is not None and learner.position is not None, "it has been sent the initial history"
    learner.told = min(state.watermark, learner.position)
    out.send(learner.link, UpToDate(leading.epoch, learner.told))


# -- follower -----------------------------------------------------------------------------------------------------------------


def on_repair(state: State, following: Following, message: Diff | Trunc, out: Effects) -> None:
    """Follower: this is where our history meets the leader's. Nothing is cut on the word of an unconfirmed leader."""
    misplaced = following.phase is not Phase.SYNC or following.repaired or following.fetching is not None
    if message.epoch != following.epoch or misplaced:
        return out.abandon(f"illegal: {message} in {following.phase.name}")
    below = isinstance(message, Trunc) and message.after < state.trail.base.zxid
    if not below and (message.after not in state.trail or (isinstance(message, Diff) and message.after != state.trail.last)):
        return out.abandon(f"the leader knows a place {message.after} of our history that is not there")
    if message.after < state.watermark:
        return out.halt(
            f"leader {following.leader} of epoch {message.epoch} orders a truncation to {message.after}, but entries through "
            f"{state.watermark} were committed here: a committed entry would be lost. Keep this directory and compare the logs."
        )
    known = state.trail.digest_at(message.after)
    if known is not None and known != message.digest:
        return out.halt(
            f"histories diverge: at {message.after} our running digest is {known:016x}, that of leader {following.leader} is "
            f"{message.digest:016x}. Nothing was cut. Keep this directory and compare the logs."
        )
    following.repaired = True
    if message.after != state.trail.last:
        state.truncate(Mark(message.after, message.digest), out)
    return None


def on_snap(state: State, following: Following, message: Snap, out: Effects) -> None:
    """Follower: our history ends before the leader's begins. Its snapshot is fetched beside the stream; until then ours stands whole."""
    assert following.link is not None, "a follower hears its leader on a link"
    misplaced = following.phase is not Phase.SYNC or following.repaired or following.fetching is not None
    if message.epoch != following.epoch or misplaced or message.zxid <= state.trail.last or message.zxid.epoch > message.epoch:
        return out.abandon(f"illegal: {message} in {following.phase.name} with history through {state.trail.last}")
    following.fetching = Mark(message.zxid, message.digest)
    return out.emit(FetchSnapshot(following.link, message.epoch, following.fetching))


def on_staged(state: State, following: Following, link: Link, mark: Mark, out: Effects) -> None:
    """Follower: the snapshot is here. One durable step puts it in the place of our history; then the leader hears of it (W5)."""
    if following.link != link or following.fetching != mark or following.repaired or state.accepted != following.epoch:
        return  # of a role or a promise that has ended
    following.repaired = True
    state.install(mark, out)
    out.vote(link, AckSnap(following.epoch, mark.zxid))


def on_new_leader(state: State, following: Following, message: NewLeader, out: Effects) -> None:
    """Follower: bind ourselves to the epoch. Entries first, then currentEpoch, then the word (W6)."""
    assert following.link is not None, "a follower hears its leader on a link"
    if message.epoch != following.epoch or not following.repaired or following.acked or message.last != state.trail.last:
        return out.abandon(f"illegal: {message} with history through {state.trail.last}")
    if state.accepted != message.epoch:
        return out.abandon(f"we have promised epoch {state.accepted} since")
    following.acked = True
    state.settle(message.epoch, out)
    out.vote(following.link, AckNewLeader(message.epoch, message.last))
    return None


def on_up_to_date(state: State, following: Following, message: UpToDate, out: Effects) -> None:
    """Follower: the epoch is established and we are of it."""
    known = message.watermark in state.trail
    if message.epoch != following.epoch or not following.acked or following.phase is Phase.BROADCAST or not known:
        return out.abandon(f"illegal: {message} in {following.phase.name}")
    following.phase = Phase.BROADCAST
    state.commit_to(message.watermark, out)
    return state.announce("up to date", out)
