"""Phase 1: the leader learns a quorum's epochs, names a higher one, and learns the histories of those who promise it.

Durable before said: the leader's promise before NEWEPOCH (W1), the follower's before ACKEPOCH (W2). With a quorum of counted ACKEPOCHs
the best history among them becomes the initial history of the epoch: the leader's own, or else it is pulled first (`core/pull.py`).
"""

from collections.abc import Iterable, Mapping

from zablog.core import pull, synchronization
from zablog.core.effects import Effects
from zablog.core.messages import AckEpoch, CEpoch, NewEpoch
from zablog.core.state import Following, Leading, Learner, Phase, State
from zablog.core.zxid import EPOCH_MAX, Epoch, PeerId, Zxid

# -- follower -----------------------------------------------------------------------------------------------------------------


def follow(state: State, leader: PeerId, out: Effects) -> None:
    """Begin to follow: tell the leader which epochs we know."""
    following = Following(leader, since=state.now)
    state.enter(following, f"{leader} was elected", out)
    for peer in sorted(state.early):
        state.drop(state.links[peer], "we do not lead", out)
    if leader in state.links:
        join(state, following, out)


def join(state: State, following: Following, out: Effects) -> None:
    """A link to our leader is up."""
    following.link = state.links[following.leader]
    following.heard_at = state.now
    out.vote(following.link, CEpoch(state.accepted, state.current))


def on_new_epoch(state: State, following: Following, message: NewEpoch, out: Effects) -> None:
    """Promise the epoch, unless a higher one was promised; the promise counts once."""
    assert following.link is not None, "a follower hears its leader on a link"
    if following.phase is not Phase.DISCOVERY or message.epoch < state.accepted or message.epoch == 0:
        return out.abandon(f"illegal: epoch {message.epoch} named in {following.phase.name}, we have promised {state.accepted}")
    counted = message.epoch > state.accepted
    if counted:
        state.promise(message.epoch, out)
    following.epoch = message.epoch
    following.phase = Phase.SYNC
    out.vote(
        following.link,
        AckEpoch(message.epoch, counted, state.current, state.trail.last, state.trail.base.zxid, state.suspect),
    )
    return state.announce(f"promised epoch {message.epoch}", out)


# -- leader -------------------------------------------------------------------------------------------------------------------


def lead(state: State, voters: Iterable[PeerId], out: Effects) -> None:
    """Begin to lead, voted for by `voters`. Our own epochs are the first we know; some peers may have decided for us before we did."""
    leading = Leading(since=state.now, voters=frozenset(voters))
    state.enter(leading, "elected", out)
    leading.cepochs[state.id] = CEpoch(state.accepted, state.current)
    early = sorted(state.early.items())
    state.early.clear()
    for peer, message in early:
        on_cepoch(state, leading, peer, message, out)
    name_epoch(state, leading, out)


def on_cepoch(state: State, leading: Leading, peer: PeerId, message: CEpoch, out: Effects) -> None:
    """With a quorum of epochs in hand, choose one above them all. Who comes later is invited to it."""
    link = state.links[peer]
    if peer in leading.learners:
        return state.drop(link, "illegal: CEPOCH twice on one link", out)
    if message.accepted == 0 and any(other.current > 0 for other in leading.cepochs.values()):
        return state.drop(link, "its promises are at birth value while the ensemble has history: an old copy or a wiped disk", out)
    if leading.epoch is not None and message.accepted > leading.epoch and peer in state.configuration.voters:
        leading.outgrown_at = leading.outgrown_at if leading.outgrown_at is not None else state.now
        return state.drop(link, f"it has promised epoch {message.accepted}, ours is {leading.epoch}", out)
    learner = leading.learners[peer] = Learner(link, message)
    if peer in state.configuration.voters:
        leading.cepochs[peer] = message
    if leading.epoch is None:
        name_epoch(state, leading, out)
    else:
        invite(state, leading, learner, out)
    return None


def name_epoch(state: State, leading: Leading, out: Effects) -> None:
    """A quorum's epochs are known: name a higher one. Disk first, then network: a gated send."""
    new_born = all(cepoch.current == 0 for cepoch in leading.cepochs.values())
    if not new_born and state.accepted == 0:
        return out.halt(forgotten(state))
    if not new_born:
        for peer in [peer for peer, cepoch in leading.cepochs.items() if cepoch.accepted == 0]:
            del leading.cepochs[peer]
            if peer in leading.learners:
                state.drop(leading.learners.pop(peer).link, "its promises are at birth value while the ensemble has history", out)
    if leading.epoch is not None or not state.decides(leading.cepochs, new_born):
        return None
    highest = max(cepoch.accepted for cepoch in leading.cepochs.values())
    if highest >= EPOCH_MAX:
        return out.halt(f"epoch {highest} is the last one there can be")
    leading.epoch = Epoch(highest + 1)
    state.promise(leading.epoch, out)
    for _, learner in sorted(leading.learners.items()):
        invite(state, leading, learner, out)
    return None


def forgotten(state: State) -> str:
    """What a node says that finds itself without promises in an ensemble that has history."""
    return (
        f"node {state.id} has never promised anything, but its peers have history: this directory is an old copy or was made anew. "
        "A voter whose promises are lost must not vote again under its old identity. Put the node's own directory back."
    )


def invite(state: State, leading: Leading, learner: Learner, out: Effects) -> None:
    assert leading.epoch is not None, "there is an epoch to invite to"
    learner.invited = True
    out.vote(learner.link, NewEpoch(leading.epoch))


def on_self_durable(state: State, leading: Leading, out: Effects) -> None:
    """Our own promise is durable, which is our own ACKEPOCH."""
    if leading.epoch is not None and state.durable.accepted == leading.epoch and state.id not in leading.acks:
        leading.acks[state.id] = AckEpoch(leading.epoch, True, state.current, state.trail.last, state.trail.base.zxid, state.suspect)
        fix_history(state, leading, out)


def on_ack_epoch(state: State, leading: Leading, learner: Learner, message: AckEpoch, out: Effects) -> None:
    """A promise, and a history: which one is the best is asked when a quorum has answered."""
    peer = learner.link.peer
    foreign = message.counted and message.last.epoch >= message.epoch and message.last > state.trail.last  # nobody has entries of it yet
    if message.epoch != leading.epoch or learner.ack is not None or not learner.invited or message.current > message.epoch or foreign:
        return state.drop(learner.link, f"illegal: {message} in {leading.phase.name}", out)
    learner.ack = message
    learner.echoed = state.now
    if leading.phase is not Phase.DISCOVERY:
        return synchronization.meet(state, leading, learner, out)
    if peer in state.configuration.voters and not (peer in leading.acks and leading.acks[peer].counted):
        leading.acks[peer] = message
    return fix_history(state, leading, out)


def fix_history(state: State, leading: Leading, out: Effects) -> None:
    """Fix the initial history once a quorum has promised the epoch, and nobody can know of more that may be committed.

    The paper selects the best history of a quorum that promised. We take the best one that can be had, ours or that of a follower who can
    be asked for it, if those who promised and have no better one are a quorum: what is or will be committed was acknowledged by
    one of them, and is in the best of theirs. What others have beyond it is committed nowhere. Which one is decided once.

    Who has a suspect tail may hold less than its currentEpoch claims, and is none of that quorum. It is a witness only if our history
    covers what it may have lost; a quorum of witnesses, of whom none has a better history, is enough (see `docs/decisions/0007`).
    Otherwise every voter is heard.
    """
    acks = leading.acks
    new_born = all(ack.current == 0 for ack in acks.values())
    promised = [peer for peer, ack in acks.items() if ack.counted]
    if leading.pull is not None or state.id not in acks or not state.decides(promised, new_born):
        return
    source = best(state, acks, [peer for peer in promised if peer == state.id or pull.can_be_asked(state, leading, peer)])
    quorum = [peer for peer in promised if source is not None and no_better(acks[peer], acks[source])]
    if source is not None and state.decides(quorum, new_born):
        if source == state.id:
            fix_own(state, leading, out)
        elif covers_bases(state, acks, acks[source].last, out):
            pull.begin(state, leading, source, out)
        return
    ahead = best(state, acks, acks)
    if state.suspect is None and ahead is not None and ahead != state.id:
        on_their_way = [peer for peer, learner in leading.learners.items() if learner.ack is None]
        if not state.decides({*quorum, *on_their_way}, new_born):
            state.stand_back()
            out.abandon(f"{ahead} has the better history, {acks[ahead].current}, {acks[ahead].last}, and cannot be asked for it")
        return
    witnesses = [
        peer
        for peer, ack in acks.items()
        if ack.suspect is None or (state.covers(ack.suspect) and ack.current <= state.current and peer != state.id)
    ]
    if state.suspect is None and state.configuration.is_quorum(witnesses):
        fix_own(state, leading, out)
    elif state.configuration.is_everyone(acks):
        if holds_most(state, acks):
            fix_own(state, leading, out)
        else:
            state.stand_back()
            out.abandon("tails are suspect, and another holds more of what may be committed")


def fix_own(state: State, leading: Leading, out: Effects) -> None:
    """Our own history is the best."""
    if covers_bases(state, leading.acks, state.trail.last, out):
        synchronization.begin(state, leading, out)


def covers_bases(state: State, acks: Mapping[PeerId, AckEpoch], last: Zxid, out: Effects) -> bool:
    """Does the chosen history reach up to where everybody's log begins? What is below that is committed, whoever says so.

    While no more than a minority has lost what it had on disk, it does. Else nothing is begun on top of the loss.
    """
    peer = max(acks, key=lambda peer: acks[peer].base)
    if acks[peer].base <= last:
        return True
    state.stand_back()
    out.abandon(f"what {peer} says is committed through {acks[peer].base} is gone from a quorum, whose best history ends at {last}")
    return False


def best(state: State, acks: Mapping[PeerId, AckEpoch], peers: Iterable[PeerId]) -> PeerId | None:
    """Whose whole history is the best of these: the highest (currentEpoch, last zxid), ours among equals. None if none is whole."""
    whole = [peer for peer in peers if acks[peer].suspect is None]
    return max(whole, key=lambda peer: (acks[peer].current, acks[peer].last, peer == state.id), default=None)


def no_better(ack: AckEpoch, other: AckEpoch) -> bool:
    """Is this a whole history that holds no more than the other?"""
    return ack.suspect is None and (ack.current, ack.last) <= (other.current, other.last)


def holds_most(state: State, acks: Mapping[PeerId, AckEpoch]) -> bool:
    """All voters have answered, too few of them whole: is ours the history that holds everything committed?

    No epoch above the highest one that a quorum has reached was ever established, so no entry of one exists. Of those who reached it,
    each history is a prefix of the next longer one, suspect or not; the longest holds everything committed, as long as less than
    a quorum lost entries that were synced.
    """
    reached = next(
        epoch
        for epoch in sorted({ack.current for ack in acks.values()}, reverse=True)
        if state.configuration.is_quorum([peer for peer, ack in acks.items() if ack.current >= epoch])
    )
    return state.current >= reached and all(ack.last <= state.trail.last for ack in acks.values() if ack.current >= reached)
