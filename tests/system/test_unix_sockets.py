"""Processes of one machine meet by Unix sockets, unless they are told not to."""

import time
from pathlib import Path

import pytest

from tests.system.driving import Zablog

pytestmark = pytest.mark.skipif(not Path("/proc/net/unix").exists(), reason="there is no /proc/net/unix")

TABLE = Path("/proc/net/unix")
SECONDS = 10.0
LOOKS = 30
"""In a row, a hundredth of a second apart."""


def connections(address: str) -> int:
    """How many there are to the Unix socket beside this address, at its listener's end."""
    lines = TABLE.read_text().splitlines()
    return sum(line.endswith(f"@zablog/{address}") and line.split()[3] != "00010000" for line in lines)  # flags: who listens


def listens(address: str) -> bool:
    return any(line.endswith(f"@zablog/{address}") for line in TABLE.read_text().splitlines())


def addresses(zablog: Zablog) -> list[str]:
    nodes = zablog.status()["nodes"]
    assert isinstance(nodes, list)
    return [node["address"] for node in nodes]


def test_nodes_and_clients_meet_there(zablog: Zablog) -> None:
    zablog.up()
    zablog("topic", "create", "orders")
    places = addresses(zablog)
    assert all(listens(place) for place in places)
    # A node may not have heard yet that the clients before are gone, and a link still be on its way: both at once look like three, too.
    counts, until = list[int](), time.monotonic() + SECONDS
    while counts[-LOOKS:] != [3] * LOOKS and time.monotonic() < until:
        counts.append(sum(connections(place) for place in places))
        time.sleep(0.01)
    assert counts[-LOOKS:] == [3] * LOOKS, "each node has a link to each other one, and no client is there now"
    done = zablog("produce", "orders", stdin=b"a\nb\n")
    assert done.returncode == 0
    assert zablog.consumed("orders") == [b"a", b"b"]


def test_who_is_told_to_takes_tcp_alone(zablog: Zablog) -> None:
    zablog.up("--tcp")
    zablog("topic", "create", "orders")
    assert not any(listens(place) for place in addresses(zablog))
    zablog("produce", "orders", stdin=b"a\nb\n")
    assert zablog.consumed("orders") == [b"a", b"b"]
    zablog("cluster", "down")
    again = zablog("cluster", "up", "--detach", "--tcp", check=False)
    assert again.returncode == 2
    assert b"--tcp is for a new one" in again.stderr and b"unix_sockets = false" in again.stderr
    zablog.up()
    assert not any(listens(place) for place in addresses(zablog)), "it stands in their files"
