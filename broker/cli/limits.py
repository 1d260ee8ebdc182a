"""`zablog limits`: what the cluster takes, and how to change it."""

from typing import Annotated

import typer

from broker.cli import where
from broker.cli.refusals import Usage
from broker.cli.settings import HELP, size
from broker.cli.terminal import Terminal, terminal
from broker.state.limits import DEFAULTS, RANGES, Limits

app = typer.Typer(
    help="Show the cluster's limits, or set one.  Example: zablog limits",
    rich_markup_mode=None,
    invoke_without_command=True,
    epilog=HELP,
)

COLUMNS = ("name", "value", "default", "least", "most", "what")


@app.callback()
def show(context: typer.Context) -> None:
    """Show the cluster's limits, or set one.

    Example: zablog limits set topics 20000
    """
    if context.invoked_subcommand is None:
        _run(terminal(context), {})


@app.command("set", epilog=HELP)
def set_limit(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `zablog limits` shows it.", show_default=False)],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="A number; of bytes also 512KiB or 2MiB; default.", show_default=False)],
) -> None:
    """Set a limit for the whole cluster. What is there already stays, even if it is above.

    Example: zablog limits set record_bytes 2MiB
    """
    if name not in RANGES:
        raise Usage(f"there is no limit {name}", hint=f"the limits are {', '.join(RANGES)}")
    if value == "default":
        number = DEFAULTS.values()[name]
    elif name.endswith("_bytes"):
        number = size(value, name)
    elif value.isascii() and value.isdigit() and len(value) < 19:
        number = int(value)
    else:
        raise Usage(f"limit {name}: {value} is not a number", hint="such as 5000, or default")
    screen = terminal(context)
    _run(screen, {name: number})
    screen.note(f"limit {name} is {number:,} from now on; what is there already stays")


def _run(screen: Terminal, values: dict[str, int]) -> None:
    import trio

    async def work() -> Limits:
        async with where.client(screen) as client:
            return await (client.set_limits(**values) if values else client.limits())

    limits = trio.run(work).values()
    rows: list[dict[str, object]] = [
        {"name": name, "value": limits[name], "default": DEFAULTS.values()[name], "least": least, "most": most, "what": what}
        for name, (least, most, what) in RANGES.items()
        if not values or name in values
    ]
    screen.emit(rows, rows, COLUMNS)
