"""Phase 0: fast leader election, the oracle that names a leader worth trying.

It is a hint: safety comes from the epochs alone. Votes are ordered by (currentEpoch, last zxid, id). Unlike ZooKeeper, a vote is not
passed on but computed from what was heard first hand: a candidate counts only if it says that it hears us and a quorum. So a peer that a
quorum cannot reach is voted for by nobody, and hub topologies do not live-lock.
"""

from collections.abc import Iterable

from zablog.core import discovery
from zablog.core.effects import Effects
from zablog.core.messages import ROUND_MAX, Notification, Standing, Vote
from zablog.core.state import Draining, Following, Leading, Looking, State
from zablog.core.zxid import PeerId


def look(state: State, reason: str, out: Effects) -> None:
    """Begin to look for a leader: a new round, and a vote for oneself."""
    assert not state.pending, "the law that a role starts with a quiescent writer"
    state.round = min(state.round + 1, ROUND_MAX)
    looking = Looking(state.self_vote)
    state.enter(looking, reason, out)
    reconsider(state, looking, out, news=True)


def on_link_up(state: State, peer: PeerId, out: Effects) -> None:
    """Whoever looks introduces itself."""
    if isinstance(state.role, Looking):
        out.vote(state.links[peer], notification(state))


def on_link_down(state: State, looking: Looking, peer: PeerId, out: Effects) -> None:
    """A lost link hears nothing."""
    looking.forget(peer)
    reconsider(state, looking, out)


def notification(state: State) -> Notification:
    """What we say of ourselves: looking with a vote, or settled with a leader."""
    heard: tuple[PeerId, ...] = ()
    match state.role:
        case Looking() as looking:
            standing, vote = Standing.LOOKING, looking.vote
            if state.now >= state.ineligible_until:
                heard = tuple(sorted(looking.heard))
        case Following(leader=leader):
            standing, vote = Standing.FOLLOWING, Vote(state.epoch_in_force, state.trail.last, leader)
        case Leading() as leading:
            standing, vote = Standing.LEADING, Vote(state.epoch_in_force, state.trail.last, state.id)
            heard = tuple(sorted(leading.voters | leading.learners.keys()))
        case Draining():
            standing, vote = Standing.LOOKING, state.self_vote
    return Notification(standing, state.round, vote, state.self_vote, state.accepted, heard, state.suspect is None)


def broadcast(state: State, looking: Looking, out: Effects, again: bool = False) -> None:
    """Tell everyone our vote; next time later, unless something changes."""
    timing = state.timing
    looking.resend_ticks = min(2 * looking.resend_ticks, timing.resend_max) if again else timing.resend_min
    looking.resend_at = state.now + looking.resend_ticks + state.jitter(3)
    message = notification(state)
    for _, link in sorted(state.links.items()):
        out.vote(link, message)


def introduce(state: State, out: Effects) -> None:
    """Up to date: tell those that may be looking where we stand, before they ask."""
    message = notification(state)
    for peer, link in sorted(state.links.items()):
        if peer != state.leader and not (isinstance(state.role, Leading) and peer in state.role.learners):
            out.vote(link, message)


def on_notification(state: State, peer: PeerId, message: Notification, out: Effects) -> None:
    """Any role: a looking peer is answered; if we look ourselves, it is counted."""
    if message.self_vote.current > 0 and state.accepted == 0:
        return out.halt(discovery.forgotten(state))
    link = state.links[peer]
    if state.current > 0 and message.accepted == 0:
        out.vote(link, notification(state))
        return None
    match state.role:
        case Looking() as looking:
            count(state, looking, peer, message, out)
        case Following() | Leading() if message.standing is Standing.LOOKING:
            out.vote(link, notification(state))
            defects = isinstance(state.role, Leading) and state.role.epoch is None and message.round > state.round
            if defects and state.now - state.role.since > state.timing.defect:
                out.abandon(f"voter {peer} looks for another leader")
        case _:
            pass
    return None


def count(state: State, looking: Looking, peer: PeerId, message: Notification, out: Effects) -> None:
    """Looking: record what a peer says."""
    news = peer not in looking.heard
    looking.heard[peer] = state.now
    looking.settled.pop(peer, None)
    looking.tally.pop(peer, None)
    if message.standing is not Standing.LOOKING:
        if message.vote.leader == state.id and message.round == state.round:
            looking.tally[peer] = message  # it voted for us, and decided before we did
        looking.settled[peer] = message
        settle(state, looking, message, out)
    elif message.round < state.round:
        out.vote(state.links[peer], notification(state))
    else:
        if message.round > state.round:
            state.round = message.round
            looking.tally.clear()
            news = True
        looking.tally[peer] = message
    if state.role is looking:
        reconsider(state, looking, out, news)


def settle(state: State, looking: Looking, message: Notification, out: Effects) -> None:
    """Follow a leader that says that it leads, and that a quorum supports it, or of whom a quorum says so. Rounds and zxids do not matter.

    The leader's own word is enough for peers that can reach nobody but the leader; if it is stale, it costs time.
    """
    leader, epoch = message.vote.leader, message.vote.current
    agreeing = [peer for peer, word in looking.settled.items() if (word.vote.leader, word.vote.current) == (leader, epoch)]
    word = looking.settled.get(leader)
    if leader == state.id or word is None or word.standing is not Standing.LEADING:
        return
    supported = state.configuration.is_quorum({leader, *word.heard})
    if supported or (leader in agreeing and state.configuration.is_quorum(agreeing)):
        state.round = word.round
        discovery.follow(state, leader, out)


def electable(state: State, looking: Looking) -> list[tuple[bool, Vote]]:
    """Candidates that hear a quorum, and us, each by its own word; those that are whole come before those with a suspect tail."""
    candidates = []
    if state.now >= state.ineligible_until and state.configuration.is_quorum({state.id, *looking.heard}):
        candidates.append((state.suspect is None, state.self_vote))
    for peer, word in looking.tally.items():
        if peer in state.configuration.voters and state.id in word.heard and state.configuration.is_quorum({peer, *word.heard}):
            candidates.append((word.whole, word.self_vote._replace(leader=peer)))
    return candidates


def reconsider(state: State, looking: Looking, out: Effects, news: bool = False) -> None:
    """Vote for the best candidate there is; decide when a quorum has long enough, or everyone, voted the same."""
    candidates = electable(state, looking)
    _, vote = max(candidates, default=(True, state.self_vote))
    if vote != looking.vote:
        looking.vote = vote
        looking.decide_at = None
        news = True
    if news:
        broadcast(state, looking, out)
    leader = vote.leader
    agreeing = {state.id, *(peer for peer, word in looking.tally.items() if word.vote.leader == leader)}
    new_born = state.current == 0 and all(word.self_vote.current == 0 for word in looking.tally.values())
    if leader not in agreeing or not state.decides(agreeing, new_born) or not candidates:
        looking.decide_at = None
    elif state.configuration.is_everyone(agreeing):
        decide(state, leader, agreeing, out)
    elif looking.decide_at is None:
        looking.decide_at = state.now + state.timing.finalize
    elif state.now >= looking.decide_at:
        decide(state, leader, agreeing, out)


def decide(state: State, leader: PeerId, agreeing: Iterable[PeerId], out: Effects) -> None:
    if leader == state.id:
        discovery.lead(state, agreeing, out)
    else:
        discovery.follow(state, leader, out)


def on_tick(state: State, looking: Looking, out: Effects) -> None:
    """Say it again, forget what is stale, and see whether the wait for a better vote is over."""
    stale = [peer for peer, tick in looking.heard.items() if state.now - tick > state.timing.heard]
    for peer in stale:
        looking.forget(peer)
    if stale or looking.decide_at is not None or state.now == state.ineligible_until:
        reconsider(state, looking, out, news=bool(stale))
    if state.role is looking and state.now >= looking.resend_at:
        broadcast(state, looking, out, again=True)
