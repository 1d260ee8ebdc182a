"""A node in the foreground: what `zablog server FILE` does, whoever has read the command line."""

import sys
from pathlib import Path

from broker.errors import BrokerError


def serve(file: Path) -> None:
    """Run the node of this TOML file until it is told to stop. Raises what `broker.server.run` raises, with the node's directory."""
    # structlog loads rich if it is there, for tracebacks in colour. Nobody sees a server's, and they cost each node that starts 0.04 s.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # "is not there": see the documentation of sys.modules

    from broker.server import run
    from broker.server.config import load

    config = load(file)
    try:
        run(config)
    except BrokerError as error:
        if str(config.directory) not in str(error):
            error.message = f"{error.message} (node in {config.directory})"
        raise
