"""Published bugs of the second phase: the history that a follower ends up with (ZooKeeper's issue tracker, by number)."""

from dataclasses import replace

import pytest

from tests import driving
from tests.driving import Bench, durable, entries_after, history, sent
from tests.known_bugs.replay import at_once, known_bug
from tests.sim.mutants import broadcasting, elections, histories, promises
from zablog.core import broadcast, synchronization
from zablog.core.effects import Append, Deliver, Halt, RoleChanged, Send
from zablog.core.events import Durable, Proposals, Staged
from zablog.core.gate import Gate
from zablog.core.messages import (
    Ack,
    AckEpoch,
    AckNewLeader,
    CEpoch,
    Commit,
    Diff,
    NewEpoch,
    NewLeader,
    Notification,
    Propose,
    Snap,
    Standing,
    Trunc,
    UpToDate,
    Vote,
)
from zablog.core.state import Limits, Phase, Timing
from zablog.core.synchronization import Plan, Repair
from zablog.core.trail import Mark, Trail
from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid
from zablog.sim import run
from zablog.sim.faults import Options

LEADER = history((1, 3), (4, 2))


def leader_hears(ack: AckEpoch, trail: Trail, snapshot: Mark | None = None) -> list:
    """A leader of epoch 6 with this history, and what it does about an ACKEPOCH of node 1."""
    watermark = snapshot.zxid if snapshot else ZERO
    bench = Bench(3, accepted=5, current=5, trail=trail, snapshot=snapshot, watermark=watermark)
    bench.promised(1)
    return bench.hear(1, ack)


def follower(trail: Trail | None = None, watermark: Zxid = ZERO) -> Bench:
    """A follower of 3 that has promised epoch 6 on disk."""
    bench = Bench(1, accepted=5, current=4, trail=trail or LEADER.copy(), watermark=watermark)
    bench.following(leader=3)
    bench.hear(3, NewEpoch(Epoch(6)))
    bench.sync()
    return bench


@known_bug(histories.range_only_diff, "must be cut")
def test_zookeeper_1154_a_tail_within_the_range_is_cut() -> None:
    """2.1 lies between 1.3 and 4.1, and is nobody's history."""
    effects = leader_hears(AckEpoch(Epoch(6), True, Epoch(2), Zxid(2, 1), ZERO, None), LEADER.copy())

    repairs = [message for _, message, _ in sent(effects) if isinstance(message, Diff | Trunc)]
    assert repairs == [Trunc(Epoch(6), Zxid(1, 3), LEADER.digest_at(Zxid(1, 3)))], "a tail that is not in the history must be cut"


def range_ends_at_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(synchronization, "plan", lambda trail, last, base: Plan(Repair.DIFF, max(last, trail.base.zxid)))


@known_bug(range_ends_at_the_snapshot, "a hole")
def test_zookeeper_2099_a_leader_that_took_a_snapshot_itself_serves_no_log_with_a_hole() -> None:
    """Also 2418 and 2846: a DIFF from a log that does not reach back to the follower's last entry."""
    base = Mark(Zxid(3, 7), 77)
    trail = Trail(base)
    trail.append(entries_after(trail, 3, b"8", b"9"))

    effects = leader_hears(AckEpoch(Epoch(6), True, Epoch(3), Zxid(3, 5), ZERO, None), trail, snapshot=base)

    assert [type(message) for _, message, _ in sent(effects)] == [Snap], "a log with a hole is not read from: the snapshot goes first"


def proposals_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Trail, "follows", lambda self, entries: entries.first > self.last)


@known_bug(proposals_are_not_compared, "across a gap")
def test_zookeeper_2418_a_follower_takes_nothing_across_a_gap() -> None:
    bench = follower()
    later = entries_after(history((1, 3), (4, 3)), 5, b"x")

    bench.hear(3, Diff(Epoch(6), Zxid(4, 2), LEADER.digest), Propose(Epoch(6), later, ZERO))

    assert bench.peer.last == Zxid(4, 2), "nothing is taken across a gap"


def position_is_taken_from_the_header(patch: pytest.MonkeyPatch) -> None:
    original = synchronization.on_repair

    def on_repair(state, following, message, out):
        original(state, following, message, out)
        state.trail.last = Zxid(5, 9)  # where the leader's history is said to end

    patch.setattr(synchronization, "on_repair", on_repair)


@known_bug(position_is_taken_from_the_header, "what is in the log")
def test_zookeeper_2355_a_link_that_dies_in_the_stream_leaves_the_position_of_the_log() -> None:
    bench = follower(history((1, 3)))

    bench.hear(3, Diff(Epoch(6), Zxid(1, 3), LEADER.digest_at(Zxid(1, 3))))
    bench.down(3)
    bench.sync()

    assert bench.state.self_vote.last == Zxid(1, 3), "a vote names what is in the log, not what was announced"


@known_bug(broadcasting.entries_delivered_as_they_come, "touch the state|truncated")
def test_zookeeper_2845_what_was_only_synchronized_can_be_taken_back() -> None:
    """The state in memory was kept across the election and disagreed with the log. Also 1549: a snapshot of uncommitted entries."""
    bench = follower(history((1, 3)), watermark=Zxid(1, 2))
    tail = entries_after(bench.state.trail, 4, b"never committed")

    effects = bench.hear(3, Diff(Epoch(6), Zxid(1, 3), bench.state.trail.digest), Propose(Epoch(6), tail, ZERO))
    assert not [effect for effect in effects if isinstance(effect, Deliver)], "entries of a synchronization do not touch the state"

    bench.down(3)
    bench.sync()
    bench.following(leader=2)
    bench.hear(2, NewEpoch(Epoch(7)))
    bench.sync()
    effects = bench.hear(2, Trunc(Epoch(7), Zxid(1, 3), history((1, 3)).digest))
    assert not [effect for effect in effects if isinstance(effect, Halt)]
    assert bench.peer.last == Zxid(1, 3)


@known_bug(broadcasting.entries_delivered_as_they_come, "before anybody committed")
def test_zookeeper_1549_no_state_holds_what_is_not_committed() -> None:
    """A snapshot was taken with uncommitted entries in it, the log was cut, the snapshot kept. Ours is of the delivered state."""
    bench = Bench(1)
    bench.up_to_date(leader=3, epoch=6)

    effects = bench.hear(3, Propose(Epoch(6), entries_after(bench.state.trail, 6, b"x"), ZERO))

    assert not [effect for effect in effects if isinstance(effect, Deliver)], "nothing is delivered before anybody committed it"


@known_bug(histories.newleader_acked_before_fsync, "queued")
def test_zookeeper_4785_newleader_is_acknowledged_when_the_entries_are_on_disk() -> None:
    """Also 3023, 3911 and 4646: a quorum that acknowledged what was queued lost its power, and the history with it."""
    bench = follower()
    more = entries_after(bench.state.trail, 5, b"x")

    effects = bench.hear(3, Diff(Epoch(6), Zxid(4, 2), LEADER.digest), Propose(Epoch(6), more, ZERO), NewLeader(Epoch(6), more.last))
    assert at_once(effects, AckNewLeader, bench.state.durable.token) == [], "nothing is acknowledged that is only queued"

    (append, *_) = durable(effects)
    assert at_once(effects, AckNewLeader, append.token) == [], "nothing is acknowledged while currentEpoch is queued"
    assert at_once(effects, AckNewLeader, bench.peer.out.token) == [AckNewLeader(Epoch(6), more.last)]


@known_bug(histories.snapshot_lacks_its_last_entry, "SnapshotExact")
def test_zookeeper_3104_a_snapshot_holds_what_its_label_says() -> None:
    """In the simulator: nodes that restart from their checkpoints."""
    report = run(1, Options(nodes=3, seconds=2.0, faults={"crash": 3.0}, checkpoints_per_second=20.0))

    assert report.failures == [], report.failures[0]


@known_bug(promises.votes_from_memory, "ahead of the disk")
def test_zookeeper_5094_memory_that_is_ahead_of_the_disk_is_not_advertised() -> None:
    """Also 3642: a snapshot or a truncation is under way, the process would die with it, and somebody asks how far we are."""
    snapshot = Mark(Zxid(6, 1), 99)
    bench = follower()
    bench.hear(3, Snap(Epoch(6), *snapshot))
    bench.step(Staged(bench.links[3], snapshot))
    assert bench.peer.last == Zxid(6, 1)

    effects = bench.hear(2, bench.looking_vote(2))

    assert at_once(effects, Notification, bench.state.durable.token) == [], "a vote that is ahead of the disk is not said"


def commits_go_to_whoever_is_read_to(patch: pytest.MonkeyPatch) -> None:
    def tell_watermark(state, leading, out):
        for learner in leading.learners.values():
            if learner.live and learner.position is not None:
                out.send(learner.link, Commit(leading.epoch, min(state.watermark, learner.position)))

    patch.setattr(broadcast, "tell_watermark", tell_watermark)


@known_bug(commits_go_to_whoever_is_read_to, "before UPTODATE")
def test_zookeeper_4394_no_commit_comes_between_newleader_and_uptodate() -> None:
    """And a follower that hears of one there, on a proposal, waits with it."""
    bench = Bench(3)
    bench.established(1)
    bench.hear(2, CEpoch(Epoch(1), Epoch(1)))
    bench.hear(2, AckEpoch(bench.epoch, True, Epoch(1), ZERO, ZERO, None))
    bench.propose(b"x")
    bench.sync()

    effects = bench.hear(1, Ack(bench.epoch, Zxid(bench.epoch, 1)))

    assert [peer for peer, _, _ in sent(effects, Commit)] == [1], "nobody hears of commits before UPTODATE"

    late = follower(history((4, 1)))
    entries = entries_after(late.state.trail, 6, b"x")
    late.hear(3, Diff(Epoch(6), Zxid(4, 1), late.state.trail.digest), NewLeader(Epoch(6), Zxid(4, 1)))
    effects = late.hear(3, Propose(Epoch(6), entries, Zxid(4, 1)))
    assert late.state.phase is Phase.SYNC and late.peer.watermark == ZERO
    late.sync()
    late.hear(3, UpToDate(Epoch(6), Zxid(4, 1)))
    assert late.peer.watermark == Zxid(4, 1)


@known_bug(broadcasting.entries_acked_before_newleader, "before NEWLEADER")
def test_zookeeper_4685_no_entry_is_acknowledged_before_newleader() -> None:
    bench = follower()
    more = entries_after(bench.state.trail, 5, b"x")

    effects = bench.hear(3, Diff(Epoch(6), Zxid(4, 2), LEADER.digest), Propose(Epoch(6), more, ZERO))

    assert sent(effects, Ack) == [], "nothing is acknowledged before NEWLEADER is"


@known_bug(broadcasting.gate_survives_the_role, "role has ended")
def test_zookeeper_4712_the_writer_of_an_ended_role_speaks_for_nobody() -> None:
    """The old role's log writer still ran in the next role: here the next one waits, and the old one's words are void."""
    bench, gate = Bench(1), Gate()
    bench.up_to_date(leader=3, epoch=6)
    gate.open_to(bench.peer.out.token)
    for effect in bench.hear(3, Propose(Epoch(6), entries_after(bench.state.trail, 6, b"x"), ZERO)):
        assert not isinstance(effect, Send) or not gate.passes(effect)

    for effect in bench.down(3):
        if isinstance(effect, RoleChanged):
            gate.void()
    assert bench.state.phase is Phase.ELECTION

    assert gate.open_to(bench.peer.out.token) == [], "what a role had to say is void when the role has ended"
    bench.step(Durable(bench.peer.out.token))
    assert bench.state.self_vote.last == bench.state.durable.last == Zxid(6, 1)


def streamed_entries_bypass_the_log(patch: pytest.MonkeyPatch) -> None:
    original = broadcast.on_propose

    def on_propose(state, following, message, out):
        if following.phase is Phase.SYNC and state.trail.follows(message.entries):
            return state.trail.append(message.entries)
        return original(state, following, message, out)

    patch.setattr(broadcast, "on_propose", on_propose)


@known_bug(streamed_entries_bypass_the_log, "one way into the log")
def test_zookeeper_4925_entries_of_a_synchronization_take_the_same_way_as_all_others() -> None:
    """They were missing from a leader's cache later on, which then served a hole."""
    bench = follower()
    more = entries_after(bench.state.trail, 5, b"x", b"y")

    effects = bench.hear(3, Diff(Epoch(6), Zxid(4, 2), LEADER.digest), Propose(Epoch(6), more, ZERO))

    assert [effect.entries for effect in durable(effects) if isinstance(effect, Append)] == [more], "there is one way into the log"


@known_bug(elections.joiner_waits_for_its_own_round, "whatever the round")
def test_zookeeper_1732_a_joiner_agrees_with_an_established_ensemble_whatever_its_round() -> None:
    """Also 1805 and 1818: rounds and zxids of votes that were cast long ago were compared, and the joiner never saw a quorum agree."""
    bench = Bench(1)
    bench.tick()
    bench.up(2, 3)
    for peer, standing, counter in ((3, Standing.FOLLOWING, 3), (2, Standing.LEADING, 9)):
        vote = Vote(Epoch(7), Zxid(7, counter), PeerId(2))
        bench.hear(peer, Notification(standing, 9, vote, vote._replace(leader=PeerId(peer)), Epoch(7), ()))

    assert bench.state.leader == 2, "a joiner follows whom a quorum follows, whatever the round"


def defectors_are_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(driving, "Timing", lambda: Timing(defect=1 << 60))


@known_bug(defectors_are_waited_for, "went elsewhere")
def test_zookeeper_3109_a_prospective_leader_whose_voter_went_elsewhere_gives_up() -> None:
    """It waited for the whole of initLimit."""

    bench = Bench(3)
    bench.elected()
    bench.tick(bench.timing.discovery // 2)

    bench.hear(1, replace(bench.looking_vote(1), round=bench.state.round + 1))

    assert bench.state.phase is Phase.ELECTION, "a leader whose voter went elsewhere gives up soon"


def counter_wraps(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(broadcast, "room", lambda state, leading: 1)
    first = Zxid.after
    patch.setattr(Zxid, "after", lambda self, steps: first(self, steps) if self.counter + steps <= 2 else Zxid(self.epoch + 1, 0))


@known_bug(counter_wraps, "the counter")
def test_zookeeper_1277_the_counter_does_not_run_into_the_epoch() -> None:
    bench = Bench(3, limits=Limits(counter_max=2))
    bench.established(1, 2)

    for _ in range(4):
        if bench.peer.room:
            bench.peer.step(Proposals([b"x"]))
    assert bench.peer.last == Zxid(2, 2), "the counter ends at its maximum"

    bench.sync()
    bench.hear(1, Ack(bench.epoch, Zxid(2, 2)))
    bench.tick()
    assert bench.state.phase is Phase.ELECTION
