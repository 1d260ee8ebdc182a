"""The options that every command has, taken from wherever they stand: before the command or behind it.

They are cut out of the arguments before typer sees them, so that no command has to repeat them. Behind `--` nothing is touched.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from broker.cli.refusals import Usage

HELP: Final = (
    "Everywhere, before or after the command: --cluster NAME|HOST:PORT,... (or $ZABLOG_CLUSTER, else `local`), --json, "
    "-q/--quiet, -v/--verbose, --timeout 30s (time without progress)."
)

_FLAGS: Final = {"--json": "json", "-q": "quiet", "--quiet": "quiet", "-v": "verbose", "--verbose": "verbose"}
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}


@dataclass(slots=True)
class Settings:
    """What was asked of every command alike."""

    cluster: str | None = None
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    timeout: float = 30.0
    """Seconds without progress after which a command gives up."""


def take(arguments: Sequence[str]) -> tuple[Settings, list[str]]:
    """The settings among the arguments, and what is left for the command. Raises Usage."""
    settings, rest = Settings(), list[str]()
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            return settings, [*rest, word, *words]
        if word in _FLAGS:
            setattr(settings, _FLAGS[word], True)
        elif name in ("--cluster", "--timeout"):
            if not equals:
                value = next(words, "")
            if not value:
                raise Usage(f"{name} needs a value", hint="--cluster NAME|HOST:PORT,...  --timeout 30s")
            if name == "--cluster":
                settings.cluster = value
            else:
                settings.timeout = duration(value, name)
        else:
            rest.append(word)
    return settings, rest


def size(text: str, what: str) -> int:
    """Bytes in `512MiB`, `10GiB`, `1GB`, or a plain number of bytes. Raises Usage."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:([KMGT])(i?)B|B|)", text)
    if match is None:
        raise Usage(f"{what} {text}: not a number of bytes", hint="such as 512MiB, 10GiB, 1GB or 1000000")
    number, unit, binary = match.groups()
    return int(float(number) * ((1024 if binary else 1000) ** " KMGT".index(unit) if unit else 1))


def count(text: str, what: str) -> int:
    """A number of records in `100k`, `1M` or plain digits, at least 1. Raises Usage."""
    match = re.fullmatch(r"(\d{1,12})([kM]?)", text)
    number = int(match[1]) * {"": 1, "k": 1000, "M": 10**6}[match[2]] if match else 0
    if number < 1:
        raise Usage(f"{what} {text}: not a number of records", hint="such as 5000, 100k or 1M")
    return number


def duration(text: str, what: str, days_max: int = 366) -> float:
    """Seconds in `500ms`, `30s`, `15m`, `7d`, or a plain number of seconds. Raises Usage."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= days_max * 86400:
        raise Usage(f"{what} {text}: not a length of time, of at most {days_max:,} days", hint="such as 500ms, 30s, 15m, 2h or 7d")
    return seconds
