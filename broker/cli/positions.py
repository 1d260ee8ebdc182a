"""Where to start and where to stop: what --from and --until may say. A bad offset, time or zxid is refused, never guessed. Pure.

Offsets are plain numbers, times are moments with their zone, and places in the order of everything are zxids: the client's own
words for them.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from broker.cli.refusals import Usage
from broker.cli.settings import duration
from zablog.core.zxid import COUNTER_MAX, EPOCH_MAX, Zxid

OFFSET_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Count:
    """Stop after so many records."""

    records: int


Start = Literal["earliest", "latest"] | int | datetime | Zxid
Stop = Literal["end"] | Count | int | datetime

_STARTS: Final = "earliest, latest, an offset, a time such as 2026-01-31T12:00:00Z or -15m, or zxid:EPOCH.COUNTER"
_STOPS: Final = "end, +N records, an offset (exclusive), or a time such as 2026-01-31T12:00:00Z or -15m"


def start(text: str, now: datetime) -> Start:
    """What --from says. Raises Usage."""
    match text:
        case "earliest" | "latest":
            return text
    if text.startswith("zxid:"):
        match = re.fullmatch(r"zxid:(\d{1,10})\.(\d{1,20})", text)
        if match is None or int(match[1]) > EPOCH_MAX or int(match[2]) > COUNTER_MAX:
            raise Usage(f"--from {text}: not a zxid", hint="zxid:EPOCH.COUNTER, such as zxid:3.1041")
        return Zxid(int(match[1]), int(match[2]))
    return _offset_or_time("--from", text, now, _STARTS)


def stop(text: str, now: datetime) -> Stop:
    """What --until says. Raises Usage."""
    match text:
        case "end":
            return text
    if re.fullmatch(r"\+\d{1,18}", text) and int(text):
        return Count(int(text))
    return _offset_or_time("--until", text, now, _STOPS)


def _offset_or_time(what: str, text: str, now: datetime, choices: str) -> int | datetime:
    if text.isascii() and text.isdigit():
        if len(text) > 19 or int(text) > OFFSET_MAX:
            raise Usage(f"{what} {text}: no offset is that large", hint=f"0 to {OFFSET_MAX}")
        return int(text)
    moment = _time(text, now)
    if moment is None:
        raise Usage(f"{what} {text}: neither an offset nor a time nor a word for one", hint=choices)
    if moment > now:
        raise Usage(f"{what} {text} lies in the future: which records that means cannot be known yet", hint=choices)
    return moment


def _time(text: str, now: datetime) -> datetime | None:
    """RFC 3339, or a length of time ago. A time without a zone could be meant two ways, so it is none."""
    if re.fullmatch(r"-\d+(\.\d+)?(ms|s|m|h|d)", text):
        return now - timedelta(seconds=duration(text[1:], "time"))
    if not re.fullmatch(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", text):
        return None
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
