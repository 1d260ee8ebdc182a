"""Clusters that start on one machine at once, each of somebody who knows nothing of the others."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.ports import free_ports
from tests.system.driving import Zablog

pytestmark = pytest.mark.slow

CLUSTERS = 3


@pytest.fixture
def zablogs(tmp_path: Path) -> Iterator[list[Zablog]]:
    port = free_ports(1)[0]
    commands = [Zablog(tmp_path / f"state{number}", port) for number in range(CLUSTERS)]
    yield commands
    for command in commands:
        command("cluster", "down", check=False)


async def test_clusters_that_are_started_at_once_take_ports_of_their_own(zablogs: list[Zablog]) -> None:
    async with trio.open_nursery() as nursery:
        for each in zablogs:
            nursery.start_soon(trio.to_thread.run_sync, each.up)

    seen = [each.status() for each in zablogs]

    assert len({str(status["cluster"]) for status in seen}) == CLUSTERS
    nodes = [node for status in seen for node in status["nodes"]]  # type: ignore[attr-defined]  # as JSON has it
    assert len({node["address"] for node in nodes}) == 3 * CLUSTERS
    assert all(node["pid"] for node in nodes)
    for each in zablogs:
        each("topic", "create", "orders")
