"""Power cuts of a whole cluster, for real: three servers, each on an ext4 of its own, which is shut down under them.

    python -m tests.system.power --cuts 200 [--seed N] [--lying-sync] [--nodes 1] [--pad 150000] [--json]

Needs root and Linux. A cut: the servers are stopped (SIGSTOP) in the middle of their work and the acknowledgements that are on their way
are taken in; then each file system is shut down without flushing what was not synced (the ioctl of ext4), the processes are killed, the
file systems mounted anew, the servers started again. What was acknowledged must be there, once, in order, alike on all nodes; and the
cluster must serve again without a hand on it. With `--lying-sync` every sync of the servers is answered and not done (strace), and the
same harness must report loss: it can.
"""

import argparse
import fcntl
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random

import trio

from broker.client import Client, connect
from broker.errors import BrokerError
from broker.inspection import look, segment_files, stored_batches
from broker.records import read_batch
from broker.state import decode
from broker.state.commands import Produce
from tests.ports import free_ports
from zablog import Identity, Member, PeerId, StorageError, Zxid, give_birth
from zablog.storage.files import FileDisk

SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN; 1 flushes the journal and nothing else, 2 flushes nothing at all."""
IMAGE_BYTES = 2 << 30
"""Taken only as far as it is written."""
TOPIC = "numbers"
SERVICE_SECONDS = 30.0
"""A cluster that does not serve by then never will."""
DRAIN_SECONDS = 0.05
NODE = """directory = "{directory}"
listen = "{address}"

[disk]
checkpoint_bytes = 262144
checkpoint_seconds = 1.0
keep_bytes = 65536
file_bytes = 131072
"""

DAMAGE = ("is damaged", "not restored", "a defect of zablog", "broke a law")


def damage_in(log: Path) -> list[str]:
    """What a server has said of damage, and of defects of its own. No fault of ours spoils a byte: nothing is to be mended."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [line.strip()[:300] for line in lines if any(words in line for words in DAMAGE)]


@dataclass
class Node:
    """One server, its image and where it is mounted."""

    number: int
    folder: Path
    lying: bool
    process: subprocess.Popen[bytes] | None = None

    @property
    def mount(self) -> Path:
        return self.folder / f"disk{self.number}"

    @property
    def image(self) -> Path:
        return self.folder / f"disk{self.number}.image"

    def make(self) -> None:
        self.mount.mkdir()
        with self.image.open("wb") as image:
            image.truncate(IMAGE_BYTES)
        run("mkfs.ext4", "-q", "-F", str(self.image))
        self.attach()

    def attach(self) -> None:
        run("mount", "-o", "loop", str(self.image), str(self.mount))

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "broker.cli", "server", str(self.folder / f"node{self.number}.toml")]
        if self.lying:
            syncs = "fsync,fdatasync,sync_file_range,syncfs,sync"
            lies = ["-e", f"trace={syncs},io_setup", "-e", f"inject={syncs}:retval=0", "-e", "inject=io_setup:error=ENOSYS"]
            command = ["strace", "-D", "-f", "-qq", "-o", os.devnull, *lies, *command]  # without AIO each sync is one of those calls
        with (self.folder / f"server{self.number}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def signal(self, number: int) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    def cut(self, flag: int) -> None:
        """The file system is gone, with all that it had not written; then the process, which did not notice."""
        descriptor = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, flag.to_bytes(4, sys.byteorder))
        finally:
            os.close(descriptor)
        self.end()
        self.detach()

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
            self.process = None

    def detach(self) -> None:
        for _ in range(100):  # a tracer may hold it for a moment
            if subprocess.run(["umount", str(self.mount)], capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.05)
        run("umount", "-l", str(self.mount))


@dataclass
class Report:
    cuts: int = 0
    acknowledged: int = 0
    unknown: int = 0
    """Sent, and cut off before an answer came."""
    lost: int = 0
    repeated: int = 0
    out_of_order: int = 0
    different: int = 0
    """Cuts after which the nodes did not hold the same."""
    no_service: int = 0
    damage: int = 0
    """Lines in which servers spoke of damage, or of a defect of their own."""
    service_seconds: list[float] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.repeated or self.out_of_order or self.different or self.no_service or self.damage)

    def document(self) -> dict[str, object]:
        seconds = sorted(self.service_seconds) or [0.0]
        return {
            "cuts": self.cuts,
            "acknowledged": self.acknowledged,
            "unknown": self.unknown,
            "lost": self.lost,
            "repeated": self.repeated,
            "out_of_order": self.out_of_order,
            "different": self.different,
            "no_service": self.no_service,
            "damage": self.damage,
            "service_seconds": {
                "median": round(statistics.median(seconds), 2),
                "p95": round(seconds[int(0.95 * (len(seconds) - 1))], 2),
                "max": round(seconds[-1], 2),
            },
            "words": self.words[:10],
        }


class Cluster:
    """Three nodes on three file systems, and what was acknowledged so far."""

    def __init__(self, folder: Path, seed: int, lying: bool, nodes_cut: int, pad: int) -> None:
        self.pad = pad
        self.dice = Random(seed)
        self.nodes = [Node(number, folder, lying) for number in (1, 2, 3)]
        self.nodes_cut = nodes_cut
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
        self.folder = folder
        self.report = Report()
        self.sent = 0
        self.acknowledged: set[bytes] = set()

    def make(self) -> None:
        cluster = secrets.token_hex(16)
        members = tuple(Member(PeerId(at), secrets.token_hex(16), address) for at, address in enumerate(self.addresses, start=1))
        for node, member in zip(self.nodes, members, strict=True):
            node.make()
            directory = node.mount / "data"
            disk = FileDisk(directory, create=True)
            give_birth(disk, Identity(cluster, member.id, member.incarnation, members))
            disk.close()
            (self.folder / f"node{node.number}.toml").write_text(NODE.format(directory=directory, address=member.address))
        subprocess.run(["sync"], check=True)  # a birth is not what is tested here

    async def run(self, cuts: int, at_least: int) -> None:
        """So many cuts, and more, up to five times as many, until so many records were acknowledged between them."""
        for node in self.nodes:
            node.start()
        async with connect(",".join(self.addresses), timeout=SERVICE_SECONDS) as zl:
            await zl.create_topic(TOPIC)
        for number in range(5 * cuts):
            if number >= cuts and self.report.acknowledged >= at_least:
                return
            await self.one_cut()
            if self.report.lost or self.report.no_service:
                return

    async def one_cut(self) -> None:
        """Work, cut, come back, compare."""
        await self.work_until_cut()
        self.report.cuts += 1
        began = time.monotonic()
        for node in self.nodes:
            if node.process is None:
                node.attach()
                node.start()
        try:
            with trio.fail_after(SERVICE_SECONDS):
                async with connect(",".join(self.addresses), timeout=SERVICE_SECONDS) as zl, zl.producer() as out:
                    value = self.next_value()
                    await out.send(TOPIC, value)
                    self.acknowledged.add(value)
                    self.report.service_seconds.append(time.monotonic() - began)
                    await self.compare(zl)
        except (trio.TooSlowError, BrokerError) as error:
            self.report.no_service += 1
            self.report.words.append(f"cut {self.report.cuts}: no service: {error!r}")
            self.look_at_what_is_left()

    def next_value(self) -> bytes:
        self.sent += 1
        return b"%08d" % self.sent + bytes(self.sent % 400 + self.pad)

    async def work_until_cut(self) -> None:
        """Produce, and cut the power in the middle of it."""
        with trio.move_on_after(30):
            async with connect(",".join(self.addresses), timeout=30) as zl, trio.open_nursery() as nursery:
                producing = trio.CancelScope()

                async def acknowledge(pending: object, value: bytes) -> None:
                    with suppress(BrokerError):
                        await pending.wait()  # type: ignore[attr-defined]
                        self.acknowledged.add(value)
                        self.report.acknowledged += 1

                async def produce() -> None:
                    with suppress(BrokerError), producing:
                        async with zl.producer() as out:
                            while True:
                                value = self.next_value()
                                nursery.start_soon(acknowledge, await out.submit(TOPIC, value), value)
                                if self.sent % 20 == 0:
                                    await trio.sleep(0.005)

                nursery.start_soon(produce)
                await trio.sleep(self.dice.uniform(0.02, 0.5))
                struck = self.nodes if self.nodes_cut == 3 else self.dice.sample(self.nodes, self.nodes_cut)
                for node in struck:
                    node.signal(signal.SIGSTOP)
                await trio.sleep(DRAIN_SECONDS)
                nursery.cancel_scope.cancel()
        flag = self.dice.choice((1, 2))
        for node in struck:
            node.cut(flag)

    async def compare(self, zl: Client) -> None:
        """Every node's copy, as far as it has come: the same, and all that was acknowledged in it."""
        copies: list[list[tuple[int, bytes]]] = []
        for node in self.nodes:
            async with zl.consumer(TOPIC, start="earliest", stop="end", node=node.number) as inbox:
                copies.append([(record.offset, record.value or b"") async for record in inbox])
        shortest = min(map(len, copies))
        if any(copy[:shortest] != copies[0][:shortest] for copy in copies):
            self.report.different += 1
        values = [value for _, value in max(copies, key=len)]
        found = set(values)
        missing = self.acknowledged - found
        self.report.lost += len(missing)
        self.report.repeated += len(values) - len(found)
        numbers = [int(value[:8]) for value in values]
        self.report.out_of_order += sum(later < earlier for earlier, later in pairwise(numbers))
        if missing:
            self.report.words.append(f"cut {self.report.cuts}: lost {sorted(int(value[:8]) for value in missing)[:10]}")

    def look_at_what_is_left(self) -> None:
        """Nobody serves: what was acknowledged and is on no disk any more is lost, and the nodes have said so by not serving."""
        left: set[bytes] = set()
        for node in self.nodes:
            node.end()
            log = (self.folder / f"server{node.number}.log").read_text(errors="replace").strip().splitlines()
            self.report.words.append(f"node {node.number}: {log[-1][:300] if log else 'said nothing'}")
            left |= values_on(node.mount / "data")
        self.report.lost += len(self.acknowledged - left)

    def close(self) -> None:
        for node in self.nodes:
            node.signal(signal.SIGCONT)
            node.end()
            if os.path.ismount(node.mount):
                node.detach()


def values_on(directory: Path) -> set[bytes]:
    """Every record that can still be read in a data directory: of its log and of its segments."""
    found: set[bytes] = set()
    with suppress(StorageError, BrokerError, OSError):
        here = look(directory)
        for name in segment_files(here.segments):
            assert here.segments is not None
            with suppress(BrokerError):
                for _, batch in stored_batches(here.segments, name):
                    found |= {record.value or b"" for record in batch.records()}
        for seen in here.log.batches():
            for payload in seen.entries.payloads:
                command = decode(payload)
                if isinstance(command, Produce):
                    found |= {record.value or b"" for part in command.parts for record in read_batch(part.batch, "", 0, 0, Zxid(0, 0))}
    return found


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def cut_power(folder: Path, cuts: int, seed: int = 1, lying: bool = False, nodes_cut: int = 3, pad: int = 0, at_least: int = 0) -> Report:
    """So many cuts; what became of them. `folder` is where the images lie; values are longer by `pad` bytes.

    `at_least`: records; a busy machine acknowledges few before a cut, and then there are more cuts.
    """
    cluster = Cluster(folder, seed, lying, nodes_cut, pad)
    try:
        cluster.make()
        trio.run(cluster.run, cuts, at_least)
    finally:
        cluster.close()
    cluster.report.unknown = cluster.sent - len(cluster.acknowledged)
    said = [line for node in cluster.nodes for line in damage_in(folder / f"server{node.number}.log")]
    cluster.report.damage = len(said)
    cluster.report.words += said
    return cluster.report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, choices=(1, 2, 3), default=3, help="how many lose their power at a time")
    parser.add_argument("--lying-sync", action="store_true", help="answer every sync and do none: there must be loss")
    parser.add_argument(
        "--pad", type=int, default=0, help="values are longer by so many bytes: from 131072 on the log's files are allocated"
    )
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = cut_power(Path(folder), words.cuts, words.seed, words.lying_sync, words.nodes, words.pad)
    print(json.dumps(report.document()) if words.json else "\n".join(f"{key}: {value}" for key, value in report.document().items()))
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
