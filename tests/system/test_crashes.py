"""Nodes killed with -9 while records stream in: what was acknowledged is there, once and in order, on every node."""

import json
import os
import subprocess
import time

import pytest

from tests.system.driving import SECONDS, Zablog

pytestmark = pytest.mark.slow


def wait_for(condition: object, words: str) -> None:
    assert callable(condition), "something to ask again and again"
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"in vain waited for {words}"
        time.sleep(0.05)


class Stream:
    """`zablog produce` with numbers trickling into its stdin."""

    def __init__(self, zablog: Zablog) -> None:
        self.process = subprocess.Popen(
            zablog.command("produce", "numbers", "--json"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=zablog.environment,
        )  # fmt: skip
        self.written = 0

    def write(self, count: int) -> None:
        assert self.process.stdin is not None, "a pipe was asked for"
        os.write(self.process.stdin.fileno(), b"".join(b"%d\n" % (self.written + at) for at in range(1, count + 1)))
        self.written += count

    def close(self) -> tuple[int, dict[str, object]]:
        out, err = self.process.communicate(timeout=SECONDS)
        assert out, err.decode()
        return self.process.returncode, json.loads(out)


def end(zablog: Zablog) -> int:
    described = json.loads(zablog("topic", "describe", "numbers", "--json").stdout)
    return int(described["partitions"][0]["end"])


def test_three_leaders_die_in_turn_under_a_stream_and_nothing_is_lost_repeated_or_out_of_order(zablog: Zablog) -> None:
    zablog.up()
    zablog("topic", "create", "numbers")
    stream = Stream(zablog)

    for _ in range(3):
        before = stream.written
        for _ in range(100):
            stream.write(50)
        wait_for(lambda before=before: end(zablog) > before, "records of this round")
        leader = zablog.leader()
        zablog("cluster", "kill", leader)
        for _ in range(100):
            stream.write(50)
        zablog("cluster", "start", leader)
    for _ in range(100):
        stream.write(200)
    code, tally = stream.close()

    assert (code, tally["acked"], tally["unknown"]) == (0, 50_000, 0)
    wanted = [b"%d" % number for number in range(1, 50_001)]
    for node in ("1", "2", "3"):
        assert zablog.consumed("numbers", "--node", node) == wanted
    assert zablog.consumed("numbers") == wanted


def test_a_whole_cluster_killed_in_mid_stream_serves_again_by_itself_with_every_acknowledged_record(zablog: Zablog) -> None:
    zablog.up()
    zablog("topic", "create", "numbers")
    acked = 0

    for _ in range(5):
        stream = Stream(zablog)
        stream.written = at_start = end(zablog)
        for _ in range(40):
            stream.write(100)
        wait_for(lambda at_start=at_start: end(zablog) > at_start, "records of this round")
        acked = max(acked, end(zablog))
        for node in ("1", "2", "3"):
            zablog("cluster", "kill", node)
        zablog.up()
        _, tally = stream.close()
        assert tally["unknown"] == 0, "the producer outlives the outage"

        numbers = zablog.consumed("numbers")
        assert len(numbers) == at_start + 4000
        assert numbers == [b"%d" % number for number in range(1, len(numbers) + 1)]
        acked = len(numbers)

    assert acked == 20_000


def test_a_node_that_was_away_comes_back_with_all_it_missed(zablog: Zablog) -> None:
    zablog.up()
    zablog("topic", "create", "numbers")
    away = next(node for node in ("1", "2", "3") if node != zablog.leader())
    zablog("cluster", "kill", away)
    lines = b"".join(b"%d\n" % number for number in range(30_000))
    zablog("produce", "numbers", stdin=lines)

    zablog("cluster", "start", away)

    assert b"\n".join(zablog.consumed("numbers", "--node", away)) + b"\n" == lines
