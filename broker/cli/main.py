"""The table of commands, and the one place where a command's end becomes an exit code.

The modules of the commands are light; what is heavy (trio, rich, the client) they import when they run. Only the command that was typed
is loaded; and typer itself is not where nodes are started, since that is waited for (`broker.cli.plain`).
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn

from broker.cli.plain import plain
from broker.cli.refusals import Usage, exit_code, told
from broker.cli.settings import HELP, take
from broker.cli.terminal import Terminal
from broker.errors import Exit, InternalError

if TYPE_CHECKING:
    import typer

COMMANDS: Final = ("cluster", "server", "topic", "limits", "produce", "consume", "log", "bench", "simulate", "explore")
"""As the help lists them; each is in the module of its name."""
GROUPS: Final = ("cluster", "topic", "limits", "log")
"""Of these, those that have commands of their own: `app` of their module."""


def application(names: Sequence[str] = COMMANDS) -> "typer.Typer":
    """The commands of these names."""
    import typer

    app = typer.Typer(
        name="zablog",
        help="A replicated, ordered log with topics: agreed by Zab, fsynced on a quorum.",
        epilog=HELP + "  Example: zablog cluster up --detach && zablog topic create orders && echo paid | zablog produce orders",
        rich_markup_mode=None,
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        callback=_nothing,
    )
    for name in names:
        _add(app, name)
    return app


def _nothing() -> None:
    """Before a command. Without it typer would take an application of one command for that command."""


def _add(app: "typer.Typer", name: str) -> None:
    module = import_module(f"broker.cli.{name}")
    if name in GROUPS:
        app.add_typer(module.app, name=name)
    else:
        app.command(name, epilog=HELP)(getattr(module, name))


def main(app: "typer.Typer | None" = None) -> NoReturn:
    """Run what was typed; `app` is another application than `zablog` itself."""
    code = run(sys.argv[1:], app)
    try:
        sys.stdout.flush()
    except OSError:
        _let_go_of_stdout()
    sys.exit(code)


def run(arguments: Sequence[str], app: "typer.Typer | None" = None) -> int:
    """Run one command line; its exit code."""
    terminal = Terminal()
    try:
        terminal.settings.json = "--json" in arguments  # so that even a bad option is told as it was asked for
        terminal.settings, rest = take(arguments)
        if app is None and (known := plain(rest)) is not None:
            return known(terminal)
        return _typed(rest, terminal, app)
    except BaseException as error:
        return _ended(error, terminal)


def _typed(rest: Sequence[str], terminal: Terminal, app: "typer.Typer | None") -> int:
    """What stands in the table of commands, read and run by typer."""
    import typer

    try:
        known = app or application(rest[:1] if rest and rest[0] in COMMANDS else COMMANDS)
        code = known(args=rest, prog_name=app.info.name if app else "zablog", standalone_mode=False, obj=terminal)
        return int(code) if isinstance(code, int) else Exit.OK
    except typer.Abort:
        return Exit.INTERRUPTED
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # typer has shown the help instead
            terminal.note(error.format_message())
        else:
            terminal.refuse(Usage(error.format_message(), hint="zablog COMMAND --help shows what can be said"))
        return Exit.USAGE


def _ended(error: BaseException, terminal: Terminal) -> int:
    """The exit code of a command that raised. What nobody expected shows its traceback first."""
    inner = error
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    if isinstance(inner, SystemExit) and inner.__context__ is not None:  # typer makes one of a broken pipe
        inner = inner.__context__
    if isinstance(inner, BrokenPipeError):  # | head
        _let_go_of_stdout()
        return Exit.OK
    if isinstance(inner, KeyboardInterrupt):
        return Exit.INTERRUPTED
    known = told(error)
    if known is None or terminal.settings.verbose:
        import traceback

        traceback.print_exception(error)
    if known is None:
        known = InternalError(f"{type(inner).__name__}: {inner}", hint="this is a defect of zablog: please report it")
    terminal.refuse(known)
    return exit_code(known)


def _let_go_of_stdout() -> None:
    """Nobody reads any more: what is still buffered goes nowhere, without a complaint when Python shuts down."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
