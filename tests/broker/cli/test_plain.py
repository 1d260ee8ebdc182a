"""What is read without typer means what typer would read; what is not plain is left to it."""

from pathlib import Path

import pytest

from broker.cli import running, serving
from broker.cli.main import application, run
from broker.cli.plain import plain
from broker.cli.terminal import Terminal

PLAIN = (
    "cluster up",
    "cluster up --detach",
    "cluster up --tcp",
    "cluster up --tcp --detach -n 5",
    "cluster up -n 5",
    "cluster up --nodes 255 --dir here/there --port 65535 --detach",
    "cluster up --detach --port 1024 --detach --nodes 1 -n 3",
    "server node1/node.toml",
)
NOT_PLAIN = (
    "cluster up --tcp=yes",
    "",
    "server",
    "server --help",
    "server -x",
    "server a b",
    "cluster",
    "cluster status",
    "cluster up --help",
    "cluster up five",
    "cluster up -n",
    "cluster up -n 0",
    "cluster up -n 256",
    "cluster up -n 03",
    "cluster up -n ٣",
    "cluster up -n five",
    "cluster up -n5",
    "cluster up --nodes=5",
    "cluster up --port 1023",
    "cluster up --port 65536",
    "cluster up --port 100000000000000000000",
    "cluster up --dir",
    "cluster up --dir --detach",
    "cluster up -- --detach",
    "cluster up --detached",
)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What was to be done; nothing is."""
    calls: list[tuple[object, ...]] = []

    def up(screen: Terminal, *arguments: object) -> int:
        calls.append(("up", *arguments))
        return 0

    def serve(file: Path) -> None:
        calls.append(("serve", file))

    monkeypatch.setattr(running, "up", up)
    monkeypatch.setattr(serving, "serve", serve)
    monkeypatch.setenv("ZABLOG_CLUSTER", "blue")
    return calls


@pytest.mark.parametrize("line", PLAIN)
def test_a_plain_line_means_what_typer_would_read(line: str, called: list[tuple[object, ...]]) -> None:
    assert plain(line.split()) is not None

    assert run(line.split()) == 0
    assert run(line.split(), application()) == 0

    assert len(called) == 2 and called[0] == called[1]


@pytest.mark.parametrize("line", NOT_PLAIN)
def test_everything_else_is_left_to_typer(line: str) -> None:
    assert plain(line.split()) is None
