"""`zablog simulate`: whole ensembles under faults, in virtual time, each from one seed."""

import re
from typing import Annotated

import typer

from broker.cli.refusals import Usage
from broker.cli.terminal import terminal
from broker.errors import Exit

COLUMNS = ("seeds", "violations", "events", "elections", "truncations", "torn_tails", "repairs", "acked", "committed", "events_per_s")


def simulate(
    context: typer.Context,
    seeds: Annotated[str, typer.Option(metavar="N..M", help="The seeds to run, both ends included; or one seed.")] = "1..20",
    nodes: Annotated[int | None, typer.Option(min=1, max=9, help="How many nodes; drawn from the seed if not said.")] = None,
) -> int:
    """Run whole ensembles under faults, in virtual time.

    Loss, partitions, crashes and power cuts; the laws of the protocol are checked after every step. The same seed always gives
    the same run. Exit code 8 if any law was broken; the seed that did it is printed.

    Example: zablog simulate --seeds 1..100 --json
    """
    import os

    from zablog.sim import Report, run_many

    screen = terminal(context)
    wanted = _seeds(seeds)
    total = Report()
    try:
        for report in run_many(wanted, nodes, min(os.cpu_count() or 1, len(wanted))):
            total.add(report)
            for failure in report.failures:
                screen.note(f"VIOLATION {failure}")
            screen.detail(f"{total.seeds} of {len(wanted)} seeds, {total.events} events")
    except KeyboardInterrupt:
        screen.warn(f"stopped after {total.seeds} of {len(wanted)} seeds")
        raise
    document = total.to_json()
    screen.emit(document, [document], COLUMNS)
    return Exit.VERIFICATION if total.violations else Exit.OK


def _seeds(text: str) -> range:
    match = re.fullmatch(r"(\d{1,18})(?:\.\.(\d{1,18}))?", text)
    if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
        raise Usage(f"--seeds {text}: not seeds", hint="--seeds 1..100 or --seeds 7")
    first = int(match[1])
    return range(first, (int(match[2]) if match[2] is not None else first) + 1)
