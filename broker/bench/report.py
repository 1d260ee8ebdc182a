"""The result: as JSON, as the rows of a table, as a drawing. Pure.

    {"ours": {"publish_1KiB": 61000, ...}, "peers": {"zookeeper": {"publish_1KiB": 13500, ...}},
     "ratios": {"zookeeper": {"publish_1KiB": 4.5, ...}}, "units": {...}, "runs": {...}, "not_reached": {...}, ...}

`ours` and `peers` hold medians under the same names where they mean the same; `ratios` are ours divided by theirs, of rates and of
times alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from broker.bench.figures import Figures, Unit, ratios, words

COLUMNS: Final = ("figure", "ours", "unit", "lowest", "highest", "runs")
DRAWN: Final = ("publish_100B", "publish_1KiB", "consume_100B_batches", "consume_1KiB_batches", "latency_p50", "failover_kill", "start_up")
"""The figures that the drawing shows: those that peers have too."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What another system reached, or why it was not measured."""

    name: str
    version: str = ""
    ack: str = ""
    """What its acknowledgement means: which of the copies are on a disk then."""
    figures: Mapping[str, float] = field(default_factory=dict)
    others_cores: float = 0.0
    """Processors that the rest of the machine used meanwhile, at most."""
    skipped: str = ""
    """Why it was not measured, if it was not."""


def document(figures: Figures, peers: Sequence[Peer], machine: Mapping[str, object], disturbed: Sequence[float]) -> dict[str, object]:
    """The object of `--json`."""
    ours = {name: _rounded(value) for name, value in figures.values.items()}
    measured = [peer for peer in peers if not peer.skipped]
    return {
        "ours": ours,
        "peers": {peer.name: dict(peer.figures) for peer in measured},
        "ratios": {peer.name: {name: _rounded(value) for name, value in ratios(figures.values, peer.figures).items()} for peer in measured},
        "units": {name: str(figure.unit) for name, figure in figures.found.items()},
        "runs": {name: [_rounded(value) for value in figure.runs] for name, figure in figures.found.items()},
        "not_reached": dict(figures.not_reached),
        "acks": {"zablog": "fsync on a quorum", **{peer.name: peer.ack for peer in measured}},
        "versions": {peer.name: peer.version for peer in measured},
        "skipped": {peer.name: peer.skipped for peer in peers if peer.skipped},
        "machine": dict(machine),
        "others_cores": {"zablog": _rounded(max(disturbed, default=0.0)), **{peer.name: _rounded(peer.others_cores) for peer in measured}},
    }


def rows(figures: Figures, peers: Sequence[Peer]) -> list[dict[str, object]]:
    """One row a figure, with a column for each peer: ours as so many times theirs."""
    measured = [peer for peer in peers if not peer.skipped]
    compared = {peer.name: ratios(figures.values, peer.figures) for peer in measured}
    table: list[dict[str, object]] = []
    for name, figure in figures.found.items():
        row: dict[str, object] = {
            "figure": name,
            "ours": words(figure.value),
            "unit": str(figure.unit),
            "lowest": words(min(figure.runs)),
            "highest": words(max(figure.runs)),
            "runs": len(figure.runs),
        }
        row |= {peer: f"{found[name]:.2f} x" for peer, found in compared.items() if name in found}
        table.append(row)
    table += [{"figure": name, "ours": "not reached"} for name in figures.not_reached if name not in figures.found]
    return table


def columns(peers: Sequence[Peer]) -> tuple[str, ...]:
    """Of that table."""
    return (*COLUMNS, *(peer.name for peer in peers if not peer.skipped))


# -- the drawing --------------------------------------------------------------------------------------------------------------------

_WIDTH: Final = 760
_LABEL: Final = 190
_BAR: Final = 18
_GAP: Final = 34
_COLOURS: Final = {"zablog": "#1f6feb"}
_OTHER: Final = "#9aa4b2"


def drawing(ours: Mapping[str, float], peers: Mapping[str, Mapping[str, float]], units: Mapping[str, str], names: Sequence[str]) -> str:
    """An SVG: for each of `names` that we have, a group of bars, ours first; each group has its own scale, from 0."""
    parts: list[str] = []
    y = 10
    for name in names:
        if name not in ours:
            continue
        bars = [("zablog", ours[name])] + [(peer, found[name]) for peer, found in peers.items() if name in found]
        more = units.get(name) == Unit.RATE
        text = f"{name}, {units.get(name, '')} ({'more' if more else 'less'} is better)"
        parts.append(f'<text x="0" y="{y + 12}" font-weight="bold">{escape(text)}</text>')
        y += 20
        largest = max(value for _, value in bars) or 1.0
        for system, value in bars:
            length = max(1.0, value / largest * (_WIDTH - _LABEL - 110))
            parts.append(f'<text x="{_LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(system)}</text>')
            parts.append(f'<rect x="{_LABEL}" y="{y + 2}" width="{length:.1f}" height="{_BAR - 4}" fill="{_COLOURS.get(system, _OTHER)}"/>')
            parts.append(f'<text x="{_LABEL + length + 6:.1f}" y="{y + 13}">{words(value)}</text>')
            y += _BAR
        y += _GAP - _BAR
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}" '
        'font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>', *parts, "</svg>"]) + "\n"


def _rounded(value: float) -> float:
    """Four digits: more would pretend a precision that no run has."""
    return float(f"{value:.4g}") if abs(value) < 1000 else round(value)
