"""Broken cores. A simulator that misses one is not finished: each is caught, by the guarantee that its rule is there for.

The mutants stand in `tests/sim/mutants`, one file a phase; `python -m tests.sim.mutants` prints the table of docs/correctness.md.
"""

import re
from pathlib import Path

import pytest

from tests.pace import few
from tests.sim.mutants.brokers import brokers
from tests.sim.mutants.catalogue import CATALOGUE, FAMILIES
from tests.sim.mutants.histories import altered_on_the_way
from tests.sim.mutants.mutant import (
    ANOMALIES,
    GUARANTEES,
    LAW,
    SEEDS_MAX,
    Arena,
    Mutant,
    decay,
    ferry,
    gale,
    hunt,
    squall,
    star,
    storm,
    swarm,
    topic,
)
from tests.sim.mutants.promises import newest_copy_rots

CORRECTNESS = (Path(__file__).parents[2] / "docs" / "correctness.md").read_text()
WRITE_ORDER_RULES = {f"W{number}" for number in range(1, 14)}


def slowly(number: int, prey: Mutant) -> list[pytest.MarkDecorator]:
    """Every sixth one that is caught soon is hunted in the fast tests, too."""
    return [pytest.mark.slow] if prey.slow or number % 6 else []


@pytest.mark.parametrize("prey", [pytest.param(prey, id=prey.name, marks=slowly(number, prey)) for number, prey in enumerate(CATALOGUE)])
def test_a_broken_core_is_caught_by_the_guarantee_it_names(prey: Mutant) -> None:
    catch = hunt(prey)

    assert catch is not None, f"{prey.name} got away from {prey.guarantee} for {SEEDS_MAX} seeds"
    assert prey.guarantee == LAW or prey.guarantee in catch.failure


@pytest.mark.parametrize("arena", few([topic, storm, decay, squall, swarm, gale, ferry, star, brokers], fast=4))
def test_a_core_that_is_not_broken_is_not_caught(arena: Arena) -> None:
    assert [arena(seed) for seed in range(4)] == [[]] * 4


@pytest.mark.slow
def test_what_the_digest_notices_is_no_fault_of_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of `digest_is_not_compared`: entries altered on the way are refused, and come again whole."""
    altered_on_the_way(monkeypatch)

    assert [swarm(seed) for seed in range(4)] == [[]] * 4


@pytest.mark.slow
def test_the_newest_copy_of_a_promise_may_rot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of `promises_in_alternating_slots`: the other copy says the same."""
    newest_copy_rots(monkeypatch)

    assert [storm(seed) for seed in range(12)] == [[]] * 12


def test_every_rule_of_the_order_of_writes_is_broken_by_a_mutant() -> None:
    broken = {rule for prey in CATALOGUE for rule in re.findall(r"W\d+", prey.rule)}

    assert broken == WRITE_ORDER_RULES
    assert len({prey.name for prey in CATALOGUE}) == len(CATALOGUE) >= 28
    assert len(FAMILIES) == len({prey.broken.__module__ for prey in CATALOGUE})


def test_every_guarantee_is_named_by_a_mutant_or_the_document_says_why_it_stays() -> None:
    named = {prey.guarantee for prey in CATALOGUE}

    for guarantee in GUARANTEES - named:
        assert re.search(rf"^\* `{guarantee}` stays", CORRECTNESS, re.MULTILINE), f"docs/correctness.md: why does {guarantee} stay?"
    assert named <= GUARANTEES | ANOMALIES | {LAW}


def test_the_table_of_the_document_has_a_row_for_every_mutant() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\w+) \| ([\d,]+) \|", CORRECTNESS, re.MULTILINE)

    assert sorted((name, guarantee) for name, guarantee, _ in rows) == sorted((prey.name, prey.guarantee) for prey in CATALOGUE)
    assert all(int(seeds.replace(",", "")) <= SEEDS_MAX for _, _, seeds in rows)
