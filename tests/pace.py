"""Which parameters of a test are run each time, and which with all tests only: the fast ones share about a minute."""

from collections.abc import Iterable
from typing import TypeVar

import pytest

Value = TypeVar("Value")


def few(values: Iterable[Value], fast: int = 1) -> list[object]:
    """The values as parameters, all but the first `fast` marked slow. A tuple is one parameter of several names."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=[pytest.mark.slow] if number >= fast else [])
        for number, value in enumerate(values)
    ]
