"""A cluster of real processes for each test, gone when the test is over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.driving import Zablog


@pytest.fixture
def ports(worker_id: str) -> Iterator[int]:
    """A range of ports that no other worker of this run tries first."""
    number = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 50
    return iter([20000 + 100 * number])


@pytest.fixture
def zablog(tmp_path: Path, ports: Iterator[int]) -> Iterator[Zablog]:
    command = Zablog(tmp_path / "state", next(ports))
    yield command
    for name in ("local", "demo"):
        command("--cluster", name, "cluster", "down", check=False)
