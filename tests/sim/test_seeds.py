"""Whole ensembles under faults, each from one seed."""

import json
import os
import subprocess
import sys

import pytest

from tests.pace import few
from zablog.sim import SURVIVABLE, Report, run_many

FAST = 24
ALL = 500
CHUNK = 50
EVENTS = 20_000
"""Of each of the many. With the fast ones before them they take two cores about five minutes."""


def runs(first: int, count: int, events: int | None = None) -> Report:
    total = Report()
    for report in run_many(range(first, first + count), events=events):
        total.add(report)
    return total


@pytest.mark.parametrize("first", few(range(0, FAST, 4)))
def test_no_seed_breaks_a_guarantee(first: int) -> None:
    total = runs(first, 4)

    assert total.failures == []
    assert total.elections > 0
    assert total.acked > 0


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FAST, FAST + ALL, CHUNK))
def test_no_seed_of_many_breaks_a_guarantee(first: int) -> None:
    total = runs(first, CHUNK, EVENTS)

    assert total.failures == []
    assert total.events >= CHUNK * EVENTS
    assert all(total.faults[kind] for kind in SURVIVABLE), f"each kind of fault happened: {total.faults}"
    assert min(total.truncations, total.snapshots, total.repairs, total.torn_tails, total.mended) > 0, (
        f"each rare event happened: {total.to_json()}"
    )


@pytest.mark.slow
def test_a_seed_is_the_same_run_in_every_process() -> None:
    """Nothing iterates over a set, nothing is random but the seed."""
    program = "from zablog.sim import run; import json; print(json.dumps([run(seed).hash for seed in (7, 8, 9)]))"
    hashes = set()
    for hash_seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        finished = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        hashes.add(finished.stdout)

    assert len(hashes) == 1
    assert len(set(json.loads(hashes.pop()))) == 3, "each seed has a hash of its own"
