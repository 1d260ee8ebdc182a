"""Phase 3: entries are proposed, acknowledged, committed and delivered, in one order.

Acks and commits are cumulative. The watermark rides on proposals; a COMMIT of its own is sent when no proposal is under way.
"""

from collections.abc import Sequence

from zablog.core.effects import Effects, Stream
from zablog.core.heartbeat import tell_watermark
from zablog.core.messages import Ack, Commit, Propose
from zablog.core.state import Following, Leading, Learner, Phase, State
from zablog.core.trail import Entries, Payload, extend_digest
from zablog.core.zxid import PeerId, Zxid

# -- leader -------------------------------------------------------------------------------------------------------------------


def room(state: State, leading: Leading) -> int:
    """How many entries may be proposed now."""
    if leading.phase is not Phase.BROADCAST or leading.outstanding_bytes >= state.limits.window_bytes:
        return 0
    last = state.trail.last
    used = last.counter if last.epoch == leading.epoch else 0
    committed = state.watermark.counter if state.watermark.epoch == leading.epoch else 0
    return max(0, min(state.limits.window_entries - (used - committed), state.limits.counter_max - used))


def on_proposals(state: State, leading: Leading, payloads: Sequence[Payload], out: Effects) -> None:
    """Leader: give each payload the next zxid, write them, and send them to everyone who has caught up."""
    assert leading.phase is Phase.BROADCAST and leading.epoch is not None, "the law that only an established leader proposes"
    assert 0 < len(payloads) <= room(state, leading), "the law that proposals keep within the window"
    prev = state.trail.last
    first = prev.after(1) if prev.epoch == leading.epoch else Zxid(leading.epoch, 1)
    entries = Entries(first, prev, payloads, extend_digest(state.trail.digest, prev, first, payloads))
    leading.outstanding.append((entries.last, entries.size))
    leading.outstanding_bytes += entries.size
    message = Propose(leading.epoch, entries, state.watermark)
    for learner in leading.learners.values():
        if learner.live:
            out.send(learner.link, message)
            learner.position = entries.last
            if learner.told is not None:
                learner.told = state.watermark
    state.append(entries, out)
    for learner in leading.learners.values():
        if not learner.live and learner.position is not None:
            stream(state, leading, learner, out)


def stream(state: State, leading: Leading, learner: Learner, out: Effects) -> None:
    """Read to a learner from the log until it has caught up."""
    assert leading.epoch is not None and learner.position is not None, "a stream begins where histories meet"
    if not learner.streaming and learner.position < state.trail.last:
        learner.streaming = True
        out.emit(Stream(learner.link, leading.epoch, learner.position, state.trail.last))


def on_ack(state: State, leading: Leading, learner: Learner, message: Ack, out: Effects) -> None:
    """Leader: everything through `zxid` is durable there. Only acks behind ACK(NEWLEADER) count."""
    if message.epoch != leading.epoch or learner.acked is None:
        state.drop(learner.link, f"illegal: {message} before ACK(NEWLEADER) or of another epoch", out)
    elif not state.covers(message.zxid):
        state.drop(learner.link, f"illegal: ack of {message.zxid}, which we never sent", out)
    elif message.zxid > learner.acked:
        learner.acked = message.zxid
        advance(state, leading, out)


def on_self_durable(state: State, leading: Leading, out: Effects) -> None:
    """Leader: its own fsync is its own ack."""
    if leading.self_acked is not None and state.durable.last > leading.self_acked:
        leading.self_acked = state.durable.last
        if leading.phase is Phase.BROADCAST:
            advance(state, leading, out)


def acked_by(state: State, leading: Leading) -> dict[PeerId, Zxid]:
    """Who acknowledged NEWLEADER, and what through: the only acks that count."""
    acked = {peer: learner.acked for peer, learner in leading.learners.items() if learner.acked is not None}
    if leading.self_acked is not None:
        acked[state.id] = leading.self_acked
    return acked


def advance(state: State, leading: Leading, out: Effects) -> None:
    """Commit the highest entry that a quorum holds, and with it all before it."""
    if leading.phase is not Phase.BROADCAST:
        return
    acked = acked_by(state, leading)
    for zxid in sorted(set(acked.values()), reverse=True):
        if zxid <= state.watermark:
            return
        if state.configuration.is_quorum([peer for peer, through in acked.items() if through >= zxid]):
            state.commit_to(zxid, out)
            while leading.outstanding and leading.outstanding[0][0] <= zxid:
                leading.outstanding_bytes -= leading.outstanding.popleft()[1]
            if zxid == state.trail.last:
                tell_watermark(state, leading, out)
            return


# -- follower -----------------------------------------------------------------------------------------------------------------


def on_propose(state: State, following: Following, message: Propose, out: Effects) -> None:
    """Follower: entries that continue our history are written, and acknowledged once durable."""
    assert following.link is not None, "a follower hears its leader on a link"
    entries = message.entries
    foreign = entries.first.epoch > message.epoch or (following.acked and entries.first.epoch < message.epoch)
    if message.epoch != following.epoch or not following.repaired or foreign:
        return out.abandon(f"illegal: a proposal of epoch {message.epoch} in {following.phase.name}")
    if state.trail.follows(entries):
        state.append(entries, out)
    elif not entries.payloads or state.trail.digest_at(entries.last) != entries.digest:  # an exact duplicate is acknowledged again
        return out.abandon(f"proposal {entries.first} does not continue our history, which ends at {state.trail.last}")
    if following.acked:
        out.vote(following.link, Ack(message.epoch, state.trail.last))
    if following.phase is Phase.BROADCAST and message.watermark > state.watermark:
        if message.watermark not in state.trail:
            return out.abandon(f"illegal: a watermark {message.watermark} on a proposal with history through {state.trail.last}")
        state.commit_to(message.watermark, out)
    return None


def on_commit(state: State, following: Following, message: Commit, out: Effects) -> None:
    """Follower: the watermark moved."""
    if message.epoch != following.epoch or following.phase is not Phase.BROADCAST or message.watermark not in state.trail:
        return out.abandon(f"illegal: COMMIT {message.watermark} in {following.phase.name} with history through {state.trail.last}")
    return state.commit_to(message.watermark, out)
