"""The nodes that are measured: a cluster of this benchmark's own, made and ended by the command line, or one that runs already.

A cluster of our own lies in a folder of its own that is deleted in the end. Its processes are signalled by the pid that each node
itself names, and only by whoever started them: one that was given to us is measured and never harmed.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Final

import trio

from broker.bench import meters
from broker.client.connection import open_connection
from broker.errors import BrokerError, ConnectionLost, NotAllowed
from broker.protocol import NodeStatus, Status

NAME: Final = "bench"
FOLDER_PREFIX: Final = "zablog-bench-"
LOOK_SECONDS: Final = 0.01
"""How often nodes are asked whether they have come so far."""
COMMAND_SECONDS: Final = 60.0
"""How long one command may take."""


class CommandFailed(BrokerError):
    """A command that the benchmark gave did not end well."""

    code = "bench_command_failed"


@dataclass(slots=True)
class Ensemble:
    """The nodes, by where they are. `folder` is None if they are not ours."""

    addresses: Sequence[str]
    folder: Path | None = None
    first_port: int | None = None
    size: int = 0
    """How many nodes a cluster of ours has."""
    tcp: bool = False
    """They take TCP alone."""

    @property
    def ours(self) -> bool:
        return self.folder is not None

    # -- looking --------------------------------------------------------------------------------------------------------------

    async def status(self) -> list[NodeStatus]:
        """What the nodes that answer say of themselves."""
        found: list[NodeStatus] = []

        async def ask(address: str) -> None:
            status = await status_of(address)
            if status is not None:
                found.append(status)

        async with trio.open_nursery() as nursery:
            for address in self.addresses:
                nursery.start_soon(ask, address)
        return sorted(found, key=lambda status: status.id)

    async def leader(self) -> NodeStatus:
        """Who leads; waits until somebody does. The caller limits the time."""
        while True:
            leading = [status for status in await self.status() if status.role == "leading" and status.phase == "broadcast"]
            if leading:
                return max(leading, key=lambda status: status.epoch)
            await trio.sleep(LOOK_SECONDS)

    async def settled(self) -> list[NodeStatus]:
        """Wait until every node answers, takes part in one epoch, and has applied what was committed when we looked first."""
        goal = (await self.leader()).last
        while True:
            found = await self.status()
            epochs = {status.epoch for status in found}
            serving = all(status.phase == "broadcast" and status.applied >= goal for status in found)
            if len(found) == len(self.addresses) and len(epochs) == 1 and serving:
                return found
            await trio.sleep(5 * LOOK_SECONDS)

    async def left_behind(self) -> list[str]:
        """Where nodes are that do not answer, or take no part in what the others agree on. What is measured then is a smaller cluster."""
        behind: list[str] = []

        async def ask(address: str) -> None:
            status = await status_of(address)
            if status is None or status.phase != "broadcast":
                behind.append(address)

        async with trio.open_nursery() as nursery:
            for address in self.addresses:
                nursery.start_soon(ask, address)
        return sorted(behind)

    def ended(self) -> dict[int, str]:
        """Those of our nodes that have ended by themselves, and their last words. No benchmark may pass over that."""
        words = {}
        for node in range(1, self.size + 1):
            log = self._folder / "zablog" / NAME / f"node{node}" / "server.log"
            lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
            if lines and lines[-1].startswith("zablog: "):
                words[node] = lines[-1].removeprefix("zablog: ")
        return words

    async def pids(self) -> list[int]:
        """The processes of the nodes that run on this machine."""
        return [status.pid for status in await self.status() if _local(status.address)]

    # -- what is done to nodes of our own ---------------------------------------------------------------------------------------

    async def up(self) -> None:
        """Make the cluster and start it; returns when it serves."""
        port = ["--port", str(self.first_port)] if self.first_port else []
        await self.command("cluster", "up", "-n", str(self.size), "--detach", *port, *(["--tcp"] if self.tcp else []))
        self.addresses = self.born_addresses()

    def born_addresses(self) -> list[str]:
        """Where the nodes are, as soon as the cluster has been made; empty before."""
        file = self._folder / "zablog" / NAME / "cluster.json"
        return [node["address"] for node in json.loads(file.read_text())["nodes"]] if file.exists() else []

    async def signal(self, node: NodeStatus, number: signal.Signals) -> None:
        """Signal one of our processes."""
        self._only_ours("signal a node")
        os.kill(node.pid, number)

    async def start(self, node: int) -> None:
        """Start a node again; returns when it answers."""
        await self.command("cluster", "start", str(node))

    async def down(self) -> None:
        """Stop all nodes and delete what they had."""
        await self.command("cluster", "down", "--wipe")

    def data_files(self, node: int) -> list[Path]:
        """Everything that a node keeps on disk."""
        return [file for file in (self._folder / "zablog" / NAME / f"node{node}" / "data").rglob("*") if file.is_file()]

    async def command(self, *words: str) -> None:
        """Give a command to the cluster of our own. Raises CommandFailed with what it said."""
        self._only_ours(" ".join(words[:2]))
        process = await trio.lowlevel.open_process(self.words(*words), env=self.environment(), stdin=None, stdout=PIPE, stderr=PIPE)
        said: list[bytes] = []
        with trio.move_on_after(COMMAND_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_gather, process.stdout, [])
                nursery.start_soon(_gather, process.stderr, said)
                await process.wait()
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        if process.returncode:
            words_said = b"".join(said).decode("utf-8", "replace").strip() or f"exit code {process.returncode}"
            raise CommandFailed(f"zablog {' '.join(words)}: {words_said}", hint="the nodes' logs lie beside their data; see --dir")

    def words(self, *words: str) -> list[str]:
        """The command line of one of our commands."""
        return [sys.executable, "-P", "-m", "broker.cli", "--cluster", NAME, "--quiet", *words]

    def environment(self) -> Mapping[str, str]:
        """A home of our own, so that no other cluster is touched or seen."""
        rest = {name: value for name, value in os.environ.items() if name != "ZABLOG_CLUSTER"}
        return {**rest, "XDG_STATE_HOME": str(self._folder)}

    @property
    def _folder(self) -> Path:
        self._only_ours("look into its folder")
        assert self.folder is not None, "it is ours"
        return self.folder

    def _only_ours(self, what: str) -> None:
        if self.folder is None:
            raise NotAllowed(
                f"the benchmark will not {what} of a cluster that it has not made",
                hint="leave --cluster out: then it makes one of its own",
            )


@asynccontextmanager
async def made(size: int, parent: Path | None, first_port: int | None, *, tcp: bool = False, start: bool = True) -> AsyncIterator[Ensemble]:
    """A fresh cluster of `size` nodes, below `parent` or in the system's place for larger temporary files. Gone when the block ends."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent or _disk()))
    ensemble = Ensemble((), folder, first_port, size, tcp)
    try:
        if start:
            await ensemble.up()
        yield ensemble
    finally:
        with trio.CancelScope(shield=True):
            try:
                if ensemble.born_addresses():
                    await ensemble.down()
            finally:
                shutil.rmtree(folder, ignore_errors=True)


async def status_of(address: str, seconds: float = 1.0) -> NodeStatus | None:
    """What one node says of itself; None if it does not within so many seconds."""
    try:
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                connection = await open_connection(nursery, address)
                answer = await connection.call(Status())
                connection.close("answered")
                nursery.cancel_scope.cancel()
                return answer if isinstance(answer, NodeStatus) else None
    except* (ConnectionLost, OSError):
        pass
    return None


def _disk() -> Path | None:
    """/var/tmp, which lies on a disk where /tmp may lie in memory; None if there is none."""
    place = Path("/var/tmp")
    return place if place.is_dir() and meters.filesystem(place) != "tmpfs" else None


def _local(address: str) -> bool:
    return address.rpartition(":")[0] in ("127.0.0.1", "localhost", "[::1]")


async def _gather(stream: trio.abc.ReceiveStream | None, into: list[bytes]) -> None:
    assert stream is not None, "it was opened with a pipe"
    async for chunk in stream:
        into.append(bytes(chunk))
