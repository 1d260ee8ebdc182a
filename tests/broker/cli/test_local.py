"""Clusters of this machine: birth, processes, names. No server runs here."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.cli import birth, local
from broker.cli.processes import Process, this
from broker.cli.refusals import NotEmpty, Usage
from broker.errors import NodeNotFound
from broker.server.config import load
from zablog.storage.files import FileDisk
from zablog.storage.manifest import Manifest


@pytest.fixture(autouse=True)
def _state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_directories_are_born_together_and_each_knows_all_members(tmp_path: Path) -> None:
    addresses = ["10.0.0.1:7401", "10.0.0.2:7401", "127.0.0.1:7403"]

    cluster = birth.bear(tmp_path, addresses)

    for node in (1, 2, 3):
        identity = Manifest(FileDisk(tmp_path / f"node{node}" / "data")).load()
        assert (identity.cluster, identity.node) == (cluster, node)
        assert [member.address for member in identity.members] == addresses
        config = load(birth.configuration_file(tmp_path, node))
        assert config.directory == tmp_path / f"node{node}" / "data"
        assert not config.insecure
        assert config.unix_sockets
    assert "# insecure = true" in birth.configuration_file(tmp_path, 1).read_text()
    assert "insecure" not in birth.configuration_file(tmp_path, 3).read_text()


def test_nodes_may_be_born_to_take_tcp_alone(tmp_path: Path) -> None:
    birth.bear(tmp_path, ["127.0.0.1:7401", "10.0.0.2:7401"], unix_sockets=False)

    for node in (1, 2):
        config = load(birth.configuration_file(tmp_path, node))
        assert not config.unix_sockets
        assert config.node == node


def test_nothing_is_born_where_something_is(tmp_path: Path) -> None:
    (tmp_path / "node2").mkdir()

    with pytest.raises(NotEmpty, match="node2"):
        birth.bear(tmp_path, ["127.0.0.1:1", "127.0.0.1:2"])

    assert not (tmp_path / "node1").exists()


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:65536", "a:1,a:1", "host:x"])
def test_what_is_no_list_of_addresses_is_refused(text: str) -> None:
    with pytest.raises(Usage):
        birth.parse_addresses(text)


def test_free_addresses_are_free() -> None:
    (first,) = birth.free_addresses(1)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", int(first.rpartition(":")[2])))
        taken.listen()

        assert first not in birth.free_addresses(2)


def test_to_look_for_free_ports_is_in_no_servers_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a server that binds at this moment would fail")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(socket.socket, "listen", refuse)

    assert birth.free_addresses(1)


def test_a_port_that_an_outgoing_connection_has_is_not_free() -> None:
    """Nobody listens there, and no server could."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as outgoing:
        port = outgoing.getsockname()[1]
        if port < birth.OUTGOING_PORT:
            pytest.skip("this system gives other ports to outgoing connections")

        assert f"127.0.0.1:{port}" not in birth.free_addresses(1, port)


def test_a_port_that_says_nothing_is_soon_passed_over() -> None:
    """Its listener does not come to it, or a firewall drops what is sent there: there may be hundreds of them."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        began = time.monotonic()

        free = birth.free_addresses(1, port)

        assert f"127.0.0.1:{port}" not in free
        assert time.monotonic() - began < 0.4


def test_who_chooses_ports_waits_for_whoever_is_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[str] = []

    def choose() -> None:
        with birth.choosing():
            seen.append("the other")

    with birth.choosing():
        other = threading.Thread(target=choose)
        other.start()
        other.join(0.1)
        seen.append("we")
    other.join()

    assert seen == ["we", "the other"]


@pytest.mark.parametrize("what", ["folder", "link"])
def test_ports_are_chosen_where_nobody_can_be_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lock = tmp_path / f"zablog-ports-{os.getuid()}"
    if what == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(tmp_path / "elsewhere")

    with birth.choosing():
        pass

    assert not (tmp_path / "elsewhere").exists()


def test_nobody_is_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(birth, "TURN_SECONDS", 0.05)

    with birth.choosing(), birth.choosing():
        pass


def test_a_process_is_only_ours_while_its_start_agrees() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = this(child.pid)
    assert process is not None and process.alive
    stranger = Process(child.pid, process.started + "0")

    assert not stranger.alive
    assert not stranger.send(signal.SIGKILL)
    assert process.alive

    assert process.kill()
    assert not process.alive
    assert not process.kill()
    child.communicate()
    assert this(child.pid) is None


def test_our_own_process_is_alive() -> None:
    process = this(os.getpid())

    assert process is not None and process.alive


def test_a_cluster_is_found_by_its_name_wherever_it_lies(tmp_path: Path) -> None:
    made = local.make("blue", tmp_path / "elsewhere", 3)

    found = local.find("blue")

    assert found is not None
    assert found.directory == made.directory == (tmp_path / "elsewhere").resolve()
    assert found.addresses == made.addresses
    assert found.running == []
    assert local.find("red") is None
    with pytest.raises(NodeNotFound):
        found.node(4)


def test_a_wiped_cluster_leaves_its_name_and_its_folder_to_the_next(tmp_path: Path) -> None:
    made = local.make("blue", None, 3)
    (made.directory / "mine.txt").write_text("keep me")

    with made.changing():
        local.wipe(made)

    assert local.find("blue") is None
    assert (made.directory / "mine.txt").exists()
    assert local.make("blue", None, 1).addresses


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b"])
def test_what_cannot_be_a_folder_cannot_be_a_cluster(name: str) -> None:
    with pytest.raises(Usage):
        local.find(name)


def test_a_damaged_state_file_is_told_with_its_place(tmp_path: Path) -> None:
    made = local.make("blue", None, 1)
    (made.directory / "cluster.json").write_text("{")

    with pytest.raises(Usage, match=r"cluster\.json"):
        local.find("blue")
