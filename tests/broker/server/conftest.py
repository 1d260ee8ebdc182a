from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.broker.ensemble import Ensemble, open_ensemble


@pytest.fixture
async def ensemble(tmp_path: Path) -> AsyncIterator[Ensemble]:
    async with open_ensemble(tmp_path) as ensemble:
        yield ensemble
