"""`zablog produce`: files or stdin into a topic, record by record, in order and once.

One thread reads, ahead of what is sent but only so far: while one load is on its way to the disks of a quorum the next one
gathers, so loads grow by themselves when the cluster is slower than the pipe, and memory does not.
"""

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.settings import HELP
from broker.cli.terminal import terminal

__all__ = ["HELP", "produce"]


def produce(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", show_default=False)],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Read in this order; stdin if none is named, or `-`.", show_default=False),
    ] = None,
    key_sep: Annotated[str | None, typer.Option("--key-sep", metavar="S", help="What stands between key and value in each record.")] = None,
    framing: Annotated[str, typer.Option("--in", metavar="lines|jsonl|nul|len", help="How records are told apart.")] = "lines",
) -> int:
    """Put records into a topic, one a line.

    Each is on the disks of a quorum before it counts. --in names other ways to tell records apart.

    Ctrl-C stops reading and waits up to 5 s for what is under way; exit code 7 if any of it is left unanswered.

    Example: seq 1 1000 | zablog produce numbers
    """
    from broker.cli.producing import run

    return run(terminal(context), topic, files or [], framing, key_sep)
