"""Zab, phase 2, where the leader's log no longer reaches back far enough: SNAP. zab-protocol, sections 1 (W5, W11) and 4."""

from tests.driving import Bench, durable, entries_after, sent
from zablog.core.effects import DropLink, FetchSnapshot, Install, Stream
from zablog.core.events import Checkpointed, Durable, Fetched, Link, Staged
from zablog.core.messages import Ack, AckEpoch, AckNewLeader, AckSnap, Diff, NewEpoch, NewLeader, Propose, Snap, Trunc, UpToDate
from zablog.core.state import Following, Looking
from zablog.core.trail import Mark, Trail
from zablog.core.zxid import ZERO, Epoch, Zxid

BASE = Mark(Zxid(3, 7), 77)
SNAPSHOT = Mark(Zxid(3, 9), 99)


def leader() -> Bench:
    """Node 3, elected, whose log begins at 3.7 behind a snapshot at 3.9, and ends at 3.10."""
    trail = Trail(BASE)
    for payload in (b"8", b"9", b"10"):
        trail.append(entries_after(trail, 3, payload))
    bench = Bench(3, accepted=3, current=3, trail=trail, watermark=SNAPSHOT.zxid, snapshot=SNAPSHOT)
    bench.promised(1)
    return bench


def offered() -> Bench:
    """A leader whose follower 1 was told to take the snapshot."""
    bench = leader()
    bench.hear(1, AckEpoch(bench.epoch, True, Epoch(1), Zxid(1, 4), ZERO, None))
    return bench


def test_a_follower_whose_history_ends_before_ours_begins_is_offered_the_snapshot() -> None:
    bench = leader()

    effects = bench.hear(1, AckEpoch(bench.epoch, True, Epoch(1), Zxid(1, 4), ZERO, None))

    assert sent(effects) == [(1, Snap(bench.epoch, *SNAPSHOT), False)]
    assert not [effect for effect in effects if isinstance(effect, Stream)]


def test_the_stream_goes_on_from_the_snapshot_once_it_is_installed() -> None:
    bench = offered()

    effects = bench.hear(1, AckSnap(bench.epoch, SNAPSHOT.zxid))

    assert effects == [Stream(bench.links[1], bench.epoch, SNAPSHOT.zxid, Zxid(3, 10))]


def test_a_follower_whose_history_reaches_our_base_needs_no_snapshot() -> None:
    bench = leader()

    effects = bench.hear(1, AckEpoch(bench.epoch, True, Epoch(3), BASE.zxid, ZERO, None))

    assert sent(effects) == [(1, Diff(bench.epoch, *BASE), False)]


def test_an_acknowledgement_of_a_snapshot_that_was_not_offered_closes_the_link() -> None:
    bench = offered()

    effects = bench.hear(1, AckSnap(bench.epoch, Zxid(3, 8)))

    assert any(isinstance(effect, DropLink) for effect in effects)


def test_a_snapshot_that_our_log_has_left_behind_is_offered_anew() -> None:
    """The transfer took longer than the log lasted: the next link brings the newer snapshot."""
    bench = offered()
    bench.sync()
    bench.state.commit_to(Zxid(3, 10), bench.peer.out)

    effects = bench.step(Checkpointed(Mark(Zxid(3, 10), bench.state.trail.digest), Mark(Zxid(3, 10), bench.state.trail.digest)))

    assert any(isinstance(effect, DropLink) for effect in effects)


def test_a_learner_that_is_read_to_from_below_the_base_comes_back_for_the_snapshot() -> None:
    bench = leader()
    bench.hear(1, AckEpoch(bench.epoch, True, Epoch(3), BASE.zxid, ZERO, None))
    bench.sync()
    bench.state.commit_to(Zxid(3, 10), bench.peer.out)

    effects = bench.step(Checkpointed(Mark(Zxid(3, 10), bench.state.trail.digest), Mark(Zxid(3, 10), bench.state.trail.digest)))

    assert any(isinstance(effect, DropLink) and "needs a snapshot" in effect.reason for effect in effects)


def test_a_transfer_is_progress_of_synchronization() -> None:
    """However long it takes, the prospective leader does not give up while pieces are fetched."""
    bench = offered()
    bench.sync()
    for _ in range(3):
        bench.tick(bench.timing.sync - 10)
        bench.step(Fetched(bench.links[1]))

    assert not isinstance(bench.state.role, Looking)
    bench.tick(bench.timing.sync + 1)
    assert isinstance(bench.state.role, Looking)


def test_a_late_ack_from_below_our_base_is_no_offence() -> None:
    """A quorum went on without this follower, and a checkpoint let go of the log that it is still acknowledging."""
    bench = Bench(3, voters=(1, 2, 3))
    bench.established(1, 2)
    first = bench.propose(b"a", b"b")
    assert sent(first, Propose)
    bench.sync()
    bench.hear(1, Ack(bench.epoch, Zxid(bench.epoch, 2)))
    mark = Mark(bench.state.trail.last, bench.state.trail.digest)
    bench.step(Checkpointed(mark, mark))

    effects = bench.hear(2, Ack(bench.epoch, Zxid(bench.epoch, 1)))

    assert effects == []
    assert bench.links[2] in bench.state.links.values()


# -- follower -----------------------------------------------------------------------------------------------------------------


def follower() -> Bench:
    """Node 1 follows 3, has promised epoch 6, and has a history through 1.2."""
    trail = Trail()
    trail.append(entries_after(trail, 1, b"1", b"2"))
    bench = Bench(1, accepted=5, current=1, trail=trail, watermark=Zxid(1, 1))
    bench.following(leader=3)
    bench.hear(3, NewEpoch(Epoch(6)))
    bench.sync()
    return bench


def test_a_snapshot_is_fetched_before_anything_of_ours_is_touched() -> None:
    bench = follower()

    effects = bench.hear(3, Snap(Epoch(6), *SNAPSHOT))

    assert effects == [FetchSnapshot(bench.links[3], Epoch(6), SNAPSHOT)]
    assert bench.peer.last == Zxid(1, 2)


def test_w5_the_snapshot_takes_the_place_of_everything_before_the_leader_hears_of_it() -> None:
    bench = follower()
    bench.hear(3, Snap(Epoch(6), *SNAPSHOT))

    effects = bench.step(Staged(bench.links[3], SNAPSHOT))

    assert durable(effects) == [Install(bench.peer.out.token, SNAPSHOT)]
    assert sent(effects) == [(3, AckSnap(Epoch(6), SNAPSHOT.zxid), True)]
    assert bench.state.trail == Trail(SNAPSHOT)
    assert bench.peer.watermark == SNAPSHOT.zxid


def test_the_stream_continues_the_snapshot_and_newleader_binds() -> None:
    bench = follower()
    bench.hear(3, Snap(Epoch(6), *SNAPSHOT))
    bench.step(Staged(bench.links[3], SNAPSHOT))
    bench.sync()
    run = entries_after(Trail(SNAPSHOT), 3, b"10")

    bench.hear(3, Propose(Epoch(6), run, ZERO), NewLeader(Epoch(6), run.last))
    bench.sync()
    bench.hear(3, UpToDate(Epoch(6), run.last))

    assert bench.state.current == 6
    assert bench.peer.watermark == Zxid(3, 10)


def test_no_snapshot_is_taken_at_or_below_our_own_last_entry() -> None:
    bench = follower()

    bench.hear(3, Snap(Epoch(6), Zxid(1, 2), 5))

    assert isinstance(bench.state.role, Looking)


def test_a_second_snapshot_on_one_link_ends_the_role() -> None:
    bench = follower()
    bench.hear(3, Snap(Epoch(6), *SNAPSHOT))

    bench.hear(3, Snap(Epoch(6), Zxid(4, 1), 5))

    assert isinstance(bench.state.role, Looking)


def test_what_was_staged_for_a_role_that_has_ended_is_not_installed() -> None:
    bench = follower()
    bench.hear(3, Snap(Epoch(6), *SNAPSHOT))
    old = bench.links[3]
    bench.down(3)

    effects = bench.step(Staged(old, SNAPSHOT))

    assert durable(effects) == []
    assert bench.peer.last == Zxid(1, 2)


def test_what_is_staged_over_another_link_or_at_another_place_is_not_installed() -> None:
    bench = follower()
    bench.hear(3, Snap(Epoch(6), *SNAPSHOT))
    for link, mark in ((Link(bench.links[3].peer, 999), SNAPSHOT), (bench.links[3], BASE)):
        assert bench.step(Staged(link, mark)) == []
    assert isinstance(bench.state.role, Following)


def test_proposals_before_the_snapshot_is_in_place_are_illegal() -> None:
    bench = follower()
    bench.hear(3, Snap(Epoch(6), *SNAPSHOT))

    bench.hear(3, Propose(Epoch(6), entries_after(Trail(SNAPSHOT), 3, b"10"), ZERO))

    assert isinstance(bench.state.role, Looking)


def test_no_newleader_nor_repair_is_taken_while_the_snapshot_is_on_its_way() -> None:
    for message in (NewLeader(Epoch(6), Zxid(1, 2)), Trunc(Epoch(6), Zxid(1, 1), 5)):
        bench = follower()
        bench.hear(3, Snap(Epoch(6), *SNAPSHOT))

        effects = bench.hear(3, message)

        assert not sent(effects, AckNewLeader)
        assert durable(effects) == []
        assert isinstance(bench.state.role, Looking)


def test_a_role_that_ends_with_the_installation_under_way_waits_for_it() -> None:
    """W12: the next role starts with a quiescent writer, and describes what is on disk then."""
    bench = follower()
    bench.hear(3, Snap(Epoch(6), *SNAPSHOT))
    bench.step(Staged(bench.links[3], SNAPSHOT))

    bench.down(3)
    assert not isinstance(bench.state.role, Looking)
    bench.step(Durable(bench.peer.out.token))

    assert isinstance(bench.state.role, Looking)
    assert bench.state.role.vote.last == SNAPSHOT.zxid


def test_a_follower_with_a_snapshot_joins_a_leader_that_has_the_same_place() -> None:
    bench = Bench(1, accepted=5, current=3, trail=Trail(SNAPSHOT), watermark=SNAPSHOT.zxid, snapshot=SNAPSHOT)
    bench.following(leader=3)

    effects = bench.hear(3, NewEpoch(Epoch(6)))

    assert sent(effects, AckEpoch) == [(3, AckEpoch(Epoch(6), True, Epoch(3), SNAPSHOT.zxid, SNAPSHOT.zxid, None), True)]
