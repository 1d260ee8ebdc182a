"""What a process loads: a cluster that starts is several processes at once, and most of its time and memory is what they import.

Each is run with `-X importtime`, which names every module that an import statement loads in its whole life, on stderr.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker.cli import birth
from tests.ports import free_ports

MODULES_MAX = 500
"""In a server's life, 495 with Python 3.11; each costs about 0.3 ms and 50 KB."""
NEVER_IN_A_SERVER = {
    "typer", "pydantic",  # read a command line
    "rich.console", "pygments",  # colour lines for a terminal
    "email", "http", "xml", "multiprocessing",
    "broker.client", "broker.bench", "broker.sim", "broker.sync", "broker.inspection", "zablog.sim", "zablog.lesson",
}  # fmt: skip


def loaded(stderr: str) -> set[str]:
    """The modules, and the packages they are in."""
    names = [line.rpartition("|")[2].strip() for line in stderr.splitlines() if line.startswith("import time:")][1:]
    return {name.rsplit(".", up)[0] for name in names for up in range(name.count(".") + 1)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("ZABLOG_CLUSTER", raising=False)
    return tmp_path


def command(*words: str) -> list[str]:
    return [sys.executable, "-X", "importtime", "-P", "-m", "broker.cli", *words]


def test_a_server_loads_nothing_that_it_has_no_use_for(home: Path) -> None:
    birth.bear(home, [f"127.0.0.1:{free_ports(1)[0]}"])
    server = subprocess.Popen(
        command("server", str(birth.configuration_file(home, 1))), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert server.stdout is not None

    heard = next((line for line in server.stdout if "role=leading" in line and "phase=broadcast" in line), None)
    server.send_signal(signal.SIGTERM)
    _, stderr = server.communicate(timeout=30)

    assert heard is not None and server.returncode == 0, stderr
    modules = loaded(stderr)
    assert {"trio", "broker.server.run", "zablog.node.driver"} <= modules, "it was looked at while it lived"
    assert sorted(modules & NEVER_IN_A_SERVER) == []
    assert len(modules) <= MODULES_MAX


def test_a_cluster_is_started_without_what_its_nodes_load(home: Path) -> None:
    """Of two processors, three nodes that start need both: `cluster up` must not load as much again."""
    try:
        up = subprocess.run(
            command("-q", "cluster", "up", "-n", "1", "--detach", "--port", str(free_ports(1)[0])),
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    finally:
        subprocess.run([sys.executable, "-P", "-m", "broker.cli", "-q", "cluster", "down", "--wipe"], check=False, timeout=60)

    modules = loaded(up.stderr)
    assert "broker.cli.running" in modules
    assert sorted(modules & {"trio", "asyncio", "structlog", "typer", "rich", "broker.client", "broker.server", "zablog.node"}) == []


@pytest.mark.parametrize(("words", "module"), [(["topic", "list"], "topic"), (["limits"], "limits"), (["cluster", "status"], "cluster")])
def test_only_the_command_that_was_typed_is_loaded(home: Path, words: list[str], module: str) -> None:
    look = "print([name for name in COMMANDS if f'broker.cli.{name}' in sys.modules])"
    code = f"import sys; from broker.cli.main import COMMANDS, run; run({words}); {look}"

    shown = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert shown.stdout.splitlines()[-1] == f"['{module}']"
