"""RabbitMQ, three nodes: quorum queues and, as a system of its own, streams. Both from the same three servers, one after the other.

A confirmed message of a quorum queue is in the log of a quorum, fdatasynced. A confirmed message of a stream is in the page cache of a
quorum: streams never sync. Spoken by raw AMQP 0-9-1 and the stream protocol, just as much of each as is needed here.
"""

import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import harness
from harness import SIZES, WINDOW, Effort, Pipeline, Reader, Server, System

COOKIE = "zablogbench"
PREFETCH = 2000
ACK_EACH = 500
STREAM_BATCH = 100
"""Messages of a stream in one frame."""
STREAM_CONNECTIONS = 2
CREDIT = 20
READ_SECONDS_MAX = 15.0
HOMES = "/usr/lib/rabbitmq/lib"


class Nodes:
    """The three nodes, and the daemon that lets them find each other, on ports of our own."""

    def __init__(self, asked: Effort, home: Path) -> None:
        self.home = home
        self.version = home.name.rpartition("-")[2]
        ports = harness.free_ports(10)
        self.amqp, self.stream, distribution, names = ports[:3], ports[3:6], ports[6:9], ports[9]
        (asked.folder / "home").mkdir()
        cookie = asked.folder / "home" / ".erlang.cookie"
        cookie.write_text(COOKIE)
        cookie.chmod(0o400)
        self.environment = {
            "HOME": str(asked.folder / "home"), "ERL_EPMD_PORT": str(names), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null", "LANG": "C.UTF-8",
        }  # fmt: skip
        self.daemon = Server(["epmd", "-address", "127.0.0.1", "-port", str(names)], asked.folder / "epmd")
        self.servers = [self._server(at, asked.folder / f"node{at}", distribution[at]) for at in range(3)]

    def _server(self, number: int, folder: Path, distribution: int) -> Server:
        environment = self.environment | {
            "RABBITMQ_NODENAME": node(number), "RABBITMQ_DIST_PORT": str(distribution), "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"), "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"), "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
        }  # fmt: skip
        server = Server([str(self.home / "sbin" / "rabbitmq-server")], folder, environment)
        peers = "".join(f"cluster_formation.classic_config.nodes.{at + 1} = {node(at)}\n" for at in range(3))
        (folder / "plugins").write_text("[rabbitmq_stream].\n")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.amqp[number]}\nstream.listeners.tcp.1 = 127.0.0.1:{self.stream[number]}\n"
            f"cluster_formation.peer_discovery_backend = classic_config\n{peers}log.file.level = warning\nlog.console = false\n"
            "disk_free_limit.absolute = 1GB\n"
        )
        return server

    def leader(self, queue: str) -> int:
        """Of a quorum queue. Asked of whichever node answers."""
        for number, server in enumerate(self.servers):
            if not server.pids():
                continue
            command = [
                str(self.home / "sbin" / "rabbitmqctl"),
                "-q",
                "-n",
                node(number),
                "list_queues",
                "name",
                "leader",
                "--no-table-headers",
            ]
            environment = {**os.environ, **self.environment}
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=40, check=False
            )
            if found := re.search(rf"^{queue}\s+bench(\d)@", done.stdout, re.MULTILINE):
                return int(found[1])
        raise RuntimeError(f"nobody knows who leads {queue}")


class QuorumQueues(System):
    name = "rabbitmq"
    ack = "quorum queue: fdatasync on a quorum"

    def __init__(self, nodes: Nodes) -> None:
        self.nodes, self.version, self.servers = nodes, nodes.version, nodes.servers
        self._queue = ""
        self._numbers = count(1)

    def first(self) -> None:
        """All three nodes must be there: a queue that is declared earlier has no copies on the others."""
        channels = [Channel(port) for port in self.nodes.amqp]
        channels[0].declare("writer")
        self.writer(0)()

    def publish(self, size: int, asked: Effort, mark: Callable[[], None]) -> float:
        channel = Channel(self.nodes.amqp[0])
        if self._queue:
            channel.delete(self._queue)
        self._queue = f"load{next(self._numbers)}"
        channel.declare(self._queue)
        return super().publish(size, asked, mark)

    def pipelines(self, size: int) -> list[Pipeline]:
        message, made = publication(self._queue, os.urandom(size)), []
        for port in self.nodes.amqp:
            channel = Channel(port)
            channel.confirm()
            made.append(Pipeline(channel.socket, WINDOW // 3, lambda many: message * many, Confirms()))
        return made

    def consume(self, label: str, asked: Effort) -> float | None:
        """What is read is acknowledged, many at a time: a queue has no other way of reading."""
        channel = Channel(self.nodes.amqp[0])
        return channel.consume(self._queue, asked.records if SIZES[label] <= 1024 else asked.records // 20)

    def writer(self, number: int) -> Callable[[], object]:
        channel = Channel(self.nodes.amqp[number], 2.0)
        channel.confirm()
        message = publication("writer", os.urandom(1024))
        return lambda: channel.call(message, 60, 80)

    def leader(self) -> int:
        return self.nodes.leader("writer")


class Streams(System):
    name = "rabbitmq-streams"
    ack = "page cache of a quorum, no fsync"
    fails_over = False

    def __init__(self, nodes: Nodes) -> None:
        self.nodes, self.version, self.servers = nodes, nodes.version, nodes.servers
        self._stream = ""
        self._numbers = count(1)

    def prepare(self) -> None:
        """All three nodes must be there: a stream that is made earlier has no copies on the others."""
        for port in self.nodes.stream:
            StreamSession(port)

    def publish(self, size: int, asked: Effort, mark: Callable[[], None]) -> float:
        session = StreamSession(self.nodes.stream[0])
        if self._stream:
            session.call(0x0E, short(self._stream))
        self._stream = f"stream{next(self._numbers)}"
        session.call(0x0D, short(self._stream) + struct.pack(">i", 0))
        time.sleep(1.0)  # its replicas start
        return super().publish(size, asked, mark)

    def pipelines(self, size: int) -> list[Pipeline]:
        """To the node that the stream was created on, which leads it."""
        value, made = os.urandom(size), []
        for _ in range(STREAM_CONNECTIONS):
            session = StreamSession(self.nodes.stream[0])
            session.call(0x01, b"\x01" + short("") + short(self._stream))
            made.append(Pipeline(session.socket, WINDOW // STREAM_CONNECTIONS, _Published(value), published))
        return made

    def consume(self, label: str, asked: Effort) -> float | None:
        return StreamSession(self.nodes.stream[0]).consume(
            self._stream, SIZES[label], asked.records if SIZES[label] <= 1024 else asked.records // 20
        )

    def sends(self, asked: Effort) -> list[float]:
        value = os.urandom(1024)
        session = StreamSession(self.nodes.stream[0])
        session.call(0x01, b"\x01" + short("") + short(self._stream))
        requests = _Published(value)
        taken = []
        for at in range(asked.samples + asked.samples // 10):
            begun = time.perf_counter()
            session.socket.sendall(requests(1))
            while session.frame()[0] != 3:
                pass
            if at >= asked.samples // 10:
                taken.append(time.perf_counter() - begun)
        return taken


# -- AMQP 0-9-1 -------------------------------------------------------------------------------------------------------------------


class Channel:
    """A connection with one channel."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.socket = harness.connect(port, timeout)
        self._reader = Reader(self.socket)
        self.call(b"AMQP\x00\x00\x09\x01", 10, 10)
        self.call(method(0, 10, 11, long(b"") + tiny("PLAIN") + long(b"\0guest\0guest") + tiny("en_US")), 10, 30)
        self.call(method(0, 10, 31, struct.pack(">HIH", 100, 131_072, 0)) + method(0, 10, 40, tiny("/") + b"\0\0"), 10, 41)
        self.call(method(1, 20, 10, b"\0"), 20, 11)

    def call(self, sent: bytes, kind: int, number: int) -> None:
        """Send, and wait for this method. Raises ConnectionError if the server closes instead."""
        self.socket.sendall(sent)
        while True:
            frame, body = self._frame()
            if frame == 1:
                found = struct.unpack_from(">HH", body)
                if found == (kind, number):
                    return
                if found in ((10, 50), (20, 40)):
                    raise ConnectionError(body[4:].decode(errors="replace"))

    def _frame(self) -> tuple[int, bytes]:
        kind, _, length = struct.unpack(">BHI", self._reader.exactly(7))
        return kind, self._reader.exactly(length + 1)[:-1]

    def confirm(self) -> None:
        self.call(method(1, 85, 10, b"\0"), 85, 11)

    def declare(self, queue: str) -> None:
        durable = b"\x02"
        self.call(method(1, 50, 10, b"\0\0" + tiny(queue) + durable + long(tiny("x-queue-type") + b"S" + long(b"quorum"))), 50, 11)

    def delete(self, queue: str) -> None:
        self.call(method(1, 50, 40, b"\0\0" + tiny(queue) + b"\0"), 50, 41)

    def consume(self, queue: str, wanted: int) -> float:
        """Messages a second, until so many are there or nothing more comes; 0 if the queue holds too few to say."""
        self.call(method(1, 60, 10, struct.pack(">IHB", 0, PREFETCH, 0)), 60, 11)
        begun = last = time.perf_counter()
        self.call(method(1, 60, 20, b"\0\0" + tiny(queue) + tiny("c") + b"\0" + long(b"")), 60, 21)
        self.socket.settimeout(1.5)
        got = counted = 0
        while got < wanted and time.perf_counter() - begun < READ_SECONDS_MAX:
            try:
                kind, _ = self._frame()
            except TimeoutError:
                break
            if kind == 2:  # the header of a message's content: one each
                got += 1
                if got % ACK_EACH == 0:
                    self.socket.sendall(method(1, 60, 80, struct.pack(">QB", got, 1)))
                    counted, last = got, time.perf_counter()
        return counted / (last - begun) if counted else 0.0


class Confirms:
    """Counts confirmed messages: a confirm is of one, or of all up to it, and they come out of order."""

    def __init__(self) -> None:
        self._below = 0
        self._ahead: set[int] = set()

    def __call__(self, buffer: bytearray) -> tuple[int, int]:
        found = at = 0
        while at + 8 <= len(buffer):
            kind, _, length = struct.unpack_from(">BHI", buffer, at)
            if at + 8 + length > len(buffer):
                break
            if kind == 1:
                family, number = struct.unpack_from(">HH", buffer, at + 7)
                if (family, number) != (60, 80):
                    raise RuntimeError(f"not confirmed: {family}.{number}")
                tag, all_up_to = struct.unpack_from(">QB", buffer, at + 11)
                found += self._confirm(tag, all_up_to & 1)
            at += 8 + length
        return found, at

    def _confirm(self, tag: int, all_up_to: int) -> int:
        if not all_up_to:
            self._ahead.add(tag)
            while self._below + 1 in self._ahead:
                self._below += 1
                self._ahead.discard(self._below)
            return 1
        if tag <= self._below:
            return 0
        known = {each for each in self._ahead if each <= tag}
        fresh = tag - self._below - len(known)
        self._ahead -= known
        self._below = tag
        return fresh


def publication(queue: str, value: bytes) -> bytes:
    """A durable message: method, header, body, to the queue of this name."""
    header = struct.pack(">HHQHB", 60, 0, len(value), 0x1000, 2)
    return method(1, 60, 40, b"\0\0" + tiny("") + tiny(queue) + b"\0") + framed(2, 1, header) + framed(3, 1, value)


def method(channel: int, family: int, number: int, arguments: bytes) -> bytes:
    return framed(1, channel, struct.pack(">HH", family, number) + arguments)


def framed(kind: int, channel: int, body: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(body)) + body + b"\xce"


def tiny(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def long(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def short(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


# -- the stream protocol ------------------------------------------------------------------------------------------------------------


class StreamSession:
    """A connection that has introduced itself."""

    def __init__(self, port: int) -> None:
        self.socket = harness.connect(port, 10.0)
        self._reader = Reader(self.socket)
        self._numbers: Iterator[int] = count(1)
        self.call(0x11, struct.pack(">i", 0))
        self.call(0x12)
        self.call(0x13, short("PLAIN") + long(b"\0guest\0guest"))
        while True:
            key, body = self.frame()
            if key == 0x14:  # its limits: agreed to as they are
                self._send(0x14, body[4:12])
                break
        self.call(0x15, short("/"))

    def _send(self, key: int, body: bytes) -> None:
        self.socket.sendall(struct.pack(">IHH", len(body) + 4, key, 1) + body)

    def frame(self) -> tuple[int, bytes]:
        """Key and body, which begins with key and version."""
        (length,) = struct.unpack(">I", self._reader.exactly(4))
        body = self._reader.exactly(length)
        return struct.unpack_from(">H", body)[0], body

    def call(self, key: int, body: bytes = b"") -> None:
        """A request and its answer. Raises RuntimeError if it was refused."""
        self._send(key, struct.pack(">I", next(self._numbers)) + body)
        while True:
            found, answer = self.frame()
            if found == key | 0x8000:
                (code,) = struct.unpack_from(">H", answer, 8)
                if code != 1:
                    raise RuntimeError(f"request {key:#x} was refused with code {code}")
                return

    def consume(self, stream: str, size: int, wanted: int) -> float:
        """Messages a second, every one of them looked at."""
        first = struct.pack(">H", 1)
        begun = time.perf_counter()
        self.call(0x07, b"\x01" + short(stream) + first + struct.pack(">H", CREDIT) + struct.pack(">i", 0))
        got = 0
        while got < wanted and time.perf_counter() - begun < READ_SECONDS_MAX:
            key, body = self.frame()
            if key != 8:
                continue
            self._send(9, b"\x01" + struct.pack(">H", 1))
            (entries,) = struct.unpack_from(">H", body, 7)
            at = 5 + 48
            for _ in range(entries):
                (length,) = struct.unpack_from(">I", body, at)
                got += length == size
                at += 4 + length
        return got / (time.perf_counter() - begun)


class _Published:
    """The bytes of so many messages, in frames of a batch each, with numbers that go up."""

    def __init__(self, value: bytes) -> None:
        self._entry = struct.pack(">i", len(value)) + value
        self._next = 0

    def __call__(self, many: int) -> bytes:
        frames: list[bytes] = []
        while many:
            batch = min(many, STREAM_BATCH)
            body = b"\x01" + struct.pack(">i", batch)
            body += b"".join([struct.pack(">Q", number) + self._entry for number in range(self._next, self._next + batch)])
            frames.append(struct.pack(">IHH", len(body) + 4, 2, 1) + body)
            self._next += batch
            many -= batch
        return b"".join(frames)


def published(buffer: bytearray) -> tuple[int, int]:
    found = at = 0
    while at + 6 <= len(buffer):
        length, key = struct.unpack_from(">IH", buffer, at)
        if at + 4 + length > len(buffer):
            break
        if key == 3:
            found += struct.unpack_from(">i", buffer, at + 9)[0]
        elif key == 4:
            raise RuntimeError("a message was refused")
        at += 4 + length
    return found, at


def node(number: int) -> str:
    return f"bench{number}@localhost"


def home() -> Path | None:
    """Where the server is installed."""
    named = os.environ.get("RABBITMQ_HOME")
    return Path(named) if named else max(Path(HOMES).glob("rabbitmq_server-*"), default=None)


if __name__ == "__main__":
    harness.installed("erl", "epmd")
    place = home()
    if place is None or not shutil.which(str(place / "sbin" / "rabbitmq-server")):
        harness.skip("rabbitmq-server is not installed; $RABBITMQ_HOME may say where it is")
    asked = harness.effort()
    nodes = Nodes(asked, place)
    nodes.daemon.start()
    try:
        harness.measure(QuorumQueues(nodes), asked, then=lambda: harness.compare(Streams(nodes), asked))
    finally:
        harness.clean([nodes.daemon], asked)
