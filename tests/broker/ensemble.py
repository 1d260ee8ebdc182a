"""Three real nodes in one process, on real sockets and files, that can be stopped and started again."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from broker.server import Server, ServerConfig, open_server
from broker.server.config import DiskUse, Limits, Pace
from broker.state import LEVELS
from tests.ports import free_ports
from zablog import Identity, Member, PeerId, Unsupported, Versions, give_birth
from zablog.storage.files import FileDisk

PACE = Pace(tick=0.005, heartbeat=0.025, lease=0.250)


class Ensemble:
    """Nodes by number. `stop` ends a node's tasks at once, with nothing said to anybody: only its files stay."""

    def __init__(self, nursery: trio.Nursery, folder: Path, addresses: dict[int, str], limits: Limits, disk: DiskUse) -> None:
        self._nursery = nursery
        self._folder = folder
        self._limits = limits
        self.disk_use = disk
        """Of the nodes that are started from now on."""
        self._scopes: dict[int, tuple[trio.CancelScope, trio.Event]] = {}
        self.all_addresses = addresses
        self.servers: dict[int, Server] = {}
        self.unsupported: dict[int, Unsupported] = {}
        """Nodes that stopped by themselves because they did not know what the log holds."""

    @property
    def addresses(self) -> str:
        return ",".join(self.all_addresses.values())

    async def start(self, number: int, levels: Versions = LEVELS) -> Server:
        """As a build of these feature levels. Raises what keeps it from coming up."""
        self.unsupported.pop(number, None)
        return await self._nursery.start(self._run, number, levels)

    async def stop(self, number: int) -> None:
        scope, ended = self._scopes.pop(number)
        scope.cancel()
        await ended.wait()

    async def leader(self) -> Server:
        """The node that leads an established epoch, with a majority following."""
        while True:
            for server in self.servers.values():
                status = server.node.status()
                if status.leads and len(self.servers) > 1:
                    return server
            await trio.sleep(0.005)

    async def stop_leader(self) -> int:
        number = (await self.leader()).node.identity.node
        await self.stop(number)
        return number

    async def _run(self, number: int, levels: Versions, task_status: trio.TaskStatus[Server]) -> None:
        ended = trio.Event()
        config = ServerConfig(self._folder / f"node{number}", pace=PACE, limits=self._limits, disk=self.disk_use, levels=levels)
        try:
            with trio.CancelScope() as scope:
                async with open_server(config) as server:
                    self.servers[number] = server
                    self._scopes[number] = (scope, ended)
                    task_status.started(server)
                    await trio.sleep_forever()
        except Unsupported as error:
            if number not in self.servers:
                raise
            self.unsupported[number] = error
        finally:
            self.servers.pop(number, None)
            ended.set()


@asynccontextmanager
async def open_ensemble(
    folder: Path, count: int = 3, limits: Limits | None = None, disk_use: DiskUse | None = None
) -> AsyncIterator[Ensemble]:
    """Born in `folder`, all nodes started."""
    addresses = dict(enumerate((f"127.0.0.1:{port}" for port in free_ports(count)), start=1))
    members = tuple(Member(PeerId(id), secrets.token_hex(16), address) for id, address in addresses.items())
    cluster = secrets.token_hex(16)
    for member in members:
        disk = FileDisk(folder / f"node{member.id}", create=True)
        give_birth(disk, Identity(cluster, member.id, member.incarnation, members))
        disk.close()
    async with trio.open_nursery() as nursery:
        ensemble = Ensemble(nursery, folder, addresses, limits or Limits(), disk_use or DiskUse())
        for number in addresses:
            await ensemble.start(number)
        yield ensemble
        nursery.cancel_scope.cancel()
