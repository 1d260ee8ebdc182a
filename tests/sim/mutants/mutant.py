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

from zablog.sim import guarantees, run
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
NAMED = re.compile(r"event \d+: (\w+): ")


@dataclass(frozen=True)
class Mutant:
    """`guarantee` must catch it; `rule` is the place in the protocol's description that it breaks."""

    rule: str
    guarantee: str
    broken: Break
    slow: bool
    first: int
    """Where a test begins to look, for the sake of the suite's time; the table is made from seed 0."""

    @property
    def name(self) -> str:
        return self.broken.__name__

    @property
    def words(self) -> str:
        return (self.broken.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip()


CATALOGUE: list[Mutant] = []


def mutant(rule: str, guarantee: str, slow: bool = False, first: int = 0) -> Callable[[Break], Break]:
    """Enter a broken rule into the catalogue."""
    assert guarantee in GUARANTEES | {LAW}, f"{guarantee} is a guarantee"

    def enter(broken: Break) -> Break:
        CATALOGUE.append(Mutant(rule, guarantee, broken, slow, first))
        return broken

    return enter


class Catch(NamedTuple):
    """`guarantee` raised in the run of `seed`."""

    seed: int
    guarantee: str
    failure: str


def catches(seeds: Iterable[int]) -> Iterator[Catch | None]:
    """What each seed's run is refused with, None if it is not."""
    for seed in seeds:
        report = run(seed, draw(Random(f"options {seed}"), nodes=(3, 5)[seed % 2]))
        if not report.failures:
            yield None
            continue
        failure = report.failures[0]
        named = NAMED.search(failure)
        guarantee = named[1] if named and named[1] in GUARANTEES else LAW
        yield Catch(seed, guarantee, failure)


def hunt(prey: Mutant, first: int = 0, seeds: int = SEEDS_MAX) -> Catch | None:
    """The first seed at which the guarantee that the mutant names catches it."""
    with pytest.MonkeyPatch.context() as patch:
        prey.broken(patch)
        for catch in catches(range(first, first + seeds)):
            if catch is not None and catch.guarantee == prey.guarantee:
                return catch
    return None


def others(prey: Mutant, seeds: Iterable[int]) -> set[str]:
    """What would catch the mutant on these seeds if the guarantee that it names were not there."""
    with pytest.MonkeyPatch.context() as patch:
        prey.broken(patch)
        with without(prey.guarantee):
            return {catch.guarantee for catch in catches(seeds) if catch is not None}


@contextmanager
def without(guarantee: str) -> Iterator[None]:
    """Nobody minds this guarantee broken; whatever else is checked is checked."""
    deaf = vars(guarantees).get(guarantee)
    if deaf is None:
        yield
        return

    def deafen(method: Callable[..., Any]) -> Callable[..., Any]:  # Any: whatever is checked
        @wraps(method)
        def check(*words: Any) -> Any:
            try:
                return method(*words)
            except deaf:
                return None

        return check

    with pytest.MonkeyPatch.context() as patch:
        for name, method in vars(Invariants).items():
            if callable(method) and not name.startswith("_"):
                patch.setattr(Invariants, name, deafen(method))
        patch.setattr(Ensemble, "finish", deafen(Ensemble.finish))
        yield
