"""Broken broadcast: acks, watermarks, delivery, and who may still speak (W9 to W12, section 2)."""

import pytest

from tests.sim.mutants.mutant import mutant
from tests.sim.mutants.promises import ungated
from zablog.core import broadcast, synchronization
from zablog.core.effects import Deliver
from zablog.core.gate import Gate
from zablog.core.messages import Ack, UpToDate
from zablog.core.peer import Peer
from zablog.core.quorum import Configuration
from zablog.core.state import Phase
from zablog.core.zxid import Zxid
from zablog.storage import history, reading
from zablog.storage.history import History
from zablog.storage.storage import Storage

# -- acks --------------------------------------------------------------------------------------------------------------------


@mutant("W9", "DurableBeforeAck")
def entries_acked_before_fsync(patch: pytest.MonkeyPatch) -> None:
    """a follower acknowledges what it has received, not what it has written"""
    ungated(patch, Ack)


@mutant("W9", "Legal")
def entries_acked_before_newleader(patch: pytest.MonkeyPatch) -> None:
    """ACK of an entry overtakes ACK(NEWLEADER) (ZOOKEEPER-4685)"""
    original = broadcast.on_propose

    def on_propose(state, following, message, out):
        original(state, following, message, out)
        if out.abandoned is None and not following.acked:
            out.vote(following.link, Ack(message.epoch, state.trail.last))

    patch.setattr(broadcast, "on_propose", on_propose)


@mutant("W9", "CommitQuorum")
def acks_counted_before_newleader(patch: pytest.MonkeyPatch) -> None:
    """the leader counts what ACKEPOCH said a follower has, before it is bound to the epoch"""

    def acked_by(state, leading):
        acked = {}
        for peer, learner in leading.learners.items():
            if learner.acked is not None:
                acked[peer] = learner.acked
            elif learner.ack is not None and learner.ack.last in state.trail:
                acked[peer] = learner.ack.last
        if leading.self_acked is not None:
            acked[state.id] = leading.self_acked
        return acked

    patch.setattr(broadcast, "acked_by", acked_by)
    patch.setattr(synchronization, "acked_by", acked_by)


@mutant("W10", "CommitQuorum")
def leader_acks_itself_before_fsync(patch: pytest.MonkeyPatch) -> None:
    """the leader's own vote for an entry does not wait for its own disk"""
    original = broadcast.acked_by

    def acked_by(state, leading):
        return {peer: state.trail.last if peer == state.id else through for peer, through in original(state, leading).items()}

    patch.setattr(broadcast, "acked_by", acked_by)


@mutant("§2 commit rule", "CommitQuorum")
def commit_on_any_ack(patch: pytest.MonkeyPatch) -> None:
    """the first ack commits"""

    def advance(state, leading, out):
        acked = broadcast.acked_by(state, leading)
        if leading.phase is Phase.BROADCAST and acked and max(acked.values()) > state.watermark:
            state.commit_to(max(acked.values()), out)
            leading.outstanding.clear()
            leading.outstanding_bytes = 0

    patch.setattr(broadcast, "advance", advance)


@mutant("§7 quorum", "CommitQuorum")
def quorum_less_one(patch: pytest.MonkeyPatch) -> None:
    """one voter fewer than a majority decides"""
    patch.setattr(Configuration, "is_quorum", lambda self, peers: 2 * len(set(peers) & set(self.voters)) >= len(self.voters) - 1)


# -- the gate ----------------------------------------------------------------------------------------------------------------


@mutant("§1 gate", "DurableBeforeAck")
def gate_stands_open(patch: pytest.MonkeyPatch) -> None:
    """nothing waits for the disk"""
    patch.setattr(Gate, "passes", lambda self, send: True)


@mutant("§1 gate", "DurableBeforeAck")
def gate_opens_one_write_early(patch: pytest.MonkeyPatch) -> None:
    """what waits for a durable operation leaves with the one before it"""
    original = Gate.open_to
    patch.setattr(Gate, "open_to", lambda self, token: original(self, token + 1))


@mutant("§1 gate, W9", "Legal")
def gate_releases_the_last_first(patch: pytest.MonkeyPatch) -> None:
    """what waited leaves in the wrong order: an ACK before the ACK(NEWLEADER) that it follows"""
    original = Gate.open_to
    patch.setattr(Gate, "open_to", lambda self, token: original(self, token)[::-1])


@mutant("W12", "Legal", slow=True)
def gate_survives_the_role(patch: pytest.MonkeyPatch) -> None:
    """a role that has ended still says what it had to say (ZOOKEEPER-4712)"""
    patch.setattr(Gate, "void", lambda self: None)


# -- watermarks and delivery ---------------------------------------------------------------------------------------------------


@mutant("W11", "CommitQuorum")
def entries_delivered_as_they_come(patch: pytest.MonkeyPatch) -> None:
    """a follower applies what it is sent while it synchronizes (ZOOKEEPER-2845, 1549)"""
    original = broadcast.on_propose

    def on_propose(state, following, message, out):
        original(state, following, message, out)
        if out.abandoned is None:
            state.commit_to(state.trail.last, out)

    patch.setattr(broadcast, "on_propose", on_propose)


@mutant("§2 UPTODATE", "CommitQuorum")
def uptodate_names_the_last_entry(patch: pytest.MonkeyPatch) -> None:
    """COMMIT-LD says that everything that was sent is committed"""

    def bring(state, leading, learner, out):
        learner.told = state.trail.last
        out.send(learner.link, UpToDate(leading.epoch, learner.told))

    patch.setattr(synchronization, "bring_up_to_date", bring)


@mutant("§1 commit hint", "CwSane")
def hint_above_what_is_committed(patch: pytest.MonkeyPatch) -> None:
    """a restart takes its whole log for committed"""
    patch.setattr(Storage, "watermark", property(lambda self: self.wal.trail.last, lambda self, value: None), raising=False)


@mutant("§2 COMMIT", "CwSane", slow=True)
def watermark_goes_back(patch: pytest.MonkeyPatch) -> None:
    """a proposal without news of the watermark sets it back"""
    original = broadcast.on_propose

    def on_propose(state, following, message, out):
        original(state, following, message, out)
        behind = message.watermark < state.watermark and message.watermark in state.trail
        if out.abandoned is None and following.phase is Phase.BROADCAST and behind:
            state.watermark = message.watermark
            out.emit(Deliver(message.watermark))

    patch.setattr(broadcast, "on_propose", on_propose)


@mutant("§2 COMMIT", "Integrity")
def clients_answered_before_commit(patch: pytest.MonkeyPatch) -> None:
    """what a leader has proposed counts as committed for whoever asks it"""
    patch.setattr(Peer, "watermark", property(lambda self: self.state.watermark if self.room == 0 else self.state.trail.last))


@mutant("§2 COMMIT", "LocalOrder")
def reader_skips_an_entry(patch: pytest.MonkeyPatch) -> None:
    """what is delivered begins one entry too late now and then"""
    original = history.slice_run

    def slice_run(entries, prev, after, upto, bytes_max):
        run = original(entries, prev, after, upto, bytes_max)
        if bytes_max > 1000 and len(run.payloads) > 2:
            return run._replace(first=run.first.after(1), prev=run.first, payloads=run.payloads[1:])
        return run

    patch.setattr(history, "slice_run", slice_run)


@mutant("§2 COMMIT", "TotalOrder")
def restart_skips_an_entry(patch: pytest.MonkeyPatch) -> None:
    """what is delivered again after a restart begins one entry too late now and then"""
    original = reading.slice_run

    def slice_run(entries, prev, after, upto, bytes_max):
        run = original(entries, prev, after, upto, bytes_max)
        if bytes_max > 1000 and len(run.payloads) > 2:
            return run._replace(first=run.first.after(1), prev=run.first, payloads=run.payloads[1:])
        return run

    patch.setattr(reading, "slice_run", slice_run)


@mutant("§2 COMMIT", "Integrity")
def reader_repeats_an_entry(patch: pytest.MonkeyPatch) -> None:
    """what is delivered begins with what was delivered last now and then"""
    original = History.read

    def read(self: History, after: Zxid, upto: Zxid, bytes_max: int):
        run = original(self, after, upto, bytes_max)
        before = Zxid(after.epoch, after.counter - 1)
        if run is None or run.prev != after or bytes_max < 1000 or before.counter < 1 or not self.in_memory(before):
            return run
        again = original(self, before, after, bytes_max)
        return run._replace(first=after, payloads=[*again.payloads[-1:], *run.payloads]) if run.first.epoch == after.epoch else run

    patch.setattr(History, "read", read)
