"""Real servers that let go of records: the disk stays bounded while records stream in, and every node holds the same."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.driving import SECONDS, Zablog

pytestmark = pytest.mark.slow

KEEP = 1 << 20
WHOLE = 100 << 10
"""Bytes in the topic that is kept for ever."""
SETTLED = KEEP + KEEP // 8 + 3 * (256 << 10) + 2 * WHOLE
"""What may be left on a node's disk once a checkpoint came by: what is kept, a segment that just began and one that goes next."""
LINES = b"".join(b"%07d" % number + b"x" * 1000 + b"\n" for number in range(8_000))
"""About 8 MB: eight times what is kept."""
DISK = """
[disk]
checkpoint_bytes = 1048576
checkpoint_seconds = 0.5
retention_seconds = 0.1
"""


def described(zablog: Zablog, topic: str) -> dict[str, int]:
    partition: dict[str, int] = json.loads(zablog("topic", "describe", topic, "--json").stdout)["partitions"][0]
    return partition


def on_disk(zablog: Zablog) -> list[int]:
    """Bytes of each node's segments."""
    sizes = []
    for node in (1, 2, 3):
        files = segments(zablog, node)
        assert files, "there is always the topic that is kept for ever"
        sizes.append(sum(map(size_or_gone, files)))
    return sizes


def segments(zablog: Zablog, node: int) -> list[Path]:
    return sorted((zablog.folder(node) / "data" / "topics").glob("*.segment"))


def size_or_gone(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def wait_for(condition: Callable[[], bool], words: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"in vain waited: {words()}"
        time.sleep(0.1)


def test_disk_use_is_bounded_while_records_stream_in_through_changes_of_leader_and_nodes_stay_alike(zablog: Zablog) -> None:
    zablog.up()
    zablog("cluster", "down")
    for node in (1, 2, 3):
        with (zablog.folder(node) / "node.toml").open("a") as file:
            file.write(DISK)
    zablog.up()
    zablog("topic", "create", "logs", "--retention-bytes", "1MiB")
    zablog("topic", "create", "whole")
    zablog("produce", "whole", stdin=LINES[:WHOLE])

    for _ in range(3):
        zablog("produce", "logs", stdin=LINES)
        leader = zablog.leader()
        zablog("cluster", "kill", leader)
        zablog("produce", "logs", stdin=LINES)
        zablog("cluster", "start", leader)
        wait_for(lambda: max(on_disk(zablog)) < SETTLED, lambda: on_disk(zablog))
    partition = described(zablog, "logs")
    assert partition["end"] == 6 * 8000 and partition["bytes"] >= KEEP
    assert len(zablog.consumed("logs")) == partition["end"] - partition["first"] < 2000

    zablog("topic", "alter", "logs", "--retention-records", "500", "--retention-bytes", "none")
    wait_for(lambda: described(zablog, "logs")["first"] == 6 * 8000 - 500, lambda: described(zablog, "logs"))
    kept = zablog.consumed("logs")
    assert kept == LINES.splitlines()[-500:]
    for node in ("1", "2", "3"):
        wait_for(lambda node=node: zablog.consumed("logs", "--node", node) == kept, lambda node=node: f"node {node}")  # type: ignore[misc]
        assert zablog.consumed("whole", "--node", node) == LINES[:WHOLE].splitlines()
    wait_for(lambda: len(contents(zablog)) == 1, lambda: on_disk(zablog))
    refused = zablog("consume", "logs", "--from", "0", "--until", "end", check=False)
    assert refused.returncode == 2 and b"choose" in refused.stderr


def contents(zablog: Zablog) -> set[tuple[tuple[str, bytes], ...]]:
    """What the nodes' segments hold: one entry if it is the same on all of them."""
    try:
        return {tuple((file.name, file.read_bytes()) for file in segments(zablog, node)) for node in (1, 2, 3)}
    except FileNotFoundError:  # it went meanwhile
        return set()
