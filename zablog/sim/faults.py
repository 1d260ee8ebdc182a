"""What goes wrong, and how often: a mix drawn anew for each seed (swarm), so that every combination has its turn."""

import errno
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from random import Random
from typing import Any

from zablog.core.messages import AckEpoch, AckNewLeader, CEpoch, Diff, HistoryAnswer, HistoryQuery, NewEpoch, NewLeader, Trunc, UpToDate
from zablog.sim import damage, snapshots
from zablog.sim.ensemble import Ensemble

KINDS = (
    "crash",
    "power_loss",
    "blackout",
    "crash_in_write",
    "link_cut",
    "partition",
    "one_way",
    "pause",
    "slow_disk",
    "congestion",
    "rot",
    "crash_in_recovery",
    "disk_error",
    "rot_copy",
    "ambush",
    "partial",
    "slow_peer",
    "read_error",
    "disk_full",
    "hung_disk",
    "stale_copy",
)
APART = ("rot_sealed", "slow_clock", "hub")
"""Drawn only where there are checkpoints, since what nobody has any more is mended by the next one; where there are reads; and behind all
others, so that what those draw is what it was."""
WITH_FILES = ("rot_segment",)
"""Drawn only where an application keeps files of its own, and there are checkpoints: a peer's is what mends them."""
OUTSIDE = ("lost_write", "stale_file")
"""What no log on a quorum of disks can survive: a disk that says it has what it has not. Never drawn: only whoever asks for it gets it, and
what is broken then is counted apart, as a loss that was to be expected."""
SURVIVABLE = (*KINDS, *APART)
KNOWN = (*SURVIVABLE, *WITH_FILES, *OUTSIDE)
TRAPS = (CEpoch, NewEpoch, AckEpoch, Diff, Trunc, NewLeader, AckNewLeader, UpToDate)
"""What is said between the end of one reign and the next: a few milliseconds, which chance alone hardly ever hits."""
TRAPS_OF_HUBS = (*TRAPS, HistoryQuery, HistoryAnswer)
"""What is said where a history is taken from a follower, too: elsewhere that is so rare that such a trap would hardly ever spring."""


@dataclass(frozen=True, slots=True)
class Options:
    """A run: how many nodes, how long, and how many faults a second (virtual) of each kind. A kind that is not in `faults` never strikes.

    With `events`, the phase of faults ends after so many events, at the latest after `seconds`. `strikes` are the only faults that
    happen, by their numbers in the order of the run: the others are planned and then left out, which is how a failing run is shortened.
    """

    nodes: int = 3
    seconds: float = 4.0
    events: int | None = None
    proposals_per_second: int = 150
    faults: dict[str, float] = field(default_factory=dict)
    delay_micros: int = 1_000
    counter_max: int | None = None
    checkpoints_per_second: float = 0.0
    """Of all nodes together."""
    reads_per_second: float = 0.0
    """Linearizable ones, of each node that says it leads."""
    drift: float = 0.1
    """By how much of a tick the clocks of the nodes differ from each other at most, either way."""
    served_through_a_hub: bool = False
    """When the faults are over, only one node reaches all others for a while, and a quorum must serve all the same."""
    strikes: tuple[int, ...] | None = None

    def words(self) -> str:
        """As JSON: `from_words` reads it."""
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None})

    @classmethod
    def from_words(cls, words: str) -> "Options":
        """Raises ValueError where `words` are no options."""
        record = json.loads(words)
        known = {field.name for field in fields(cls)}
        if not isinstance(record, dict) or not record.keys() <= known:
            raise ValueError(f"options are an object with some of the keys {', '.join(sorted(known))}")
        faults: Any = record.get("faults", {})  # Any: JSON
        if not isinstance(faults, dict) or not faults.keys() <= set(KNOWN):
            raise ValueError(f"faults are numbers a second of some of {', '.join(KNOWN)}")
        numbers = [*faults.values(), *(record[key] for key in record.keys() - {"faults", "strikes"}), *(record.get("strikes") or ())]
        if not all(isinstance(number, int | float) and number >= 0 for number in numbers):
            raise ValueError("options are numbers, none of them below zero")
        return cls(**{**record, "strikes": tuple(record["strikes"]) if record.get("strikes") is not None else None})


RATE_MAX = 5.0
"""Faults a second of all kinds together. With more, nobody leads for long enough to do anything that could be broken."""
AWAITED_RATE = 10.0
"""Checkpoints a second in peace, while somebody waits for one that mends its files."""
SECONDS_MAX = 600.0
"""Virtual seconds in which a run has its events. A quiet one needs a hundred."""


def draw(
    random: Random,
    nodes: int | None = None,
    seconds: float = 4.0,
    events: int | None = None,
    kinds: Sequence[str] | None = None,
    more: Sequence[str] = (),
) -> Options:
    """The mix of one seed: most kinds are absent, for where everything fails at once nothing gets far enough to be broken.

    With `kinds` it is all of those and no others. `more` is what else can happen to this kind of ensemble. A run of many events always
    has checkpoints: else each start reads all of a long log.
    """
    chosen = kinds if kinds is not None else sorted(random.sample(KINDS, random.randint(1, 8)))
    faults = {kind: random.choice((0.3, 1.0, 3.0)) for kind in chosen}
    if "blackout" in faults:
        faults["blackout"] = min(faults["blackout"], 1.0)
    less = min(1.0, RATE_MAX / sum(faults.values())) if faults else 1.0
    faults = {kind: round(rate * less, 3) for kind, rate in faults.items()}
    options = Options(
        nodes=nodes or random.choice((3, 3, 3, 3, 5, 5)),
        seconds=seconds if events is None else SECONDS_MAX,
        events=events,
        proposals_per_second=random.choice((5, 30, 150, 400)),
        faults=faults,
        delay_micros=random.choice((300, 1_000, 15_000)),
        counter_max=random.choice((None, None, None, 25)),
        checkpoints_per_second=random.choice((0.0 if events is None else 0.5, 0.5, 2.0, 20.0)),
        drift=random.choice((0.1, 0.1, 0.3)),
    )
    if kinds is None and options.checkpoints_per_second > 0 and random.random() < 0.3:
        options.faults["rot_sealed"] = random.choice((0.3, 1.0))
    reads = random.choice((0.0, 0.0, 20.0, 100.0)) if kinds is None else 0.0
    if reads:
        options.faults["slow_clock"] = random.choice((0.3, 1.0))
    for kind in more if kinds is None and options.checkpoints_per_second > 0 else ():
        if random.random() < 0.3:
            options.faults[kind] = random.choice((0.3, 1.0))
    if kinds is None and random.random() < 0.3:
        options.faults["hub"] = random.choice((1.0, 3.0))
    return replace(options, reads_per_second=reads, served_through_a_hub=random.random() < 0.5)


class Injector:
    """Brings the faults of the options upon an ensemble. `counts` tells how often each happened."""

    def __init__(self, ensemble: Ensemble, options: Options) -> None:
        self.ensemble = ensemble
        self.options = options
        self.plans = Random(f"{ensemble.schedule.seed} faults")
        self.random = self.plans
        """A source of chance for each fault, so that one that is left out changes nothing about those behind it."""
        self.strikes: list[int] = []
        """The numbers of those that had an effect."""
        self.number = 0
        self.counts = dict.fromkeys(KNOWN, 0)
        self.active = True
        self.trap: type[object] | None = None
        self.traps = 0
        """How often the trap will spring."""
        if options.checkpoints_per_second > 0:
            ensemble.schedule.at(50_000, self.checkpoint)
        for kind in KNOWN:
            if options.faults.get(kind, 0) > 0:
                self.plan(kind)

    @property
    def outside(self) -> bool:
        """Did anything happen that nothing can survive?"""
        return any(self.counts[kind] for kind in OUTSIDE)

    def plan(self, kind: str) -> None:
        rate = self.options.faults[kind]
        self.ensemble.schedule.at(int(self.plans.expovariate(rate) * 1_000_000) + 1, self.strike, kind)

    def strike(self, kind: str) -> None:
        if not self.active:
            return
        self.plan(kind)
        self.number += 1
        if self.options.strikes is not None and self.number not in self.options.strikes:
            return
        self.random = Random(f"{self.ensemble.schedule.seed} fault {self.number}")
        node = self.random.choice(sorted(self.ensemble.nodes))
        self.ensemble.schedule.say(f"-- fault {self.number}: {kind} at {node}")
        if getattr(self, kind)(node):
            self.strikes.append(self.number)
            self.happened(kind, node)

    def happened(self, kind: str, node: int) -> None:
        """A fault had an effect: it is an event."""
        self.counts[kind] += 1
        self.ensemble.schedule.count(node, kind)

    def checkpoint(self) -> None:
        """Not a fault: somebody puts its state on the disk, and lets go of its log. In peace only while somebody may have need of it."""
        invariants = self.ensemble.invariants
        if self.active or invariants.faulty or invariants.decayed:
            rate = self.options.checkpoints_per_second
            rate = max(rate, AWAITED_RATE) if invariants.decayed and not self.active else rate
            self.ensemble.schedule.at(int(self.plans.expovariate(rate) * 1_000_000) + 1, self.checkpoint)
            node = self.plans.choice(sorted(self.ensemble.nodes))
            if snapshots.checkpoint(self.ensemble.nodes[node]):
                self.ensemble.schedule.count(node, "checkpoint")

    def crash(self, node: int) -> bool:
        return self.ensemble.kill(node, power_loss=False)

    def power_loss(self, node: int) -> bool:
        return self.ensemble.kill(node, power_loss=True)

    def blackout(self, node: int) -> bool:
        """All machines lose their power at once."""
        return sum(self.ensemble.kill(other, power_loss=True) for other in sorted(self.ensemble.nodes)) > 0

    def crash_in_write(self, node: int) -> bool:
        """The machine dies between two operations of its disk."""
        victim = self.ensemble.nodes[node]
        if not victim.running:
            return False
        victim.troubles.crash_at = self.random.randint(1, 12)
        victim.troubles.power_fails = self.random.random() < 0.7
        return True

    def crash_in_recovery(self, node: int) -> bool:
        """The process dies, and its next life dies between two operations of the disk while it recovers, or soon after."""
        if not self.ensemble.kill(node, power_loss=self.random.random() < 0.7):
            return False
        victim = self.ensemble.nodes[node]
        victim.troubles.crash_at = self.random.randint(1, 12)
        victim.troubles.power_fails = self.random.random() < 0.7
        return True

    def disk_error(self, node: int) -> bool:
        """A write, a sync or a renaming fails: the process must stop, and what the failed sync should have written may be gone for good."""
        victim = self.ensemble.nodes[node]
        victim.troubles.fail_at = self.random.randint(1, 8)
        victim.troubles.failure = self.random.choice((errno.EIO, errno.EIO, errno.ENOSPC))
        return victim.running

    def read_error(self, node: int) -> bool:
        """A file cannot be read, once: the process must stop, or not come up; only whoever sends a snapshot that it cannot read goes on."""
        victim = self.ensemble.nodes[node]
        victim.troubles.read_fail_at = self.random.randint(1, 20)
        return True

    def disk_full(self, node: int) -> bool:
        """For a while nothing more can be written: what is written is half there, and the process stops and does not come up."""
        victim = self.ensemble.nodes[node]
        victim.troubles.full = True
        self.ensemble.schedule.at(self.random.randint(100_000, 1_500_000), self.ensemble.mend_disk, node)
        return True

    def hung_disk(self, node: int) -> bool:
        """The next group commit takes seconds, as it does on a disk that is going to die."""
        victim = self.ensemble.nodes[node]
        if not victim.running:
            return False
        victim.troubles.hang_micros = self.random.randint(600_000, 4_000_000)
        return True

    def stale_copy(self, node: int) -> bool:
        """The power fails, and one of the two copies of a record is again what it was before it was written last."""
        victim = self.ensemble.nodes[node]
        return victim.running and damage.stale_copy(victim, self.random)

    def lost_write(self, node: int) -> bool:
        """The disk says that the log is synced, and has not even kept it for later."""
        victim = self.ensemble.nodes[node]
        victim.disk.lies += self.random.randint(1, 3)
        return victim.running

    def stale_file(self, node: int) -> bool:
        """The power fails, and the log's last file is again what it was before it was written last."""
        victim = self.ensemble.nodes[node]
        return victim.running and damage.stale_file(victim)

    def slow_clock(self, node: int) -> bool:
        """For a while a node's clock nearly stands still, and what it thinks of silence with it; otherwise it works as ever."""
        self.ensemble.nodes[node].tick_micros = 30 * self.ensemble.nodes[node].usual_micros
        self.ensemble.schedule.at(self.random.randint(300_000, 2_000_000), self.ensemble.mend_clock, node)
        return True

    def link_cut(self, node: int) -> bool:
        """One connection of all that there are: a link, or what a snapshot comes over. Those are rare, and so count several times."""
        nodes = self.ensemble.nodes
        wires = sorted(self.ensemble.network.wires)
        fetching = [id for id in sorted(nodes) if (transfer := nodes[id].transfer) is not None and transfer.wanted] * 4
        if not wires:
            return False
        number = self.random.randrange(len(wires) + len(fetching))
        if number < len(wires):
            self.ensemble.network.cut(*wires[number])
        elif (transfer := nodes[fetching[number - len(wires)]].transfer) is not None:
            transfer.lost = True
        return True

    def partition(self, node: int) -> bool:
        """Two groups that do not hear each other, for a while."""
        nodes = sorted(self.ensemble.nodes)
        side = set(self.random.sample(nodes, self.random.randint(0, len(nodes) // 2)))
        self.block({(a, b) for a in nodes for b in nodes if (a in side) != (b in side)})
        return bool(side)

    def one_way(self, node: int) -> bool:
        """What the node says to some others does not arrive, though it hears them."""
        others = [other for other in sorted(self.ensemble.nodes) if other != node]
        if others:
            self.block({(node, other) for other in self.random.sample(others, self.random.randint(1, len(others)))})
        return bool(others)

    def partial(self, node: int) -> bool:
        """Two nodes do not hear each other, and everybody else hears both."""
        other = self.random.choice([other for other in sorted(self.ensemble.nodes) if other != node] or [node])
        self.block({(node, other), (other, node)})
        return other != node

    def hub(self, node: int) -> bool:
        """The node reaches everybody, be it for the first time in a while, and nobody else reaches anybody but it."""
        self.ensemble.network.heal()
        leaves = [other for other in sorted(self.ensemble.nodes) if other != node]
        self.block({(a, b) for a in leaves for b in leaves if a != b})
        return len(leaves) > 1

    def slow_peer(self, node: int) -> bool:
        """All that the node says and hears is late, for a while."""
        self.ensemble.network.late[node] = self.random.choice((5_000, 40_000, 200_000))
        self.ensemble.schedule.at(self.random.randint(100_000, 1_500_000), self.ensemble.network.hasten, node)
        return True

    def block(self, pairs: set[tuple[int, int]]) -> None:
        self.ensemble.network.blocked |= pairs
        self.ensemble.schedule.say(f"nothing passes {sorted(pairs)}")
        self.ensemble.schedule.at(self.random.randint(50_000, 1_500_000), self.ensemble.network.heal)

    def pause(self, node: int) -> bool:
        victim = self.ensemble.nodes[node]
        if not victim.running or victim.paused is not None:
            return False
        victim.paused = []
        self.ensemble.schedule.say(f"{node} is stopped")
        self.ensemble.schedule.at(self.random.randint(20_000, 1_200_000), self.ensemble.resume, node, victim.life)
        return True

    def slow_disk(self, node: int) -> bool:
        victim = self.ensemble.nodes[node]
        victim.troubles.sync_micros = (1_000, self.random.choice((20_000, 400_000)))
        self.ensemble.schedule.at(self.random.randint(100_000, 1_000_000), self.ensemble.mend_disk, node)
        return True

    def rot(self, node: int) -> bool:
        """The power fails, and a bit of the last synced batch rots: it looks like a torn one. On a minority of disks at a time."""
        victim = self.ensemble.nodes[node]
        rotted = self.ensemble.invariants.rotted
        if (
            not victim.running
            or len(rotted | self.ensemble.invariants.faulty) >= (len(self.ensemble.nodes) - 1) // 2
            or not damage.rot(victim, self.random)
        ):
            return False
        rotted.add(victim.id)
        return True

    def rot_sealed(self, node: int) -> bool:
        """The power fails, and some of the log rots that was synced long ago. On a minority of disks at a time."""
        victim, invariants = self.ensemble.nodes[node], self.ensemble.invariants
        ill = invariants.rotted | invariants.faulty | {node}
        if not victim.running or len(ill) > (len(self.ensemble.nodes) - 1) // 2 or not damage.rot_sealed(victim, self.random):
            return False
        invariants.faulty.add(node)
        return True

    def rot_segment(self, node: int) -> bool:
        """Some of an application's file rots, with a power loss or under a running process. On a minority of disks at a time."""
        victim, invariants = self.ensemble.nodes[node], self.ensemble.invariants
        ill = invariants.decayed | invariants.faulty | {node}
        mendable = self.options.checkpoints_per_second > 0 and len(ill) <= (len(self.ensemble.nodes) - 1) // 2
        if not victim.running or not mendable or not damage.rot_segment(victim, self.random):
            return False
        invariants.decayed.add(node)
        return True

    def rot_copy(self, node: int) -> bool:
        """The power fails, and a bit rots in one of the two copies of what the node promised, or of who it is."""
        victim = self.ensemble.nodes[node]
        return victim.running and damage.rot_copy(victim, self.random)

    def ambush(self, node: int) -> bool:
        """From now on, the next few times that some message of a recovery arrives, its sender or receiver is struck. Counts when it is."""
        traps = TRAPS_OF_HUBS if "hub" in self.options.faults else TRAPS
        self.trap, self.traps = self.random.choice(traps), self.random.randint(1, 4)
        self.ensemble.schedule.witness = self.witness
        self.strikes.append(self.number)
        return False

    def witness(self, node: int, what: object) -> None:
        if self.active and isinstance(what, tuple) and type(what[1]) is self.trap:
            self.traps -= 1
            if self.traps == 0:
                self.ensemble.schedule.witness = None
            victim = self.random.choice((node, what[0]))
            self.ensemble.schedule.at(self.random.choice((1, 500, 5_000)) + self.random.randint(0, 500), self.spring, victim)

    def spring(self, node: int) -> None:
        """The trap: the node dies, or is cut off from everybody for a moment."""
        if not self.active:
            return
        self.ensemble.schedule.say(f"-- the ambush springs at {node}")
        others = [other for other in sorted(self.ensemble.nodes) if other != node]
        match self.random.randrange(4):
            case 0:
                struck = self.crash(node)
            case 1:
                struck = self.power_loss(node)
            case 2:
                struck = self.crash_in_write(node)
            case _:
                struck = self.ensemble.alive(node)
                self.ensemble.network.isolate(node)
                self.block({pair for other in others for pair in ((node, other), (other, node))})
        if struck:
            self.happened("ambush", node)

    def congestion(self, node: int) -> bool:
        victim = self.ensemble.nodes[node]
        if victim.running and victim.paused is None:
            victim.congest()
            return True
        return False
