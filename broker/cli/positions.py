"""Where to start and where to stop: what --from and --until may say. A bad offset, time or zxid is refused, never guessed. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from broker.cli.refusals import Usage
from broker.cli.settings import duration
from zablog.core.zxid import COUNTER_MAX, EPOCH_MAX, Zxid

OFFSET_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Offset:
    """This offset; for --until the first one that is not wanted."""

    offset: int


@dataclass(frozen=True, slots=True)
class Time:
    """The first record whose time is not below this; milliseconds since 1970."""

    milliseconds: int


@dataclass(frozen=True, slots=True)
class At:
    """The first record whose zxid is not below this."""

    zxid: Zxid


@dataclass(frozen=True, slots=True)
class Count:
    """So many records."""

    records: int


Start = Literal["earliest", "latest"] | Offset | Time | At
Stop = Literal["end"] | Count | Offset | Time

_STARTS: Final = "earliest, latest, an offset, a time such as 2026-01-31T12:00:00Z or -15m, or zxid:EPOCH.COUNTER"
_STOPS: Final = "end, +N records, an offset (exclusive), or a time such as 2026-01-31T12:00:00Z or -15m"


def start(text: str, now: float) -> Start:
    """What --from says; `now` is in seconds since 1970. Raises Usage."""
    if text == "earliest" or text == "latest":
        return text
    if text.startswith("zxid:"):
        match = re.fullmatch(r"zxid:(\d{1,10})\.(\d{1,20})", text)
        if match is None or int(match[1]) > EPOCH_MAX or int(match[2]) > COUNTER_MAX:
            raise Usage(f"--from {text}: not a zxid", hint="zxid:EPOCH.COUNTER, such as zxid:3.1041")
        return At(Zxid(int(match[1]), int(match[2])))
    if text.isascii() and text.isdigit():
        return Offset(_offset(text, "--from"))
    time = _time(text, now)
    if time is None:
        raise Usage(f"--from {text}: not a place to start", hint=_STARTS)
    return time


def stop(text: str, now: float) -> Stop:
    """What --until says. Raises Usage."""
    if text == "end":
        return "end"
    if re.fullmatch(r"\+\d{1,18}", text):
        if int(text) == 0:
            raise Usage(f"--until {text}: not a place to stop", hint=_STOPS)
        return Count(int(text))
    if text.isascii() and text.isdigit():
        return Offset(_offset(text, "--until"))
    time = _time(text, now)
    if time is None:
        raise Usage(f"--until {text}: not a place to stop", hint=_STOPS)
    return time


def _offset(text: str, what: str) -> int:
    if int(text) > OFFSET_MAX:
        raise Usage(f"{what} {text}: no offset is that large", hint=f"0 to {OFFSET_MAX}")
    return int(text)


def _time(text: str, now: float) -> Time | None:
    """RFC 3339, or a length of time ago. A time without a zone could be meant two ways, so it is not taken."""
    if text.startswith("-"):
        return Time(int((now - duration(text[1:], "time")) * 1000))
    if not re.fullmatch(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
    except ValueError:
        return None
    return Time(int(moment.timestamp() * 1000))
