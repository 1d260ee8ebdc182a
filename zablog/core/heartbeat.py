"""Liveness in both directions: pings of the leader, echoes of its followers. Timers here may only cost progress, never safety."""

from zablog.core import reads
from zablog.core.effects import Effects
from zablog.core.messages import Commit, Ping, Pong
from zablog.core.state import Following, Leading, Learner, Phase, State


def on_ping(state: State, following: Following, message: Ping, out: Effects) -> None:
    """Follower: echo, but only while this leader's epoch is the highest promised, on disk too."""
    assert following.link is not None, "a follower hears its leader on a link"
    if message.epoch == following.epoch == state.accepted == state.durable.accepted:
        out.send(following.link, Pong(message.epoch, message.nonce))


def on_pong(state: State, leading: Leading, learner: Learner, message: Pong, out: Effects) -> None:
    """Leader: this learner heard the ping of this nonce, and we heard it."""
    if message.epoch == leading.epoch and learner.nonce < message.nonce <= leading.nonce:
        learner.nonce = message.nonce
        learner.echoed = max(learner.echoed, message.nonce // reads.NONCES_A_TICK)
        reads.confirm(state, leading, out)


def on_follower_tick(state: State, following: Following, out: Effects) -> None:
    """A silent leader is given up."""
    if following.link is None:
        if state.now - following.since > state.timing.connect:
            out.abandon(f"no link to the chosen leader {following.leader}")
    elif following.phase is Phase.DISCOVERY:
        if state.now - following.since > state.timing.discovery:
            out.abandon(f"discovery with leader {following.leader} did not end in time")
    elif state.now - following.heard_at > state.timing.suspect:
        out.abandon(f"leader {following.leader} is silent")


def on_stalled(state: State, out: Effects) -> None:
    """Leader: our disk hangs while our pings are well. Whoever has a disk that works leads better; we are no candidate for a while.

    Until the disk has finished we stand between two roles, and vote for nobody.
    """
    state.ineligible_until = state.now + state.timing.ineligible
    out.abandon("our disk hangs")


def on_leader_tick(state: State, leading: Leading, out: Effects) -> None:
    """Ping, tell the watermark to those who missed it, and step down without a quorum of fresh echoes."""
    timing = state.timing
    if leading.epoch is not None and state.now % timing.ping == 0:
        reads.ping(state, leading, out)
    match leading.phase:
        case Phase.DISCOVERY if leading.pull is None:
            if state.now - leading.since > timing.discovery:
                state.stand_back(at_first=False)
                out.abandon("no quorum joined in time")
        case Phase.DISCOVERY | Phase.SYNC:
            if state.now - leading.since > timing.sync:
                out.abandon("synchronization made no progress")
        case Phase.BROADCAST:
            for learner in leading.learners.values():
                if not learner.live and not learner.streaming and learner.told is not None and learner.position == state.trail.last:
                    learner.live = True  # its link was congested, and nothing was proposed since
            tell_watermark(state, leading, out)
            fresh = {peer for peer, learner in leading.learners.items() if state.now - learner.echoed <= timing.echo}
            if not state.configuration.is_quorum(fresh | {state.id}):
                state.ineligible_until = state.now + timing.ineligible
                out.abandon("no quorum echoes our pings")
        case Phase.ELECTION:
            raise AssertionError("the law that a leader is past election")
    for learner in list(leading.learners.values()):
        if learner.offered is not None and state.now - learner.fetched_at > timing.sync:
            state.drop(learner.link, f"the transfer of the snapshot at {learner.offered.zxid} made no progress", out)
    if leading.outgrown_at is not None and state.now - leading.outgrown_at > timing.grace:
        out.abandon("a voter has promised a higher epoch: an epoch above it is needed")


def tell_watermark(state: State, leading: Leading, out: Effects) -> None:
    """COMMIT to every follower that has not heard of the watermark, as far as it has been sent the entries."""
    assert leading.epoch is not None, "an established leader has an epoch"
    for learner in leading.learners.values():
        if learner.live and learner.told is not None and learner.position is not None:
            watermark = min(state.watermark, learner.position)
            if watermark > learner.told:
                learner.told = watermark
                out.send(learner.link, Commit(leading.epoch, watermark))
