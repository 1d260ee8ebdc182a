"""What happened in a run of the simulator, or in many: counts of everything that had its turn, and what was broken.

"Nothing was lost" says little without how often there was something to lose: so every kind of fault is counted, and every rare event.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zablog.sim.faults import Options

SUMS = (
    "seeds",
    "events",
    "proposals",
    "elections",
    "pulls",
    "broken_pulls",
    "hubs",
    "truncations",
    "checkpoints",
    "snapshots",
    "pieces",
    "resumptions",
    "superseded",
    "anew",
    "unread",
    "power_losses",
    "torn_tails",
    "partitions",
    "suspects",
    "repairs",
    "mended",
    "replaced",
    "read_stops",
    "stalls",
    "reads",
    "unavailable",
    "acked",
    "committed",
    "seconds",
)
HASHES = 1 << 64


class Failure(NamedTuple):
    """A run that broke a guarantee, and all that is needed to see it again."""

    seed: int
    options: Options
    guarantee: str
    """The class of the error: a guarantee of `zablog.sim.guarantees`, or AssertionError where the code broke a law of its own."""
    event: int
    """How many events had happened."""
    where: str
    reason: str
    strikes: tuple[int, ...] = ()
    """The numbers of the faults that had struck."""
    flag: str = ""
    """Of the kind of ensemble."""

    def words(self) -> str:
        return f"seed {self.seed}, event {self.event}: {self.reason} ({self.where}) with {self.options.words()}"

    @property
    def command(self) -> str:
        """What shows this run again, line by line."""
        return f"zablog simulate{self.flag} --seeds {self.seed} --options '{self.options.words()}' --trace"


@dataclass(slots=True)
class Report:
    """What happened in one run, or in many."""

    seeds: int = 0
    events: int = 0
    """Messages handled, operations of disks, faults, and proposals handed to a leader. Ticks do not count, nor do reads of disks."""
    seconds: float = 0.0
    """Of one core, busy."""
    proposals: int = 0
    elections: int = 0
    pulls: int = 0
    """Prospective leaders that took the best history of their quorum from a follower."""
    broken_pulls: int = 0
    """Those that began to, and gave up or died before they had it."""
    hubs: int = 0
    """Runs in which a quorum served, in the end, while only one node reached all others."""
    truncations: int = 0
    torn_tails: int = 0
    suspects: int = 0
    """Nodes that found the end of their log damaged when they started."""
    repairs: int = 0
    """Nodes that were given back what stood there, or were told that nothing did."""
    mended: int = 0
    """Logs that had rotted before their end and were put right: by their own snapshot, a peer's entries or a peer's snapshot."""
    replaced: int = 0
    """Those of them that begin at a peer's snapshot now."""
    checkpoints: int = 0
    snapshots: int = 0
    """Snapshots that a follower took from its leader in the place of its own log."""
    pieces: int = 0
    """Pieces of snapshots that a follower took."""
    resumptions: int = 0
    """Fetches of a snapshot that went on from what an earlier one had left on the disk."""
    superseded: int = 0
    """Fetches that did not end before a newer snapshot was offered."""
    anew: int = 0
    """Fetches that found what an earlier one had left torn, and began again."""
    unread: int = 0
    """Leaders that could not read a snapshot they were to send."""
    power_losses: int = 0
    partitions: int = 0
    read_stops: int = 0
    """Running nodes that stopped since a read failed."""
    stalls: int = 0
    """Leaders that made room since their disk hung."""
    unavailable: int = 0
    """Runs in which nobody could lead in the end, and rightly: more than a minority of logs were damaged, one of them within."""
    reads: int = 0
    """Linearizable reads that were answered."""
    acked: int = 0
    committed: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """What the kind of ensemble counts beside this."""
    found: list[Failure] = field(default_factory=list)
    losses: list[Failure] = field(default_factory=list)
    """What was broken where a disk had lied: nothing can prevent it, and the guarantees do not cover it."""
    trace: int = 0
    """The hash of the run's trace; of many runs, the sum of theirs, which does not depend on who came first."""

    @property
    def violations(self) -> int:
        return len(self.found)

    @property
    def failures(self) -> list[str]:
        return [failure.words() for failure in self.found]

    @property
    def hash(self) -> str:
        return f"{self.trace:016x}"

    def add(self, other: "Report") -> None:
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for kind, count in other.faults.items():
            self.faults[kind] = self.faults.get(kind, 0) + count
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        self.found += other.found
        self.losses += other.losses
        self.trace = (self.trace + other.trace) % HASHES

    def to_json(self) -> dict[str, Any]:
        """All counts, flat; those of faults begin with `fault_`. `events_per_s` is for one core."""
        record: dict[str, Any] = {name: getattr(self, name) for name in SUMS if name != "seconds"}
        record["events_per_s"] = round(self.events / self.seconds) if self.seconds else 0
        record["violations"] = self.violations
        record["expected_losses"] = len(self.losses)
        record |= {f"fault_{kind}": count for kind, count in sorted(self.faults.items())}
        record |= self.counts
        record["hash"] = self.hash
        record["failures"] = [
            {"seed": failure.seed, "guarantee": failure.guarantee, "reason": failure.reason, "command": failure.command}
            for failure in self.found
        ]
        return record
