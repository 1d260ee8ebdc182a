"""Broken pulls: how a prospective leader comes to have the best history of its quorum (section 2, ACK-E; section 3; W8)."""

from collections import deque

import pytest

from tests.sim.mutants.mutant import mutant, star
from zablog.core import discovery, pull, synchronization
from zablog.core.events import Link
from zablog.core.messages import HistoryQuery
from zablog.core.state import Phase
from zablog.core.trail import Trail


@mutant("W8", "DurableBeforeAck", arena=star)
def pulled_history_fixed_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """the initial history is fixed when the last of its entries has come, not when it is on disk"""

    def conclude(state, leading, under_way, out):
        if leading.phase is Phase.DISCOVERY and under_way.met and state.trail.last == under_way.last:
            pending, state.pending = state.pending, deque()
            synchronization.begin(state, leading, out)
            state.pending = pending + state.pending

    patch.setattr(pull, "conclude", conclude)


@mutant("§2 ACK-E", "LeaderComplete", arena=star)
def history_fixed_before_the_pull_ends(patch: pytest.MonkeyPatch) -> None:
    """the initial history is fixed as soon as it is known where the histories meet"""
    original = pull.conclude

    def conclude(state, leading, under_way, out):
        under_way.last = state.trail.last
        original(state, leading, under_way, out)

    patch.setattr(pull, "conclude", conclude)


@mutant("§2 ACK-E", "LeaderComplete", arena=star)
def history_of_any_follower(patch: pytest.MonkeyPatch) -> None:
    """the history is taken from whoever of the quorum has the worst, not the best"""

    def worst(state, acks, peers):
        whole = [peer for peer in peers if acks[peer].suspect is None]
        return min(whole, key=lambda peer: (acks[peer].current, acks[peer].last, peer != state.id), default=None)

    patch.setattr(discovery, "best", worst)
    patch.setattr(discovery, "no_better", lambda ack, other: ack.suspect is None)


@mutant("§2 ACK-E", "LeaderComplete", slow=True, arena=star)
def better_histories_counted_for_a_worse_one(patch: pytest.MonkeyPatch) -> None:
    """who has a better history than the one that can be had is left out, and counted all the same in the quorum that chooses"""
    patch.setattr(discovery, "no_better", lambda ack, other: ack.suspect is None)


@mutant("§2 ACK-E", "LeaderComplete", slow=True, arena=star)
def history_pulled_before_a_quorum_promised(patch: pytest.MonkeyPatch) -> None:
    """the first ACKEPOCH with a better history is believed to be the best: our tail is cut for it, and it is fixed"""
    original = discovery.fix_history

    def fix_history(state, leading, out):
        if leading.pull is None and state.id in leading.acks:
            source = discovery.best(state, leading.acks, leading.acks)
            if source not in (None, state.id) and pull.can_be_asked(state, leading, source):
                return pull.begin(state, leading, source, out)
        return original(state, leading, out)

    patch.setattr(discovery, "fix_history", fix_history)


@mutant("§4 TRUNC", "Contiguity", slow=True, arena=star)
def own_tail_kept(patch: pytest.MonkeyPatch) -> None:
    """the leader keeps what it has beyond the common place, and appends the follower's entries to that"""
    original, follows = pull.meet, Trail.follows
    told: set[tuple[int, Link]] = set()

    def meet(state, leading, under_way, digest, out):
        tail = under_way.meeting.zxid
        if tail == state.trail.last:
            return original(state, leading, under_way, digest, out)
        under_way.meeting = None
        if (state.id, under_way.link) in told:
            under_way.met = True
        else:
            told.add((state.id, under_way.link))
            under_way.asked = True
            out.vote(under_way.link, HistoryQuery(leading.epoch, tail))
        return None

    patch.setattr(pull, "meet", meet)
    patch.setattr(Trail, "follows", lambda self, entries: follows(self, entries) or entries.first > self.last)


@mutant("W8", "LeaderComplete", slow=True, arena=star)
def epoch_bound_when_the_pull_begins(patch: pytest.MonkeyPatch) -> None:
    """currentEpoch is raised before the history that it stands for is here: what breaks off outranks those who have it"""
    original = pull.begin

    def begin(state, leading, source, out):
        original(state, leading, source, out)
        if leading.pull is not None:
            state.settle(leading.epoch, out)

    patch.setattr(pull, "begin", begin)
