"""Whole ensembles of brokers under faults, each from one seed: no anomaly in what clients were told."""

import pytest

from broker.sim import BrokerEnsemble
from broker.sim.ensemble import Anomaly
from broker.sim.replica import Replica
from zablog.sim import Options, Report, run, run_many

FAST = 4
ALL = 64
"""Of each of the runs, the phase of faults takes four seconds: all together take 30 s of one core."""
CHUNK = 64
RARE = {"parts_anew", "states_mended", "torn_segments"}
ROT = Options(proposals_per_second=30, faults={"rot_segment": 3.0, "power_loss": 1.0}, checkpoints_per_second=5.0)


def runs(first: int, count: int) -> Report:
    total = Report()
    for report in run_many(range(first, first + count), world=BrokerEnsemble):
        total.add(report)
    return total


def test_no_seed_shows_an_anomaly() -> None:
    total = runs(0, FAST)

    assert total.failures == []
    assert all(total.counts[name] for name in total.counts.keys() - RARE), f"everything had its turn: {total.counts}"


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FAST, FAST + ALL, CHUNK))
def test_no_seed_of_many_shows_an_anomaly(first: int) -> None:
    total = runs(first, CHUNK)

    assert total.failures == []
    assert min(total.snapshots, total.truncations, total.checkpoints, *total.counts.values()) > 0, f"not everything had its turn: {total}"


def test_an_anomaly_names_its_checker_and_the_command_that_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "tables", lambda self: b"%d" % id(self))

    (failure,) = run(1, world=BrokerEnsemble).found

    assert failure.guarantee == Anomaly.__name__
    assert failure.reason.startswith("replica_divergence: ")
    assert failure.command.startswith("zablog simulate --broker --seeds 1 ")


def test_rotten_segments_are_restored_from_a_peer() -> None:
    total = Report()
    for seed in range(3):
        total.add(run(seed, ROT, world=BrokerEnsemble))

    assert total.failures == []
    assert min(total.faults["rot_segment"], total.counts["states_mended"], total.counts["parts_anew"]) > 0
