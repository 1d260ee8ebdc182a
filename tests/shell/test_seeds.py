"""The whole shell from seeds: whatever fails and whoever is cancelled, what was acknowledged is there, once and in order."""

import os
import subprocess
import sys

import pytest

from tests.pace import few
from tests.shell.story import play

FAST = 8
SLOW = 200
CHUNK = 20


@pytest.mark.parametrize("seed", few(range(FAST), fast=3))
def test_a_few_seeds_keep_every_promise(seed: int) -> None:
    play(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1000 + SLOW, CHUNK))
def test_many_seeds_keep_every_promise(first: int) -> None:
    faults: set[str] = set()
    cancelled = acked = 0
    for seed in range(first, first + CHUNK):
        world, story = play(seed)
        faults |= set(world.faults)
        cancelled += story.ledger.cancelled
        acked += len(story.ledger.acked)

    assert len(faults) >= 18 and cancelled > CHUNK and acked > 50 * CHUNK, (faults, cancelled, acked)


@pytest.mark.slow
def test_the_same_seed_is_the_same_run_in_any_process() -> None:
    here = play(5)[0]

    def elsewhere(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "tests.shell", "5-5"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert f"5: {here.digest()[:16]}," in elsewhere("1")
    assert f"5: {here.digest()[:16]}," in elsewhere("2")
