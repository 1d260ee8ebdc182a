"""The checkers are checked: one record of a run's history is edited on its way to them, and the one whose law it breaks objects.

The run itself is sound: without the edit nothing is found. A checker that no record can provoke would guarantee nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from zablog.core.messages import Ack, AckEpoch
from zablog.core.state import Following, Leading
from zablog.core.trail import Mark, Trail
from zablog.core.zxid import ZERO, Zxid
from zablog.sim import Options, Report, guarantees, run
from zablog.sim.ensemble import Ensemble
from zablog.sim.guarantees import Violation
from zablog.sim.image import Image
from zablog.sim.invariants import Invariants

SEEDS: Final = range(200)
"""Where a run is looked for that holds the record that is to be edited."""
HISTORY: Final = Options(
    nodes=3,
    seconds=4.0,
    proposals_per_second=150,
    faults={"crash": 1.0, "power_loss": 1.0, "link_cut": 1.0, "partition": 1.0, "pause": 1.0},
    checkpoints_per_second=20.0,
    reads_per_second=50.0,
)
FAR: Final = 10**6
"""Further than any log of the run goes."""

Edit = Callable[..., tuple[Any, ...] | None]  # Any: the words of whichever record
"""Takes the checkers and a record; gives the edited record, or None if this is not the one to edit."""
EDITS: list[tuple[str, str, Edit]] = []


def edit(guarantee: str, record: str) -> Callable[[Edit], Edit]:
    """The edited `record` (a method of the checkers that is told what happened) must break `guarantee`."""

    def enter(change: Edit) -> Edit:
        EDITS.append((guarantee, record, change))
        return change

    return enter


def runs(enough: Callable[[Report], object]) -> Report:
    """Runs of the same options, one seed after the other, until there is enough in one, or it fails."""
    for seed in SEEDS:
        report = run(seed, HISTORY)
        if report.failures or enough(report):
            return report
    raise AssertionError(f"no run of {len(SEEDS)} seeds holds such a record")


def record_edited(patch: pytest.MonkeyPatch, record: str, change: Edit) -> list[str]:
    """One record, the first that can be, is edited on its way to the checkers."""
    original = getattr(Invariants, record)
    edited: list[str] = []

    def told(self: Invariants, *words: Any) -> None:
        if not edited and (changed := change(self, *words)) is not None:
            edited.append(record)
            words = changed
        original(self, *words)

    patch.setattr(Invariants, record, told)
    return edited


@pytest.mark.slow
def test_without_an_edit_the_history_is_sound_and_holds_every_kind_of_record() -> None:
    report = runs(lambda found: all((found.elections, found.truncations, found.checkpoints, found.snapshots, found.power_losses)))

    assert report.failures == []
    assert report.acked > 0


# -- promises and acknowledgements --------------------------------------------------------------------------------------------


@edit("PromiseMono", "remembered")
def a_disk_once_promised_more(checkers, node, before):
    return node, replace(before, accepted=node.image.accepted + 1)


@edit("OneCandidate", "sending")
def a_promise_counts_for_another_candidate(checkers, node, send):
    if not (isinstance(send.message, AckEpoch) and send.message.counted):
        return None
    earlier = [epoch for (id, epoch), link in checkers.counted.items() if id == node.id and link != send.link]
    return (node, replace(send, message=replace(send.message, epoch=earlier[0]))) if earlier else None


@edit("SingleLeader", "begun")
def an_epoch_has_another_leader(checkers, node, epoch):
    others = [begun for begun, candidacy in checkers.owner.items() if candidacy != (node.id, node.life, node.generation)]
    return (node, others[0]) if others else None


@edit("DurableBeforeAck", "sending")
def an_ack_names_an_entry_further_on(checkers, node, send):
    return (node, replace(send, message=Ack(send.message.epoch, send.message.zxid.after(FAR)))) if isinstance(send.message, Ack) else None


@edit("DurableBeforeAck", "fixes")
def an_epoch_begins_with_what_its_leader_has_not_written(checkers, node, epoch, initial):
    return node, epoch, initial._replace(counter=FAR)


@edit("NoStaleAck", "sending")
def an_ack_is_of_an_earlier_epoch(checkers, node, send):
    return (node, replace(send, message=Ack(send.message.epoch - 1, send.message.zxid))) if isinstance(send.message, Ack) else None


# -- what is committed stays --------------------------------------------------------------------------------------------------


@edit("CommitQuorum", "established")
def an_epoch_begins_with_more_than_anybody_has(checkers, node, epoch, initial):
    return node, epoch, Zxid(epoch, FAR)


@edit("LeaderComplete", "established")
def an_earlier_epoch_committed_more(checkers, node, epoch, initial):
    if not checkers.committed_in or min(checkers.committed_in) >= epoch:
        return None
    checkers.committed_in[min(checkers.committed_in)] = Zxid(epoch, FAR)
    return node, epoch, initial


@edit("CommittedKept", "truncated")
def a_truncation_goes_to_the_beginning(checkers, node, mark):
    return (node, Mark(ZERO, 0)) if checkers.committed_in and min(checkers.committed_in) < node.image.accepted else None


# -- what is delivered --------------------------------------------------------------------------------------------------------


@edit("TotalOrder", "delivered")
def a_second_node_delivers_something_else(checkers, node, index):
    if index >= len(checkers.committed):
        return None
    node.delivered[index] = (node.delivered[index][0], b"something else")
    return node, index


def delivered_first(checkers, node, index, zxid, payload):
    node.delivered[index] = (zxid, payload)
    return node, index


@edit("Integrity", "delivered")
def something_is_delivered_that_nobody_proposed(checkers, node, index):
    if index < len(checkers.committed):
        return None
    return delivered_first(checkers, node, index, node.delivered[index][0], b"never proposed")


@edit("LocalOrder", "delivered")
def an_entry_is_skipped(checkers, node, index):
    if index < len(checkers.committed):
        return None
    zxid, payload = node.delivered[index]
    return delivered_first(checkers, node, index, zxid.after(1), payload)


@edit("GlobalOrder", "delivered")
def an_entry_of_an_epoch_that_is_over_is_delivered(checkers, node, index):
    if index < len(checkers.committed) or index == 0:
        return None
    zxid, payload = node.delivered[index]
    return delivered_first(checkers, node, index, Zxid(zxid.epoch - 1, FAR), payload)


@edit("PrimaryIntegrity", "established")
def an_earlier_epoch_delivered_more(checkers, node, epoch, initial):
    checkers.last_of[epoch - 1] = Zxid(epoch, FAR)
    return node, epoch, initial


@edit("LinearizableReads", "read_ready")
def a_read_is_answered_with_less(checkers, node, owed, upto):
    return (node, owed, ZERO) if owed > ZERO else None


# -- logs and watermarks ------------------------------------------------------------------------------------------------------


@edit("LogMatching", "appended")
def an_entry_has_another_payload(checkers, node, entries):
    return node, entries._replace(payloads=[*entries.payloads[:-1], b"another"])


@edit("Contiguity", "appended")
def a_counter_is_left_out(checkers, node, entries):
    return node, entries._replace(first=entries.first.after(1))


@edit("ProcessConsistency", "consistent")
def a_follower_has_more_than_its_leader(checkers, node, end):
    role = node.peer.state.role
    if not (isinstance(role, Following) and role.acked):
        return None
    leader = checkers.nodes[role.leader - 1]
    leads = leader.running and isinstance(leader.peer.state.role, Leading) and leader.peer.state.role.epoch == role.epoch
    return (node, end.after(FAR)) if leads else None


@edit("CwSane", "watermark_moved")
def a_watermark_goes_back(checkers, node, watermark, news):
    return (node, ZERO, news) if checkers.watermarks.get((node.id, node.life), ZERO) > ZERO else None


@edit("SnapshotExact", "restored")
def a_snapshot_lacks_an_entry(checkers, node, mark):
    node.delivered.pop()
    return node, mark


@edit("RestartFidelity", "recovered")
def a_disk_held_more_before_the_crash(checkers, node, storage):
    image = node.image
    if image.trail.last == ZERO or checkers.under_way.get(node.id):
        return None
    longer = Trail(image.trail.base, [*image.trail.ends, Mark(Zxid(image.trail.last.epoch + 1, FAR), 0)])
    node.image = Image(image.accepted, image.current, longer)
    return node, storage


# -- conduct ------------------------------------------------------------------------------------------------------------------


@edit("Legal", "role_changed")
def a_role_ends_over_an_illegal_message(checkers, node, role):
    return node, replace(role, reason="illegal: a message")


@pytest.mark.parametrize(("guarantee", "record", "change"), EDITS, ids=[guarantee for guarantee, _, _ in EDITS])
def test_one_edited_record_makes_its_checker_object(guarantee: str, record: str, change: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    edited = record_edited(monkeypatch, record, change)

    report = runs(lambda _: edited)

    assert [f": {guarantee}: " in failure for failure in report.failures] == [True], report.failures


def test_a_node_that_halts_makes_its_checker_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """A healthy node never does, so there is no record to edit: one is put in."""
    monkeypatch.setattr(Invariants, "role_changed", lambda self, node, role: self.halted(node, role.reason))

    (failure,) = runs(lambda _: True).failures

    assert ": Diverged: " in failure


@pytest.mark.slow
def test_an_ensemble_that_comes_to_no_end_makes_its_checker_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node delivers after the faults is taken away again: it never catches up."""
    heal = Ensemble.heal

    def lame(self: Ensemble) -> None:
        heal(self)
        self.nodes[1].deliver = lambda upto: None  # type: ignore[method-assign]  # of this run alone
        monkeypatch.setattr(Invariants, "after_step", lambda self, node: None)

    monkeypatch.setattr(Ensemble, "heal", lame)

    (failure,) = runs(lambda _: True).failures

    assert ": Liveness: " in failure


def at_the_end(patch: pytest.MonkeyPatch, change: Callable[[Ensemble], None]) -> None:
    """Edit what clients and nodes remember, once everything has come to its end."""
    wait = Ensemble.wait_for

    def wait_for(self: Ensemble, truth: Callable[[], bool], seconds: float, else_say: str) -> None:
        wait(self, truth, seconds, else_say)
        if not self.clients:
            change(self)

    patch.setattr(Ensemble, "wait_for", wait_for)


def lost(ensemble: Ensemble) -> None:
    ensemble.acknowledged[0] = (ensemble.acknowledged[0][0].after(FAR), b"lost")


def repeated(ensemble: Ensemble) -> None:
    log = ensemble.invariants.committed
    log[-1] = (log[-1][0], log[0][1])
    for node in ensemble.nodes.values():
        node.delivered[-1] = log[-1]


def differs(ensemble: Ensemble) -> None:
    ensemble.nodes[2].delivered[0] = (ensemble.nodes[2].delivered[0][0], b"differs")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lost, "Integrity: 1 acknowledged entries are lost"),
        (repeated, "Integrity: a payload was delivered twice"),
        (differs, "TotalOrder: in the end node 2"),
    ],
)
def test_one_edited_record_of_what_clients_were_told_is_noticed_in_the_end(
    change: Callable[[Ensemble], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_end(monkeypatch, change)

    (failure,) = runs(lambda _: True).failures

    assert says in failure


def test_every_guarantee_has_its_edited_record() -> None:
    named = {cls.__name__ for cls in vars(guarantees).values() if isinstance(cls, type) and issubclass(cls, Violation)}

    assert {guarantee for guarantee, _, _ in EDITS} | {"Diverged", "Liveness"} == named - {"Violation"}
