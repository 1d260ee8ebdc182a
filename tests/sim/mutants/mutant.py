"""Broken cores and how they are hunted. A simulator that misses one is not finished.

A mutant breaks one rule of the shipped code by a patch. It must be caught by the guarantee it names: the one that the rule is there for.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from random import Random
from typing import Any, Final, NamedTuple

import pytest

from broker.sim.history import CHECKERS, anomalies
from tests.sim.topics import Play
from zablog.sim import Options, guarantees, run
from zablog.sim.ensemble import Ensemble
from zablog.sim.faults import draw
from zablog.sim.guarantees import Violation
from zablog.sim.invariants import Invariants

Break = Callable[[pytest.MonkeyPatch], None]
SEEDS_MAX: Final = 1_000
LAW: Final = "law"
"""What an `assert` of the core, the storage or `State.check` is called: it catches a mutant before any guarantee can."""
GUARANTEES: Final = {cls.__name__ for cls in vars(guarantees).values() if isinstance(cls, type) and issubclass(cls, Violation)} - {
    "Violation"
}
ANOMALIES: Final = {checker.__name__ for checker in CHECKERS}
STORM: Final = Options(nodes=3, proposals_per_second=20, faults={"ambush": 3.0, "crash_in_write": 3.0, "one_way": 1.0, "pause": 1.0})
GALE: Final = Options(nodes=5, proposals_per_second=20, faults={"ambush": 3.0, "partition": 3.0, "power_loss": 3.0}, delay_micros=15_000)
DECAY: Final = Options(
    nodes=3, proposals_per_second=20, faults={"disk_error": 3.0, "power_loss": 2.0, "rot": 2.0, "rot_copy": 2.0, "crash_in_write": 1.0}
)
FERRY: Final = Options(
    nodes=3, faults={"power_loss": 3.0, "link_cut": 3.0, "partition": 1.0, "crash_in_write": 2.0}, checkpoints_per_second=20.0
)
SQUALL: Final = Options(
    nodes=5, seconds=3.0, proposals_per_second=5, faults={"ambush": 4.0, "one_way": 3.0, "crash": 2.0}, delay_micros=15_000
)
STAR: Final = Options(
    nodes=5,
    proposals_per_second=100,
    faults={"hub": 3.0, "ambush": 3.0, "partition": 4.0, "power_loss": 1.0},
    delay_micros=15_000,
    served_through_a_hub=True,
)
NAMED = re.compile(r"event \d+: (\w+): ")


@dataclass(frozen=True)
class Mutant:
    """`guarantee` must catch it; `rule` is the place in the protocol's description that it breaks."""

    rule: str
    guarantee: str
    broken: Break
    slow: bool
    arena: "Arena"
    """Where it is hunted."""

    @property
    def name(self) -> str:
        return self.broken.__name__

    @property
    def words(self) -> str:
        return (self.broken.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip()


CATALOGUE: list[Mutant] = []


class Catch(NamedTuple):
    """`guarantee` raised in the run of `seed`."""

    seed: int
    guarantee: str
    failure: str


Arena = Callable[[int], list[Catch]]
"""Runs a seed: who objects to it."""


def simulated(seed: int, options: Options) -> list[Catch]:
    report = run(seed, options)
    if not report.failures:
        return []
    named = NAMED.search(report.failures[0])
    return [Catch(seed, named[1] if named and named[1] in GUARANTEES else LAW, report.failures[0])]


def swarm(seed: int) -> list[Catch]:
    """Ensembles of three and five nodes; each seed draws its own mix of faults."""
    return simulated(seed, draw(Random(f"options {seed}"), nodes=(3, 5)[seed % 2]))


def storm(seed: int) -> list[Catch]:
    """For mutants that only a rare schedule shows: elections that fail half-way, one after the other."""
    return simulated(seed, STORM)


def gale(seed: int) -> list[Catch]:
    """For those that need a minority with a history, or a promise, of its own."""
    return simulated(seed, GALE)


def decay(seed: int) -> list[Catch]:
    """For those that need a disk that fails, and then the power."""
    return simulated(seed, DECAY)


def ferry(seed: int) -> list[Catch]:
    """For those that need snapshots on their way, and what interrupts them."""
    return simulated(seed, FERRY)


def squall(seed: int) -> list[Catch]:
    """For those that need a promise that went far ahead of the others', to leaders that nothing came of."""
    return simulated(seed, SQUALL)


def star(seed: int) -> list[Catch]:
    """For those that need a leader that is not the one with the best history, since only it reaches a quorum."""
    return simulated(seed, STAR)


def topic(seed: int) -> list[Catch]:
    """Producers, replicas and readers of one topic."""
    return [Catch(seed, found.partition(":")[0], found) for found in anomalies(Play(seed).run())]


def mutant(rule: str, guarantee: str, slow: bool = False, arena: Arena = swarm) -> Callable[[Break], Break]:
    """Enter a broken rule into the catalogue."""
    assert guarantee in GUARANTEES | ANOMALIES | {LAW}, f"{guarantee} is a guarantee"

    def enter(broken: Break) -> Break:
        CATALOGUE.append(Mutant(rule, guarantee, broken, slow, arena))
        return broken

    return enter


def hunt(prey: Mutant, seeds: int = SEEDS_MAX) -> Catch | None:
    """The first seed at which the guarantee that the mutant names catches it."""
    with pytest.MonkeyPatch.context() as patch:
        prey.broken(patch)
        for seed in range(seeds):
            for catch in prey.arena(seed):
                if catch.guarantee == prey.guarantee:
                    return catch
    return None


def others(prey: Mutant, seeds: Iterable[int]) -> set[str]:
    """Who would catch the mutant on these seeds if the guarantee that it names were not there."""
    with pytest.MonkeyPatch.context() as patch:
        prey.broken(patch)
        with without(prey.guarantee):
            return {catch.guarantee for seed in seeds for catch in prey.arena(seed)} - {prey.guarantee}


@contextmanager
def without(guarantee: str) -> Iterator[None]:
    """Nobody minds this guarantee broken; whatever else is checked is checked."""
    deaf = vars(guarantees).get(guarantee)
    if deaf is None:
        yield
        return

    def deafen(method: Callable[..., Any]) -> Callable[..., Any]:  # Any: whatever is checked
        @wraps(method)
        def check(*words: Any, **more: Any) -> Any:
            try:
                return method(*words, **more)
            except deaf:
                return None

        return check

    with pytest.MonkeyPatch.context() as patch:
        for name, method in vars(Invariants).items():
            if callable(method) and not name.startswith("_"):
                patch.setattr(Invariants, name, deafen(method))
        patch.setattr(Ensemble, "finish", deafen(Ensemble.finish))
        yield
