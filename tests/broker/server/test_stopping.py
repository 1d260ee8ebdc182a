"""A server that is told to stop ends in peace, whatever its clients are asking for just then."""

import secrets
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from broker.client import Client, connect
from broker.server import ServerConfig, open_server, scrubbing
from broker.server.connection import ClientConnection
from tests.broker.ensemble import PACE
from tests.ports import free_ports
from zablog import Identity, Member, PeerId, give_birth
from zablog.node.writer import Writer
from zablog.storage.files import FileDisk


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    member = Member(PeerId(1), secrets.token_hex(16), f"127.0.0.1:{free_ports(1)[0]}")
    disk = FileDisk(tmp_path / "node1", create=True)
    give_birth(disk, Identity(secrets.token_hex(16), member.id, member.incarnation, (member,)))
    disk.close()
    return ServerConfig(tmp_path / "node1", listen=member.address, pace=PACE)


@pytest.mark.parametrize("question", ["write", "linearizable read"])
async def test_what_is_asked_while_the_disk_finishes_is_not_taken_for_a_failure(
    config: ServerConfig, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain, handle = Writer.drain, ClientConnection._handle
    closing, asked = trio.Event(), trio.Event()

    async def slowly(writer: Writer) -> None:
        closing.set()
        with trio.CancelScope(shield=True):
            await asked.wait()
            await trio.testing.wait_all_tasks_blocked()
        await drain(writer)

    def handled(connection: ClientConnection, *words: object) -> object:
        if closing.is_set():
            asked.set()
        return handle(connection, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(Writer, "drain", slowly)
    monkeypatch.setattr(ClientConnection, "_handle", handled)

    async def ask(client: Client) -> None:
        await closing.wait()
        if question == "write":
            await client.create_topic("late")
        else:
            await client.read("orders", 0, 0, "linearizable")

    with trio.fail_after(20):
        async with connect(str(config.listen)) as client, trio.open_nursery() as nursery:
            async with open_server(config):
                await client.create_topic("orders")
                nursery.start_soon(ask, client)
            nursery.cancel_scope.cancel()

    assert asked.is_set()


@pytest.mark.parametrize("who", ["fetch", "scrubber"])
async def test_a_disk_that_hangs_under_a_reader_keeps_no_server_from_ending(
    config: ServerConfig, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "REST_SECONDS", 0.05)
    hangs, goes_on = trio.Event(), threading.Event()
    token, loop, read = trio.lowlevel.current_trio_token(), threading.current_thread(), FileDisk.read

    def hang(disk: FileDisk, name: str, begin: int, end: int) -> bytes:
        if name.endswith(".segment") and threading.current_thread() is not loop:
            token.run_sync_soon(hangs.set)
            assert goes_on.wait(10), "the disk came back, and nobody had ended"
        return read(disk, name, begin, end)

    async with connect(str(config.listen)) as client, trio.open_nursery() as nursery:
        async with open_server(config):
            await client.create_topic("orders")
            async with client.producer() as out:
                await out.send("orders", b"a")
            if who == "fetch":
                monkeypatch.setattr(FileDisk, "read_now", lambda *_: b"")
                monkeypatch.setattr(FileDisk, "warm", hang)
                nursery.start_soon(client.read, "orders", 0, 0, "local")
            else:
                monkeypatch.setattr(FileDisk, "read", hang)
            await hangs.wait()
            began = trio.current_time()
        ended = trio.current_time()
        goes_on.set()
        nursery.cancel_scope.cancel()

    assert ended - began < 5


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux tells which files a process has open")
async def test_an_ended_server_has_no_file_open(config: ServerConfig) -> None:
    with trio.fail_after(20):
        async with open_server(config), connect(str(config.listen)) as client:
            await client.create_topic("orders")
            async with client.producer() as producer:
                await producer.send("orders", b"x" * 100_000)
            assert {file.suffix for file in open_files(config.directory)} >= {".log", ".segment"}

    assert open_files(config.directory) == []


def open_files(directory: Path) -> list[Path]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            found.append(link.readlink())
    return [file for file in found if file.is_relative_to(directory)]
