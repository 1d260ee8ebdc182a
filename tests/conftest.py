"""For all tests: no example of hypothesis is timed, since machines are shared; nodes within the process log to stderr, as servers do."""

import sys

import structlog
from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


class _Stderr:
    """Whatever stderr is at the moment: pytest puts another one in its place for each test."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, message: str) -> None:
        print(message, file=sys.stderr)

    log = debug = info = warning = error = critical = msg


structlog.configure(logger_factory=_Stderr)
