"""ZooKeeper, three servers. An acknowledged setData is in the transaction log of a quorum, fsynced (forceSync is the default)."""

import os
import struct
from collections.abc import Callable, Iterator
from itertools import count, cycle, islice
from pathlib import Path

import harness
from harness import WINDOW, Effort, Pipeline, Reader, Server, System

NODES = 1000
"""The writes go round so many znodes."""
JARS = ("/usr/share/java/zookeeper.jar", "/usr/share/zookeeper/lib/zookeeper.jar")
CREATE, SET = 1, 5
ANY_VERSION = struct.pack(">i", -1)
OPEN_TO_ALL = struct.pack(">ii", 1, 31)


class ZooKeeper(System):
    name = "zookeeper"
    ack = "fsync on a quorum"

    def __init__(self, asked: Effort, jar: str) -> None:
        named = next(Path(os.path.realpath(jar)).parent.glob("zookeeper-[0-9]*.jar"), None)
        self.version = named.stem.rpartition("-")[2] if named else "unknown"
        ports = harness.free_ports(9)
        self.ports = ports[:3]
        members = "".join(f"server.{at + 1}=127.0.0.1:{ports[3 + at]}:{ports[6 + at]}\n" for at in range(3))
        self.servers = [self._server(at, asked.folder / f"server{at}", members, jar) for at in range(3)]

    def _server(self, number: int, folder: Path, members: str, jar: str) -> Server:
        configuration = (
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\nadmin.enableServer=false\n4lw.commands.whitelist=srvr\n"
            f"dataDir={folder}\nclientPortAddress=127.0.0.1\nclientPort={self.ports[number]}\n{members}"
        )
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        server = Server(["java", "-Xms1g", "-Xmx1g", "-cp", jar, main, str(folder / "zoo.cfg")], folder)
        (folder / "myid").write_text(f"{number + 1}\n")
        (folder / "zoo.cfg").write_text(configuration)
        return server

    def first(self) -> None:
        session = Session(self.ports[0])
        session.call(CREATE, created(b"/bench", b""), may_exist=True)

    def prepare(self) -> None:
        session = Session(self.ports[0])
        for at in range(NODES):
            session.call(CREATE, created(path(at), b""), may_exist=True)

    def pipelines(self, size: int) -> list[Pipeline]:
        value = os.urandom(size)
        return [self._pipeline(port, value) for port in self.ports]

    def _pipeline(self, port: int, value: bytes) -> Pipeline:
        numbers = cycle(range(NODES))
        written = [framed(struct.pack(">ii", at + 1, SET) + text(path(at)) + text(value) + ANY_VERSION) for at in range(NODES)]

        def requests(many: int) -> bytes:
            return b"".join([written[at] for at in islice(numbers, many)])

        return Pipeline(Session(port).socket, WINDOW // 3, requests, answers)

    def writer(self, number: int) -> Callable[[], object]:
        session, body = Session(self.ports[number]), text(path(7)) + text(os.urandom(1024)) + ANY_VERSION
        return lambda: session.call(SET, body)

    def leader(self) -> int:
        return next(at for at, port in enumerate(self.ports) if b"Mode: leader" in mode(port))

    def whole(self) -> None:
        modes = [mode(port) for port in self.ports]
        if any(b"Mode: leader" not in said and b"Mode: follower" not in said for said in modes):
            raise ConnectionError("a server does not serve yet")


class Session:
    """A session, and one call after another on it."""

    def __init__(self, port: int) -> None:
        self.socket = harness.connect(port)
        self._reader, self._numbers = Reader(self.socket), self._count()
        self.socket.sendall(framed(struct.pack(">iqiq", 0, 0, 30_000, 0) + text(bytes(16)) + b"\0"))
        answer = self._answer()
        if struct.unpack_from(">i", answer, 4)[0] <= 0:
            raise ConnectionError("no session was given")

    @staticmethod
    def _count() -> Iterator[int]:
        return count(1)

    def call(self, kind: int, body: bytes, may_exist: bool = False) -> None:
        self.socket.sendall(framed(struct.pack(">ii", next(self._numbers), kind) + body))
        error = struct.unpack_from(">i", self._answer(), 12)[0]
        if error and not (may_exist and error == -110):
            raise RuntimeError(f"error {error}")

    def _answer(self) -> bytes:
        return self._reader.exactly(struct.unpack(">i", self._reader.exactly(4))[0])


def answers(buffer: bytearray) -> tuple[int, int]:
    """Answers are length, number, zxid, error, and what was asked for."""
    found = at = 0
    while at + 4 <= len(buffer):
        (length,) = struct.unpack_from(">i", buffer, at)
        if at + 4 + length > len(buffer):
            break
        (error,) = struct.unpack_from(">i", buffer, at + 16)
        if error:
            raise RuntimeError(f"error {error}")
        found += 1
        at += 4 + length
    return found, at


def mode(port: int) -> bytes:
    """What a server says of itself; nothing if it does not."""
    said = b""
    try:
        with harness.connect(port, 2.0) as opened:
            opened.sendall(b"srvr")
            while some := opened.recv(4096):
                said += some
    except OSError:
        pass
    return said


def path(number: int) -> bytes:
    return b"/bench/%d" % number


def text(value: bytes) -> bytes:
    return struct.pack(">i", len(value)) + value


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def created(name: bytes, value: bytes) -> bytes:
    return text(name) + text(value) + OPEN_TO_ALL + text(b"world") + text(b"anyone") + struct.pack(">i", 0)


if __name__ == "__main__":
    harness.installed("java")
    jar = os.environ.get("ZOOKEEPER_JAR") or next((each for each in JARS if os.path.exists(each)), None)
    if jar is None:
        harness.skip("zookeeper.jar is not installed (Debian: libzookeeper-java); $ZOOKEEPER_JAR may say where it is")
    asked = harness.effort()
    harness.measure(ZooKeeper(asked, jar), asked)
