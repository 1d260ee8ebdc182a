"""`zablog consume`: the records of topics to stdout."""

from typing import Annotated

import typer

from broker.cli.terminal import terminal


def consume(
    context: typer.Context,
    topics: Annotated[list[str], typer.Argument(metavar="TOPIC...", show_default=False)],
    begin: Annotated[
        str | None, typer.Option("--from", metavar="earliest|latest|OFFSET|TIME|zxid:Z", help="Where to start; latest if not said.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="end|+N|OFFSET|TIME", help="Where to stop (exclusive); never if not said.")
    ] = None,
    partition: Annotated[int | None, typer.Option("-p", "--partition", min=0, help="Only this partition.")] = None,
    node: Annotated[int | None, typer.Option("--node", metavar="N", help="Read this node's own copy.")] = None,
    read: Annotated[
        str | None,
        typer.Option("--read", metavar="local|session|linearizable", help="How fresh the start and the end must be; local with --node."),
    ] = None,
    out: Annotated[
        str,
        typer.Option(
            "--out", metavar="raw|jsonl|hex|nul|len|FORMAT", help="How a record is written; FORMAT has kcat's tokens: '%o %k %s\\n'."
        ),
    ] = "raw",
) -> int:
    """Write records to stdout, one a line. TIME is RFC 3339 or a length of time ago, such as -15m.

    `--until end` stops at what was committed when the command started. Ctrl-C finishes the record and ends with exit code 0.

    Example: zablog consume orders --from earliest --until end --json
    """
    from broker.cli.consuming import Wish, run

    screen = terminal(context)
    wish = Wish(
        tuple(dict.fromkeys(topics)), begin, until, partition, node, read, "jsonl" if screen.settings.json and out == "raw" else out
    )
    return run(screen, wish)
