"""A world of three shipped nodes and their clients within one trio run: virtual time, simulated disks and connections, all from one seed.

Nothing of the packages is rebuilt here. `open_server` and `broker.connect` run as they are; what they take from outside (sockets, files,
threads, clocks, dice) is put in its place, by name, for the length of `World.run`.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import structlog
import trio
import trio.testing

import broker
from broker.server import Server, ServerConfig, open_server
from broker.server.config import DiskUse, Limits, Pace
from tests.shell.threads import LockStep
from tests.shell.wires import SILENCE_SECONDS, Wires, who
from zablog import Identity, Member, NodeStopped, PeerId, give_birth
from zablog.node.transfer import DiskFailed
from zablog.sim.disk import PowerLost, SimDisk

NODES = (1, 2, 3)
PACE = Pace(tick=0.020, heartbeat=0.060, lease=0.300)
RUN_SECONDS = 150.0
"""Virtual seconds after which a run hangs."""
EPOCH_SECONDS = 1_700_000_000


class ShellDisk(SimDisk):
    """The simulated disk with what else a node asks of its directory."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def lock(self) -> None:
        pass

    def free(self) -> int:
        return 1 << 40

    def allocate(self, name: str, length: int) -> None:
        self.create(name)
        self.write(name, 0, [bytes(length)])


class Host:
    """A machine: its disk, and the node while it runs."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"node{number}"
        self.disk = ShellDisk(Path("/shell") / self.name)
        self.server: Server | None = None
        self.scope: trio.CancelScope | None = None
        self.ended = trio.Event()


class World:
    """Use `World(seed).run(story)`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.clock = trio.testing.MockClock(autojump_threshold=0)
        self.hosts = {number: Host(number) for number in NODES}
        self.wires = Wires(Random(seed + 1))
        self.disk_seconds = self.random.choice((0.0, 0.001, 0.005))
        self.slow_until = 0.0
        """Until then the disks are slow."""
        self.trace: list[str] = []
        self.faults: dict[str, int] = {}
        self.nursery: trio.Nursery
        self.threads: LockStep

    @property
    def addresses(self) -> str:
        return ",".join(address_of(number) for number in NODES)

    def digest(self) -> str:
        """Of all that happened: the same for the same seed."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()

    def note(self, *words: object) -> None:
        self.trace.append(f"{self.clock.current_time():.6f} " + " ".join(map(str, words)))

    def run(self, story: Callable[["World"], Awaitable[None]]) -> None:
        """The story, from the birth of the nodes to their end. Raises what it raises; AssertionError for a hang or a leak."""
        with self.installed():
            trio.run(self._main, story, clock=self.clock, strict_exception_groups=True)

    async def _main(self, story: Callable[["World"], Awaitable[None]]) -> None:
        who.set("world")
        with trio.move_on_after(RUN_SECONDS) as patience:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                self.threads = LockStep(nursery, Random(self.seed + 2), self.disk_pause)
                self.slow_until = 0.0
                for host in self.hosts.values():
                    members = tuple(Member(PeerId(n), f"{n:032x}", address_of(n)) for n in NODES)
                    give_birth(host.disk, Identity("c" * 32, PeerId(host.number), f"{host.number:032x}", members))
                    host.ended.set()
                with patch("trio.to_thread.run_sync", self.threads.run_sync), self._threads_installed():
                    for number in NODES:
                        await self.start(number)
                    await story(self)
                    for number in NODES:
                        await self.stop(number)
                    await trio.sleep(SILENCE_SECONDS + 1.0)  # a disk may be at its last pause, an end may still be silent
                left = sorted(task.name for task in nursery.child_tasks)
                assert not left, f"tasks are left over: {left}"
                open_ends = [f"{end.owner} of {end.owner}-{end.peer}" for end in self.wires.ends]
                assert not open_ends, f"connections are left open: {open_ends}"
        assert not patience.cancelled_caught, f"nothing came to an end within {RUN_SECONDS:g} virtual seconds"

    # -- nodes --------------------------------------------------------------------------------------------------------------

    async def start(self, number: int) -> None:
        await self.nursery.start(self._serve, self.hosts[number])

    async def stop(self, number: int) -> None:
        """In order, as SIGTERM does."""
        host = self.hosts[number]
        if host.scope is not None:
            host.scope.cancel()
        await host.ended.wait()

    async def kill(self, number: int, power_loss: bool, operations: int = 0) -> None:
        """The node dies at its disk operation after so many more, or soon if there is none; nothing it does after that counts."""
        host = self.hosts[number]
        dying = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def step(operation: str) -> None:
            nonlocal operations
            operations -= 1
            if operations < 0:
                token.run_sync_soon(dying.set)
                raise PowerLost

        host.disk.step = step
        with trio.move_on_after(0.5 if operations else 0):
            await dying.wait()
        operations = 0
        if host.scope is not None:
            host.scope.cancel()
        self.wires.cut(host.name)
        await host.ended.wait()
        self.wires.cut(host.name)
        if power_loss:
            host.disk.power_loss(self.random)
        host.disk.step = lambda operation: None

    async def _serve(self, host: Host, task_status: trio.TaskStatus[None]) -> None:
        who.set(host.name)
        host.ended = trio.Event()
        config = ServerConfig(
            host.disk.path,
            pace=PACE,
            limits=Limits(fetch_wait=2.0),
            disk=DiskUse(
                checkpoint_bytes=8 << 10,
                checkpoint_seconds=1.0,
                keep_bytes=4 << 10,
                pin_bytes=64 << 10,
                file_bytes=16 << 10,
                reserve_bytes=1 << 10,
                retention_seconds=1.0,
            ),
        )
        started = False
        try:
            with trio.CancelScope() as host.scope:
                async with open_server(config) as host.server:
                    started = True
                    self.note(host.name, "starts")
                    task_status.started()
                    await trio.sleep_forever()
        except BaseException as error:
            dead = PowerLost, NodeStopped, DiskFailed
            if not (host.scope.cancel_called and all(isinstance(each, dead) for each in leaves(error))):
                raise
        finally:
            self.note(host.name, "ends")
            host.server = host.scope = None
            host.ended.set()
        if not started:
            task_status.started()

    @property
    def leader(self) -> int | None:
        for host in self.hosts.values():
            if host.server is not None and host.server.node.status().leads:
                return host.number
        return None

    # -- clients ------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def client(self, name: str) -> AsyncIterator[broker.Client]:
        """Whoever opens it is called so from then on; one task, one client."""
        who.set(name)
        async with broker.connect(self.addresses) as client:
            yield client

    # -- what is put in the place of the machine ----------------------------------------------------------------------------

    def disk_pause(self) -> float:
        """Seconds that the next operation of some disk takes."""
        slow = 20.0 if self.clock.current_time() < self.slow_until else 1.0
        return slow * self.disk_seconds * self.random.random()

    def file_disk(self, path: Path, **_: object) -> ShellDisk:
        return next(host.disk for host in self.hosts.values() if host.disk.path == path)

    def dice(self, *_: object) -> Random:
        return Random(self.random.getrandbits(64))

    @contextmanager
    def installed(self) -> Iterator[None]:
        now = self.clock.current_time
        time = SimpleNamespace(monotonic=now, time=lambda: EPOCH_SECONDS + now(), time_ns=lambda: int((EPOCH_SECONDS + now()) * 1e9))
        replaced: dict[str, object] = {
            "trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING": True,
            "trio._core._run._r": Random(self.seed),
            "trio.open_tcp_stream": self.wires.open_tcp_stream,
            "trio.open_tcp_listeners": self.wires.open_tcp_listeners,
            "zablog.node.node.FileDisk": self.file_disk,
            "broker.server.server.FileDisk": self.file_disk,
            "zablog.node.node.SystemRandom": self.dice,
            "zablog.transport.network.Random": self.dice,
            "broker.client.client.random": SimpleNamespace(Random=self.dice),
            "zablog.node.writer.time": time,
            "zablog.node.applier.time": time,
            "broker.server.checkpoint.time": time,
            "broker.server.server.time": time,
            "broker.client.producer.time": time,
        }
        with patched(replaced), self._log_traced():
            yield

    def _threads_installed(self) -> Any:  # Any: a context manager without a value
        return patched({"zablog.node.writer.threading": self.threads, "zablog.node.writer.SimpleQueue": self.threads.SimpleQueue})

    @contextmanager
    def _log_traced(self) -> Iterator[None]:
        """Each line of the program's log is a line of the trace, and is printed nowhere."""

        def trace(_: object, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # Any: structlog's own
            self.note(method, *(f"{key}={value}" for key, value in sorted(line.items())))
            raise structlog.DropEvent

        before = structlog.get_config()
        structlog.configure(processors=[trace], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            structlog.configure(**before)


@contextmanager
def patched(replaced: dict[str, object]) -> Iterator[None]:
    if not replaced:
        yield
        return
    (name, value), *rest = replaced.items()
    with patch(name, value), patched(dict(rest)):
        yield


def address_of(number: int) -> str:
    return f"127.0.0.1:{7000 + number}"


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]
