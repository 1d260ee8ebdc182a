"""Disks that fail under real servers, by strace: a crash at each sync of a small history; one node's disk that is full or broken."""

import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from broker.client import Client, connect
from broker.errors import BrokerError
from broker.inspection import look
from tests.ports import free_ports
from zablog import Identity, Member, PeerId, give_birth
from zablog.node.writer import AT_ONCE_BYTES
from zablog.storage.files import FileDisk

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

NODE = """directory = "{directory}"
listen = "{address}"

[disk]
checkpoint_bytes = 65536
checkpoint_seconds = 0.3
keep_bytes = 0
file_bytes = 65536
"""
SECONDS = 60


def bear(folder: Path, nodes: int) -> list[str]:
    """Directories and configurations for a new cluster; its addresses."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(nodes)]
    members = tuple(Member(PeerId(at), secrets.token_hex(16), address) for at, address in enumerate(addresses, start=1))
    cluster = secrets.token_hex(16)
    for member in members:
        directory = folder / f"node{member.id}"
        disk = FileDisk(directory, create=True)
        give_birth(disk, Identity(cluster, member.id, member.incarnation, members))
        disk.close()
        (folder / f"node{member.id}.toml").write_text(NODE.format(directory=directory, address=member.address))
    return addresses


@contextmanager
def server(folder: Path, number: int, *inject: str) -> Iterator[subprocess.Popen[bytes]]:
    """One server, its disk interfered with by strace if that is said; gone at the end."""
    command = [sys.executable, "-P", "-m", "broker.cli", "server", str(folder / f"node{number}.toml")]
    if inject:
        command = ["strace", "-D", "-f", "-qq", "-o", str(folder / f"strace{number}"), *inject, *command]
    with (folder / f"server{number}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def copy_of(zl: Client, node: int) -> list[bytes | None]:
    async with zl.consumer("numbers", start="earliest", stop="end", node=node) as inbox:
        return [record.value async for record in inbox]


async def send_until_it_dies(address: str, count: int, process: "subprocess.Popen[bytes]") -> list[bytes]:
    """What was acknowledged."""
    acknowledged: list[bytes] = []

    async def send() -> None:
        with suppress(BrokerError):
            async with connect(address, timeout=SECONDS) as zl:
                await zl.create_topic("numbers", exist_ok=True)
                async with zl.producer() as out:
                    for number in range(count):
                        value = b"%04d" % number + bytes(2000)
                        await out.send("numbers", value)
                        acknowledged.append(value)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while process.poll() is None:
            await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    return acknowledged


async def everything_of_one(address: str) -> list[bytes | None]:
    async with connect(address, timeout=SECONDS) as zl:
        with suppress(BrokerError):
            await zl.create_topic("numbers", exist_ok=True)
        return await copy_of(zl, 1)


@pytest.mark.parametrize("call", ["fdatasync", "fsync", "rename", "io_submit", "io_getevents"])
def test_a_node_killed_at_each_sync_of_a_small_history_comes_back_to_what_it_acknowledged(tmp_path: Path, call: str) -> None:
    """The call is not made: the process dies in its place. (strace counts the calls of each thread by itself.)"""
    died = 0
    for when in [*range(1, 17), *range(17, 80, 8)]:
        folder = tmp_path / f"{when}"
        folder.mkdir()
        (address,) = bear(folder, 1)
        with server(folder, 1, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}") as process:
            acknowledged = trio.run(send_until_it_dies, address, 60, process)
            killed = process.poll() is not None
        if not killed:
            break  # no thread makes so many
        died += 1
        with server(folder, 1):
            found = trio.run(everything_of_one, address)
        assert found[: len(acknowledged)] == acknowledged, f"killed at call {when} of {call}"
        assert len(found) <= len(acknowledged) + 1, "what was not acknowledged is at most the one record under way"
        assert [finding for finding in look(folder / "node1").findings if not finding.harmless] == []
        shutil.rmtree(folder)
    assert died >= 2


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ("fdatasync", "EIO", "Input/output error"),
        ("io_getevents", "EIO", "Input/output error"),
        ("pwritev,pwritev2", "ENOSPC", "No space left on device"),
        ("pwritev,pwritev2", "EIO", "Input/output error"),
    ],
)
def test_a_node_whose_disk_fails_stops_in_words_and_the_others_go_on(tmp_path: Path, call: str, error: str, words: str) -> None:
    addresses = bear(tmp_path, 3)

    async def work() -> list[bytes | None]:
        async with connect(",".join(addresses), timeout=SECONDS) as zl:
            await zl.create_topic("numbers")
            async with zl.producer() as out:
                for number in range(200):
                    await out.send("numbers", b"%04d" % number + bytes(AT_ONCE_BYTES))
            return await copy_of(zl, 1)

    async def compare() -> list[list[bytes | None]]:
        async with connect(",".join(addresses), timeout=SECONDS) as zl:
            with trio.fail_after(SECONDS):
                while True:
                    copies = [await copy_of(zl, node) for node in (1, 2, 3)]
                    if copies[0] == copies[1] == copies[2]:
                        return copies
                    await trio.sleep(0.1)

    expected = [b"%04d" % number + bytes(AT_ONCE_BYTES) for number in range(200)]
    with server(tmp_path, 1), server(tmp_path, 2):
        # Without asynchronous syncs all that are made are fdatasync.
        others = (
            ["-e", "trace=fdatasync,io_setup", "-e", "inject=io_setup:error=ENOSYS"] if call == "fdatasync" else ["-e", f"trace={call}"]
        )
        with server(tmp_path, 3, *others, "-e", f"inject={call}:error={error}:when=30+") as failing:
            assert trio.run(work) == expected
            assert failing.wait(SECONDS) != 0
        assert words in (tmp_path / "server3.log").read_text()
        with server(tmp_path, 3):
            assert trio.run(compare)[2] == expected
