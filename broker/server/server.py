"""One node of the broker: the broadcast with the broker's application on it, and its clients, for the length of a block."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial

import structlog
import trio

from broker.server.application import BrokerApplication
from broker.server.checkpoint import keep_flushing
from broker.server.clock import LeaderClock
from broker.server.config import Pace, ServerConfig
from broker.server.connection import ClientConnection, turn_away
from broker.server.levels import keep_raising
from broker.server.memory import keep_small
from broker.server.reads import Reads
from broker.server.retention import keep_retaining
from broker.server.scrubbing import keep_scrubbing
from broker.server.writes import Writes
from zablog import Node, NodeConfig, PeerId, Timing, open_node
from zablog.storage.files import FileDisk
from zablog.transport.ends import address_of
from zablog.wire.handshake import Hello

LOG_FOLDER = "topics"
"""Where the segments lie, below the node's directory."""

log = structlog.get_logger("broker.server")


class Server:
    """Use `open_server`."""

    def __init__(self, node: Node, application: BrokerApplication) -> None:
        self.node = node
        self.application = application


class _Clients:
    """The node's handler of client connections. Knows the node only once it is open."""

    def __init__(self, config: ServerConfig, application: BrokerApplication) -> None:
        self._config = config
        self._application = application
        self._node: Node | None = None
        self._connections = 0
        self.clock = LeaderClock(time.time, time.monotonic)

    def serve_for(self, node: Node, nursery: trio.Nursery) -> None:
        limits = self._config.limits
        self._reads = Reads(node, self._application, limits)
        self._writes = Writes(node, self._application, self.clock)
        self._node = node
        nursery.start_soon(self._writes.run)

    async def __call__(self, stream: trio.abc.Stream, hello: Hello) -> None:
        if self._node is None:
            return
        if self._node.status().missing is not None:
            await turn_away(stream, "this node's state was damaged, and is being restored from another node")
            return
        if self._connections >= self._config.limits.connections:
            await turn_away(stream, f"this node serves {self._connections:,} clients, as many as it may")
            return
        self._connections += 1
        try:
            await ClientConnection(stream, self._reads, self._writes, self._config.limits).serve(address_of(stream))
        finally:
            self._connections -= 1


@asynccontextmanager
async def open_server(config: ServerConfig) -> AsyncIterator[Server]:
    """Run one node of the broker for the length of the block. Raises what `zablog.open_node` raises."""
    application = BrokerApplication(partial(_open_disk, config), warm_bytes=config.disk.warm_bytes, levels=config.levels)
    clients = _Clients(config, application)
    with closing(application):
        async with open_node(_node_config(config), application, clients) as node, trio.open_nursery() as nursery:
            nursery.start_soon(keep_flushing, application)
            nursery.start_soon(keep_small)
            nursery.start_soon(keep_raising, application, node, clients.clock)
            nursery.start_soon(keep_retaining, application, node, clients.clock, config.disk.retention_seconds)
            if config.disk.scrub_rate:
                nursery.start_soon(keep_scrubbing, application, config.disk.scrub_rate)
            clients.serve_for(node, nursery)
            log.info("serving", node=node.identity.node, cluster=node.identity.cluster, address=node.addresses[node.identity.node])
            yield Server(node, application)
            nursery.cancel_scope.cancel()


def _open_disk(config: ServerConfig) -> FileDisk:
    return FileDisk(config.directory).child(LOG_FOLDER)


def _node_config(config: ServerConfig) -> NodeConfig:
    return NodeConfig(
        directory=config.directory,
        listen=config.listen,
        cluster=config.cluster,
        node=PeerId(config.node) if config.node is not None else None,
        addresses={PeerId(id): address for id, address in config.peers.items()},
        insecure=config.insecure,
        unix_sockets=config.unix_sockets,
        timing=timing_of(config.pace),
        tick_seconds=config.pace.tick,
        file_bytes=config.disk.file_bytes,
        checkpoint_bytes=config.disk.checkpoint_bytes,
        checkpoint_seconds=config.disk.checkpoint_seconds,
        keep_bytes=config.disk.keep_bytes,
        pin_bytes=config.disk.pin_bytes,
        transfer_bytes_per_second=config.disk.transfer_rate,
        levels=config.levels,
        reserve_bytes=config.disk.reserve_bytes,
    )


def timing_of(pace: Pace) -> Timing:
    """The core's waits, in ticks. A leader gives up a little before its followers do."""
    lease = max(4, round(pace.lease / pace.tick))
    return Timing(ping=max(1, round(pace.heartbeat / pace.tick)), suspect=lease, echo=max(3, lease * 5 // 6))
