"""`zablog simulate`: whole ensembles under faults, in virtual time, each from one seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli.progress import progress
from broker.cli.refusals import Usage
from broker.cli.terminal import Terminal, terminal
from broker.errors import Exit

if TYPE_CHECKING:
    from zablog.sim import Failure, Options, Report

COLUMNS = (
    "seeds",
    "violations",
    "events",
    "events_per_s",
    "elections",
    "truncations",
    "snapshots",
    "power_losses",
    "torn_tails",
    "partitions",
    "repairs",
    "acked",
)
SHRUNK_MAX = 3
"""So many failing seeds are shortened; that takes as long as a hundred others each."""


def simulate(
    context: typer.Context,
    seeds: Annotated[str, typer.Option(metavar="N..M", help="The seeds to run, both ends included; or one seed.")] = "1..20",
    nodes: Annotated[int | None, typer.Option(min=1, max=9, help="How many nodes; drawn from the seed if not said.")] = None,
    faults: Annotated[
        str | None, typer.Option(metavar="LIST", help="These kinds of faults and no others, with commas between; drawn if not said.")
    ] = None,
    events: Annotated[int, typer.Option(min=1, help="How long faults strike: after so many events everything is healed.")] = 20_000,
    options: Annotated[str | None, typer.Option(metavar="JSON", help="All options of a run, as a failing seed prints them.")] = None,
    broker: Annotated[bool, typer.Option("--broker", help="Each node is a broker, with producers, admins and readers.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Print one seed's run, one line an event.")] = False,
) -> int:
    """Run whole ensembles under faults, in virtual time.

    Loss, partitions, crashes, power cuts and disks that fail; the laws of the protocol are checked after every step, and with --broker
    what clients were told. The same seed always gives the same run. Exit code 8 if any law was broken; the seed that did it is printed,
    with the command that shows the shortest run found that breaks it too.

    Example: zablog simulate --seeds 1..100 --json
    """
    import os

    from broker.sim import BrokerEnsemble
    from zablog.sim import Options, Report, run_many
    from zablog.sim.ensemble import Ensemble
    from zablog.sim.simulate import run, run_drawn

    screen = terminal(context)
    wanted = _seeds(seeds)
    kinds = _kinds(faults)
    if (trace or options is not None) and len(wanted) > 1:
        raise Usage("--trace and --options are for one seed", hint="--seeds 7 --trace")
    total = Report()
    world = BrokerEnsemble if broker else Ensemble
    if trace or options is not None:
        tell = _traced(screen) if trace else None
        if options is not None:
            report = run(wanted[0], _options(options, Options), tell, world=world)
        else:
            report = run_drawn(wanted[0], nodes, events, kinds, tell, world)
        _take(report, total, screen, short=options is not None)
    else:
        try:
            with progress(screen, "seeds", len(wanted)) as step:
                for report in run_many(wanted, nodes, min(os.cpu_count() or 1, len(wanted)), events=events, kinds=kinds, world=world):
                    _take(report, total, screen)
                    step(1)
        except KeyboardInterrupt:
            screen.warn(f"stopped after {total.seeds} of {len(wanted)} seeds")
            raise
    if not trace or screen.settings.json:
        document = total.to_json()
        screen.emit(document, [document], COLUMNS)
    return Exit.VERIFICATION if total.violations else Exit.OK


def _take(report: Report, total: Report, screen: Terminal, short: bool = False) -> None:
    """Add a run to the others, and say what broke in it. `short`: the run is a shortened one already."""
    total.add(report)
    for loss in report.losses:
        screen.note(f"lost, as it must be where a disk has lied: {loss.words()}")
    for failure in report.found:
        screen.warn(f"VIOLATION {failure.words()}")
        if not short and total.violations <= SHRUNK_MAX:
            failure = _shortened(failure, screen)
            total.found[-1] = failure
        screen.warn(f"see it: {failure.command}")


def _shortened(failure: Failure, screen: Terminal) -> Failure:
    from broker.sim import BrokerEnsemble
    from zablog.sim import shrink
    from zablog.sim.ensemble import Ensemble

    def tell(runs: int, best: Failure) -> None:
        screen.detail(f"seed {failure.seed}: after {runs} runs, {len(best.strikes)} faults and {best.event} events")

    shorter = shrink(failure, tell=tell, world=BrokerEnsemble if failure.flag else Ensemble)
    screen.warn(
        f"the same in short: {len(shorter.strikes)} faults and {shorter.event} events "
        f"instead of {len(failure.strikes)} and {failure.event}: {shorter.reason}"
    )
    return shorter


def _traced(screen: Terminal) -> Callable[[str], None]:
    """The trace is what was asked for, unless the one object of `--json` is."""
    return screen.note if screen.settings.json else screen.line


def _seeds(text: str) -> range:
    match = re.fullmatch(r"(\d{1,18})(?:\.\.(\d{1,18}))?", text)
    if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
        raise Usage(f"--seeds {text}: not seeds", hint="--seeds 1..100 or --seeds 7")
    first = int(match[1])
    return range(first, (int(match[2]) if match[2] is not None else first) + 1)


def _kinds(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    from zablog.sim import KNOWN

    kinds = tuple(dict.fromkeys(kind for kind in text.split(",") if kind))
    if unknown := [kind for kind in kinds if kind not in KNOWN]:
        raise Usage(f"--faults {unknown[0]}: there is no such kind of fault", hint=f"there are {', '.join(KNOWN)}")
    return kinds


def _options(text: str, options: type[Options]) -> Options:
    try:
        return options.from_words(text)
    except (ValueError, TypeError) as error:
        raise Usage(f"--options: {error}", hint="take them as a failing seed has printed them") from error
