"""For all tests: no example of hypothesis is timed, since machines are shared, and where the slow tests are left out there are fewer of
them; nodes within the process log to stderr, as servers do.
"""

import sys

import pytest
import structlog
from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=20, stateful_step_count=20)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("fast" if config.option.markexpr == "not slow" else "untimed")


class _Stderr:
    """Whatever stderr is at the moment: pytest puts another one in its place for each test."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, message: str) -> None:
        print(message, file=sys.stderr)

    log = debug = info = warning = error = critical = msg


structlog.configure(logger_factory=_Stderr)
