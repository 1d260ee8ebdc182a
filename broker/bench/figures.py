"""Figures: what a run has measured, the median of several runs, and how two systems compare. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil
from statistics import median
from typing import Final


class NotReached(Exception):
    """There is nothing to make a figure of."""


class Unit(StrEnum):
    """What a figure counts. Of rates more is better, of everything else less."""

    RATE = "records/s"
    MILLISECONDS = "ms"
    SECONDS = "s"
    CPU = "CPU s per million records"
    MEGABYTES = "MB"
    WRITTEN = "bytes written per byte accepted"

    @property
    def more_is_better(self) -> bool:
        return self is Unit.RATE


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure of one run."""

    name: str
    value: float
    unit: Unit


@dataclass(slots=True)
class Figure:
    """All that was read under one name."""

    unit: Unit
    runs: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The median of the runs."""
        return median(self.runs)


@dataclass(slots=True)
class Figures:
    """Everything that was measured, by name, and why the rest was not."""

    found: dict[str, Figure] = field(default_factory=dict)
    not_reached: dict[str, str] = field(default_factory=dict)
    """Cases, or runs of them, that ended without a figure, and what they ended with."""

    def add(self, readings: Iterable[Reading]) -> None:
        for reading in readings:
            figure = self.found.setdefault(reading.name, Figure(reading.unit))
            assert figure.unit is reading.unit, "a name has one unit"
            figure.runs.append(reading.value)

    @property
    def values(self) -> dict[str, float]:
        """The medians, by name."""
        return {name: figure.value for name, figure in self.found.items()}


QUANTILES: Final[Mapping[str, float]] = {"p50": 0.5, "p99": 0.99}
TAIL: Final = 0.999


def percentile(values: Sequence[float], quantile: float) -> float:
    """The smallest value that at least `quantile` (above 0, at most 1) of all `values` do not exceed: always one that was measured."""
    assert values and 0 < quantile <= 1, "a percentile is of something"
    return sorted(values)[ceil(quantile * len(values)) - 1]


def latencies(name: str, seconds: Sequence[float]) -> list[Reading]:
    """`name_p50` and `name_p99` of one run, in milliseconds. Raises NotReached without samples.

    A percentile that fewer than ten samples lie beyond is left out: p99 of 50 samples is their maximum, and says nothing.
    """
    if not seconds:
        raise NotReached(f"{name}: nothing was measured")
    return [
        Reading(f"{name}_{label}", percentile(seconds, quantile) * 1000, Unit.MILLISECONDS)
        for label, quantile in QUANTILES.items()
        if quantile == 0.5 or len(seconds) * (1 - quantile) >= 10
    ]


def tail(name: str, seconds: Sequence[float]) -> list[Reading]:
    """`name_p999` of all runs together, since one alone has too few samples; nothing if all have."""
    enough = round(len(seconds) * (1 - TAIL), 6) >= 10
    return [Reading(f"{name}_p999", percentile(seconds, TAIL) * 1000, Unit.MILLISECONDS)] if enough else []


def ratios(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
    """Ours divided by theirs, for every name that both have. A figure of theirs that is not above 0 compares with nothing."""
    return {name: value / theirs[name] for name, value in ours.items() if theirs.get(name, 0) > 0}


def words(value: float) -> str:
    """A figure for a person: three digits where there are fewer before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
