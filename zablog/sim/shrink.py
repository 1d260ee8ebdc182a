"""A failing run made shorter: fewer events, fewer faults, and the same guarantee broken.

Every fault of a run has a number and chance of its own, so one can be left out without changing what those behind it do. Deterministic:
the same failure is always shortened to the same run.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from zablog.sim.ensemble import Ensemble
from zablog.sim.faults import Options
from zablog.sim.report import Failure
from zablog.sim.simulate import run

RUNS_MAX = 150


def shrink(
    failure: Failure, runs_max: int = RUNS_MAX, tell: Callable[[int, Failure], None] | None = None, world: type[Ensemble] = Ensemble
) -> Failure:
    """The shortest run found within `runs_max` runs that breaks the same guarantee. `tell` hears of each: runs so far, the best yet."""
    best = first_part(failure)
    runs = 0
    improved = True
    while improved:
        improved = False
        for options in simpler(best):
            if runs >= runs_max:
                return best
            runs += 1
            report = run(failure.seed, options, world=world)
            found = [*report.found, *report.losses]
            if found and found[0].guarantee == failure.guarantee and weight(smaller := first_part(found[0])) < weight(best):
                best, improved = smaller, True
                if tell is not None:
                    tell(runs, best)
                break
    return best


def first_part(failure: Failure) -> Failure:
    """The same run, which ends where the guarantee breaks and plans no fault that did not strike."""
    options, strikes = failure.options, failure.strikes
    events = min(failure.event, options.events or failure.event)
    return failure._replace(options=replace(options, events=events, strikes=strikes))


def weight(failure: Failure) -> tuple[int, bool, bool, int]:
    """What there is to read: faults first, then what else happens beside the protocol, then events."""
    return len(failure.strikes), failure.options.checkpoints_per_second > 0, failure.options.counter_max is not None, failure.event


def simpler(failure: Failure) -> Iterator[Options]:
    """What might do as well, the greatest step first. Each is taken only if less comes of it, so this comes to an end."""
    options, strikes = failure.options, failure.strikes
    size = len(strikes)
    while size:
        for begin in range(0, len(strikes), size):
            yield replace(options, strikes=strikes[:begin] + strikes[begin + size :])
        size //= 2
    if options.checkpoints_per_second:
        yield replace(options, checkpoints_per_second=0.0)
    if options.counter_max is not None:
        yield replace(options, counter_max=None)
    assert options.events is not None, "the law that a shortened run has an end"
    for part in (2, 4, 8):
        if options.events // part:
            yield replace(options, events=options.events - options.events // part)
