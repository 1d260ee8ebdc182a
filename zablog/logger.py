"""What a node tells of its life: one line an event, for whoever operates it.

    log = get_logger("zablog.node")
    log.info("role", node=3, role="leading")    ->    2026-11-28 10:02:52 [info     ] role      node=3 role=leading

A program that has loaded structlog gets the lines there, as it has configured it; and at a terminal structlog draws them in colour. A
server whose lines go into a file has no use for either, and structlog brings rich, pygments and asyncio: 40 ms and 6 MB in each process
of a cluster that starts. So there the same line is written by the few lines below.
"""

import os
import sys
import time

_QUOTED = frozenset(" \t=\r\n\"'")
"""A word with one of these in it is told from its neighbours by quotes."""


class Logger:
    """Use `get_logger`. An event is a few fixed words; what changes from one to the next are its named values."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name
        """Handed to structlog; our own lines do not show it."""

    def debug(self, event: str, **values: object) -> None:
        self._tell("debug", event, values)

    def info(self, event: str, **values: object) -> None:
        self._tell("info", event, values)

    def warning(self, event: str, **values: object) -> None:
        self._tell("warning", event, values)

    def error(self, event: str, **values: object) -> None:
        self._tell("error", event, values)

    def _tell(self, level: str, event: str, values: dict[str, object]) -> None:
        if "structlog" in sys.modules or _in_colour():
            import structlog

            getattr(structlog.get_logger(self.name), level)(event, **values)
        else:
            print(line(level, event, values), flush=True)


def get_logger(name: str) -> Logger:
    return Logger(name)


def line(level: str, event: str, values: dict[str, object]) -> str:
    """The line as structlog's console renderer writes it by default, without colours."""
    words = " ".join([f"{name}={_shown(values[name])}" for name in sorted(values)])
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} [{level:9}] {event:30} {words}".rstrip(" ")


def _shown(value: object) -> str:
    return value if isinstance(value, str) and _QUOTED.isdisjoint(value) else repr(value)


def _in_colour() -> bool:
    """Will a person see it? The same question as structlog's."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout is not None and sys.stdout.isatty())
