"""Runs of whole ensembles from seeds: a safety phase in which anything may fail, then a healed phase that must come to an end."""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from zablog.core.state import Limits
from zablog.sim.ensemble import Ensemble
from zablog.sim.faults import Injector, Options, draw

COUNTS = (
    "seeds",
    "events",
    "seconds",
    "violations",
    "elections",
    "truncations",
    "checkpoints",
    "snapshots",
    "power_losses",
    "torn_tails",
    "partitions",
    "suspects",
    "repairs",
    "acked",
    "committed",
)


@dataclass(slots=True)
class Report:
    """What happened in one run, or in many."""

    seeds: int = 0
    events: int = 0
    seconds: float = 0.0
    violations: int = 0
    elections: int = 0
    truncations: int = 0
    torn_tails: int = 0
    suspects: int = 0
    repairs: int = 0
    checkpoints: int = 0
    snapshots: int = 0
    power_losses: int = 0
    partitions: int = 0
    acked: int = 0
    committed: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    hash: str = ""

    def add(self, other: "Report") -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for kind, count in other.faults.items():
            self.faults[kind] = self.faults.get(kind, 0) + count
        self.failures += other.failures

    def to_json(self) -> dict[str, Any]:
        """The counts, flat, and how often each kind of fault struck; `events_per_s` is for one core."""
        record = asdict(self)
        seconds = record.pop("seconds")
        return {**record, "events_per_s": round(self.events / seconds) if seconds else 0}


def run(seed: int, options: Options | None = None, tell: Callable[[str], None] | None = None, nodes: int | None = None) -> Report:
    """One run. A violation is counted and described in the report, with the whole set of options."""
    options = options or draw(Random(f"options {seed}"), nodes)
    begun = time.perf_counter()
    limits = Limits() if options.counter_max is None else Limits(counter_max=options.counter_max)
    ensemble = Ensemble(seed, options.nodes, limits=limits)
    ensemble.schedule.tell = tell
    ensemble.network.delay = (50, options.delay_micros)
    injector = Injector(ensemble, options)
    ensemble.schedule.at(1_000, ensemble.drive, options.proposals_per_second)
    ensemble.schedule.at(1_000, ensemble.tend)
    failures = []
    try:
        ensemble.schedule.run_until(int(options.seconds * 1_000_000))
        injector.active = False
        ensemble.heal()
        ensemble.finish()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        failures.append(
            f"seed {seed} at {ensemble.schedule.now / 1000:.3f} ms, event {ensemble.schedule.events}: {error or repr(error)} "
            f"({where.filename.rsplit('/', 1)[-1]}:{where.lineno}) with {options.words()}"
        )
    invariants = ensemble.invariants
    ensemble.schedule.hash.update(f"{invariants.digest} {[node.delivered[-1:] for node in ensemble.nodes.values()]}".encode())
    return Report(
        seeds=1,
        events=ensemble.schedule.events,
        seconds=time.perf_counter() - begun,
        violations=len(failures),
        elections=invariants.elections,
        truncations=invariants.truncations,
        torn_tails=sum(node.disk.torn_writes for node in ensemble.nodes.values()),
        suspects=invariants.suspects,
        repairs=invariants.repairs,
        snapshots=invariants.snapshots,
        checkpoints=invariants.checkpoints,
        power_losses=sum(node.power_losses for node in ensemble.nodes.values()),
        partitions=injector.counts["partition"] + injector.counts["one_way"],
        acked=len(ensemble.acknowledged),
        committed=len(invariants.committed),
        faults=injector.counts,
        failures=failures,
        hash=ensemble.schedule.hash.hexdigest(),
    )


def run_many(
    seeds: Iterable[int],
    nodes: int | None = None,
    workers: int = 1,
    pool: Callable[[int], Any] | None = None,
) -> Iterator[Report]:
    """A report a seed, as they come. `pool` makes anything with `imap_unordered` and `with`, as `multiprocessing.Pool` does."""
    jobs = [(seed, nodes) for seed in seeds]
    if workers <= 1:
        yield from map(run_job, jobs)
        return
    if pool is None:
        import multiprocessing

        pool = multiprocessing.get_context("spawn").Pool
    with pool(workers) as crew:
        yield from crew.imap_unordered(run_job, jobs)


def run_job(job: tuple[int, int | None]) -> Report:
    return run(job[0], nodes=job[1])
