"""PySyncObj, three processes with a journal. An acknowledged call has been applied by the leader, after a quorum had it in its journal.

The journal is a mapped file that nobody syncs while it is written: an acknowledgement means the page cache of a quorum. There is no
client protocol, a program that uses the library is a member itself; so the load runs within the leader's process, on orders that this
script gives it, and its cost is counted among the servers'.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import harness
from harness import WINDOW, Effort, Reader, Server, System


class PySyncObj(System):
    name = "pysyncobj"
    ack = "page cache of a quorum, no fsync; load within the leader's process"
    sizes = ("100B", "1KiB")  # of 64 KiB it manages a few a second, and is busy with the backlog for minutes

    def __init__(self, asked: Effort) -> None:
        self.version = version("pysyncobj")
        ports = harness.free_ports(6)
        self.ports, self.orders = ports[:3], ports[3:]
        words = ",".join(map(str, self.ports))
        self.servers = [
            Server(
                [sys.executable, os.path.abspath(__file__), "--member", str(at), words, str(self.orders[at])], asked.folder / f"member{at}"
            )
            for at in range(3)
        ]

    def first(self) -> None:
        self.writer(0)()

    def publish(self, size: int, asked: Effort, mark: Callable[[], None]) -> float:
        session = Session(self.orders[self.leader()], 60.0)
        session.send("load", size, WINDOW, asked.warm_up, asked.seconds)
        session.answer()
        mark()
        rate = session.answer()
        mark()
        return float(str(rate))

    def sends(self, asked: Effort) -> list[float]:
        """A tenth of the samples: the library lets a call wait for the next of its ticks, 50 ms on the average."""
        taken = Session(self.orders[self.leader()], 60.0).call("latency", asked.samples // 10)
        assert isinstance(taken, list), "a list of seconds"
        return taken

    def writer(self, number: int) -> Callable[[], object]:
        session = Session(self.orders[number], 1.0)
        return lambda: session.call("put", 1024)

    def leader(self) -> int:
        for port in self.orders:
            try:
                found = Session(port, 2.0).call("leader")
            except OSError:
                continue
            if found is not None:
                return self.ports.index(int(str(found)))
        raise ConnectionError("nobody leads")


class Session:
    """Orders to a member, one line of JSON each, and its answers."""

    def __init__(self, port: int, timeout: float) -> None:
        self.socket = harness.connect(port, timeout)
        self._reader = Reader(self.socket)

    def send(self, *order: object) -> None:
        self.socket.sendall(json.dumps(order).encode() + b"\r\n")

    def answer(self) -> object:
        answer = json.loads(self._reader.line())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["ok"]

    def call(self, *order: object) -> object:
        self.send(*order)
        return self.answer()


class Member:
    """What runs in a member's process."""

    def __init__(self, number: int, ports: list[int], folder: Path) -> None:
        from pysyncobj import SyncObj, SyncObjConf, replicated

        class Log(SyncObj):
            stored = 0

            @replicated
            def put(self, value: bytes) -> None:
                self.stored += 1

        places = [f"127.0.0.1:{port}" for port in ports]
        settings = SyncObjConf(journalFile=str(folder / "journal"), fullDumpFile=str(folder / "dump"), connectionRetryTime=0.3)
        self.log = Log(places[number], places[:number] + places[number + 1 :], settings)

    def serve(self, port: int) -> None:
        server = socket.create_server(("127.0.0.1", port))
        while True:
            opened, _ = server.accept()
            threading.Thread(target=self._orders, args=(opened,), daemon=True).start()

    def _orders(self, opened: socket.socket) -> None:
        reader = Reader(opened)

        def answer(found: object) -> None:
            opened.sendall(json.dumps(found).encode() + b"\r\n")

        while True:
            try:
                order, *rest = json.loads(reader.line())
            except OSError:
                return
            try:
                answer({"ok": getattr(self, f"on_{order}")(answer, *rest)})
            except Exception as error:  # whatever the library raises is the caller's to hear
                answer({"error": f"{type(error).__name__}: {error}"})

    def on_leader(self, answer: Callable[[object], None]) -> str | None:
        leader = self.log._getLeader()
        return leader.id.rpartition(":")[2] if leader is not None and self.log.isReady() else None

    def on_put(self, answer: Callable[[object], None], size: int) -> None:
        self.log.put(os.urandom(size), sync=True, timeout=0.5)

    def on_latency(self, answer: Callable[[object], None], samples: int) -> list[float]:
        value, taken = os.urandom(1024), []
        for _ in range(samples):
            begun = time.perf_counter()
            self.log.put(value, sync=True, timeout=5)
            taken.append(time.perf_counter() - begun)
        return taken

    def on_load(self, answer: Callable[[object], None], size: int, window: int, warm_up: float, seconds: float) -> float:
        value, room = os.urandom(size), threading.Semaphore(window)
        done = failed = 0

        def answered(result: object, error: int) -> None:
            nonlocal done, failed
            done, failed = done + (not error), failed + bool(error)
            room.release()

        def until(end: float) -> None:
            while time.perf_counter() < end:
                if room.acquire(timeout=0.1):
                    self.log.put(value, callback=answered)

        until(time.perf_counter() + warm_up)
        answer({"ok": "warm"})
        before, begun = done, time.perf_counter()
        until(begun + seconds)
        rate = (done - before) / (time.perf_counter() - begun)
        if failed:
            raise RuntimeError(f"{failed} calls failed")
        return rate


if __name__ == "__main__":
    try:
        version("pysyncobj")
    except PackageNotFoundError:
        harness.skip("pysyncobj is not installed in this environment: pip install pysyncobj")
    sys.path.remove(str(Path(__file__).parent))  # this file has the name of the library
    if sys.argv[1:2] == ["--member"]:
        number, ports, port = sys.argv[2:]
        Member(int(number), [int(each) for each in ports.split(",")], Path.cwd()).serve(int(port))
    asked = harness.effort()
    harness.measure(PySyncObj(asked), asked)
