"""A snapshot on its way, and whatever may end a try: between any two of its pieces, between any two operations of the follower's disk.

The scene: node 3 was dead while the others wrote, and took a checkpoint, and let go of the log that it lacks.
"""

from collections.abc import Callable
from itertools import count

import pytest

from zablog.core.state import Leading
from zablog.sim import snapshots
from zablog.sim.ensemble import Ensemble
from zablog.sim.node import Node

BEHIND = 3


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PIECE_BYTES", (250,))


def until(ensemble: Ensemble, truth: Callable[[], bool], micros: int = 200) -> None:
    for _ in range(5_000_000 // micros):
        if truth():
            return
        ensemble.schedule.run_until(ensemble.schedule.now + micros)
    raise AssertionError("it does not come to that")


class Ferry:
    """Up to the moment at which the snapshot is asked for. Nothing happens by itself to disks, links and processes."""

    def __init__(self, seed: int = 1) -> None:
        self.ensemble = Ensemble(seed, 3)
        schedule = self.ensemble.schedule
        schedule.at(1_000, self.ensemble.drive, 150)
        until(self.ensemble, lambda: self.ensemble.serving, 20_000)
        self.behind = self.ensemble.nodes[BEHIND]
        self.behind.die(power_loss=False)
        self.grow(40)
        until(self.ensemble, lambda: any(node is not self.behind and self.leads(node) for node in self.ensemble.nodes.values()), 20_000)
        self.checkpoint()
        self.ensemble.start(BEHIND)
        until(self.ensemble, lambda: self.behind.transfer is not None)

    def leads(self, node: Node) -> bool:
        return node.running and isinstance(node.peer.state.role, Leading) and self.behind.delivered != node.delivered

    @property
    def leader(self) -> Node:
        (leader,) = [node for node in self.ensemble.nodes.values() if node.running and isinstance(node.peer.state.role, Leading)]
        return leader

    def grow(self, entries: int) -> None:
        goal = len(self.ensemble.invariants.committed) + entries
        until(self.ensemble, lambda: len(self.ensemble.invariants.committed) >= goal, 20_000)

    def checkpoint(self) -> None:
        """Of everybody, with as little left of the log as can be."""
        for node in self.ensemble.nodes.values():
            if node.running:
                while not snapshots.checkpoint(node) or node.storage.trail.base.zxid < node.delivered[-30][0]:
                    self.grow(1)

    @property
    def pieces(self) -> int:
        return self.ensemble.invariants.pieces

    def supersede(self) -> None:
        """The leader takes a newer snapshot, and its log does not reach back to the one that is on its way."""
        leader = self.leader
        assert leader.storage.snapshot is not None
        mark = leader.storage.snapshot.mark.zxid
        while not snapshots.checkpoint(leader) or leader.storage.trail.base.zxid <= mark:
            self.grow(1)

    def over(self) -> bool:
        """Is node 3 dead, or everything done that it had to?"""
        return not self.behind.running or (self.behind.transfer is None and not self.behind.writer.writing)

    def end(self) -> None:
        """Everything goes on as it can; nothing that was acknowledged is missing, and node 3 has all of it."""
        self.ensemble.tend()
        self.ensemble.heal()
        self.ensemble.finish()
        assert self.ensemble.invariants.snapshots >= 1


def at_piece(ferry: Ferry, number: int) -> bool:
    """Has it come so far, and is not whole yet?"""
    until(ferry.ensemble, lambda: ferry.pieces >= number or ferry.behind.transfer is None, 50)
    return ferry.behind.transfer is not None


def follower_dies(ferry: Ferry) -> None:
    ferry.behind.die(power_loss=False)


def follower_loses_its_power(ferry: Ferry) -> None:
    ferry.behind.die(power_loss=True)


def leader_dies(ferry: Ferry) -> None:
    ferry.leader.die(power_loss=True)


def connection_breaks(ferry: Ferry) -> None:
    assert ferry.behind.transfer is not None
    ferry.behind.transfer.lost = True
    until(ferry.ensemble, lambda: ferry.behind.transfer is None or not ferry.behind.transfer.wanted)


def leader_cannot_read(ferry: Ferry) -> None:
    ferry.leader.troubles.read_fail_at = 1
    until(ferry.ensemble, lambda: ferry.leader.troubles.read_fail_at is None or ferry.behind.transfer is None)


@pytest.mark.slow
@pytest.mark.parametrize("fate", [follower_dies, follower_loses_its_power, leader_dies, connection_breaks, leader_cannot_read])
def test_what_ends_a_fetch_between_two_pieces_costs_a_try(fate: Callable[[Ferry], None]) -> None:
    resumed = []
    for number in count(0):
        ferry = Ferry()
        if not at_piece(ferry, number):
            break
        fate(ferry)
        ferry.end()
        resumed.append(ferry.ensemble.invariants.resumptions)

    assert len(resumed) > 4, "there were pieces to be interrupted"
    if fate is not follower_loses_its_power:  # which may take all that came
        assert min(resumed[1:-1]) > 0, "what came stays, and the next try goes on from there"


@pytest.mark.slow
@pytest.mark.parametrize("power_loss", [False, True])
def test_a_follower_may_die_at_any_operation_of_its_disk(power_loss: bool) -> None:
    for number in count(1):
        ferry = Ferry()
        ferry.behind.troubles.crash_at, ferry.behind.troubles.power_fails = number, power_loss
        installed = ferry.ensemble.invariants.snapshots
        until(ferry.ensemble, ferry.over)
        if ferry.behind.running and ferry.ensemble.invariants.snapshots > installed:
            break
        ferry.end()

    assert number > 10, "pieces, a sync, names, and what installing takes"


def test_a_fetch_goes_on_with_a_newer_snapshot() -> None:
    ferry = Ferry()
    assert at_piece(ferry, 3)

    ferry.ensemble.network.late[BEHIND] = 200_000
    ferry.supersede()
    ferry.end()

    found = ferry.ensemble.invariants
    assert (found.superseded, found.resumptions, found.anew) == (1, 1, 0)
    assert ferry.behind.storage.snapshot is not None and ferry.behind.storage.snapshot.length > 4 * 250


def test_what_was_torn_by_then_is_fetched_anew() -> None:
    ferry = Ferry()
    assert at_piece(ferry, 3)

    ferry.behind.die(power_loss=False)
    disk = ferry.behind.disk
    disk.flip(snapshots.ARRIVING, disk.size(snapshots.ARRIVING) // 2, 2)
    ferry.end()

    assert (ferry.ensemble.invariants.resumptions, ferry.ensemble.invariants.anew) == (1, 1)


def test_a_leader_that_cannot_read_its_snapshot_goes_on() -> None:
    ferry = Ferry()
    assert at_piece(ferry, 3)
    leader = ferry.leader
    life = leader.life

    leader_cannot_read(ferry)
    ferry.end()

    assert ferry.ensemble.invariants.unread == 1
    assert leader.life == life


def test_a_follower_that_cannot_read_what_came_stops() -> None:
    ferry = Ferry()
    assert at_piece(ferry, 1)
    life = ferry.behind.life

    ferry.behind.troubles.read_fail_at = 1
    until(ferry.ensemble, lambda: not ferry.behind.running)
    ferry.end()

    assert ferry.behind.life == life + 1
    assert ferry.ensemble.invariants.resumptions == 1
