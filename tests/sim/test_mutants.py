"""Broken cores. A simulator that misses one is not finished: each must be caught, by a guarantee named here, within so many seeds."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from zablog.core import broadcast, discovery, synchronization
from zablog.core.effects import Effects
from zablog.core.gate import Gate
from zablog.core.messages import AckNewLeader, AckSnap
from zablog.core.quorum import Configuration
from zablog.core.state import Phase, State
from zablog.core.synchronization import Plan, Repair
from zablog.core.trail import Trail
from zablog.core.zxid import Zxid
from zablog.sim import run, snapshots
from zablog.sim.faults import draw
from zablog.storage.manifest import Snapshot
from zablog.storage.storage import Storage
from zablog.storage.wal import Wal

Break = Callable[[pytest.MonkeyPatch], None]
SEEDS = 150


def ack_before_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gate, "passes", lambda self, send: True)


def quorum_less_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Configuration, "is_quorum", lambda self, peers: 2 * len(set(peers) & set(self.voters)) >= len(self.voters) - 1)


def range_only_diff(patch: pytest.MonkeyPatch) -> None:
    """ZOOKEEPER-1154."""

    def plan(trail: Trail, last: Zxid, base: Zxid) -> Plan:
        return Plan(Repair.DIFF, last) if last <= trail.last else Plan(Repair.TRUNC, trail.last)

    patch.setattr(synchronization, "plan", plan)


def epoch_before_history(patch: pytest.MonkeyPatch) -> None:
    """ZOOKEEPER-4643: currentEpoch is durable with the promise, before the history is."""
    original = State.promise

    def promise(self: State, accepted: int, out: Effects) -> None:
        original(self, accepted, out)
        if self.current > 0:  # a new-born one would find that its peers have history at once
            self.settle(accepted, out)

    patch.setattr(State, "promise", promise)


def no_abdication(patch: pytest.MonkeyPatch) -> None:
    original = discovery.on_ack_epoch

    def on_ack_epoch(state, leading, learner, message, out):
        better = (message.current, message.last) > (state.current, state.trail.last)
        if leading.phase is Phase.DISCOVERY and better and message.epoch == leading.epoch and learner.ack is None:
            learner.ack = message
            learner.echoed = state.now
            leading.acks[learner.link.peer] = message
            return discovery.fix_history(state, leading, out)
        return original(state, leading, learner, message, out)

    patch.setattr(discovery, "on_ack_epoch", on_ack_epoch)


def uncounted_promises_count(patch: pytest.MonkeyPatch) -> None:
    original = discovery.on_ack_epoch
    patch.setattr(
        discovery,
        "on_ack_epoch",
        lambda state, leading, learner, message, out: original(state, leading, learner, replace(message, counted=True), out),
    )

    def on_new_epoch(state, following, message, out):
        if message.epoch == state.accepted and following.phase is Phase.DISCOVERY:
            following.epoch, following.phase = message.epoch, Phase.SYNC
            from zablog.core.messages import AckEpoch

            out.vote(following.link, AckEpoch(message.epoch, True, state.current, state.trail.last, state.trail.base.zxid, state.suspect))
            return None
        return new_epoch(state, following, message, out)

    new_epoch = discovery.on_new_epoch
    patch.setattr(discovery, "on_new_epoch", on_new_epoch)


def newleader_acked_without_fsync(patch: pytest.MonkeyPatch) -> None:
    """ZOOKEEPER-4785, 3911, 4646."""
    original = Effects.vote

    def vote(self: Effects, link, message) -> None:
        if isinstance(message, AckNewLeader):
            self.send(link, message)
        else:
            original(self, link, message)

    patch.setattr(Effects, "vote", vote)


def sync_does_nothing(patch: pytest.MonkeyPatch) -> None:
    """A disk that acknowledges a flush without doing it."""
    from zablog.sim.disk import SimDisk

    patch.setattr(SimDisk, "sync", lambda self, name: self.step("sync"))


def old_watermark_in_uptodate(patch: pytest.MonkeyPatch) -> None:
    def bring(state, leading, learner, out):
        from zablog.core.messages import UpToDate

        learner.told = state.trail.last
        out.send(learner.link, UpToDate(leading.epoch, learner.told))

    patch.setattr(synchronization, "bring_up_to_date", bring)


def commit_on_any_ack(patch: pytest.MonkeyPatch) -> None:
    def advance(state, leading, out):
        acked = broadcast.acked_by(state, leading)
        if leading.phase is Phase.BROADCAST and acked and max(acked.values()) > state.watermark:
            state.commit_to(max(acked.values()), out)
            leading.outstanding.clear()
            leading.outstanding_bytes = 0

    patch.setattr(broadcast, "advance", advance)


def recovery_drops_the_damaged_tail_in_silence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Storage, "suspect", property(lambda self: None))


def watermark_above_what_was_sent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Storage, "watermark", property(lambda self: self.wal.trail.last, lambda self, value: None), raising=False)


def snapshot_lacks_its_last_entry(patch: pytest.MonkeyPatch) -> None:
    """ZOOKEEPER-3104: a snapshot labelled above its content."""
    original = snapshots.bytes_of
    patch.setattr(snapshots, "bytes_of", lambda state: original(state[:-1]))


def snapshot_acknowledged_before_it_is_installed(patch: pytest.MonkeyPatch) -> None:
    """W5, W3: the leader goes on from a place that our disk does not have yet."""

    def on_staged(state, following, link, mark, out):
        if following.link == link and following.fetching == mark and not following.repaired:
            following.repaired = True
            state.install(mark, out)
            out.send(link, AckSnap(following.epoch, mark.zxid))

    patch.setattr(synchronization, "on_staged", on_staged)


def log_survives_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    """W5: the snapshot is installed beside the old log instead of in its place."""

    def install(self: Storage, snapshot: Snapshot) -> None:
        self.manifest.switch(self.manifest.contents._replace(snapshot=snapshot))

    patch.setattr(Storage, "install", install)


def log_is_let_go_above_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Wal, "trimmed", lambda self, upto, keep_bytes: self.files[-1])


CAUGHT = [
    (ack_before_sync, "DurableBeforeAck|NoStaleAck"),
    (commit_on_any_ack, "CommitQuorum"),
    (epoch_before_history, "LeaderComplete|CommitQuorum|CommittedKept|TotalOrder|PrimaryIntegrity|ProcessConsistency"),
    (newleader_acked_without_fsync, "DurableBeforeAck"),
    (no_abdication, "LeaderComplete|Diverged|TotalOrder|PrimaryIntegrity|ProcessConsistency|LogMatching"),
    (log_is_let_go_above_the_snapshot, "no log begins above its snapshot"),
    (log_survives_the_snapshot, "RestartFidelity|DurableBeforeAck|CommittedKept|the log was durable|law"),
    (old_watermark_in_uptodate, "CwSane|CommitQuorum"),
    (quorum_less_one, "SingleLeader|CommitQuorum|LeaderComplete"),
    (range_only_diff, "Liveness|Diverged|LogMatching"),
    (recovery_drops_the_damaged_tail_in_silence, "CommittedKept|LeaderComplete|CommitQuorum|Diverged"),
    (snapshot_acknowledged_before_it_is_installed, "DurableBeforeAck"),
    (snapshot_lacks_its_last_entry, "SnapshotExact"),
    (sync_does_nothing, "RestartFidelity|PromiseMono|LeaderComplete|no file of the log|valid data behind it"),
    (uncounted_promises_count, "OneCandidate|SingleLeader"),
    (watermark_above_what_was_sent, "CwSane|CommitQuorum"),
]


RARE = {no_abdication: 100}
"""Mutants that only a rare schedule shows: where to begin looking, for the sake of the suite's time."""


@pytest.mark.slow
@pytest.mark.parametrize(("mutant", "guarantee"), CAUGHT, ids=[mutant.__name__ for mutant, _ in CAUGHT])
def test_a_broken_core_is_caught(mutant: Break, guarantee: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)

    first = RARE.get(mutant, 0)
    for seed in range(first, first + SEEDS):
        options = draw(Random(f"options {seed}"), nodes=(3, 5)[seed % 2])
        report = run(seed, options)
        if report.failures:
            break

    assert report.failures, f"{mutant.__name__} was not caught by {SEEDS} seeds"
    assert any(name in report.failures[0] for name in guarantee.split("|")), report.failures[0]
