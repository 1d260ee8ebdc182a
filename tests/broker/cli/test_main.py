"""One command line in, one exit code out; one clear error on stderr."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.cli.main import run
from broker.cli.refusals import told
from broker.errors import TopicNotFound
from zablog.storage.errors import MetadataLost, NotBorn

COMMANDS = (
    "cluster init", "cluster up", "cluster start", "cluster kill", "cluster down", "cluster status", "server",
    "log inspect", "log dump", "log verify",
    "topic create", "topic alter", "topic list", "topic describe", "topic delete", "limits", "limits set", "produce", "consume",
    "simulate", "explore",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("ZABLOG_CLUSTER", raising=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run([*command.split(), "--help"])

    shown = capsys.readouterr()
    assert code == 0
    assert "Example:" in shown.out
    assert "--cluster" in shown.out
    assert shown.err == ""


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0

    shown = capsys.readouterr().out
    assert all(command.split()[0] in shown for command in COMMANDS)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("", 2),
        ("nosuch", 2),
        ("topic", 2),
        ("topic create", 2),
        ("topic create t -p none", 2),
        ("cluster up -n 0", 2),
        ("cluster up --cluster 127.0.0.1:1", 2),
        ("cluster init --nodes nowhere --out .", 2),
        ("simulate --seeds 9..1", 2),
        ("explore --nodes 0", 2),
        ("topic list", 3),
        ("limits", 3),
        ("limits set nonsense 5", 2),
        ("limits set topics many", 2),
        ("cluster kill 1", 3),
        ("cluster status", 3),
        ("produce t", 3),
        ("consume t", 3),
        ("consume t --from ever", 2),
        ("server nosuch.toml", 2),
        ("topic delete t", 10),
    ],
)
def test_what_cannot_be_done_ends_with_its_code(line: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line.split()) == code

    shown = capsys.readouterr()
    assert shown.err
    assert "Traceback" not in shown.err
    if line not in ("", "topic"):  # these two show the help
        assert run([*line.split(), "--json", "-q"]) == code
        shown = capsys.readouterr()
        assert shown.out == ""
        assert json.loads(shown.err).keys() == {"code", "message", "hint"}


def test_the_environment_names_the_cluster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ZABLOG_CLUSTER", "blue")

    assert run(["topic", "list"]) == 3

    assert "blue" in capsys.readouterr().err


def test_errors_of_every_layer_are_told_with_a_code() -> None:
    group = BaseExceptionGroup("several", [BaseExceptionGroup("more", [TopicNotFound("no t")])])

    assert told(group).code == "topic_not_found"  # type: ignore[union-attr]  # it is known
    assert told(NotBorn("x")).code == "not_born"  # type: ignore[union-attr]  # it is known
    assert told(MetadataLost("x")).exit == 10  # type: ignore[union-attr]  # it is known
    assert told(FileNotFoundError(2, "No such file", "f")).message == "f: No such file"  # type: ignore[union-attr]  # it is known
    assert told(ValueError("x")) is None


def test_nobody_reads_the_answer_any_more() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "broker.cli", "simulate", "--seeds", "1..1"], stdout=write, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write)
    assert (ended.returncode, b"defect" in ended.stderr) == (0, False)
