"""How far a long command is: a bar on stderr, if a person sits there."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from broker.cli.terminal import Terminal


@contextmanager
def progress(screen: Terminal, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for `total` of `what`; call what is yielded with how many more are done. Nothing is drawn in a pipe, with -q or --json."""
    if screen.settings.quiet or screen.settings.json or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
