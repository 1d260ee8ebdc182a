"""etcd, three members. An acknowledged Put is in the log of a quorum, fdatasynced.

Load and latency are h2load's (package nghttp2-client): a client in C that sends gRPC frames built beforehand, so nothing is measured of
any gRPC library. The writer of the failover speaks to the HTTP gateway that every member has.
"""

import base64
import http.client
import json
import os
import re
import subprocess
import time
from collections.abc import Callable

import harness
from harness import SIZES, WINDOW, Effort, Server, System

CONNECTIONS = 6
"""Of each of the three clients, one a member."""
PUT = "/etcdserverpb.KV/Put"
QUOTA_BYTES = 8 << 30
EDGE_SECONDS = 0.3
"""The servers' CPU is looked at so long within the time h2load measures, which begins when its processes do."""


class Etcd(System):
    name = "etcd"
    ack = "fdatasync on a quorum"

    def __init__(self, asked: Effort) -> None:
        self.version = harness.said_by("etcd", "--version").split("\n")[0].rpartition(" ")[2]
        self.folder = asked.folder
        ports = harness.free_ports(6)
        self.ports, peers = ports[:3], ports[3:]
        members = ",".join(f"m{at}=http://127.0.0.1:{port}" for at, port in enumerate(peers))
        self.servers = [self._server(at, peers[at], members) for at in range(3)]

    def _server(self, number: int, peer_port: int, members: str) -> Server:
        folder = self.folder / f"member{number}"
        client, peer = f"http://127.0.0.1:{self.ports[number]}", f"http://127.0.0.1:{peer_port}"
        options = {
            "name": f"m{number}", "data-dir": str(folder / "data"), "log-level": "error", "logger": "zap",
            "listen-client-urls": client, "advertise-client-urls": client, "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer, "initial-cluster": members, "quota-backend-bytes": str(QUOTA_BYTES),
        }  # fmt: skip
        return Server(["etcd", *(f"--{name}={value}" for name, value in options.items())], folder)

    def first(self) -> None:
        self.writer(0)()

    def publish(self, size: int, asked: Effort, mark: Callable[[], None]) -> float:
        each = WINDOW // len(self.ports)
        timing = ["-D", f"{asked.seconds:.0f}", "--warm-up-time", f"{asked.warm_up:.0f}"]
        streams = ["-c", str(CONNECTIONS), "-m", str(each // CONNECTIONS)]
        clients = [self._h2load(port, f"load{at}", os.urandom(size), *timing, *streams) for at, port in enumerate(self.ports)]
        try:
            time.sleep(asked.warm_up + EDGE_SECONDS)
            mark()
            time.sleep(asked.seconds - 2 * EDGE_SECONDS)
            mark()
            said = [client.communicate(timeout=asked.seconds + 30)[0] for client in clients]
        finally:
            for client in clients:
                client.kill()
        if any(int(number) for each_said in said for number in re.findall(r"(\d+) failed", each_said)):
            raise RuntimeError("some requests failed: " + said[0])
        return sum(float(re.findall(r"([\d.]+) req/s", each_said)[0]) for each_said in said)

    def sends(self, asked: Effort) -> list[float]:
        log = self.folder / "latency.log"
        log.unlink(missing_ok=True)
        port, warm = self.ports[self.leader()], asked.samples // 10
        counted = ["-n", str(asked.samples + warm), "-c", "1", "-m", "1", "--log-file", str(log)]
        self._h2load(port, "latency", os.urandom(SIZES["1KiB"]), *counted).communicate(timeout=60)
        return [int(line.split()[2]) / 1e6 for line in log.read_text().splitlines()][warm:]

    def _h2load(self, port: int, key: str, value: bytes, *options: str) -> "subprocess.Popen[str]":
        message = b"\x0a" + _varint(len(key)) + key.encode() + b"\x12" + _varint(len(value)) + value
        file = self.folder / f"{key}.body"
        file.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        grpc = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", str(file)]
        command = ["h2load", *options, *grpc, f"http://127.0.0.1:{port}{PUT}"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)

    def writer(self, number: int) -> Callable[[], object]:
        gateway = http.client.HTTPConnection("127.0.0.1", self.ports[number], timeout=0.5)
        body = {"key": base64.b64encode(b"failover").decode(), "value": base64.b64encode(os.urandom(1024)).decode()}
        return lambda: _ask(gateway, "/v3/kv/put", body)

    def leader(self) -> int:
        for number, port in enumerate(self.ports):
            status = _ask(http.client.HTTPConnection("127.0.0.1", port, timeout=2.0), "/v3/maintenance/status", {})
            if status["leader"] == status["header"]["member_id"]:
                return number
        raise RuntimeError("nobody leads")


def _ask(gateway: http.client.HTTPConnection, place: str, body: dict[str, str]) -> dict[str, object]:
    gateway.request("POST", place, json.dumps(body))
    answer = gateway.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {said!r}")
    return json.loads(said)


def _varint(number: int) -> bytes:
    head = bytearray()
    while number > 0x7F:
        head.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*head, number])


if __name__ == "__main__":
    harness.installed("etcd", "h2load")
    asked = harness.effort()
    harness.measure(Etcd(asked), asked)
