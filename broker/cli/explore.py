"""`zablog explore`: everything that can happen to a small ensemble, in every order."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.progress import progress
from broker.cli.terminal import terminal
from broker.errors import Exit

COLUMNS = ("nodes", "states", "transitions", "depth", "complete", "violations", "established", "truncations", "states_per_s")


def explore(
    context: typer.Context,
    nodes: Annotated[int, typer.Option(min=1, max=5, help="How many nodes.")] = 2,
    proposals: Annotated[int, typer.Option(min=0, max=9, help="How many entries clients want in the log.")] = 2,
    crashes: Annotated[int, typer.Option(min=0, max=9, help="How many processes die.")] = 2,
    elections: Annotated[int, typer.Option(min=0, max=9, help="How often a node is elected, whoever follows it.")] = 3,
    losses: Annotated[int, typer.Option(min=0, max=9, help="How many links break, or roles are given up in impatience.")] = 1,
    checkpoints: Annotated[int, typer.Option(min=0, max=9, help="How many checkpoints are taken, and logs trimmed to them.")] = 0,
    reads: Annotated[int, typer.Option(min=0, max=9, help="How many linearizable reads are asked of leaders.")] = 0,
    aged: Annotated[bool, typer.Option("--aged", help="Begin with nodes that have had an epoch, not with new-born ones.")] = False,
    budget: Annotated[int, typer.Option(min=1, metavar="STATES", help="Give up after so many states; a million takes 0.5 GB.")] = 2_000_000,
) -> int:
    """Visit every state of a small ensemble, within bounds.

    The shipped core, with every order of messages, disk operations, crashes and lost links, and an election that may name anyone; the
    laws of the protocol are checked after every transition. "complete" says that no state within the bounds was left out. Exit code
    8 if a law was broken; the shortest history that breaks it is printed.

    Example: zablog explore --nodes 3 --proposals 1 --crashes 1 --elections 2 --losses 0
    """
    import time

    from zablog.sim.explore import Bounds, Explorer

    screen = terminal(context)
    begun = time.process_time()
    with progress(screen, "states", budget) as step:
        found = Explorer(nodes, Bounds(proposals, crashes, elections, losses, checkpoints, reads), aged).search(budget, step)
    document = found.to_json() | {"states_per_s": round(found.states / max(time.process_time() - begun, 0.001))}
    if found.guarantee is not None:
        screen.warn(f"VIOLATION of {found.guarantee} in the shortest history that leads to one")
        if not screen.settings.json:
            for line in found.trace:
                screen.line(line)
    elif not found.complete:
        screen.note(
            f"not complete: the budget of {budget} states is used up, and every state up to {found.depth} transitions away is among them"
        )
    screen.emit(document, [document], COLUMNS)
    return Exit.VERIFICATION if found.guarantee is not None else Exit.OK
