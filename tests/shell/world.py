"""The shipped shell, whole, in one trio run in virtual time: three servers and their clients, from one seed.

Node, driver, gate, applier, checkpoints, transport, server and client are the shipped ones. What is replaced is what no seed can rule:
sockets (`wires`), the file system (the simulator's disk), threads (done in place, the writer of the log in a task), clocks and dice. trio's
own choice among tasks that are ready is drawn from the seed, too.
"""

import copy
import hashlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import trio
import trio.testing

import broker.client.client
import broker.client.producer
import broker.server.checkpoint
import broker.server.server
import zablog.node.applier
import zablog.node.node
import zablog.node.writer
import zablog.transport.network
from broker.server import Server, ServerConfig, open_server
from broker.server.config import DiskUse, Limits, Pace
from tests.shell.wires import Net
from zablog import Identity, Member, NodeStopped, PeerId, give_birth
from zablog.core.effects import DurableEffect
from zablog.core.zxid import ZERO
from zablog.node.writer import Writer
from zablog.sim.disk import SimDisk
from zablog.storage.storage import Storage

EPOCH_SECONDS = 1_800_000_000.0
"""The wall clock's beginning."""
SMALL = DiskUse(checkpoint_bytes=1 << 16, checkpoint_seconds=3.0, keep_bytes=0, pin_bytes=1 << 20, file_bytes=1 << 16, scrub_rate=1 << 20)


class Machine(SimDisk):
    """A simulated disk with what a directory of the real one has besides."""

    path = Path("machine")

    def lock(self) -> None:
        """One life at a time is the world's business."""

    def free(self) -> int:
        return 1 << 40

    def allocate(self, name: str, size: int) -> None:
        """No block is taken from anybody here."""


class TaskWriter(Writer):
    """The writer of the log in a task of the world's: a group commit takes its time, and its node may die meanwhile."""

    def __init__(self, world: "World", storage: Storage, done: Callable[[int], None], failed: Callable[[BaseException], None]) -> None:
        self.world = world
        self.storage, self.done, self.failed = storage, done, failed
        self.watermark = ZERO
        self.queue: list[DurableEffect] = []
        self.jobs: list[Callable[[], None]] = []
        self.queued_bytes = 0
        self.last_seconds = 0.0
        self.begun_at: float | None = None
        self.busy = False
        self.zeros = None
        self.zeros_again_at = 0.0
        self.stopping = False
        self.waiting = trio.lowlevel.ParkingLot()
        self.token = trio.lowlevel.current_trio_token()
        self.idle = trio.Event()
        self.idle.set()
        self.life = world.life_of(storage)
        self.wake = SimpleNamespace(put=self.begin)  # type: ignore[assignment]  # whoever wakes the thread starts the task

    def begin(self, _: object) -> None:
        self.idle = trio.Event()
        self.world.nursery.start_soon(self.work)

    async def work(self) -> None:
        try:
            while (self.queue or self.jobs) and self.life.alive:
                self.begun_at = trio.current_time()
                await trio.sleep(self.world.disk_seconds())
                if not self.life.alive:
                    break
                if self.queue:
                    self.commit(self.take())
                if self.jobs:
                    self.jobs.pop(0)()
        except BaseException as error:
            self.tell(self.failed, error)
        finally:
            self.begun_at, self.busy = None, False
            self.idle.set()

    def tell(self, call: Callable[..., None], *words: Any) -> None:  # Any: as the thread's
        if self.life.alive:
            call(*words)

    async def drain(self) -> None:
        with trio.CancelScope(shield=True):
            await self.idle.wait()
            await trio.lowlevel.checkpoint()


class Life:
    """One life of one node."""

    def __init__(self, number: int, disk: Machine) -> None:
        self.number, self.disk = number, disk
        self.alive = True
        self.scope = trio.CancelScope()
        self.over = trio.Event()
        self.server: Server | None = None


class World:
    """Use `open_world`."""

    def __init__(self, seed: int, nursery: trio.Nursery, nodes: int = 3) -> None:
        self.seed, self.nursery = seed, nursery
        self.random = Random(f"world {seed}")
        self.trace = hashlib.sha256()
        self.net = Net(Random(f"net {seed}"), self.say)
        self.addresses = {number: f"127.0.0.1:{7000 + number}" for number in range(1, nodes + 1)}
        self.disks: dict[int, Machine] = {}
        self.lives: dict[int, Life] = {}
        self.slow_disk = 1.0
        self.counter = itertools.count()
        members = tuple(Member(PeerId(number), f"{number:032x}", address) for number, address in self.addresses.items())
        for member in members:
            disk = self.disks[member.id] = Machine()
            give_birth(disk, Identity("ab" * 16, member.id, member.incarnation, members))  # type: ignore[arg-type]  # a disk as good as any

    @property
    def bootstrap(self) -> str:
        return ",".join(self.addresses.values())

    @property
    def servers(self) -> list[Server]:
        return [life.server for life in self.lives.values() if life.alive and life.server is not None]

    def say(self, words: str) -> None:
        """One line of the trace, of which the hash is kept."""
        self.trace.update(f"{trio.current_time():.6f} {words}\n".encode())

    def disk_seconds(self) -> float:
        return self.slow_disk * self.random.choice((0.0002, 0.0005, 0.002, 0.02 if self.random.random() < 0.1 else 0.0005))

    def life_of(self, storage: Storage) -> Life:
        return next(life for life in self.lives.values() if life.disk is storage.disk)

    def dice(self) -> Random:
        return Random(f"dice {self.seed} {next(self.counter)}")

    # -- nodes --------------------------------------------------------------------------------------------------------------

    async def start(self, number: int) -> None:
        life = self.lives[number] = Life(number, self.disks[number])
        self.net.come_back(self.addresses[number])
        self.say(f"node {number} starts")
        await self.nursery.start(self.live, life)

    async def live(self, life: Life, task_status: trio.TaskStatus[None]) -> None:
        config = ServerConfig(Path(f"/{life.number}"), pace=Pace(), limits=Limits(), disk=SMALL)
        try:
            with life.scope:
                async with open_server(config) as life.server:
                    task_status.started()
                    await trio.sleep_forever()
        except BaseExceptionGroup as group:
            if life.alive:
                raise
            self.say(f"node {life.number} was gone already: {type(group).__name__}")
        except NodeStopped as error:
            if life.alive:
                raise
            self.say(f"node {life.number} was gone already: {error}")
        finally:
            life.server = None
            life.over.set()

    async def kill(self, *numbers: int, power: bool) -> None:
        """These processes die as they stand, at once, or their machines lose their power. What the dying still do nobody will see."""
        for number in numbers:
            self.die(number, power)
        for number in numbers:
            await self.lives[number].over.wait()

    def die(self, number: int, power: bool) -> None:
        life = self.lives[number]
        if not life.alive:
            return
        self.say(f"node {number} {'loses its power' if power else 'is killed'}")
        life.alive = False
        self.net.break_off(self.addresses[number], silently=power)
        survivor = copy.deepcopy(_plain(life.disk))
        if power:
            survivor.power_loss(self.random)
        self.disks[number] = survivor
        life.scope.cancel()


def _plain(disk: Machine) -> Machine:
    """The disk without the callbacks that belong to a life."""
    disk.step = lambda operation: None
    return disk


class _Disks:
    """In the place of `FileDisk`: a node's directory is the disk of its current life."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, directory: Path) -> Machine:
        return self.world.lives[int(directory.name)].disk


async def _in_place(work: Callable[..., object], *words: object, **_: object) -> object:
    """`trio.to_thread.run_sync` without a thread: others have a turn before and after it."""
    await trio.lowlevel.checkpoint()
    result = work(*words)
    await trio.lowlevel.cancel_shielded_checkpoint()
    return result


@contextmanager
def replaced(world: World) -> Iterator[None]:
    """What no seed can rule is ours for as long as the block."""
    clock = SimpleNamespace(
        monotonic=trio.current_time,
        time=lambda: EPOCH_SECONDS + trio.current_time(),
        time_ns=lambda: int((EPOCH_SECONDS + trio.current_time()) * 1e9),
    )
    open_network = zablog.transport.network.open_network

    def network(listen: str, me: Any, contacts: Any, insecure: bool = False) -> Any:  # Any: handed through
        dial = partial(world.net.dial, world.addresses[me.node])
        return open_network(listen, me, contacts, insecure=insecure, connect=dial, random=world.dice())

    async def listeners(address: str, insecure: bool) -> Sequence[object]:
        await trio.lowlevel.checkpoint()
        return [world.net.listen(address)]

    async def tcp(host: str, port: int) -> object:
        return await world.net.dial("client", f"{host}:{port}")

    with pytest.MonkeyPatch.context() as patch:
        for module in (zablog.node.node, broker.server.server):
            patch.setattr(module, "FileDisk", _Disks(world))
        patch.setattr(zablog.node.node, "Writer", partial(TaskWriter, world))
        patch.setattr(zablog.node.node, "SystemRandom", world.dice)
        patch.setattr(zablog.node.node, "open_network", network)
        patch.setattr(zablog.transport.network, "open_listeners", listeners)
        patch.setattr(trio, "open_tcp_stream", tcp)
        patch.setattr(trio.to_thread, "run_sync", _in_place)
        for user in (zablog.node.applier, zablog.node.writer, broker.server.checkpoint, broker.server.server, broker.client.producer):
            patch.setattr(user, "time", clock)
        patch.setattr(broker.client.client, "random", SimpleNamespace(Random=world.dice))
        yield


@asynccontextmanager
async def open_world(seed: int, nodes: int = 3) -> AsyncIterator[World]:
    """All nodes started."""
    async with trio.open_nursery() as nursery:
        world = World(seed, nursery, nodes)
        with replaced(world):
            for number in world.addresses:
                await world.start(number)
            yield world
            for life in world.lives.values():
                life.alive = False
            nursery.cancel_scope.cancel()


def run_world(scene: Callable[..., Any], seed: int, *words: object) -> Any:  # Any: what the scene returns
    """`scene(seed, ...)` in virtual time, with trio's own dice thrown by the seed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    before = trio._core._run._r, trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING
    trio._core._run._r = Random(f"trio {seed}")
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        return trio.run(scene, seed, *words, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        trio._core._run._r, trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = before
        structlog.reset_defaults()
