"""Redis streams, a primary and two replicas, `appendfsync always` on all three, WAIT 1 behind every batch of XADD.

An acknowledgement means: fsynced by the primary, and received by one replica, of which it is not known whether it has synced. The
replication is asynchronous and a failover is the sentinels' affair, so no failover is measured: what was acknowledged may be lost in it.
"""

import os
import re
import time
from collections.abc import Callable

import harness
from harness import SIZES, WINDOW, Effort, Pipeline, Reader, Server, System

BATCH = 128
"""XADDs before each WAIT."""
WAIT_MS = b"2000"
FETCH = b"1000"
STREAM = b"load"


class Redis(System):
    name = "redis"
    ack = "fsync on the primary, received by one replica"
    fails_over = False

    def __init__(self, asked: Effort) -> None:
        self.version = re.search(r"v=([\d.]+)", harness.said_by("redis-server", "--version"))[1]
        self.ports = harness.free_ports(3)
        self.servers = []
        for number, port in enumerate(self.ports):
            folder = asked.folder / f"server{number}"
            settings = {
                "port": str(port), "bind": "127.0.0.1", "dir": str(folder), "appendonly": "yes", "appendfsync": "always", "save": "",
                "protected-mode": "no", "repl-diskless-sync-delay": "0", "repl-backlog-size": "256mb",
                "auto-aof-rewrite-percentage": "0", "client-output-buffer-limit": "replica 0 0 0",
            }  # fmt: skip
            words = [word for name, value in settings.items() for word in (f"--{name}", *(value.split(" ") if value else [""]))]
            words += ["--replicaof", "127.0.0.1", str(self.ports[0])] if number else []
            self.servers.append(Server(["redis-server", *words], folder))

    def first(self) -> None:
        self.writer(0)()

    def prepare(self) -> None:
        session = Session(self.ports[0])
        if session.call(b"WAIT", b"2", b"5000") != 2:
            raise ConnectionError("a replica is missing")

    def publish(self, size: int, asked: Effort, mark: Callable[[], None]) -> float:
        Session(self.ports[0]).call(b"DEL", STREAM)  # it is held in memory: each run has a stream of its own
        return super().publish(size, asked, mark)

    def pipelines(self, size: int) -> list[Pipeline]:
        batch = command(b"XADD", STREAM, b"*", b"v", os.urandom(size)) * BATCH + command(b"WAIT", b"1", WAIT_MS)
        made = []
        for _ in range(WINDOW // BATCH):
            opened = harness.connect(self.ports[0])
            made.append(Pipeline(opened, BATCH, lambda many, batch=batch: batch if many == BATCH else b"", whole_batches))
        return made

    def consume(self, label: str, asked: Effort) -> float | None:
        session, last, got = Session(self.ports[0], 30.0), b"-", 0
        fetch = FETCH if SIZES[label] <= 1024 else b"100"
        begun = time.perf_counter()
        while got < asked.records:
            entries = session.call(b"XRANGE", STREAM, last, b"+", b"COUNT", fetch)
            if not entries:
                break
            got += len(entries)
            last = b"(" + entries[-1][0]
        return got / (time.perf_counter() - begun) if got else None

    def writer(self, number: int) -> Callable[[], object]:
        session, value = Session(self.ports[0]), os.urandom(1024)
        request = command(b"XADD", b"writer", b"*", b"v", value) + command(b"WAIT", b"1", WAIT_MS)

        def write() -> None:
            session.socket.sendall(request)
            session.answer()
            if session.answer() < 1:
                raise RuntimeError("no replica has it")

        return write

    def leader(self) -> int:
        return 0


class Session:
    """A connection, and one call after another on it."""

    def __init__(self, port: int, timeout: float = 5.0) -> None:
        self.socket = harness.connect(port, timeout)
        self._reader = Reader(self.socket)

    def call(self, *words: bytes) -> object:
        self.socket.sendall(command(*words))
        return self.answer()

    def answer(self) -> object:
        line = self._reader.line()
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self._reader.exactly(int(rest) + 2)[:-2] if int(rest) >= 0 else None
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        return rest


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%s\r\n" % (len(word), word) for word in words])


def whole_batches(buffer: bytearray) -> tuple[int, int]:
    """A batch is answered when the number of replicas that have it arrives, behind an id for each record."""
    found = at = 0
    while (end := buffer.find(b"\r\n", at)) >= 0:
        if buffer[at] == ord("$"):
            following = end + 4 + int(buffer[at + 1 : end])
            if following > len(buffer):
                break
            at = following
        elif buffer[at] == ord(":") and int(buffer[at + 1 : end]) >= 1:
            found += BATCH
            at = end + 2
        else:
            raise RuntimeError(f"refused, or no replica has it: {bytes(buffer[at:end])!r}")
    return found, at


if __name__ == "__main__":
    harness.installed("redis-server")
    asked = harness.effort()
    harness.measure(Redis(asked), asked)
