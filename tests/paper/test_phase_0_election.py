"""Zab, phase 0: an oracle names a prospective leader. Paper: section IV, "leader oracle"; credentials as in fast leader election."""

from dataclasses import replace
from itertools import pairwise

from tests.driving import Bench, entries_after, history, sent
from zablog.core.effects import Halt
from zablog.core.messages import CEpoch, Notification, Propose, Standing, Vote
from zablog.core.state import Following, Leading, Looking
from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid


def test_a_peer_begins_by_voting_for_itself() -> None:
    bench = Bench(1)
    bench.tick()

    effects = bench.up(2)

    own = Vote(Epoch(1), ZERO, PeerId(1))
    assert sent(effects) == [(2, Notification(Standing.LOOKING, 1, own, own, Epoch(1), ()), False)]


def test_current_epoch_outranks_the_last_zxid() -> None:
    """A node with f.a=5, last=(4,7) beats one with f.a=4, last=(4,9)."""
    bench = Bench(1, accepted=5, current=4, trail=history((4, 9)))
    bench.tick()
    bench.up(2, 3)

    bench.hear(2, bench.looking_vote(2, current=5, last=Zxid(4, 7)))

    assert bench.state.role.vote.leader == 2


def test_the_id_breaks_the_tie() -> None:
    bench = Bench(2)
    bench.tick()
    bench.up(1, 3)

    bench.hear(1, bench.looking_vote(1))
    assert bench.state.role.vote.leader == 2

    bench.hear(3, bench.looking_vote(3))
    assert bench.state.role.vote.leader == 3


def test_a_quorum_waits_for_a_better_vote_before_it_decides() -> None:
    bench = Bench(2)
    bench.tick()
    bench.up(1, 3)

    bench.hear(1, bench.looking_vote(1, leader=2))
    assert isinstance(bench.state.role, Looking)

    bench.tick(bench.timing.finalize)
    assert isinstance(bench.state.role, Leading)


def test_nobody_waits_when_all_voters_agree() -> None:
    bench = Bench(2)
    bench.tick()
    bench.up(1, 3)

    bench.hear(1, bench.looking_vote(1, leader=2))
    bench.hear(3, bench.looking_vote(3, current=0, leader=2))

    assert isinstance(bench.state.role, Leading)


def test_a_candidate_that_a_quorum_cannot_reach_is_voted_for_by_nobody() -> None:
    """Hub topology: all would vote for an unreachable better one, for ever."""
    bench = Bench(1, voters=(1, 2, 3, 4, 5))
    bench.tick()
    bench.up(2, 5)
    best = bench.looking_vote(5, current=1, last=Zxid(1, 9))

    bench.hear(5, Notification(best.standing, best.round, best.vote, best.self_vote, best.accepted, (PeerId(1),)))

    assert bench.state.role.vote.leader == 1


def test_a_looking_peer_is_answered_with_the_established_leader() -> None:
    bench = Bench(1)
    bench.up_to_date(leader=2, epoch=5)

    effects = bench.hear(3, bench.looking_vote(3))

    (answer,) = sent(effects, Notification)
    assert answer[0] == 3
    assert answer[1].standing is Standing.FOLLOWING
    assert answer[1].vote[::2] == (Epoch(5), PeerId(2))


def test_a_late_joiner_follows_whom_a_quorum_follows_if_he_says_that_he_leads() -> None:
    """Rounds and zxids do not matter (ZOOKEEPER-1805, 1818)."""
    bench = Bench(1)
    bench.tick()
    bench.up(2, 3)
    vote = Vote(Epoch(7), Zxid(7, 3), PeerId(2))
    own = Vote(Epoch(7), Zxid(7, 4), PeerId(3))

    bench.hear(3, Notification(Standing.FOLLOWING, 9, vote, own, Epoch(7), ()))
    assert isinstance(bench.state.role, Looking)

    effects = bench.hear(2, Notification(Standing.LEADING, 9, vote._replace(last=Zxid(7, 9)), vote, Epoch(7), ()))
    assert isinstance(bench.state.role, Following)
    assert sent(effects, CEpoch) == [(2, CEpoch(Epoch(1), Epoch(1)), False)]


def test_a_new_born_ensemble_decides_only_together() -> None:
    bench = Bench(3, accepted=0, current=0)
    bench.tick()
    bench.up(1, 2)
    vote = bench.looking_vote(1, current=0, leader=3)

    bench.hear(1, vote)
    bench.tick(bench.timing.finalize + 1)
    assert isinstance(bench.state.role, Looking)

    bench.hear(2, bench.looking_vote(2, current=0, leader=3))
    assert isinstance(bench.state.role, Leading)


def test_a_node_without_promises_among_peers_with_history_refuses_itself() -> None:
    """An old copy of a birth directory: it has forgotten what it promised, and must not vote."""
    bench = Bench(3, accepted=0, current=0)
    bench.tick()
    bench.up(1)

    effects = bench.hear(1, bench.looking_vote(1, current=4))

    assert isinstance(effects[-1], Halt)
    assert "never promised" in effects[-1].reason


def test_a_leader_that_lost_its_echoes_is_no_candidate_for_a_while() -> None:
    bench = Bench(3)
    bench.established(1, 2)

    effects = bench.tick(bench.timing.echo + 2)

    assert isinstance(bench.state.role, Looking)
    assert all(message.heard == () for _, message, _ in sent(effects, Notification))


def test_w3_w13_no_vote_leaves_that_the_disk_is_behind_of() -> None:
    """zab-protocol, section 1: memory runs ahead of the disk only where what describes it waits for the disk."""
    bench = Bench(1)
    bench.up_to_date(leader=3, epoch=6)
    bench.hear(3, Propose(Epoch(6), entries_after(bench.state.trail, 6, b"x"), ZERO))

    ((_, answer, gated),) = sent(bench.hear(2, bench.looking_vote(2)), Notification)

    assert answer.self_vote.last == Zxid(6, 1)
    assert gated


def test_a_later_round_is_adopted_and_what_was_counted_in_the_earlier_one_is_forgotten() -> None:
    """zab-protocol, section 3, LOOKING notification: n.round above ours."""
    bench = Bench(2)
    bench.tick()
    bench.up(1, 3)
    bench.hear(1, bench.looking_vote(1, leader=2))
    assert set(bench.state.role.tally) == {1}

    effects = bench.hear(3, replace(bench.looking_vote(3, current=0), round=7))

    assert bench.state.round == 7
    assert set(bench.state.role.tally) == {3}
    assert {message.round for _, message, _ in sent(effects, Notification)} == {7}


def test_an_earlier_round_is_answered_and_not_counted() -> None:
    """zab-protocol, section 3, LOOKING notification: n.round below ours."""
    bench = Bench(2)
    bench.tick()
    bench.up(1, 3)
    bench.hear(3, replace(bench.looking_vote(3, current=0), round=7))

    effects = bench.hear(1, replace(bench.looking_vote(1, leader=2), round=6))

    assert 1 not in bench.state.role.tally
    assert (1, 7) in [(peer, message.round) for peer, message, _ in sent(effects, Notification)]
    assert bench.state.round == 7


def test_a_better_vote_cancels_the_wait() -> None:
    """zab-protocol, section 3: a quorum had agreed on us, then somebody better appears."""
    bench = Bench(2, voters=(1, 2, 3, 4, 5))
    bench.tick()
    bench.up(1, 3, 4)
    for peer in (1, 3):
        bench.hear(peer, bench.looking_vote(peer, current=0, leader=2))
    assert bench.state.role.decide_at is not None

    bench.hear(4, bench.looking_vote(4, current=1, last=Zxid(1, 5)))

    assert bench.state.role.vote.leader == 4
    assert bench.state.role.decide_at is None


def test_who_looks_says_so_again_and_again_ever_more_rarely() -> None:
    bench = Bench(2)
    bench.tick()
    bench.up(1)
    said = [tick for tick in range(200) if sent(bench.tick(), Notification)]

    pauses = [later - earlier for earlier, later in pairwise(said)]
    assert pauses[0] < bench.timing.resend_max
    assert pauses[-1] == bench.timing.resend_max
    assert pauses == sorted(pauses)


def test_a_stranger_is_nobodys_candidate() -> None:
    """zab-protocol, section 3: whoever does not vote is never a candidate."""
    bench = Bench(2)
    bench.tick()
    bench.up(1, 3, 9)

    bench.hear(9, bench.looking_vote(9, current=1, last=Zxid(1, 9)))

    assert bench.state.role.vote.leader == 2
