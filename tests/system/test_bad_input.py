"""What a person can do wrong: one clear error each, the exit code of the table, and no harm to anything else."""

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.system.driving import SECONDS, Zablog

pytestmark = pytest.mark.slow


def refused(zablog: Zablog, code: int, *arguments: str, stdin: bytes = b"") -> str:
    """The message of a refusal, after its form was checked: in words, and as one JSON object with the same words."""
    told = zablog(*arguments, stdin=stdin, check=False)
    assert told.returncode == code, f"zablog {' '.join(arguments)}: exit {told.returncode}: {told.stderr.decode()}"
    assert told.stdout == b""
    assert b"Traceback" not in told.stderr
    message = [line for line in told.stderr.decode().splitlines() if line.startswith("zablog: ")]
    assert len(message) == 1, told.stderr.decode()

    as_json = zablog(*arguments, "--json", "-q", stdin=stdin, check=False)
    assert as_json.returncode == code
    document = json.loads(as_json.stderr)
    assert document.keys() == {"code", "message", "hint"}
    return message[0]


def test_what_is_asked_of_a_running_cluster_in_vain(zablog: Zablog) -> None:
    zablog.up()
    zablog("topic", "create", "t", "-p", "2")
    big = b"x" * ((1 << 20) + 1)

    assert "nosuch" in refused(zablog, 4, "produce", "nosuch", stdin=b"a\n")
    assert "nosuch" in refused(zablog, 4, "consume", "nosuch", "--from", "earliest")
    assert "nosuch" in refused(zablog, 4, "topic", "describe", "nosuch")
    assert "nosuch" in refused(zablog, 4, "topic", "delete", "nosuch", "--yes")
    assert "9" in refused(zablog, 4, "consume", "t", "--from", "earliest", "--node", "9")
    assert "9" in refused(zablog, 4, "cluster", "kill", "9")
    refused(zablog, 4, "consume", "t", "--from", "earliest", "-p", "2")
    refused(zablog, 4, "produce", "t", str(zablog.home / "nofile"))
    refused(zablog, 5, "topic", "create", "t")
    refused(zablog, 5, "cluster", "up")
    refused(zablog, 5, "cluster", "start", "1")
    refused(zablog, 10, "topic", "delete", "t")
    for arguments in (
        ("topic", "create", "a/b"),
        ("topic", "create", "u", "-p", "0"),
        ("consume", "t", "--from", "yesterday"),
        ("consume", "t", "--from", "7"),
        ("consume", "t", "-p", "0", "--from", "7"),
        ("consume", "t", "--until", "+0"),
        ("consume", "t", "--out", "%y"),
        ("produce", "t", "--in", "csv"),
        ("produce", "t", "--nosuch"),
        ("nosuch",),
        ("--timeout", "soon", "topic", "list"),
    ):
        refused(zablog, 2, *arguments)
    assert "record 1 " in refused(zablog, 2, "produce", "t", stdin=big)
    partly = zablog("produce", "t", stdin=b"first\n" + big, check=False)
    assert partly.returncode == 7
    assert b"1 records are acknowledged" in partly.stderr and b"record 2 " in partly.stderr
    refused(zablog, 2, "produce", "t", "--in", "jsonl", stdin=b"{}\n")

    zablog("produce", "t", stdin=b"still well\n")
    assert b"still well" in zablog.consumed("t")


def test_no_cluster_and_no_quorum(zablog: Zablog) -> None:
    refused(zablog, 3, "topic", "list")
    refused(zablog, 3, "--cluster", "127.0.0.1:1", "--timeout", "1s", "topic", "list")
    zablog.up()
    zablog("topic", "create", "t")
    for node in ("1", "2"):
        zablog("cluster", "kill", node)

    refused(zablog, 3, "produce", "t", "--timeout", "1s", stdin=b"a\n")
    refused(zablog, 3, "topic", "create", "u", "--timeout", "1s")
    refused(zablog, 3, "consume", "t", "--from", "earliest", "--node", "1", "--timeout", "1s")
    shown = zablog("cluster", "status", check=False)
    assert shown.returncode == 3
    assert b"unreachable" in shown.stdout

    for node in ("1", "2"):
        zablog("cluster", "start", node)
    zablog("produce", "t", stdin=b"a\n")
    assert zablog.consumed("t") == [b"a"]


def test_garbage_on_a_port_harms_nobody(zablog: Zablog) -> None:
    zablog.up()
    zablog("topic", "create", "t")
    nodes = zablog.status()["nodes"]
    assert isinstance(nodes, list)
    for node in nodes:
        host, _, port = node["address"].rpartition(":")
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, b"\0" * 5000, b""):
            with socket.create_connection((host, int(port)), 5) as caller:
                caller.sendall(garbage)
                caller.shutdown(socket.SHUT_WR)
                caller.settimeout(10)
                try:
                    while caller.recv(4096):
                        pass
                except ConnectionResetError:
                    pass

    zablog("produce", "t", stdin=b"a\n")
    assert zablog.consumed("t") == [b"a"]
    assert [node["pid"] for node in nodes] == [node["pid"] for node in zablog.status()["nodes"]]  # type: ignore[union-attr]  # the same shape


def test_a_server_refuses_what_it_cannot_stand_on(zablog: Zablog, tmp_path: Path) -> None:
    zablog.up()
    born = zablog.folder(1)

    in_use = refused(zablog, 5, "server", str(born / "node.toml"))
    assert "in use" in in_use or "another process" in in_use.lower()

    def server(name: str, text: str) -> str:
        file = tmp_path / name
        file.write_text(text)
        return str(file)

    refused(zablog, 2, "server", server("unreadable.toml", "directory = "))
    assert "insecrue" in refused(zablog, 2, "server", server("misspelt.toml", f'directory = "{born}/data"\ninsecrue = true\n'))
    assert "nosuch.toml" in refused(zablog, 2, "server", str(tmp_path / "nosuch.toml"))
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(zablog, 2, "server", server("unborn.toml", 'directory = "empty"\n'))
    assert "absent" in refused(zablog, 2, "server", server("absent.toml", 'directory = "absent"\n'))

    zablog("cluster", "init", "--nodes", "192.0.2.1:7401", "--out", str(tmp_path / "far"))
    assert "insecure" in refused(zablog, 2, "server", str(tmp_path / "far" / "node1" / "node.toml"))
    refused(zablog, 5, "cluster", "init", "--nodes", "192.0.2.1:7401", "--out", str(tmp_path / "far"))

    nodes = zablog.status()["nodes"]
    assert isinstance(nodes, list)
    taken = nodes[0]["address"]
    zablog("cluster", "init", "--nodes", taken, "--out", str(tmp_path / "near"))
    assert taken.rpartition(":")[2] in refused(zablog, 5, "server", str(tmp_path / "near" / "node1" / "node.toml"))
    assert zablog.status()["leader"] is not None


@pytest.mark.parametrize("with_another", [False, True], ids=["wiped", "foreign"])
def test_a_node_whose_directory_was_wiped_or_replaced_is_refused_in_words(zablog: Zablog, tmp_path: Path, with_another: bool) -> None:
    zablog.up()
    zablog("topic", "create", "t")
    victim = next(node for node in (1, 2, 3) if str(node) != zablog.leader())
    zablog("cluster", "kill", str(victim))
    shutil.rmtree(zablog.folder(victim) / "data")
    if with_another:
        addresses = ",".join(node["address"] for node in zablog.status()["nodes"])  # type: ignore[union-attr]  # a list of objects
        zablog("cluster", "init", "--nodes", addresses, "--out", str(tmp_path / "other"))
        shutil.copytree(tmp_path / "other" / f"node{victim}" / "data", zablog.folder(victim) / "data")

    started = zablog("cluster", "start", str(victim), check=False)

    deadline = time.monotonic() + SECONDS
    words: tuple[str, ...] = ("cluster",) if with_another else ("born", "cluster init")
    while not any(word in (zablog.folder(victim) / "server.log").read_text() for word in words):
        assert time.monotonic() < deadline, zablog.logs()
        time.sleep(0.05)
    if not with_another:
        assert started.returncode == 2, started.stderr.decode()
    zablog("produce", "t", stdin=b"a\n")
    assert zablog.consumed("t") == [b"a"]
    rows = zablog.status()["nodes"]
    assert isinstance(rows, list)
    assert sum(row["role"] in ("leading", "following") for row in rows) == 2


def test_a_second_process_on_a_directory_leaves_the_first_alone(zablog: Zablog) -> None:
    zablog.up()

    second = zablog("server", str(zablog.folder(2) / "node.toml"), check=False)

    assert second.returncode == 5, second.stderr.decode()
    assert all(row["role"] in ("leading", "following") for row in zablog.status()["nodes"])  # type: ignore[union-attr]  # a list of objects


def test_head_ends_a_consumer_well_and_ctrl_c_does_too(zablog: Zablog) -> None:
    zablog.up()
    zablog("topic", "create", "t")
    zablog("produce", "t", stdin=b"line\n" * 100_000)

    head = subprocess.Popen(
        zablog.command("consume", "t", "--from", "earliest"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=zablog.environment
    )
    assert head.stdout is not None and head.stderr is not None
    assert head.stdout.readline() == b"line\n"
    head.stdout.close()
    assert head.wait(SECONDS) == 0
    assert b"Traceback" not in head.stderr.read()
    head.stderr.close()

    idle = subprocess.Popen(
        zablog.command("consume", "t", "--from", "99999"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=zablog.environment
    )
    assert idle.stdout is not None
    assert idle.stdout.readline() == b"line\n"
    idle.send_signal(2)
    out, err = idle.communicate(timeout=SECONDS)
    assert (idle.returncode, out) == (0, b"")
    assert b"1 records" in err

    producer = subprocess.Popen(
        zablog.command("produce", "t", "--json"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=zablog.environment,
    )
    assert producer.stdin is not None and producer.stdout is not None and producer.stderr is not None
    producer.stdin.write(b"one\ntwo\n")
    producer.stdin.flush()
    deadline = time.monotonic() + SECONDS
    while len(zablog.consumed("t")) < 100_002:
        assert time.monotonic() < deadline
    producer.send_signal(2)
    assert producer.wait(SECONDS) == 0
    assert json.loads(producer.stdout.read())["acked"] == 2
    for pipe in (producer.stdin, producer.stdout, producer.stderr):
        pipe.close()
