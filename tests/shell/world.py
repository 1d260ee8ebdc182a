"""A world of three shipped nodes and their clients within one trio run: virtual time, simulated disks and connections, all from one seed.

Nothing of the packages is rebuilt here. `open_server` and `broker.connect` run as they are; what they take from outside (sockets, files,
threads, clocks, dice) is put in its place, by name, for the length of `World.run`.
"""

import hashlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import structlog
import trio
import trio.testing

import broker
from broker.server import Server, ServerConfig, load
from broker.server.run import _serve, translated
from tests.shell.disks import ShellDisk
from tests.shell.sockets import Kernel, Socket
from tests.shell.threads import LockStep
from tests.shell.wires import SILENCE_SECONDS, Wires, who
from zablog import ConfigError as NodeConfigError
from zablog import Identity, Member, NodeConfig, NodeStopped, PeerId, Versions, give_birth
from zablog.core.state import Limits as Outstanding
from zablog.sim.disk import PowerLost
from zablog.storage.errors import NotBorn, StorageError
from zablog.transport.errors import TransportError

NODES = (1, 2, 3)
SETTINGS = """
directory = "{directory}"
cluster = "{cluster}"
node = {node}
listen = "{address}"
insecure = false

[peers]
1 = "127.0.0.1:7001"
2 = "127.0.0.1:7002"

[limits]
fetch_wait = 2.0

[pace]
tick = 0.020
heartbeat = 0.060
lease = 0.300

[disk]
checkpoint_seconds = 1.0
keep_bytes = 4096
pin_bytes = 65536
reserve_bytes = 1024
retention_seconds = 1.0
"""
FOREIGN = (StorageError, TransportError, NodeConfigError, NodeStopped)
"""What ends a server, as `broker.server.run` has it."""
LIMITS: tuple[dict[str, int], ...] = ({}, {}, {"in_flight_requests": 4, "outbox_bytes": 20_000}, {"connections": 8, "fetch_bytes": 3_000})
"""Of a server; some worlds are narrower."""
SMALL: dict[str, object] = {
    "zablog.node.driver.HOLD_BYTES": 48 << 10,
    "zablog.node.driver.HOLD_BYTES_MAX": 96 << 10,
    "zablog.node.outbound.SOON_SECONDS": 0.06,
    "zablog.node.outbound.GATHER_SECONDS": 0.16,
    "zablog.node.outbound.WAIT_SECONDS": 0.24,
    "zablog.node.streams.STREAM_BYTES": 8 << 10,
    "zablog.node.streams.STREAM_ROUND_BYTES": 64 << 10,
    "zablog.node.writer.COMMIT_BYTES_MAX": 64 << 10,
    "zablog.transport.link.CONGESTED_BYTES": 64 << 10,
    "zablog.transport.link.ROOM_BYTES": 32 << 10,
    "zablog.transport.link.BROKEN_BYTES": 512 << 10,
    "zablog.transport.link.BATCH_BYTES": 16 << 10,
    "broker.server.server.NodeConfig": partial(NodeConfig, memory_bytes=32 << 10, limits=Outstanding(256, 256 << 10)),
    "broker.log.partition.SUM_BYTES": 512,
    "broker.checkpoint.TAIL_BYTES_MAX": 256,
    "broker.checkpoint.TAILS_BYTES_MAX": 8 << 10,
    "broker.server.checkpoint.LONG_BYTES": 2 << 10,
    "broker.server.checkpoint.DIRTY_BYTES_MAX": 16 << 10,
    "broker.server.retention.SEGMENT_BYTES_MIN": 4 << 10,
    "broker.client.batching.FULL_BYTES": 16 << 10,
    "broker.client.batching.REQUEST_BYTES": 64 << 10,
    "broker.client.producer.IN_FLIGHT_BYTES": 64 << 10,
    "broker.client.consumer.FETCH_BYTES": 64 << 10,
    "broker.client.consumer.PARTITION_BYTES": 16 << 10,
}
"""Bounds of megabytes, as they are in a world of kilobytes, and of milliseconds in one whose messages take that long."""
CLUSTER = "c" * 32
RUN_SECONDS = 150.0
"""Virtual seconds after which a run hangs."""
EPOCH_SECONDS = 1_700_000_000


class Host:
    """A machine: its disk, and the node while it runs."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"node{number}"
        self.disk = ShellDisk(Path("/shell") / self.name)
        self.settings = Path()
        """The file with what its server is told to be."""
        self.server: Server | None = None
        self.scope: trio.CancelScope | None = None
        self.told_to_stop = trio.Event()
        self.ended = trio.Event()
        self.hurt = False
        """Its disk is known to fail: a server that ends for it does what it must."""
        self.refusal: broker.BrokerError | None = None
        """With which words its last server ended, if it was not told to."""


class Signals:
    """What a server's process is sent."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def __aiter__(self) -> "Signals":
        return self

    async def __anext__(self) -> int:
        await self.host.told_to_stop.wait()
        return signal.SIGTERM


class World:
    """Use `World(seed).run(story)`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.clock = trio.testing.MockClock(autojump_threshold=0)
        self.hosts = {number: Host(number) for number in NODES}
        self.wires = Wires(Random(seed + 1))
        self.kernel = Kernel(self.wires)
        self.wires.pair = self.kernel.pair
        self.disk_seconds = self.random.choice((0.0, 0.001, 0.005))
        self.slow_until = 0.0
        """Until then the disks are slow."""
        self.very_slow: dict[str, float] = {}
        """And that of one node by far, until then."""
        self.limits = self.random.choice(LIMITS)
        self.levels: dict[int, Versions] = {}
        """The feature levels that a node's build knows, where it is not the shipped one."""
        self.trace: list[str] = []
        self.faults: dict[str, int] = {}
        self.events: list[tuple[str, trio.Event]] = []
        """Who waits for a line of some node's log."""
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
        with self.installed(), TemporaryDirectory(prefix="shell-") as folder:
            for host in self.hosts.values():
                host.settings = Path(folder) / f"{host.name}.toml"
                host.settings.write_text(settings_of(host))
            trio.run(self._main, story, clock=self.clock, strict_exception_groups=True)

    async def _main(self, story: Callable[["World"], Awaitable[None]]) -> None:
        who.set("world")
        with trio.move_on_after(RUN_SECONDS) as patience:
            # Who stops a node, in order or because the story failed, needs its threads, so they go on for longer than the nodes.
            async with trio.open_nursery() as turns:
                self.threads = LockStep(turns, Random(self.seed + 2), self.disk_pause)
                with patch("trio.to_thread.run_sync", self.threads.run_sync), self._threads_installed():
                    async with trio.open_nursery() as self.nursery:
                        await self._live(story)
                left = sorted(task.name for task in turns.child_tasks)
                assert not left, f"threads are left over: {left}"
        assert not patience.cancelled_caught, f"nothing came to an end within {RUN_SECONDS:g} virtual seconds"

    async def _live(self, story: Callable[["World"], Awaitable[None]]) -> None:
        self.slow_until = 0.0
        paging = Random(self.seed + 3)
        for host in self.hosts.values():
            host.disk.stand_still, host.disk.pause = self.threads.stand_still, self.disk_pause
            if (self.seed + host.number) % 2:
                host.disk.sync_end = -host.number
                self.kernel.disks[-host.number] = host.disk
            host.disk.memory = lambda length: length if paging.random() < 0.8 else paging.randrange(length + 1)
            members = tuple(Member(PeerId(n), f"{n:032x}", address_of(n)) for n in NODES)
            give_birth(host.disk, Identity(CLUSTER, PeerId(host.number), f"{host.number:032x}", members))
            host.ended.set()
        for number in NODES:
            await self.start(number)
        await story(self)
        for number in NODES:
            await self.stop(number)
        await trio.sleep(SILENCE_SECONDS + 1.0)  # a disk may be at its last pause, an end may still be silent
        left = sorted(task.name for task in self.nursery.child_tasks)
        assert not left, f"tasks are left over: {left}"
        open_ends = [f"{end.owner} of {end.owner}-{end.peer}" for end in self.wires.ends]
        assert not open_ends, f"connections are left open: {open_ends}"

    # -- nodes --------------------------------------------------------------------------------------------------------------

    async def start(self, number: int) -> None:
        await self.nursery.start(self._serve, self.hosts[number])

    async def stop(self, number: int) -> None:
        """In order, by SIGTERM; who is not up yet is not waited for."""
        host = self.hosts[number]
        host.told_to_stop.set()
        if host.scope is not None and host.server is None:
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
        """A server's process: what `broker.server.run` does, but for the loop, which all of them share here."""
        who.set(host.name)
        host.ended, host.told_to_stop, host.refusal = trio.Event(), trio.Event(), None
        config = ServerConfig(host.disk.path)

        def started(server: Server) -> None:
            host.server = server
            self.note(host.name, "starts")
            task_status.started()

        try:
            with trio.CancelScope() as host.scope:
                config = self.in_small(host, load(host.settings))
                await _serve(config, started)
        except broker.BrokerError as error:
            host.refusal = error
        except BaseException as error:
            fatal = [leaf for leaf in leaves(error) if not isinstance(leaf, PowerLost)]
            if not all(isinstance(leaf, FOREIGN) for leaf in fatal):
                raise
            if fatal:
                host.refusal = translated(fatal[0], config)
                host.refusal.__cause__ = fatal[0]
        finally:
            self.note(host.name, "ends", type(host.refusal).__name__)
            started_once = host.server is not None
            died, host.server, host.scope = host.scope is not None and host.scope.cancel_called, None, None
            host.ended.set()
            if not started_once:
                task_status.started()
        if host.refusal is not None and not died and not host.hurt:
            raise AssertionError(f"{host.name} ended by itself: {host.refusal}") from host.refusal

    def in_small(self, host: Host, config: ServerConfig) -> ServerConfig:
        """What no file may ask for: so little that it is reached within a second."""
        disk = replace(config.disk, checkpoint_bytes=8 << 10, file_bytes=16 << 10)
        limits = replace(config.limits, **self.limits)
        return replace(config, disk=disk, limits=limits, levels=self.levels.get(host.number, config.levels))

    @property
    def leader(self) -> int | None:
        for host in self.hosts.values():
            if host.server is not None and host.server.node.status().leads:
                return host.number
        return None

    # -- clients ------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def client(self, name: str, timeout: float = 30.0) -> AsyncIterator[broker.Client]:
        """Whoever opens it is called so from then on; one task, one client."""
        who.set(name)
        async with broker.connect(self.addresses, timeout=timeout) as client:
            yield client

    # -- what is put in the place of the machine ----------------------------------------------------------------------------

    def disk_pause(self) -> float:
        """Seconds that the next operation of some disk takes."""
        now = self.clock.current_time()
        if now < self.very_slow.get(who.get(), 0.0):
            return 0.8 * self.random.random()
        slow = 20.0 if now < self.slow_until else 1.0
        return slow * self.disk_seconds * self.random.random()

    def file_disk(self, path: Path, **_: object) -> ShellDisk:
        for host in self.hosts.values():
            if host.disk.path == path:
                return host.disk
        raise NotBorn(f"{path} is no directory")

    @contextmanager
    def signals(self, *_: object) -> Iterator[Signals]:
        """`trio.open_signal_receiver` of the process of a host."""
        yield Signals(next(host for host in self.hosts.values() if host.name == who.get()))

    async def happens(self, event: str) -> None:
        """Wait until a node says this in its log."""
        happened = trio.Event()
        self.events.append((event, happened))
        await happened.wait()

    def dice(self, *_: object) -> Random:
        return Random(self.random.getrandbits(64))

    @contextmanager
    def installed(self) -> Iterator[None]:
        now = self.clock.current_time
        replaced: dict[str, object] = {
            "trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING": True,
            "trio._core._run._r": Random(self.seed),
            **SMALL,
            "time.monotonic": now,
            "time.perf_counter": now,
            "time.time": lambda: EPOCH_SECONDS + now(),
            "time.time_ns": lambda: int((EPOCH_SECONDS + now()) * 1e9),
            "trio.SocketStream": Socket,
            "trio.lowlevel.wait_readable": self.kernel.wait_readable,
            "trio.lowlevel.wait_writable": self.kernel.wait_writable,
            "trio.open_signal_receiver": self.signals,
            "zablog.transport.ends.os": self.kernel,
            "zablog.transport.unix.name_of": lambda host, port: None,
            "trio.open_tcp_stream": self.wires.open_tcp_stream,
            "trio.open_tcp_listeners": self.wires.open_tcp_listeners,
            "zablog.node.node.FileDisk": self.file_disk,
            "broker.server.server.FileDisk": self.file_disk,
            "zablog.node.node.SystemRandom": self.dice,
            "zablog.transport.network.Random": self.dice,
            "broker.client.client.random": SimpleNamespace(Random=self.dice),
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
            if not self.threads.running:
                for event, happened in self.events:
                    if event == line["event"]:
                        happened.set()
                self.events = [each for each in self.events if not each[1].is_set()]
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


def settings_of(host: Host) -> str:
    """What stands in the file of its server."""
    return SETTINGS.format(directory=host.disk.path, cluster=CLUSTER, node=host.number, address=address_of(host.number))


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]
