"""Phase 1, its end: the leader takes the best history of its quorum, where that is not its own.

With a quorum of ACKEPOCHs the paper's leader chooses the history with the highest (currentEpoch, last zxid) among them. If that is a
follower's, it is pulled: the leader asks where it goes on from its own (HISTORYQUERY), cuts what it has beyond the common place, and
appends what the follower reads to it from there. Only then, with all of it durable, is the initial history fixed.

Why the leader may cut its own tail. Whatever is or will be committed in an epoch below the one that the quorum promised was
acknowledged by a quorum before; one of its members is in ours and said so, and the best history holds it. What the best history lacks
is committed nowhere, and cannot be any more: a quorum acknowledges nothing of lower epochs. Before that quorum nothing is cut.

Why a pull may break off anywhere. currentEpoch stays what it was until the initial history is fixed (W8). What is left is a prefix of
a history that holds everything committed, behind an old currentEpoch: the state that a follower is in whose synchronization broke off
(W7). Entries come only from established epochs, so a quorum has a currentEpoch not below theirs, and the order of votes, by
(currentEpoch, last zxid), remains right. A tail
that was suspect before stays so until then: such a currentEpoch claims nothing. Nor is another history chosen in the place of one that
broke off: the role ends instead.
"""

from zablog.core.effects import Effects, ReadDigest, Stream
from zablog.core.messages import HistoryAnswer, HistoryQuery, Propose
from zablog.core.state import Following, Leading, Learner, Phase, Pull, State
from zablog.core.synchronization import begin as fix
from zablog.core.synchronization import plan
from zablog.core.trail import Mark
from zablog.core.zxid import ZERO, PeerId, Zxid

# -- leader -------------------------------------------------------------------------------------------------------------------


def can_be_asked(state: State, leading: Leading, peer: PeerId) -> bool:
    """Leader: is there a link to a follower that has what it promised with, and does its log reach down to the end of ours?

    It may have come back on another link since, where its promise does not count again. Then it has told again what it has. Who was asked
    in an earlier reign, and did not give it, is left out like one who cannot be reached.
    """
    ack, learner = leading.acks[peer], leading.learners.get(peer)
    if learner is None or learner.ack is None or peer in state.shunned:
        return False
    here = learner.ack
    return here.suspect is None and (here.current, here.last) == (ack.current, ack.last) and here.base <= state.trail.last


def begin(state: State, leading: Leading, source: PeerId, out: Effects) -> None:
    """Leader: `source` has the best history of the quorum, and can be asked for it."""
    ack = leading.acks[source]
    leading.pull = Pull(leading.learners[source].link, ack.last)
    leading.since = state.now
    state.announce(f"{source} has the better history: {ack.current}, {ack.last}", out)
    return ask(state, leading, leading.pull, out)


def ask(state: State, leading: Leading, pull: Pull, out: Effects) -> None:
    """Leader: say where our history ends, on disk (W3)."""
    assert leading.epoch is not None, "a quorum has promised an epoch"
    pull.asked = True
    out.vote(pull.link, HistoryQuery(leading.epoch, state.trail.last))


def on_history_answer(state: State, leading: Leading, learner: Learner, message: HistoryAnswer, out: Effects) -> None:
    """Leader: where our histories meet. If ours goes on beyond that, its tail is cut, once the digests there are known to agree."""
    pull, last = leading.pull, state.trail.last
    expected = pull is not None and pull.link == learner.link and pull.asked and message.epoch == leading.epoch
    if pull is None or not expected or message.after > min(last, pull.last):
        return state.drop(learner.link, f"illegal: {message} in {leading.phase.name} with history through {last}", out)
    pull.asked = False
    leading.since = state.now
    if message.after not in state.trail or message.after < state.watermark:
        return out.abandon(f"the history of {learner.link.peer} leaves ours at {message.after}, which is no place to cut: nothing was cut")
    pull.meeting = Mark(message.after, message.digest)
    known = state.trail.digest_at(message.after)
    if known is None:
        return out.emit(ReadDigest(learner.link, message.after))
    return meet(state, leading, pull, known, out)


def meet(state: State, leading: Leading, pull: Pull, digest: int, out: Effects) -> None:
    """Leader: our digest is known at the place where our histories are to meet."""
    assert pull.meeting is not None and leading.phase is Phase.DISCOVERY, "a place was named, and our history is not fixed"
    meeting, pull.meeting = pull.meeting, None
    if meeting.digest != digest:
        return out.abandon(
            f"histories diverge: at {meeting.zxid} our running digest is {digest:016x}, that of {pull.link.peer} is "
            f"{meeting.digest:016x}. Nothing was cut: compare the logs."
        )
    if meeting.zxid != state.trail.last:
        state.truncate(meeting, out)
        return ask(state, leading, pull, out)
    pull.met = True
    return conclude(state, leading, pull, out)


def on_propose(state: State, leading: Leading, learner: Learner, message: Propose, out: Effects) -> None:
    """Leader: entries of the history that we have asked for. Not one beyond what was acknowledged with the promise."""
    pull, entries = leading.pull, message.entries
    wanted = pull is not None and pull.link == learner.link and pull.met and leading.phase is Phase.DISCOVERY
    if pull is None or not wanted or message.epoch != leading.epoch or entries.last > pull.last or not state.trail.follows(entries):
        return state.drop(learner.link, f"illegal: entries {entries.first} from a follower, in {leading.phase.name}", out)
    leading.since = state.now
    state.append(entries, out)
    return conclude(state, leading, pull, out)


def conclude(state: State, leading: Leading, pull: Pull, out: Effects) -> None:
    """Leader: with all of it here, and durable, it is the initial history."""
    if leading.phase is Phase.DISCOVERY and pull.met and state.trail.last == pull.last and not state.pending:
        fix(state, leading, out)


def on_self_durable(state: State, leading: Leading, out: Effects) -> None:
    """Leader: some of it is durable. That is progress, too: a slow disk may have all of it to write when the last entry has come."""
    if leading.pull is not None:
        leading.since = state.now
        conclude(state, leading, leading.pull, out)


# -- follower -----------------------------------------------------------------------------------------------------------------


def on_history_query(state: State, following: Following, message: HistoryQuery, out: Effects) -> None:
    """Follower: we have the best history. Membership decides where it leaves the leader's, as in synchronization."""
    assert following.link is not None, "a follower hears its leader on a link"
    misplaced = following.phase is not Phase.SYNC or following.repaired or following.fetching is not None or state.suspect is not None
    again = following.asked is not None or following.given is not None or following.met not in (None, message.last)
    if message.epoch != following.epoch or state.accepted != message.epoch or misplaced or again:
        return out.abandon(f"illegal: {message} in {following.phase.name}")
    if message.last < state.trail.base.zxid:
        return out.abandon(f"our log begins at {state.trail.base.zxid} now, above the end of the leader's, {message.last}")
    following.asked, following.met = message.last, plan(state.trail, message.last, ZERO).after
    digest = state.trail.digest_at(following.met)
    if digest is None:
        return out.emit(ReadDigest(following.link, following.met))
    return answer(state, following, digest, out)


def answer(state: State, following: Following, digest: int, out: Effects) -> None:
    """Follower: say where our histories meet; if the leader's ends there, read to it from there."""
    assert following.link is not None and following.epoch is not None and following.met is not None, "the leader has asked"
    asked, following.asked = following.asked, None
    out.send(following.link, HistoryAnswer(following.epoch, following.met, digest))
    if asked == following.met:
        give(state, following, following.met, out)


def give(state: State, following: Following, through: Zxid, out: Effects) -> None:
    """Follower: the leader was sent everything through there; read on. What comes after its own repair of us is not for it."""
    assert following.link is not None and following.epoch is not None, "the leader has asked"
    following.given = through
    if through < state.trail.last and not following.repaired:
        out.emit(Stream(following.link, following.epoch, through, state.trail.last))
