"""A server process: one node in the foreground until it is told to stop (SIGTERM, Ctrl-C) or must."""

import signal
from collections.abc import Callable
from pathlib import Path

import trio

from broker.errors import AddressInUse, BrokerError, ConfigError, Corrupt, DirectoryInUse, DiskFull, InternalError, WouldLoseData
from broker.server.config import ServerConfig, load
from broker.server.memory import collect_rarely, share_one_pool
from broker.server.server import Server, open_server
from zablog import ConfigError as NodeConfigError
from zablog import NodeStopped, Unsupported
from zablog.storage import errors as storage
from zablog.transport import errors as transport


def run(config: ServerConfig | str | Path, started: Callable[[Server], None] = lambda server: None) -> None:
    """Serve until SIGTERM or SIGINT; then end in order. `started` is called once the node listens.

    Raises ConfigError, AddressInUse, DirectoryInUse, Corrupt, DiskFull, or InternalError with the node's own reason to stop.
    """
    settings = config if isinstance(config, ServerConfig) else load(config)
    share_one_pool()

    def serves(server: Server) -> None:
        started(server)
        collect_rarely()

    try:
        trio.run(_serve, settings, serves)
    except _FOREIGN as error:
        raise translated(error, settings) from error


async def _serve(config: ServerConfig, started: Callable[[Server], None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_server(config) as server:
            started(server)
            async for _ in signals:
                return


_FOREIGN = (storage.StorageError, transport.TransportError, NodeConfigError, NodeStopped)


def translated(error: Exception, config: ServerConfig) -> BrokerError:
    """The broker's word for what stopped a node."""
    match error:
        case transport.AddressInUse():
            return AddressInUse(str(error))
        case transport.TransportError() | NodeConfigError() | Unsupported():
            return ConfigError(str(error))
        case storage.DirectoryInUse():
            return DirectoryInUse(str(error))
        case storage.Foreign():
            return WouldLoseData(str(error), hint="a voter whose promises are lost must never vote again under its old identity")
        case storage.NotBorn() | storage.AlreadyBorn() | storage.NewerFormat():
            return ConfigError(str(error))
        case storage.StorageError():
            return Corrupt(f"{config.directory}: {error}")
        case _:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno == 28:
                return DiskFull(f"{config.directory}: {error}")
            return InternalError(str(error))
