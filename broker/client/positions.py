"""Where a consumer starts and stops: what a caller may say, and the question to a node that it comes down to. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from broker.errors import BadRequest, NoStartPosition, OffsetOutOfRange
from broker.protocol import OffsetQuery, Where
from zablog.core.zxid import COUNTER_MAX, EPOCH_MAX, Zxid

Start = Literal["earliest", "latest"] | int | datetime | Zxid | Mapping[tuple[str, int], int]
"""An offset means one partition; a mapping gives the offset of each (topic, partition)."""
Stop = Literal["end"] | int | datetime | Zxid | Mapping[tuple[str, int], int]
"""Exclusive. "end" is each partition's end when the consumer opens; the others as in Start."""


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970. Raises BadRequest for a time without a zone: it could be meant two ways."""
    if moment.tzinfo is None:
        raise BadRequest(f"{moment.isoformat()} has no time zone", hint="datetime.now(timezone.utc), or .astimezone()")
    return max(0, int(moment.timestamp() * 1000))


def query(place: Start | Stop, topic: Zxid, partition: int) -> OffsetQuery | None:
    """The question that `place` comes down to; None if it is an offset already."""
    match place:
        case "earliest":
            return OffsetQuery(topic, partition, Where.FIRST)
        case "latest" | "end":
            return OffsetQuery(topic, partition, Where.END)
        case datetime():
            return OffsetQuery(topic, partition, Where.TIME, time=milliseconds(place))
        case Zxid():
            return OffsetQuery(topic, partition, Where.ZXID, zxid=place)
        case _:
            return None


def check(place: object, what: str, partitions: int) -> None:
    """Refuse what is no place, or too little of one. Raises NoStartPosition or BadRequest."""
    if place is None:
        raise NoStartPosition("this consumer was not told where to start")
    if isinstance(place, Zxid) and not (0 <= place.epoch <= EPOCH_MAX and 0 <= place.counter <= COUNTER_MAX):
        raise BadRequest(f"{what}={place}: no zxid is like that")
    if isinstance(place, Zxid | datetime | Mapping) or place in ("earliest", "latest", "end"):
        return
    if isinstance(place, bool) or not isinstance(place, int):
        raise BadRequest(f'{what}={place!r}: must be "earliest", "latest" or "end", an offset, a datetime, a Zxid or a mapping of offsets')
    if partitions > 1:
        raise BadRequest(
            f"{what}={place}: an offset belongs to one partition, and there are {partitions}",
            hint="choose one with partition=, or give a mapping of (topic, partition) to offset",
        )


def offset(place: Start | Stop, topic: str, partition: int) -> int:
    """The offset that `place` names by itself for this partition. Raises BadRequest if a mapping leaves it out."""
    if isinstance(place, Mapping):
        if (topic, partition) not in place:
            raise BadRequest(f"the mapping has no offset for {topic}/{partition}, which is read")
        return place[topic, partition]
    assert isinstance(place, int), "what is no offset was asked of a node"
    return place


def check_range(topic: str, partition: int, wanted: int, first: int, end: int) -> None:
    """Raises OffsetOutOfRange."""
    if not first <= wanted <= end:
        raise OffsetOutOfRange(
            f"{topic}/{partition} has no offset {wanted}: its offsets are {first} to {end - 1}, and the next record gets {end}"
            if end > first
            else f"{topic}/{partition} has no offset {wanted}: it is empty, and the next record gets {end}",
            first,
            end,
            hint=f'choose {first} to {end}, or "earliest" or "latest"',
        )
