"""A cluster of real servers whose every part can be struck: processes, the network between them, and with root their file systems.

async with open_cluster(folder) as cluster, connect(cluster.addresses) as zl: ...
"""

import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.client import Client
from tests.ports import free_ports
from tests.system.power import NODE, Node, damage_in
from tests.system.proxy import Proxies
from zablog import Identity, Member, PeerId, give_birth
from zablog.storage.files import FileDisk

LOOK_SECONDS = 0.02


@dataclass
class Server(Node):
    """A server that may have no file system of its own."""

    powered: bool = False

    def make(self) -> None:
        if self.powered:
            super().make()
        else:
            self.mount.mkdir()

    def attach(self) -> None:
        if self.powered:
            super().attach()

    def pause(self, paused: bool) -> None:
        self.signal(signal.SIGSTOP if paused else signal.SIGCONT)


class Cluster:
    """Three servers that find each other through proxies; clients find them directly. Use `open_cluster`."""

    def __init__(self, folder: Path, powered: bool, lying: bool, settings: str) -> None:
        self.folder = folder
        self.settings = settings
        self.servers = {number: Server(number, folder, lying, powered=powered) for number in (1, 2, 3)}
        self.listen = {number: ("127.0.0.1", port) for number, port in zip(self.servers, free_ports(3), strict=True)}
        self.addresses = ",".join(f"{host}:{port}" for host, port in self.listen.values())
        self.proxies = Proxies(self.listen)

    def make(self) -> None:
        cluster = secrets.token_hex(16)
        members = tuple(Member(PeerId(number), secrets.token_hex(16), f"{host}:{port}") for number, (host, port) in self.listen.items())
        for server, member in zip(self.servers.values(), members, strict=True):
            server.make()
            directory = server.mount / "data"
            disk = FileDisk(directory, create=True)
            give_birth(disk, Identity(cluster, member.id, member.incarnation, members))
            disk.close()
            text = NODE.format(directory=directory, address=member.address) + f"\n{self.settings}\n[peers]\n"
            for (high, low), port in self.proxies.ports.items():
                if high == server.number:
                    text += f'{low} = "127.0.0.1:{port}"\n'
            (self.folder / f"node{server.number}.toml").write_text(text)
        os.sync()  # a birth is not what is tested here

    def last_words(self, number: int) -> str:
        lines = (self.folder / f"server{number}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "said nothing"

    def damage(self) -> list[str]:
        """What those servers have said of damage whose syncs do not lie."""
        heard = {number: damage_in(self.folder / f"server{number}.log") for number, server in self.servers.items() if not server.lying}
        return [f"node {number}: {line}" for number, lines in heard.items() for line in lines]

    def close(self) -> None:
        for server in self.servers.values():
            server.pause(False)
            server.end()
            if os.path.ismount(server.mount):
                server.detach()


@asynccontextmanager
async def open_cluster(folder: Path, powered: bool = False, lying: bool = False, settings: str = "") -> AsyncIterator[Cluster]:
    """Its servers run, and are gone when the block is left. `powered`: each on a file system of its own, which needs root.

    `lying`: every sync is answered and not done. `settings`: more of the servers' configuration.
    """
    cluster = Cluster(folder, powered, lying, settings)
    async with trio.open_nursery() as nursery:
        await cluster.proxies.start(nursery)
        try:
            await trio.to_thread.run_sync(cluster.make)
            for server in cluster.servers.values():
                server.start()
            yield cluster
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(cluster.close)
        nursery.cancel_scope.cancel()


async def leader_of(zl: Client, but: int | None = None) -> int:
    """The node that leads, once one does that is not `but`. Waits for ever."""
    while True:
        status = await zl.status()
        if status.leader not in (None, but):
            return int(status.leader)
        await trio.sleep(LOOK_SECONDS)
