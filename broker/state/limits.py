"""The cluster's limits: replicated settings, changed by a command, below fixed maxima that every node accepts. Pure.

A default, a range and a law here are part of what `apply` computes: nodes that differ in them come to different states. Whoever
changes one, or adds a limit, does so under a new feature level (see `levels`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final, NamedTuple

from broker.records import BATCH_BYTES_MAX, RECORD_BYTES_MAX
from broker.state.commands import COMMAND_BYTES_MAX, PARTITIONS_MAX


class Range(NamedTuple):
    """What a limit may be set to, both ends included, and what it is for."""

    least: int
    most: int
    what: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What is allowed now. What is there already stays, whatever becomes of a limit."""

    record_bytes: int = RECORD_BYTES_MAX
    batch_bytes: int = BATCH_BYTES_MAX
    proposal_bytes: int = COMMAND_BYTES_MAX
    topics: int = 10_000
    topic_partitions: int = PARTITIONS_MAX
    partitions: int = 100_000
    producers: int = 10_000
    producer_window: int = 1024

    def changed(self, values: Mapping[str, int]) -> "Limits | str":
        """These limits with some others, or what is wrong with that, in words."""
        for name, value in values.items():
            if name not in RANGES:
                return f"there is no limit {name[:100]!r}, but {', '.join(RANGES)}"
            least, most, _ = RANGES[name]
            if not least <= value <= most:
                return f"limit {name}: {value:,} is not from {least:,} to {most:,}"
        limits = replace(self, **values)
        for smaller, larger in NESTED:
            inner, outer = getattr(limits, smaller), getattr(limits, larger)
            if 2 * inner > outer:
                return f"limit {larger} would be {outer:,}, and it must be at least twice {smaller}, which would be {inner:,}"
        return limits

    def values(self) -> dict[str, int]:
        """By name, in the order of the fields."""
        return asdict(self)


DEFAULTS: Final = Limits()


def limits_of(values: Iterable[tuple[str, int]]) -> Limits:
    """What a node said. Names that a later build added are left out, and what an earlier one did not know is as it is by default."""
    return replace(DEFAULTS, **{name: value for name, value in values if name in RANGES})


RANGES: Final[Mapping[str, Range]] = {
    "record_bytes": Range(1 << 10, BATCH_BYTES_MAX // 2, "key, value and headers of one record; producers see to it"),
    "batch_bytes": Range(1 << 20, BATCH_BYTES_MAX, "one record batch, as it is stored"),
    "proposal_bytes": Range(2 << 20, COMMAND_BYTES_MAX, "all batches that are appended at once"),
    "topics": Range(1, 100_000, "topics in the cluster"),
    "topic_partitions": Range(1, PARTITIONS_MAX, "partitions of one topic"),
    "partitions": Range(1, 1_000_000, "partitions of all topics together"),
    "producers": Range(1, 100_000, "producers remembered; above it, a new one takes the place of the longest unused"),
    "producer_window": Range(8, 4096, "requests that a new producer may have under way"),
}
"""The maxima are what buffers, tables and messages of every node were made for."""

NESTED: Final = (("record_bytes", "batch_bytes"), ("batch_bytes", "proposal_bytes"))
"""The second is at least twice the first: a producer can then fill batches and requests without looking at each record's place in them."""


def reached(name: str, limits: Limits, what: str) -> str:
    """The words of a refusal: what was asked for, the limit, and how to raise it."""
    most = RANGES[name].most
    value = getattr(limits, name)
    way = f"`zablog limits set {name} N` raises it, up to {most:,}" if value < most else "it cannot be raised any further"
    return f"{what}: the limit {name} is {value:,}; {way}"
