"""Broken histories: which one an epoch begins with, and how followers come to have it (W4 to W8, W11, sections 2 to 4)."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.sim.mutants.mutant import LAW, decay, ferry, mutant, storm
from tests.sim.mutants.promises import ungated
from zablog.core import discovery, election, synchronization
from zablog.core.effects import DurableEffect, Effects, SaveEpochs
from zablog.core.messages import AckNewLeader, AckSnap, Propose, Trunc
from zablog.core.state import Phase, State
from zablog.core.synchronization import Plan, Repair
from zablog.core.trail import Trail
from zablog.core.zxid import Zxid
from zablog.sim import snapshots
from zablog.sim.network import Network
from zablog.sim.snapshots import Transfer
from zablog.storage import history, reading
from zablog.storage.manifest import Snapshot
from zablog.storage.storage import Storage
from zablog.storage.wal import Wal

# -- the initial history -----------------------------------------------------------------------------------------------------


@mutant("§2 ACK-E", "LeaderComplete", arena=storm)
def no_better_history(patch: pytest.MonkeyPatch) -> None:
    """a prospective leader goes on with its own history though a follower has the better one"""
    patch.setattr(discovery, "best", lambda state, acks, peers: state.id)
    patch.setattr(discovery, "no_better", lambda ack, other: ack.suspect is None)


@mutant("§3 vote order", "PrimaryIntegrity", slow=True, arena=storm)
def recency_by_zxid_alone(patch: pytest.MonkeyPatch) -> None:
    """votes and histories are compared by last zxid, without currentEpoch"""
    patch.setattr(election, "max", lambda votes, default: max(votes, key=lambda row: (row[0], row[1][1:]), default=default), raising=False)

    def best(state, acks, peers):
        whole = [peer for peer in peers if acks[peer].suspect is None]
        return max(whole, key=lambda peer: (acks[peer].last, peer == state.id), default=None)

    patch.setattr(discovery, "best", best)
    patch.setattr(discovery, "no_better", lambda ack, other: ack.suspect is None and ack.last <= other.last)


@mutant("§2 NEWLEADER", "LeaderComplete", arena=storm, slow=True)
def history_fixed_before_a_quorum_promised(patch: pytest.MonkeyPatch) -> None:
    """synchronization begins with the first ACKEPOCH instead of a quorum of them"""

    def fix_history(state, leading, out):
        if state.id in leading.acks:
            synchronization.begin(state, leading, out)

    patch.setattr(discovery, "fix_history", fix_history)


@mutant("§9 suspect tail", "CommittedKept", arena=decay)
def suspect_tail_is_a_witness(patch: pytest.MonkeyPatch) -> None:
    """who may have lost acknowledged entries to a damaged batch is believed that there were none"""
    original = discovery.on_ack_epoch

    def on_ack_epoch(state, leading, learner, message, out):
        return original(state, leading, learner, replace(message, suspect=None), out)

    patch.setattr(discovery, "on_ack_epoch", on_ack_epoch)
    patch.setattr(Storage, "suspect", property(lambda self: None))


# -- history, then epoch, then the word ------------------------------------------------------------------------------------------


@mutant("W6", "PrimaryIntegrity", arena=storm)
def epoch_bound_with_the_promise(patch: pytest.MonkeyPatch) -> None:
    """currentEpoch is durable with the promise, before the history is (ZOOKEEPER-4643)"""
    original = State.promise

    def promise(self: State, accepted: int, out: Effects) -> None:
        original(self, accepted, out)
        if self.current > 0:  # a new-born one would find that its peers have history at once
            self.settle(accepted, out)

    patch.setattr(State, "promise", promise)


@mutant("W6", "PrimaryIntegrity", arena=storm, slow=True)
def epoch_written_before_the_entries(patch: pytest.MonkeyPatch) -> None:
    """the writer saves epochs first and appends afterwards (ZOOKEEPER-4643)"""
    original = Storage.perform

    def perform(self: Storage, effects: Sequence[DurableEffect], watermark: Zxid) -> None:
        epochs = [effect for effect in effects if isinstance(effect, SaveEpochs)]
        original(self, [*epochs, *(effect for effect in effects if not isinstance(effect, SaveEpochs))], watermark)

    patch.setattr(Storage, "perform", perform)


@mutant("W6", "DurableBeforeAck")
def newleader_acked_before_fsync(patch: pytest.MonkeyPatch) -> None:
    """ACK(NEWLEADER) leaves while entries are only queued (ZOOKEEPER-3023, 3911, 4646, 4785)"""
    ungated(patch, AckNewLeader)


@mutant("W8", "CommitQuorum", arena=storm)
def leader_binds_itself_at_once(patch: pytest.MonkeyPatch) -> None:
    """the leader counts its own ACK(NEWLEADER) before its currentEpoch is durable"""
    original = synchronization.begin

    def begin(state, leading, out):
        original(state, leading, out)
        leading.self_acked = state.trail.last

    patch.setattr(synchronization, "begin", begin)


# -- repair ------------------------------------------------------------------------------------------------------------------


@mutant("§4 membership", "Liveness", arena=storm)
def range_only_diff(patch: pytest.MonkeyPatch) -> None:
    """a tail of an old epoch within the range is taken for a part of the history (ZOOKEEPER-1154)"""

    def plan(trail: Trail, last: Zxid, base: Zxid) -> Plan:
        return Plan(Repair.DIFF, last) if last <= trail.last else Plan(Repair.TRUNC, trail.last)

    patch.setattr(synchronization, "plan", plan)


@mutant("§4 TRUNC", "Diverged")
def truncation_cuts_too_much(patch: pytest.MonkeyPatch) -> None:
    """a follower with a tail is cut back further than to the last common place (ZOOKEEPER-1156)"""
    original = synchronization.plan

    def plan(trail: Trail, last: Zxid, base: Zxid) -> Plan:
        made = original(trail, last, base)
        ends = [trail.base.zxid, *(mark.zxid for mark in trail.ends)]
        return (
            made._replace(after=max(end for end in ends if end < made.after))
            if made.repair is Repair.TRUNC and made.after > ends[0]
            else made
        )

    patch.setattr(synchronization, "plan", plan)


@mutant("§4 TRUNC", "ProcessConsistency", arena=storm)
def tail_kept_in_silence(patch: pytest.MonkeyPatch) -> None:
    """a follower that is told to cut its tail keeps it, and joins if nothing follows"""
    on_repair, on_new_leader = synchronization.on_repair, synchronization.on_new_leader

    def repair(state, following, message, out):
        if isinstance(message, Trunc) and message.epoch == following.epoch and message.after in state.trail:
            following.repaired = True
            return None
        return on_repair(state, following, message, out)

    def new_leader(state, following, message, out):
        return on_new_leader(state, following, replace(message, last=state.trail.last), out)

    patch.setattr(synchronization, "on_repair", repair)
    patch.setattr(synchronization, "on_new_leader", new_leader)


@mutant("§4 prevZxid", "Contiguity")
def entries_taken_across_a_gap(patch: pytest.MonkeyPatch) -> None:
    """a leader reads to a learner from a log with a hole, and the learner takes it (ZOOKEEPER-2099, 4925)"""
    original = history.slice_run

    def slice_run(entries, prev, after, upto, bytes_max):
        run = original(entries, prev, after, upto, bytes_max)
        if bytes_max < 1000 and len(run.payloads) > 1:  # what goes over a link, not what is delivered
            first = run.first.after(1)
            return run._replace(first=first, prev=run.first, payloads=run.payloads[1:])
        return run

    patch.setattr(history, "slice_run", slice_run)
    patch.setattr(reading, "slice_run", slice_run)
    patch.setattr(Trail, "follows", lambda self, entries: entries.first > self.last and bool(entries.payloads))


def altered_on_the_way(patch: pytest.MonkeyPatch) -> None:
    """A fault, not a mutant: now and then a leader's memory rots between its log and the link. The digest must notice."""
    send = Network.send
    sent = [0]

    def alter(self: Network, sender: int, link, message) -> None:
        if isinstance(message, Propose):
            sent[0] += 1
            if sent[0] % 40 == 0:
                payloads = [*message.entries.payloads[:-1], b"rotten"]
                message = replace(message, entries=message.entries._replace(payloads=payloads))
        send(self, sender, link, message)

    patch.setattr(Network, "send", alter)


@mutant("§9 digest", "LogMatching")
def digest_is_not_compared(patch: pytest.MonkeyPatch) -> None:
    """entries that were altered on the way are taken, whatever digest they claim"""
    altered_on_the_way(patch)

    def follows(self: Trail, entries) -> bool:
        first, last = entries.first, self.last
        return entries.prev == last and (first == last.after(1) or (first.epoch > last.epoch and first.counter == 1))

    patch.setattr(Trail, "follows", follows)


@mutant("W4", "RestartFidelity", arena=storm)
def truncation_in_memory_only(patch: pytest.MonkeyPatch) -> None:
    """a log is cut without a trace on disk: a restart finds what was cut"""
    patch.setattr(Wal, "cut", lambda self, mark: self.trail.truncate(mark))


# -- snapshots ---------------------------------------------------------------------------------------------------------------


@mutant("§4 SNAP", "Legal")
def snapshot_below_the_followers_last_entry(patch: pytest.MonkeyPatch) -> None:
    """whoever is behind is sent the last snapshot, be it older than what it has"""
    original = synchronization.meet

    def meet(state, leading, learner, out):
        if state.snapshot is not None and learner.ack.last < state.trail.last and leading.phase is Phase.BROADCAST:
            learner.offered = state.snapshot
            return out.send(learner.link, synchronization.Snap(leading.epoch, *state.snapshot))
        return original(state, leading, learner, out)

    patch.setattr(synchronization, "meet", meet)


@mutant("W11", "SnapshotExact")
def snapshot_lacks_its_last_entry(patch: pytest.MonkeyPatch) -> None:
    """a snapshot is labelled above its content (ZOOKEEPER-3104)"""
    original = snapshots.bytes_of
    patch.setattr(snapshots, "bytes_of", lambda state, application=b"": original(state[:-1], application))


@mutant("W5, W3", "DurableBeforeAck", slow=True)
def snapshot_acknowledged_before_it_is_installed(patch: pytest.MonkeyPatch) -> None:
    """the leader goes on from a place that the follower's disk does not have yet"""
    ungated(patch, AckSnap)


@mutant("W5", "DurableBeforeAck", slow=True)
def log_survives_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    """a snapshot is installed beside the old log instead of in its place"""

    def install(self: Storage, snapshot: Snapshot) -> None:
        self.manifest.switch(self.manifest.contents._replace(snapshot=snapshot))

    patch.setattr(Storage, "install", install)


@mutant("W5", LAW)
def log_is_let_go_above_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    """a checkpoint lets go of entries that no snapshot covers"""
    patch.setattr(Wal, "trimmed", lambda self, upto, keep_bytes: self.files[-1])


@mutant("§9 checksum", "SnapshotExact", arena=ferry)
def pieces_are_not_verified(patch: pytest.MonkeyPatch) -> None:
    """a snapshot that came in pieces over several tries is installed as it lies there"""
    patch.setattr(Transfer, "whole", lambda self, raw, found: True)


@mutant("§4 SNAP", "Liveness", arena=ferry)
def pieces_at_the_wrong_place(patch: pytest.MonkeyPatch) -> None:
    """a piece is written where the one before it stands"""
    original = Transfer.put
    patch.setattr(Transfer, "put", lambda self, offset, piece: original(self, max(0, offset - len(piece)), piece))
