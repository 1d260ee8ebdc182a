"""A cluster of real processes for each test, gone when the test is over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_ports
from tests.system.driving import Zablog


@pytest.fixture
def zablog(tmp_path: Path) -> Iterator[Zablog]:
    command = Zablog(tmp_path / "state", free_ports(1)[0])
    yield command
    for name in ("local", "demo"):
        command("--cluster", name, "cluster", "down", check=False)
