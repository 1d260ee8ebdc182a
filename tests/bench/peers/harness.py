"""What the scripts of all peers share: three servers, a client that pipelines, and the same measurements in the same order.

A script says how its system is started and spoken to (`System`), and calls `measure`. Here are no clients of libraries: a raw socket
with requests built beforehand costs the client next to nothing, so that it is the servers who are measured. What is printed is one
line of JSON for each system: `{"name", "version", "ack", "figures"}` or `{"skipped": REASON}`.
"""

import argparse
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from broker.bench import meters
from broker.bench.figures import latencies, percentile
from broker.bench.load import outage

WINDOW = 1024
"""Requests in flight, of all connections together."""
SIZES = {"100B": 100, "1KiB": 1 << 10, "64KiB": 64 << 10}
CALL_SECONDS = 5.0
READ_BYTES = 1 << 18
STRIKE_ACKS = 20
"""So many writes are acknowledged before a leader is killed, and again behind it; the slowest peer does five a second."""


@dataclass(frozen=True)
class Effort:
    """How long and how often."""

    folder: Path
    runs: int = 3
    seconds: float = 5.0
    warm_up: float = 2.0
    samples: int = 2000
    strikes: int = 3
    records: int = 200_000


def effort(arguments: Sequence[str] | None = None) -> Effort:
    """What the command line asks for; its folder is made, and gone when the script ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="below it the servers' data lies; a real disk")
    asked = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="peer-", dir=asked.dir))
    if asked.quick:
        return Effort(folder, runs=1, seconds=2.0, warm_up=1.0, samples=500, strikes=1, records=50_000)
    return Effort(folder)


def skip(reason: str) -> NoReturn:
    """Say why this system is not measured."""
    print(json.dumps({"skipped": reason}), flush=True)
    sys.exit(0)


def installed(*commands: str) -> None:
    """Skip unless all of these commands are there."""
    for command in commands:
        if shutil.which(command) is None:
            skip(f"{command} is not installed")


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has, all different."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def said_by(*command: str) -> str:
    """What a command prints, such as its version."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=30)
    return done.stdout.strip()


# -- servers ----------------------------------------------------------------------------------------------------------------------


class Server:
    """One process, with the children it makes, in a group of its own."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.command, self.folder = list(command), folder
        self.environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9 of the whole group, and wait."""
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def pids(self) -> list[int]:
        """It and its descendants, as far as they are in its session."""
        if self.process is None or self.process.poll() is not None:
            return []
        return [pid for pid in _all_pids() if _session(pid) == self.process.pid]


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


# -- a client that pipelines --------------------------------------------------------------------------------------------------------


@dataclass
class Pipeline:
    """One connection: `requests(n)` are the bytes of n requests, `answers(buffer)` how many answers stand in it and their bytes."""

    socket: socket.socket
    window: int
    requests: Callable[[int], bytes]
    answers: Callable[[bytearray], tuple[int, int]]
    in_flight: int = 0
    out: bytearray = field(default_factory=bytearray)
    heard: bytearray = field(default_factory=bytearray)

    def top_up(self) -> None:
        """Fill the window again, once a good part of it is free."""
        room = self.window - self.in_flight
        if room >= max(1, self.window // 8):
            self.out += self.requests(room)
            self.in_flight += room

    def send(self) -> None:
        while self.out:
            try:
                sent = self.socket.send(self.out)
            except BlockingIOError:
                return
            del self.out[:sent]

    def receive(self) -> int:
        """How many requests were answered."""
        try:
            some = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return 0
        if not some:
            raise ConnectionError("the server hung up")
        self.heard += some
        count, used = self.answers(self.heard)
        del self.heard[:used]
        self.in_flight -= count
        return count


def drive(pipelines: Sequence[Pipeline], warm_up: float, seconds: float, mark: Callable[[], None]) -> float:
    """Answers a second over `seconds` after `warm_up`, with every window kept full. Closes the connections."""
    with selectors.DefaultSelector() as selector:
        for each in pipelines:
            each.socket.setblocking(False)
            selector.register(each.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, each)
        begun = time.perf_counter()
        counted, since = 0, 0.0
        while True:
            now = time.perf_counter()
            if not since and now >= begun + warm_up:
                counted, since = 0, now
                mark()
            if since and now >= since + seconds:
                break
            for key, events in selector.select(0.1):
                pipeline: Pipeline = key.data
                if events & selectors.EVENT_READ:
                    counted += pipeline.receive()
                pipeline.top_up()
                pipeline.send()
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if pipeline.out else 0)
                if wanted != key.events:
                    selector.modify(pipeline.socket, wanted, pipeline)
        taken = time.perf_counter() - since
        mark()
    for each in pipelines:
        each.socket.close()
    return counted / taken


def connect(port: int, timeout: float = CALL_SECONDS) -> socket.socket:
    """A connection without delay."""
    opened = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


class Reader:
    """A socket read in exact pieces and in lines, by somebody who has the time to wait."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self._held = bytearray()

    def exactly(self, count: int) -> bytes:
        while len(self._held) < count:
            self._more()
        piece = bytes(self._held[:count])
        del self._held[:count]
        return piece

    def line(self) -> bytes:
        """Up to CR LF, which is left out."""
        while (end := self._held.find(b"\r\n")) < 0:
            self._more()
        piece = bytes(self._held[:end])
        del self._held[: end + 2]
        return piece

    def _more(self) -> None:
        some = self.socket.recv(READ_BYTES)
        if not some:
            raise ConnectionError("the server hung up")
        self._held += some


# -- what is measured -----------------------------------------------------------------------------------------------------------------


class System:
    """A system of three servers, as a script describes it. `number` is a server's: 0, 1 or 2."""

    name: str
    version: str
    ack: str
    """What an acknowledgement means."""
    servers: Sequence[Server]
    sizes: Sequence[str] = tuple(SIZES)
    fails_over: bool = True
    """Does another server take over when the leader dies, with all that was acknowledged?"""

    def first(self) -> None:
        """One acknowledged write, or an exception for as long as there can be none yet."""
        raise NotImplementedError

    def prepare(self) -> None:
        """What must be there before anything is measured."""

    def pipelines(self, size: int) -> list[Pipeline]:
        """Connections whose windows add up to WINDOW."""
        raise NotImplementedError

    def publish(self, size: int, asked: Effort, mark: Callable[[], None]) -> float:
        """Acknowledged writes a second."""
        return drive(self.pipelines(size), asked.warm_up, asked.seconds, mark)

    def consume(self, label: str, asked: Effort) -> float | None:
        """Records a second that one consumer reads of what was published; None if there is nothing like it."""
        return None

    def writer(self, number: int) -> Callable[[], object]:
        """Connect to a server; calling what is returned writes 1 KiB and waits for the acknowledgement."""
        raise NotImplementedError

    def sends(self, asked: Effort) -> list[float]:
        """Seconds of each of many writes of 1 KiB to the leader, one in flight."""
        write = self.writer(self.leader())
        for _ in range(asked.samples // 10):
            write()
        taken = []
        for _ in range(asked.samples):
            begun = time.perf_counter()
            write()
            taken.append(time.perf_counter() - begun)
        return taken

    def leader(self) -> int:
        """The number of the server that leads."""
        raise NotImplementedError

    def whole(self) -> None:
        """Raises for as long as not all servers take part again."""
        for number in range(len(self.servers)):
            self.writer(number)()

    def pids(self) -> list[int]:
        return [pid for server in self.servers for pid in server.pids()]


def measure(system: System, asked: Effort, then: Callable[[], None] = lambda: None) -> None:
    """Measure everything of a system and print it, and `then` what else its servers can do.

    Whatever ends this script, the servers end first, and their data is gone.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    figures: dict[str, float] = {}
    try:
        begun = time.perf_counter()
        for server in system.servers:
            server.start()
        until_done(system.first, 60)
        figures["start_up"] = time.perf_counter() - begun
        say(system, "start_up", figures["start_up"])
        compare(system, asked, figures)
        then()
    finally:
        clean(system.servers, asked)


def compare(system: System, asked: Effort, figures: dict[str, float] | None = None) -> None:
    """Measure what can be measured of servers that run, and print it with the `figures` there are already."""
    figures = figures or {}
    until_done(system.prepare, 60)
    loads(system, asked, figures)
    sends = sorted((system.sends(asked) for _ in range(asked.runs)), key=lambda taken: percentile(taken, 0.5))
    figures |= {each.name: each.value for each in latencies("latency", sends[len(sends) // 2])}
    say(system, "latency_p50", figures["latency_p50"])
    if system.fails_over:
        outages = sorted(strike(system) for _ in range(asked.strikes))
        figures |= {"failover_kill": outages[len(outages) // 2], "failover_kill_worst": outages[-1]}
    finish(system, figures)


def loads(system: System, asked: Effort, figures: dict[str, float]) -> None:
    """Publish and consume each size; the median of the runs. The first run of all is thrown away: a JIT has to see the code first."""
    system.publish(SIZES["1KiB"], asked, lambda: None)
    for label in system.sizes:
        runs = sorted((_publish(system, label, asked) for _ in range(asked.runs)), key=lambda run: run["rate"])
        median = runs[len(runs) // 2]
        name = f"publish_{label}"
        figures |= {name: median["rate"], f"{name}_cpu": median["cpu"], f"{name}_memory": median["memory"]}
        figures["others_cores"] = max(figures.get("others_cores", 0.0), *(run["others"] for run in runs))
        say(system, name, median["rate"])
        rates = sorted(rate for _ in range(asked.runs) if (rate := system.consume(label, asked)))
        if rates:
            figures[f"consume_{label}_batches"] = rates[len(rates) // 2]
            say(system, f"consume_{label}", rates[len(rates) // 2])


def _publish(system: System, label: str, asked: Effort) -> dict[str, float]:
    """One run: the rate, what the servers spent on it, and how many processors somebody else used meanwhile."""
    pids = system.pids()
    looks: list[tuple[float, float, float]] = []

    def mark() -> None:
        looks.append((time.perf_counter(), meters.cpu_seconds(pids), meters.busy_seconds() - _clients_cpu()))

    rate = system.publish(SIZES[label], asked, mark)
    seconds, cpu, busy = (after - before for before, after in zip(*looks, strict=True))
    others = max(0.0, (busy - cpu) / seconds)
    return {"rate": rate, "cpu": cpu / (seconds * rate) * 1e6, "memory": meters.memory_bytes(pids) / 1e6, "others": others}


def _clients_cpu() -> float:
    """CPU seconds of this script and of the clients it has started that still run. The servers have sessions of their own."""
    own = os.getsid(0)
    return meters.cpu_seconds(pid for pid in _all_pids() if _session(pid) == own and _descends(pid))


def _descends(pid: int) -> bool:
    return pid == os.getpid() or meters.parent(pid) == os.getpid()


def strike(system: System) -> float:
    """kill -9 of the leader under a writer with one record in flight; seconds to the end of the longest silence."""
    until_done(system.whole, 60)
    leader = system.leader()
    acks: list[float] = []
    stopped = threading.Event()
    order = [(leader + step) % len(system.servers) for step in range(1, len(system.servers))]

    def write() -> None:
        turn = 0
        while not stopped.is_set():
            with suppress(Exception):  # whatever a client of a dead server is told
                once = system.writer(order[turn % len(order)])
                while not stopped.is_set():
                    once()
                    acks.append(time.perf_counter())
            turn += 1
            time.sleep(0.005)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    until_done(lambda: enough(acks, STRIKE_ACKS), 30)
    struck = time.perf_counter()
    system.servers[leader].kill()
    try:
        until_done(lambda: enough([ack for ack in acks if ack > struck + 0.05], STRIKE_ACKS), 40)
        time.sleep(0.5)
        return outage(struck, acks)
    finally:
        stopped.set()
        thread.join(10)
        system.servers[leader].start()


def enough(things: Sequence[object], count: int) -> None:
    if len(things) < count:
        raise TimeoutError(f"{len(things)} of {count}")


def until_done(do: Callable[[], Any], seconds: float) -> Any:
    """Try again and again; raises what the last try raised."""
    deadline = time.perf_counter() + seconds
    while True:
        try:
            return do()
        except Exception:
            if time.perf_counter() > deadline:
                raise
            time.sleep(0.02)


def say(system: System, name: str, value: float) -> None:
    print(f"  {system.name} {name}: {value:,.3f}", file=sys.stderr, flush=True)


def finish(system: System, figures: Mapping[str, float]) -> None:
    """Print the result."""
    rounded = {name: float(f"{value:.5g}") for name, value in figures.items()}
    print(json.dumps({"name": system.name, "version": system.version, "ack": system.ack, "figures": rounded}), flush=True)


def clean(servers: Iterable[Server], asked: Effort) -> None:
    """End what was started, delete what was written."""
    for server in servers:
        server.kill()
    shutil.rmtree(asked.folder, ignore_errors=True)
