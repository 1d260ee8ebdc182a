"""A failing seed becomes a short run that anybody can see again."""

from collections.abc import Callable

import pytest

from zablog.core.gate import Gate
from zablog.sim import Failure, Options, run, shrink
from zablog.sim.faults import draw
from zablog.sim.shrink import weight


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Failure:
    """A run of a core that does not wait for its disk."""
    monkeypatch.setattr(Gate, "passes", lambda self, send: True)
    return next(failure for seed in range(1, 50) for failure in run(seed).found)


@pytest.fixture
def lossy(monkeypatch: pytest.MonkeyPatch) -> Failure:
    """A run of a core that cannot repair a follower, which it needs faults to show."""
    from zablog.core import synchronization
    from zablog.core.synchronization import Plan, Repair

    monkeypatch.setattr(
        synchronization, "plan", lambda trail, last, base: Plan(Repair.DIFF, last) if last <= trail.last else Plan(Repair.TRUNC, trail.last)
    )
    return next(failure for seed in range(1, 200) for failure in run(seed).found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["broken", "lossy"])
def test_a_shortened_run_breaks_the_same_guarantee_with_less(kind: str, request: pytest.FixtureRequest) -> None:
    failure: Failure = request.getfixturevalue(kind)

    shorter = shrink(failure, runs_max=60)

    assert shorter.guarantee == failure.guarantee
    assert weight(shorter) <= weight(failure)
    [again] = run(shorter.seed, shorter.options).found
    assert again.reason == shorter.reason


def test_the_same_failure_is_always_shortened_to_the_same_run(broken: Failure) -> None:
    assert shrink(broken, runs_max=20) == shrink(broken, runs_max=20)


@pytest.mark.slow
def test_the_first_part_of_a_run_needs_no_fault_that_did_not_strike(lossy: Failure) -> None:
    seen: list[Failure] = []

    shorter = shrink(lossy, runs_max=60, tell=lambda runs, best: seen.append(best))

    assert shorter.options.strikes is not None
    assert set(shorter.options.strikes) <= set(lossy.strikes)
    assert [failure.guarantee for failure in seen] == [lossy.guarantee] * len(seen)


def test_leaving_out_a_fault_changes_no_other(shown: Callable[[Options], list[str]]) -> None:
    from random import Random

    options = draw(Random(5), nodes=3, kinds=("link_cut", "pause"))
    every = shown(options)
    without_first = shown(Options.from_words(options.words()[:-1] + ', "strikes": [2, 3]}'))

    assert [line for line in every if "fault 2:" in line or "fault 3:" in line] == [line for line in without_first if "-- fault" in line]


@pytest.fixture
def shown() -> Callable[[Options], list[str]]:
    def lines(options: Options) -> list[str]:
        told: list[str] = []
        run(1, options, tell=told.append)
        return told

    return lines


@pytest.mark.parametrize(
    "words",
    ["[]", '{"x": 1}', '{"faults": {"fire": 1}}', '{"faults": []}', '{"nodes": "three"}', '{"strikes": ["a"]}', '{"seconds": -1}', "no"],
)
def test_words_that_are_no_options_are_refused(words: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        Options.from_words(words)
