"""Zab, phase 2, "Synchronization": NEWLEADER, ACK-LD, COMMIT-LD. Paper: section V-B; the table: zab-protocol, section 4."""

import pytest

from tests.driving import Bench, durable, entries_after, history, sent
from zablog.core.effects import Append, Deliver, Halt, ReadDigest, SaveEpochs, Stream, Truncate
from zablog.core.events import Congested, DigestRead, Streamed
from zablog.core.messages import Ack, AckEpoch, AckNewLeader, CEpoch, Diff, NewEpoch, NewLeader, Propose, Trunc, UpToDate
from zablog.core.state import Looking, Phase
from zablog.core.synchronization import Plan, Repair, plan
from zablog.core.trail import Mark, Trail
from zablog.core.zxid import ZERO, Epoch, Zxid

LEADER = history((1, 3), (4, 2))


@pytest.mark.parametrize(
    ("last", "base", "expected"),
    [
        (Zxid(4, 2), ZERO, Plan(Repair.DIFF, Zxid(4, 2))),
        (Zxid(1, 2), ZERO, Plan(Repair.DIFF, Zxid(1, 2))),
        (ZERO, ZERO, Plan(Repair.DIFF, ZERO)),
        (Zxid(4, 9), ZERO, Plan(Repair.TRUNC, Zxid(4, 2))),
        (Zxid(5, 1), ZERO, Plan(Repair.TRUNC, Zxid(4, 2))),
        (Zxid(1, 5), ZERO, Plan(Repair.TRUNC, Zxid(1, 3))),
        (Zxid(2, 1), ZERO, Plan(Repair.TRUNC, Zxid(1, 3))),
        (Zxid(2, 1), Zxid(2, 0), Plan(Repair.FENCE, Zxid(1, 3))),
    ],
)
def test_the_table_of_synchronization(last: Zxid, base: Zxid, expected: Plan) -> None:
    assert plan(LEADER, last, base) == expected


def test_a_history_that_ends_before_ours_begins_needs_a_snapshot() -> None:
    trail = Trail(Mark(Zxid(3, 7), 99))

    assert plan(trail, Zxid(3, 6), ZERO) == Plan(Repair.SNAP, Zxid(3, 7))


def test_a_tail_within_the_range_but_not_in_the_history_is_cut() -> None:
    """ZOOKEEPER-1154: range alone would have said DIFF."""
    assert plan(LEADER, Zxid(1, 4), ZERO).repair is Repair.TRUNC


def test_nothing_is_repaired_before_a_quorum_acknowledged_the_epoch() -> None:
    bench = Bench(3, voters=(1, 2, 3, 4, 5))
    bench.promised(1, 2)

    effects = bench.hear(1, AckEpoch(bench.epoch, True, Epoch(1), ZERO, ZERO, None))

    assert sent(effects) == []


def test_a_leader_repairs_streams_and_then_says_newleader() -> None:
    bench = Bench(3, trail=LEADER.copy())
    bench.promised(1)

    effects = bench.hear(1, AckEpoch(bench.epoch, True, Epoch(0), Zxid(2, 1), ZERO, None))
    digest = LEADER.digest_at(Zxid(1, 3))
    assert sent(effects) == [(1, Trunc(bench.epoch, Zxid(1, 3), digest), False)]
    assert effects[-1] == Stream(bench.links[1], bench.epoch, Zxid(1, 3), Zxid(4, 2))

    effects = bench.step(Streamed(bench.links[1], Zxid(4, 1)))
    assert effects == [Stream(bench.links[1], bench.epoch, Zxid(4, 1), Zxid(4, 2))]

    effects = bench.step(Streamed(bench.links[1], Zxid(4, 2)))
    assert sent(effects) == [(1, NewLeader(bench.epoch, Zxid(4, 2)), False)]


def test_a_digest_that_only_the_disk_knows_is_read_first() -> None:
    bench = Bench(3, trail=LEADER.copy())
    bench.promised(1)

    effects = bench.hear(1, AckEpoch(bench.epoch, True, Epoch(0), Zxid(1, 2), ZERO, None))
    assert effects[-1] == ReadDigest(bench.links[1], Zxid(1, 2))

    effects = bench.step(DigestRead(bench.links[1], Zxid(1, 2), 77))
    assert sent(effects) == [(1, Diff(bench.epoch, Zxid(1, 2), 77), False)]


def follower(trail: Trail | None = None, watermark: Zxid = ZERO) -> Bench:
    """A follower of 3 that has promised epoch 6 on disk."""
    bench = Bench(1, accepted=5, current=4, trail=trail or LEADER.copy(), watermark=watermark)
    bench.following(leader=3)
    bench.hear(3, NewEpoch(Epoch(6)))
    bench.sync()
    return bench


def test_w6_history_then_epoch_then_the_acknowledgement() -> None:
    bench = follower()
    more = entries_after(bench.state.trail, 5, b"x")

    effects = bench.hear(3, Diff(Epoch(6), Zxid(4, 2), LEADER.digest), Propose(Epoch(6), more, ZERO), NewLeader(Epoch(6), more.last))

    append, save, ack = effects
    assert append == Append(2, more)
    assert save == SaveEpochs(3, Epoch(6), Epoch(6), None)
    assert (ack.message, ack.after) == (AckNewLeader(Epoch(6), more.last), 3)


def test_w9_no_proposal_is_acknowledged_before_newleader() -> None:
    bench = follower()
    more = entries_after(bench.state.trail, 5, b"x")

    effects = bench.hear(3, Diff(Epoch(6), Zxid(4, 2), LEADER.digest), Propose(Epoch(6), more, ZERO))

    assert sent(effects, Ack) == []


def test_an_uncommitted_tail_is_cut_to_where_histories_meet() -> None:
    bench = follower()
    digest = LEADER.digest_at(Zxid(1, 3))

    effects = bench.hear(3, Trunc(Epoch(6), Zxid(1, 3), digest))

    assert effects == [Truncate(2, Mark(Zxid(1, 3), digest))]
    assert bench.peer.last == Zxid(1, 3)


def test_a_truncation_of_what_was_delivered_stops_the_node() -> None:
    bench = follower(watermark=Zxid(4, 1))

    effects = bench.hear(3, Trunc(Epoch(6), Zxid(1, 3), 0))

    assert [type(effect) for effect in effects] == [Halt]
    assert bench.peer.last == Zxid(4, 2)


def test_another_digest_at_the_same_zxid_stops_the_node_before_anything_is_cut() -> None:
    bench = follower()

    effects = bench.hear(3, Trunc(Epoch(6), Zxid(1, 3), 12345))

    assert [type(effect) for effect in effects] == [Halt]
    assert "diverge" in effects[0].reason


def test_a_gap_in_the_stream_ends_the_role() -> None:
    bench = follower()
    more = entries_after(history((1, 3), (4, 3)), 5, b"x")

    bench.hear(3, Diff(Epoch(6), Zxid(4, 2), LEADER.digest), Propose(Epoch(6), more, ZERO))

    assert isinstance(bench.state.role, Looking)
    assert bench.peer.last == Zxid(4, 2)


def test_a_leader_is_established_by_a_quorum_that_includes_itself() -> None:
    bench = Bench(3, trail=LEADER.copy())
    bench.promised(1, 2)
    for peer in (1, 2):
        bench.hear(peer, AckEpoch(bench.epoch, True, Epoch(1), Zxid(4, 2), ZERO, None))

    for peer in (1, 2):
        bench.hear(peer, AckNewLeader(bench.epoch, Zxid(4, 2)))
    assert bench.state.role.phase is Phase.SYNC

    effects = bench.sync()
    assert bench.state.role.phase is Phase.BROADCAST
    assert bench.peer.watermark == Zxid(4, 2)
    assert sent(effects, UpToDate) == [(peer, UpToDate(bench.epoch, Zxid(4, 2)), False) for peer in (1, 2)]


def test_uptodate_names_the_watermark_of_now() -> None:
    """Not last(I_e): the joiner would otherwise not hear of what was committed while it synchronized."""
    bench = Bench(3)
    bench.established(1)
    bench.propose(b"x")
    bench.sync()
    bench.hear(1, Ack(bench.epoch, Zxid(bench.epoch, 1)))
    bench.hear(2, CEpoch(Epoch(1), Epoch(1)))
    bench.hear(2, AckEpoch(bench.epoch, True, Epoch(1), ZERO, ZERO, None))
    bench.step(Streamed(bench.links[2], Zxid(bench.epoch, 1)))

    effects = bench.hear(2, AckNewLeader(bench.epoch, Zxid(bench.epoch, 1)))

    assert sent(effects) == [(2, UpToDate(bench.epoch, Zxid(bench.epoch, 1)), False)]


def test_the_acknowledgement_of_newleader_commits_what_it_covers() -> None:
    """Found by the simulator: a follower that came back held the last proposals by its stream; its one ack was not counted for them."""
    bench = Bench(3)
    bench.established(1)
    bench.hear(2, CEpoch(Epoch(1), Epoch(1)))
    bench.propose(b"x")
    bench.sync()
    bench.hear(2, AckEpoch(bench.epoch, True, Epoch(1), ZERO, ZERO, None))
    bench.step(Streamed(bench.links[2], Zxid(bench.epoch, 1)))
    assert bench.peer.watermark == ZERO

    bench.hear(2, AckNewLeader(bench.epoch, Zxid(bench.epoch, 1)))

    assert bench.peer.watermark == Zxid(bench.epoch, 1)


def test_w7_entries_of_an_epoch_above_current_are_legal_after_a_crash() -> None:
    bench = Bench(1, accepted=6, current=4, trail=history((4, 2), (6, 1)))

    bench.tick()

    assert bench.state.role.vote.current == 4
    assert bench.state.role.vote.last == Zxid(6, 1)


def test_a_follower_that_rejoins_clears_its_suspect_mark_with_newleader() -> None:
    bench = Bench(1, accepted=6, current=6, trail=history((6, 2)), suspect=Zxid(6, 4))
    bench.following(leader=3)
    bench.hear(3, NewEpoch(Epoch(6)))
    last = bench.peer.last

    effects = bench.hear(3, Diff(Epoch(6), last, bench.state.trail.digest), NewLeader(Epoch(6), last))

    assert durable(effects) == [SaveEpochs(1, Epoch(6), Epoch(6), None)]


def test_w8_the_leaders_own_acknowledgement_waits_for_its_own_epoch_on_disk() -> None:
    bench = Bench(3, trail=LEADER.copy())
    bench.promised(1)
    effects = bench.hear(1, AckEpoch(bench.epoch, True, Epoch(1), Zxid(4, 2), ZERO, None))
    assert durable(effects) == [SaveEpochs(bench.peer.out.token, bench.epoch, bench.epoch, None)]
    bench.hear(1, AckNewLeader(bench.epoch, Zxid(4, 2)))
    assert bench.state.role.self_acked is None

    bench.sync()

    assert bench.state.durable.current == bench.epoch
    assert bench.state.role.phase is Phase.BROADCAST


def test_w11_nothing_is_delivered_before_uptodate() -> None:
    """Entries of the synchronization are not committed because they are sent, nor because NEWLEADER is acknowledged."""
    bench = follower()
    more = entries_after(bench.state.trail, 5, b"x")

    effects = bench.hear(3, Diff(Epoch(6), Zxid(4, 2), LEADER.digest), Propose(Epoch(6), more, Zxid(4, 2)), NewLeader(Epoch(6), more.last))
    effects += bench.sync()
    assert [effect for effect in effects if isinstance(effect, Deliver)] == []

    assert bench.hear(3, UpToDate(Epoch(6), Zxid(4, 2)))[0] == Deliver(Zxid(4, 2))


def test_uptodate_never_names_more_than_was_sent_on_the_link() -> None:
    bench = Bench(3, accepted=5, current=5, trail=LEADER.copy())
    bench.promised(1, 2)
    for peer in (1, 2):
        bench.hear(peer, AckEpoch(bench.epoch, True, Epoch(1), Zxid(4, 2), ZERO, None))
    bench.sync()
    bench.hear(1, AckNewLeader(bench.epoch, Zxid(4, 2)))
    bench.step(Congested(bench.links[2]))
    bench.propose(b"x")
    bench.sync()
    bench.hear(1, Ack(bench.epoch, Zxid(bench.epoch, 1)))
    assert bench.peer.watermark == Zxid(bench.epoch, 1)

    effects = bench.hear(2, AckNewLeader(bench.epoch, Zxid(4, 2)))

    assert sent(effects, UpToDate) == [(2, UpToDate(bench.epoch, Zxid(4, 2)), False)]


def test_an_acknowledgement_below_the_initial_history_is_illegal() -> None:
    bench = Bench(3, trail=LEADER.copy())
    bench.promised(1)
    bench.hear(1, AckEpoch(bench.epoch, True, Epoch(1), Zxid(4, 2), ZERO, None))
    bench.sync()

    bench.hear(1, AckNewLeader(bench.epoch, Zxid(4, 1)))

    assert 1 not in bench.state.links
    assert bench.state.phase is not Phase.BROADCAST


def test_newleader_before_the_histories_have_met_ends_the_role() -> None:
    bench = follower()

    effects = bench.hear(3, NewLeader(Epoch(6), Zxid(4, 2)))

    assert sent(effects, AckNewLeader) == []
    assert isinstance(bench.state.role, Looking)


def test_a_follower_without_a_common_place_is_fenced() -> None:
    """zab-protocol, section 4: it lacks T. Nothing is sent, nothing is cut."""
    bench = Bench(3, trail=LEADER.copy())
    bench.promised(1)

    effects = bench.hear(1, AckEpoch(bench.epoch, True, Epoch(0), Zxid(2, 1), Zxid(2, 0), None))

    assert sent(effects) == []
    assert 1 not in bench.state.links
