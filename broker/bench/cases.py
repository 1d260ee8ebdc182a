"""What is measured: one function a case, and the table of them.

A case writes what it has read into the bench's figures, run by run. What it cannot reach within its limits of time is said to be
not reached; the other cases go on. Every case that writes has a topic of its own and deletes it.
"""

import compileall
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Final

import trio

from broker.bench import load, meters
from broker.bench.ensemble import LOOK_SECONDS, Ensemble, made, status_of
from broker.bench.figures import Figures, NotReached, Reading, Unit, latencies, tail, words
from broker.bench.load import Shape
from broker.client import Client, connect
from broker.errors import BrokerError

GIGABYTE: Final = 10**9
BYTES_MAX: Final = 4 * GIGABYTE
"""No run of a case publishes more than so many bytes of values."""
OTHERS_CORES_MAX: Final = 0.3
"""If the rest of the machine uses more of its processors than this, a figure says little."""
SETTLE_SECONDS: Final = 30.0
TRIES: Final = 3
"""Runs in a row that may not count."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often."""

    runs: int = 5
    seconds: float = 5.0
    """Of each run of a rate."""
    warm_up: float = 2.0
    samples: int = 2000
    """Of a latency."""
    records: int = 500_000
    """That a consumer reads, of 100 bytes; of larger ones as many bytes."""
    strikes: int = 9
    """Leaders that are killed, and that are stopped."""
    starts: int = 5
    big_log_bytes: int = GIGABYTE


QUICK: Final = Effort(runs=1, seconds=2.0, warm_up=1.0, samples=500, records=200_000, strikes=1, starts=1, big_log_bytes=0)
"""As long as the other systems are given in a quick run."""


@dataclass(slots=True)
class Bench:
    """What a case is given."""

    ensemble: Ensemble
    effort: Effort
    figures: Figures
    say: Callable[[str], None]
    suffix: str = ""
    """Behind the names of all figures: what they hold for, if not for three nodes."""
    disturbed: list[float] = field(default_factory=list)
    """Processors that the rest of the machine used in each run."""

    @property
    def addresses(self) -> str:
        return ",".join(self.ensemble.addresses)

    def take(self, *readings: Reading) -> None:
        named = [replace(reading, name=reading.name + self.suffix) for reading in readings]
        self.figures.add(named)
        for reading in named:
            self.say(f"  {reading.name}: {words(reading.value)} {reading.unit}")

    @contextmanager
    def part(self, name: str, seconds: float) -> Iterator[None]:
        """Something that must be done within `seconds`; else, or if it fails, it is not reached and the bench goes on."""
        try:
            with trio.move_on_after(seconds) as scope:
                yield
            if scope.cancelled_caught:
                self.missed(name, f"not done within {seconds:g} s")
        except* (BrokerError, NotReached) as group:
            self.missed(name, "; ".join(_words(group)))

    def missed(self, name: str, reason: str) -> None:
        """Say that a figure was not reached, or does not count."""
        self.figures.not_reached[name + self.suffix] = reason
        self.say(f"  {name + self.suffix}: not reached: {reason}")

    @asynccontextmanager
    async def topic(self) -> AsyncIterator[tuple[Client, str]]:
        """A topic of the case's own, and a client."""
        name = f"bench-{os.getpid()}-{os.urandom(4).hex()}"
        async with connect(self.addresses) as client:
            await client.create_topic(name)
            try:
                yield client, name
            finally:
                with trio.move_on_after(SETTLE_SECONDS, shield=True):
                    await client.delete_topic(name)


@dataclass(frozen=True, slots=True)
class Case:
    """One entry of the table."""

    name: str
    run: Callable[[Bench], Awaitable[None]]
    """All runs of it."""
    limit: float
    """Seconds for all of it."""
    ours: bool = False
    """Does it harm nodes, so that they must be our own?"""


# -- publish and consume ----------------------------------------------------------------------------------------------------------


async def publish(name: str, shape: Shape, bench: Bench) -> None:
    """Records a second, and what the servers spent on them."""
    for _ in range(bench.effort.runs):
        await publish_once(name, shape, bench, bench.effort.seconds, BYTES_MAX // shape.size)


async def publish_once(name: str, shape: Shape, bench: Bench, seconds: float, records: int) -> None:
    """One run of it: for so many seconds, or so many records. It counts if every node has kept up; a smaller cluster is a faster one."""
    for _ in range(TRIES):
        disturbed, readings = await _published(name, shape, bench, seconds, records)
        behind = await bench.ensemble.left_behind() if bench.ensemble.ours else []
        if not behind:
            bench.disturbed += disturbed
            bench.take(*readings)
            return
        bench.say(f"  {', '.join(behind)} did not keep up: once more when it has")
        with trio.move_on_after(SETTLE_SECONDS):
            await bench.ensemble.settled()
    raise NotReached(f"in each of {TRIES} runs a node did not keep up")


async def _published(name: str, shape: Shape, bench: Bench, seconds: float, records: int) -> tuple[list[float], list[Reading]]:
    """(what others used of the processors, what was read)"""
    pids = await bench.ensemble.pids()
    folder = bench.ensemble.folder
    cpu: list[tuple[float, float, float]] = []
    disk: list[int] = []

    def mark() -> None:
        cpu.append((meters.cpu_seconds(pids), meters.cpu_seconds([os.getpid()]), meters.busy_seconds()))
        if folder is not None and (written := meters.written_bytes(folder)) is not None:
            disk.append(written)

    async with bench.topic() as (_, topic):
        warm_up = bench.effort.warm_up
        done = await load.publish(bench.addresses, topic, shape, warm_up=warm_up, seconds=seconds, records=records, mark=mark)
    disturbed, readings = [], [Reading(name, done.rate, Unit.RATE)]
    servers, own, busy = (after - before for before, after in zip(*cpu, strict=True))
    if pids and done.records:
        readings += [
            Reading(f"{name}_cpu", servers / done.records * 1e6, Unit.CPU),
            Reading(f"{name}_memory", meters.memory_bytes(pids) / 1e6, Unit.MEGABYTES),
        ]
        disturbed.append(max(0.0, (busy - servers - own) / done.seconds))
        if disk:
            readings.append(Reading(f"{name}_written", (disk[1] - disk[0]) / (done.records * shape.size), Unit.WRITTEN))
    return disturbed, readings


async def consume(label: str, size: int, bench: Bench) -> None:
    """Records a second from the leader's page cache, record by record and batch by batch."""
    records = max(1000, min(bench.effort.records, bench.effort.records * 100 // size))
    async with bench.topic() as (client, topic):
        await load.fill(client, topic, size, records)
        for _ in range(bench.effort.runs):
            done = await load.read(client, topic, by_batch=False)
            bench.take(Reading(f"consume_{label}", done.rate, Unit.RATE))
            done = await load.read(client, topic, by_batch=True)
            bench.take(Reading(f"consume_{label}_batches", done.rate, Unit.RATE))


# -- latency ----------------------------------------------------------------------------------------------------------------------


async def latency(bench: Bench) -> None:
    """1 KiB, one in flight."""
    pooled: list[float] = []
    async with bench.topic() as (client, topic):
        for _ in range(bench.effort.runs):
            taken = await load.one_in_flight(client, topic, 1024, bench.effort.samples, warm_up=bench.effort.samples // 10)
            bench.take(*latencies("latency", taken))
            pooled += taken
    bench.take(*tail("latency", pooled))


async def latency_at_half_load(bench: Bench) -> None:
    """1 KiB at half the rate that one pipelining client reaches; measured first, if this run has not."""
    known = bench.figures.found.get("publish_1KiB" + bench.suffix)
    pooled: list[float] = []
    async with bench.topic() as (client, topic):
        if known is not None:
            rate = known.value
        else:
            effort = bench.effort
            rate = (await load.publish(bench.addresses, topic, Shape(1024), warm_up=effort.warm_up, seconds=effort.seconds)).rate
        for _ in range(bench.effort.runs):
            taken = await load.steady(client, topic, 1024, rate / 2, bench.effort.seconds)
            bench.take(*latencies("latency_half_load", taken))
            pooled += taken
    bench.take(*tail("latency_half_load", pooled))


# -- failover, start-up -----------------------------------------------------------------------------------------------------------


async def failover(name: str, number: signal.Signals, bench: Bench) -> None:
    """One writer with one record in flight; the leader gets a signal; until the end of the longest silence."""
    async with bench.topic() as (_, topic):
        for _ in range(bench.effort.strikes):
            await bench.ensemble.settled()
            leader = await bench.ensemble.leader()
            try:
                async with load.writing(bench.addresses, topic, 1024) as writer:
                    await writer.until(100)
                    struck = trio.current_time()
                    await bench.ensemble.signal(leader, number)
                    await writer.until(100)
                    await trio.sleep(0.5)
                    bench.take(Reading(name, writer.outage(struck), Unit.SECONDS))
            finally:
                if number is signal.SIGSTOP:
                    await bench.ensemble.signal(leader, signal.SIGCONT)
            if number is signal.SIGKILL:
                await bench.ensemble.start(leader.id)
    runs = bench.figures.found[name + bench.suffix].runs
    bench.take(Reading(f"{name}_worst", max(runs), Unit.SECONDS))


def compiled() -> None:
    """Our modules are compiled, as pip leaves them: from a checkout where Python may write none, each process would compile them anew."""
    for package in ("broker", "zablog"):
        for folder in import_module(package).__path__:
            compileall.compile_dir(folder, quiet=2)


async def start_up(bench: Bench) -> None:
    """From the command `cluster up` to the first acknowledged record of a new cluster: it is born, starts, elects, and has a topic."""
    await trio.to_thread.run_sync(compiled)
    port = bench.ensemble.first_port
    for _ in range(bench.effort.starts):
        parent = bench.ensemble.folder
        async with made(bench.ensemble.size, parent, port, tcp=bench.ensemble.tcp, start=False) as fresh, trio.open_nursery() as nursery:
            begun = trio.current_time()
            nursery.start_soon(fresh.up)
            while not (addresses := fresh.born_addresses()):
                await trio.sleep(0.001)
            async with connect(",".join(addresses)) as client, client.producer() as out:
                await client.create_topic("first")
                await out.send("first", b"x")
            bench.take(Reading("start_up", trio.current_time() - begun, Unit.SECONDS))


# -- a long log -------------------------------------------------------------------------------------------------------------------


async def big_log(bench: Bench) -> None:
    """With 1 GB in the log: a consumer that begins 1 GB back, memory, a node's restart, and a node that is 1 GB behind."""
    records = bench.effort.big_log_bytes // 1024
    async with bench.topic() as (client, topic):
        await load.fill(client, topic, 1024, records)
        await bench.ensemble.settled()
        for _ in range(bench.effort.runs):
            with bench.part("consume_1KiB_1GB_back", 120):
                leader = await bench.ensemble.leader()
                await trio.to_thread.run_sync(forget_pages, bench.ensemble, leader.id)
                done = await load.read(client, topic, by_batch=True)
                bench.take(Reading("consume_1KiB_1GB_back", done.rate, Unit.RATE))
        follower = next(status for status in await bench.ensemble.status() if status.role == "following")
        with bench.part("restart_1GB", 120):
            for _ in range(min(3, bench.effort.runs)):
                follower = next(status for status in await bench.ensemble.settled() if status.role == "following")
                await bench.ensemble.signal(follower, signal.SIGKILL)
                bench.take(Reading("restart_1GB", await _restarted(bench, follower.id, follower.address), Unit.SECONDS))
        with bench.part("catch_up_1GB", 300):
            follower = next(status for status in await bench.ensemble.settled() if status.role == "following")
            await bench.ensemble.signal(follower, signal.SIGKILL)
            await load.fill(client, topic, 1024, records)
            begun = trio.current_time()
            await _restarted(bench, follower.id, follower.address)
            await bench.ensemble.settled()
            bench.take(Reading("catch_up_1GB", trio.current_time() - begun, Unit.SECONDS))
        with bench.part("memory_2GB", 60):
            bench.take(Reading("memory_2GB", meters.memory_bytes(await bench.ensemble.pids()) / 1e6, Unit.MEGABYTES))


async def _restarted(bench: Bench, node: int, address: str) -> float:
    """Seconds from the command that starts a node to its taking part."""
    async with trio.open_nursery() as nursery:
        begun = trio.current_time()
        nursery.start_soon(bench.ensemble.start, node)
        while (status := await status_of(address)) is None or status.phase != "broadcast":
            await trio.sleep(LOOK_SECONDS)
        return trio.current_time() - begun


def forget_pages(ensemble: Ensemble, node: int) -> None:
    """Let the system forget what it holds of a node's files in memory, so that they are read from the disk."""
    for file in ensemble.data_files(node):
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:  # the node has just deleted it
            continue
        try:
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _words(group: BaseExceptionGroup[BaseException]) -> Iterator[str]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _words(error)
        else:
            yield f"{type(error).__name__}: {error}"


def label(size: int) -> str:
    """`100B`, `1KiB`, `64KiB`: how names of figures say a size."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB"), (10**6, "MB"), (1000, "KB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"


def _publish(name: str, shape: Shape) -> Case:
    return Case(name, partial(publish, name, shape), 240.0)


SIZES: Final = (100, 1 << 10, 64 << 10)

CASES: Final = (
    *(_publish(f"publish_{label(size)}", Shape(size)) for size in SIZES),
    *(_publish(f"publish_{label(size)}_many", Shape(size, many=True)) for size in SIZES),
    *(_publish(f"publish_1KiB_{count}_producers", Shape(1024, producers=count)) for count in (4, 64)),
    *(Case(f"consume_{label(size)}", partial(consume, label(size), size), 240.0) for size in (100, 1 << 10)),
    Case("latency", latency, 240.0),
    Case("latency_half_load", latency_at_half_load, 240.0),
)
"""What may be run against any cluster, in this order."""

HARMFUL: Final = (
    Case("failover_kill", partial(failover, "failover_kill", signal.SIGKILL), 300.0, ours=True),
    Case("failover_stop", partial(failover, "failover_stop", signal.SIGSTOP), 300.0, ours=True),
    Case("start_up", start_up, 180.0, ours=True),
)
BIG: Final = (Case("big_log", big_log, 900.0, ours=True),)
WIDE: Final = tuple(case for case in CASES if case.name in ("publish_100B", "publish_1KiB", "publish_64KiB", "consume_100B", "latency"))
"""What is run with five nodes, too; and there `failover_kill`."""
