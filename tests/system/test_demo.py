"""`bin/demo`, as in the README: what a stranger runs first."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.system.driving import SECONDS, Zablog

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "bin" / "demo"


@pytest.mark.parametrize(
    ("content", "records"),
    [(None, 5000), (b"a\r\n\0b\n\nunterminated", 4), (b"", 0), (b"".join(b"%d\n" % at for at in range(30_000)), 30_000)],
    ids=["shipped log", "odd lines", "empty", "many"],
)
def test_the_demo_loses_its_leader_and_nothing_else(zablog: Zablog, tmp_path: Path, content: bytes | None, records: int) -> None:
    arguments = ["--json"]
    if content is not None:
        (tmp_path / "input").write_bytes(content)
        arguments.append(str(tmp_path / "input"))

    done = subprocess.run([DEMO, *arguments], capture_output=True, env=zablog.environment, timeout=SECONDS, check=False, cwd=tmp_path)

    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert verdict.keys() == {"records", "lost", "repeated", "out_of_order", "failover_ms", "records_per_s", "nodes_compared"}
    assert (verdict["records"], verdict["lost"], verdict["repeated"], verdict["out_of_order"]) == (records, 0, 0, 0)
    assert verdict["nodes_compared"] == 3
    assert verdict["failover_ms"] > 0
    assert zablog("--cluster", "demo", "cluster", "status", check=False).returncode == 3, "its processes were stopped"


def test_the_demo_leaves_a_cluster_of_its_name_alone_if_it_did_not_make_it(zablog: Zablog) -> None:
    zablog("--cluster", "demo", "cluster", "up", "--detach", "--port", str(zablog.port), "-n", "1")
    zablog("--cluster", "demo", "cluster", "down")

    done = subprocess.run([DEMO], capture_output=True, env=zablog.environment, timeout=SECONDS, check=False)

    assert done.returncode == 5, done.stderr.decode()
    zablog("--cluster", "demo", "cluster", "up", "--detach")
