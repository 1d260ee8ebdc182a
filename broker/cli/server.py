"""`zablog server`: one node in the foreground, as systemd or a container starts it."""

from pathlib import Path
from typing import Annotated

import typer


def server(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The node's TOML file, as `zablog cluster init` wrote it.", show_default=False)
    ],
) -> None:
    """Run one node in the foreground.

    SIGTERM or Ctrl-C ends it.

    Example: zablog server node1/node.toml
    """
    from broker.cli.serving import serve

    serve(file)
