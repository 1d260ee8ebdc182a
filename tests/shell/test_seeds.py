"""The whole shell from seeds: whatever fails and whoever is cancelled, what was acknowledged is there, once and in order."""

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter

import pytest
import trio

from tests.pace import few
from tests.shell.story import play
from tests.shell.world import RUN_SECONDS, World, leaves

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


def test_a_busy_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = play(5)[0].digest()
    offered = 0

    def somebody_else_takes_it() -> None:
        nonlocal offered
        offered += 1
        until = perf_counter() + 0.001
        while perf_counter() < until:
            pass

    monkeypatch.setattr(os, "sched_yield", somebody_else_takes_it, raising=False)

    assert play(5)[0].digest() == alone
    assert offered


class StoryFails(Exception):
    pass


async def fails(world: World) -> None:
    async with world.client("client") as client, client.producer() as producer:
        await client.create_topic("orders")
        await producer.submit("orders", b"1")
        raise StoryFails("on purpose")


async def never_ends(world: World) -> None:
    async with world.client("client") as client:
        await client.create_topic("orders")
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("story", "words"), [(fails, "on purpose"), (never_ends, f"nothing came to an end within {RUN_SECONDS:g} virtual seconds")]
)
@pytest.mark.parametrize("seed", few(range(3)))
def test_a_story_that_fails_ends_at_the_same_point_each_time(story: Callable[[World], Awaitable[None]], words: str, seed: int) -> None:
    worlds = [World(seed), World(seed)]
    for world in worlds:
        with pytest.raises((StoryFails, AssertionError, ExceptionGroup)) as caught:
            world.run(story)
        assert [str(leaf) for leaf in leaves(caught.value)] == [words]

    assert worlds[0].digest() == worlds[1].digest()
