"""Each kind of fault strikes, by itself, and breaks nothing; a disk that lies does, and is counted apart."""

from collections.abc import Callable, Iterable, Iterator
from random import Random

import pytest

from zablog.sim import SURVIVABLE, Report, run, run_many
from zablog.sim.faults import draw

COMPANIONS = {"ambush": ("crash",)}
"""An ambush waits for a recovery, and somebody must have something to recover from."""


@pytest.mark.parametrize("kind", SURVIVABLE)
def test_a_fault_strikes_and_breaks_nothing(kind: str) -> None:
    total = Report()
    for seed in range(1, 4):
        total.add(run(seed, draw(Random(f"options {seed}"), kinds=(kind, *COMPANIONS.get(kind, ())))))

    assert total.failures == []
    assert total.faults[kind] > 0
    assert {other for other, count in total.faults.items() if count} == {kind, *COMPANIONS.get(kind, ())}


@pytest.mark.slow
def test_a_read_that_fails_stops_the_process() -> None:
    total = Report()
    for report in run_many(range(1, 9), kinds=("read_error", "crash")):
        total.add(report)

    assert total.failures == []
    assert total.read_stops > 0


def test_a_leader_whose_disk_hangs_makes_room() -> None:
    total = Report()
    for report in run_many(range(1, 9), kinds=("hung_disk",)):
        total.add(report)

    assert total.failures == []
    assert total.stalls > 0
    assert total.elections > total.seeds


@pytest.mark.parametrize("kind", [pytest.param("lost_write", marks=pytest.mark.slow), "stale_file"])
def test_what_a_lying_disk_loses_is_no_violation(kind: str) -> None:
    total = Report()
    for report in run_many(range(1, 60), kinds=(kind, "blackout")):
        total.add(report)
        if total.losses:
            break

    assert total.losses, f"nothing noticed that a disk lied {total.faults[kind]} times"
    assert total.violations == 0


@pytest.mark.slow
def test_any_pool_may_run_the_seeds() -> None:
    class Pool:
        """Looks like the pool of another engine."""

        def imap_unordered(self, function: Callable[[int], Report], seeds: Iterable[int], /) -> Iterator[Report]:
            return map(function, reversed(list(seeds)))

    def total_of(pool: Pool | None) -> Report:
        total = Report()
        for report in run_many(range(1, 4), nodes=3, pool=pool):
            total.add(report)
        return total

    there, here = total_of(Pool()), total_of(None)

    assert there.seeds == 3
    assert (there.hash, there.events, there.faults) == (here.hash, here.events, here.faults)
