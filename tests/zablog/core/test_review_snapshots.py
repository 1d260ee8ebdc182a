"""Schedules round SNAP that a hostile reader found to break the core: each states the law that it broke."""

from tests.driving import Bench, entries_after, sent
from zablog.core.effects import DropLink, Halt, Stream
from zablog.core.events import Checkpointed, Congested, Staged, Streamed
from zablog.core.messages import Ack, AckEpoch, AckNewLeader, Commit, NewEpoch, NewLeader, Ping, Pong, Snap, Trunc
from zablog.core.state import Following, Leading, Looking, Phase
from zablog.core.trail import Mark, Trail
from zablog.core.zxid import ZERO, Epoch, Zxid

SNAPSHOT = Mark(Zxid(3, 9), 99)


def follower() -> Bench:
    """Node 1 follows 3 in epoch 6; its history is 1.1 to 1.4, of which 1.2 is committed."""
    trail = Trail()
    for payload in (b"1", b"2", b"3", b"4"):
        trail.append(entries_after(trail, 1, payload))
    bench = Bench(1, accepted=5, current=1, trail=trail, watermark=Zxid(1, 2))
    bench.following(leader=3)
    bench.hear(3, NewEpoch(Epoch(6)))
    bench.sync()
    return bench


def test_a_checkpoint_that_was_under_way_while_the_leaders_snapshot_arrived_is_no_step_back() -> None:
    """Writer: checkpoint at 1.2 done. Core: Staged first, then the writer's older news. Both events are true, in either order."""
    bench = follower()
    own = Mark(Zxid(1, 2), 12)
    bench.hear(3, Snap(Epoch(6), *SNAPSHOT))

    bench.step(Staged(bench.links[3], SNAPSHOT))
    bench.step(Checkpointed(own, own))
    bench.sync()

    assert bench.state.snapshot == SNAPSHOT
    assert bench.state.trail == Trail(SNAPSHOT)


def test_a_checkpoint_of_another_role_that_is_told_late_is_no_step_back() -> None:
    """The same, with the leader gone in between: the news comes while the peer drains."""
    bench = follower()
    own = Mark(Zxid(1, 2), 12)
    bench.hear(3, Snap(Epoch(6), *SNAPSHOT))
    bench.step(Staged(bench.links[3], SNAPSHOT))
    bench.down(3)

    bench.step(Checkpointed(own, own))

    assert bench.state.snapshot == SNAPSHOT


def test_a_snapshot_of_an_epoch_above_the_leaders_own_is_illegal() -> None:
    """As is a proposal of one: installed, it leaves a log above acceptedEpoch, which no restart accepts any more."""
    bench = follower()

    bench.hear(3, Snap(Epoch(6), Zxid(9, 1), 99))

    assert isinstance(bench.state.role, Looking)


def test_a_snapshot_of_an_epoch_above_the_leaders_own_does_not_break_the_next_reign() -> None:
    bench = follower()
    mark = Mark(Zxid(9, 1), 99)
    bench.hear(3, Snap(Epoch(6), *mark))
    if isinstance(bench.state.role, Following):
        bench.step(Staged(bench.links[3], mark))
        bench.sync()
        bench.hear(3, NewLeader(Epoch(6), mark.zxid))
        bench.sync()

    assert bench.state.trail.last.epoch <= bench.state.accepted


def established_with_one_in_transfer() -> Bench:
    """Node 3 leads with 2; its log begins at 3.9, and node 1 fetches the snapshot there."""
    bench = Bench(3, accepted=3, current=3, trail=Trail(SNAPSHOT), watermark=SNAPSHOT.zxid, snapshot=SNAPSHOT)
    bench.promised(1, 2)
    bench.hear(2, AckEpoch(bench.epoch, True, Epoch(3), SNAPSHOT.zxid, ZERO, None))
    bench.hear(1, AckEpoch(bench.epoch, True, Epoch(1), Zxid(1, 4), ZERO, None))
    bench.sync()
    bench.hear(2, AckNewLeader(bench.epoch, SNAPSHOT.zxid))
    assert bench.state.phase is Phase.BROADCAST
    assert bench.state.role.learners[1].offered == SNAPSHOT
    return bench


def test_section_8_a_transfer_without_progress_is_aborted_by_an_established_leader() -> None:
    """Leader: pings are echoed, no piece is fetched for ten times `sync`. The follower was out for ever."""
    bench = established_with_one_in_transfer()
    for _ in range(10 * bench.timing.sync):
        pings = sent(bench.tick(), Ping)
        for peer, ping, _ in pings:
            bench.hear(peer, Pong(bench.epoch, ping.nonce))

    assert isinstance(bench.state.role, Leading)
    assert 1 not in bench.state.role.learners, "the leader gave up nobody"


def test_a_newer_checkpoint_that_leaves_an_offered_snapshot_behind_ends_the_transfer_at_once() -> None:
    """The file of the offered one is unlinked with that checkpoint; only the end of the link tells the learner to ask anew."""
    bench = established_with_one_in_transfer()
    bench.propose(b"10")
    bench.sync()
    bench.hear(2, Ack(bench.epoch, bench.peer.last))
    newer = Mark(bench.peer.last, bench.state.trail.digest)

    effects = bench.step(Checkpointed(newer, newer))

    assert any(isinstance(effect, DropLink) and effect.link == bench.links[1] for effect in effects)


def test_a_congested_learner_hears_of_the_watermark_though_nothing_more_is_proposed() -> None:
    bench = Bench(3)
    bench.established(1, 2)
    bench.propose(b"a")
    bench.step(Congested(bench.links[1]))
    bench.sync()
    told = sent(bench.hear(2, Ack(bench.epoch, bench.peer.last)), Commit)
    for _ in range(bench.timing.suspect):
        for effect in (effects := bench.tick()):
            if isinstance(effect, Stream):
                effects += bench.step(Streamed(effect.link, effect.upto))
        told += sent(effects, Commit)
        for peer, ping, _ in sent(effects, Ping):
            bench.hear(peer, Pong(bench.epoch, ping.nonce))

    assert {peer for peer, _, _ in told} == {1, 2}


def test_section_4_an_order_to_cut_below_the_base_of_our_log_halts() -> None:
    """What lies below our base is committed and applied here. The same order at a place between base and watermark does halt."""
    bench = follower()
    base = Mark(Zxid(1, 2), 12)
    bench.step(Checkpointed(base, base))

    effects = bench.hear(3, Trunc(Epoch(6), Zxid(1, 1), 11))

    assert any(isinstance(effect, Halt) for effect in effects)
