"""The benchmark with real processes: it measures, and leaves nothing behind, however it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_ports

pytestmark = pytest.mark.slow


def command(folder: Path, *words: str) -> list[str]:
    port = free_ports(1)[0]
    return [sys.executable, "-P", "-m", "broker.cli", "bench", "--quick", "--json", "--dir", str(folder), "--port", str(port), *words]


def our_processes(folder: Path) -> list[int]:
    """Servers whose data lies below this folder."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and str(folder).encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def test_one_load_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path, "--size", "100", "--count", "5k"), capture_output=True, text=True, check=False, timeout=100)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ours"]["publish_100B"] > 0 and found["ours"]["consume_100B"] > 0
    assert found["not_reached"] == {} and found["units"]["publish_100B"] == "records/s"
    assert our_processes(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_a_benchmark_that_is_ended_ends_its_servers_first(tmp_path: Path) -> None:
    words = command(tmp_path, "--suite", "--only", "publish_1KiB,latency,failover_kill")
    # As a script starts things in the background: with Ctrl-C ignored.
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("publish_1KiB"):
            break
    assert our_processes(tmp_path) != [], "the servers run"

    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)

    assert running.returncode == 130
    assert our_processes(tmp_path) == [] and list(tmp_path.iterdir()) == []
