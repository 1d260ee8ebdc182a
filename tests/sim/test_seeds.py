"""Whole ensembles under faults, each from one seed."""

import os
import subprocess
import sys

import pytest

from zablog.sim import Report, run

FAST = 24
ALL = 400
CHUNK = 50


def runs(first: int, count: int) -> Report:
    total = Report()
    for seed in range(first, first + count):
        total.add(run(seed))
    return total


@pytest.mark.parametrize("first", range(0, FAST, 8))
def test_no_seed_breaks_a_guarantee(first: int) -> None:
    total = runs(first, 8)

    assert total.failures == []
    assert total.elections > 0
    assert total.acked > 0


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FAST, FAST + ALL, CHUNK))
def test_no_seed_of_many_breaks_a_guarantee(first: int) -> None:
    total = runs(first, CHUNK)

    assert total.failures == []
    assert all(total.faults.values()), f"each kind of fault happened: {total.faults}"


def test_a_seed_is_the_same_run_in_every_process() -> None:
    """Nothing iterates over a set, nothing is random but the seed."""
    program = "from zablog.sim import run; print(run(7).hash)"
    hashes = set()
    for hash_seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        finished = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        hashes.add(finished.stdout)

    assert len(hashes) == 1
    assert hashes != {"\n"}
