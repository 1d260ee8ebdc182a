"""Real servers that let go of records: the disk stays bounded while records stream in, and every node holds the same."""

import json
import time

import pytest

from tests.system.driving import SECONDS, Zablog

pytestmark = pytest.mark.slow

KEEP = 1 << 20
LINES = b"".join(b"%07d" % number + b"x" * 1000 + b"\n" for number in range(8_000))
"""About 8 MB: eight times what is kept."""


def described(zablog: Zablog, topic: str) -> dict[str, int]:
    partition: dict[str, int] = json.loads(zablog("topic", "describe", topic, "--json").stdout)["partitions"][0]
    return partition


def on_disk(zablog: Zablog) -> dict[int, dict[str, int]]:
    """Bytes by file of each node's segments."""
    return {node: {file.name: file.stat().st_size for file in (zablog.folder(node) / "topics").glob("*.segment")} for node in (1, 2, 3)}


def test_disk_use_is_bounded_while_records_stream_in_through_a_change_of_leader_and_nodes_stay_alike(zablog: Zablog) -> None:
    zablog.up()
    zablog("topic", "create", "logs", "--retention-bytes", "1MiB")
    zablog("topic", "create", "whole")
    zablog("produce", "whole", stdin=LINES[:100_000])

    for _ in range(3):
        zablog("produce", "logs", stdin=LINES)
        leader = zablog.leader()
        zablog("cluster", "kill", leader)
        zablog("produce", "logs", stdin=LINES)
        zablog("cluster", "start", leader)

    def bounded() -> bool:
        # Files go with the next checkpoint, and that comes with what is written: 64 MiB of it, or a minute.
        zablog("produce", "logs", stdin=LINES)
        return all(sum(files.values()) < 3 * KEEP + len(LINES) for files in on_disk(zablog).values())

    deadline = time.monotonic() + SECONDS
    while not bounded():
        assert time.monotonic() < deadline, on_disk(zablog)
    partition = described(zablog, "logs")
    assert 0 < partition["first"] < partition["end"]

    zablog("topic", "alter", "logs", "--retention-records", "500", "--retention-bytes", "none")
    while (partition := described(zablog, "logs")) and partition["end"] - partition["first"] != 500:
        assert time.monotonic() < deadline, partition
        time.sleep(0.2)
    kept = zablog.consumed("logs")
    assert len(kept) == 500 and LINES.endswith(b"\n".join(kept) + b"\n")
    for node in ("1", "2", "3"):
        assert zablog.consumed("logs", "--node", node) == kept
        assert zablog.consumed("whole", "--node", node) == LINES[:100_000].splitlines()
    refused = zablog("consume", "logs", "--from", "0", "--until", "end", check=False)
    assert refused.returncode == 2 and b"choose" in refused.stderr
