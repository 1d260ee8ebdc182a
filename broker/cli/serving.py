"""A node in the foreground: what `zablog server FILE` does, whoever has read the command line."""

from pathlib import Path

from broker.errors import BrokerError


def serve(file: Path) -> None:
    """Run the node of this TOML file until it is told to stop. Raises what `broker.server.run` raises, with the node's directory."""
    from broker.server import run
    from broker.server.config import load

    config = load(file)
    try:
        run(config)
    except BrokerError as error:
        if str(config.directory) not in str(error):
            error.message = f"{error.message} (node in {config.directory})"
        raise
