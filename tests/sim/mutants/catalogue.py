"""All mutants, and the measuring of one: how many seeds it takes, and who else would have caught it."""

from typing import NamedTuple

from tests.sim.mutants import broadcasting, brokers, disks, elections, histories, promises, pulls, reads, segments, topics
from tests.sim.mutants.mutant import CATALOGUE, hunt, others

__all__ = ["CATALOGUE", "FAMILIES", "Row", "measure"]

FAMILIES = (promises, histories, pulls, broadcasting, elections, reads, disks, topics, brokers, segments)
BESIDE = 15
"""On so many seeds, from the catching one on, is looked who else would have caught the mutant."""


class Row(NamedTuple):
    """One line of the table. `seeds` is None if the mutant got away."""

    name: str
    words: str
    rule: str
    guarantee: str
    seeds: int | None
    others: tuple[str, ...]

    def line(self) -> str:
        seeds = "missed" if self.seeds is None else f"{self.seeds:,}"
        beside = ", ".join(self.others) or "nothing"
        return f"| `{self.name}` | {self.words} | {self.rule} | {self.guarantee} | {seeds} | {beside} |"


def measure(name: str) -> Row:
    """From seed 0."""
    (prey,) = [prey for prey in CATALOGUE if prey.name == name]
    catch = hunt(prey)
    beside = others(prey, range(catch.seed, catch.seed + BESIDE)) if catch is not None else set()
    return Row(prey.name, prey.words, prey.rule, prey.guarantee, None if catch is None else catch.seed + 1, tuple(sorted(beside)))
