"""Runs of whole ensembles from seeds: a safety phase in which anything may fail, then a healed phase that must come to an end."""

import gc
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any, Protocol

from zablog.core.state import Limits
from zablog.sim.ensemble import Ensemble
from zablog.sim.faults import Injector, Options, draw
from zablog.sim.guarantees import Unavailable, Violation
from zablog.sim.report import Failure, Report


class Pool(Protocol):
    """What a pool of workers must be able to do: `multiprocessing.Pool` does, and so do those of others that look like it."""

    def imap_unordered(self, function: Callable[[int], Report], seeds: Iterable[int], /) -> Iterable[Any]: ...


def run(
    seed: int,
    options: Options | None = None,
    tell: Callable[[str], None] | None = None,
    nodes: int | None = None,
    world: type[Ensemble] = Ensemble,
) -> Report:
    """One run of a kind of ensemble. A violation is counted and described in the report, with the whole set of options.

    `tell` takes the lines of the trace.
    """
    options = options or draw(Random(f"options {seed}"), nodes, more=world.more_faults)
    with uncollected():
        return ran(world, seed, options, tell)


def ran(world: type[Ensemble], seed: int, options: Options, tell: Callable[[str], None] | None) -> Report:
    begun = time.process_time()
    limits = Limits() if options.counter_max is None else Limits(counter_max=options.counter_max)
    ensemble = world(seed, options.nodes, limits=limits, drift=options.drift)
    schedule, invariants = ensemble.schedule, ensemble.invariants
    schedule.tell = tell
    ensemble.network.delay = (50, options.delay_micros)
    injector = Injector(ensemble, options)
    schedule.at(1_000, ensemble.drive, options.proposals_per_second)
    schedule.at(1_000, ensemble.tend)
    if options.reads_per_second > 0:
        schedule.at(1_000, ensemble.ask, options.reads_per_second)
    failures, unavailable, hubs = [], 0, False
    try:
        bounds = () if options.events is None else (options.events,)
        schedule.run_until(int(options.seconds * 1_000_000), *bounds)
        injector.active = False
        schedule.say("-- everything works again")
        ensemble.heal()
        if options.served_through_a_hub and options.nodes > 2:
            hubs = ensemble.serve_through_a_hub()
        ensemble.finish()
    except Unavailable as error:
        unavailable = 1
        schedule.say(f"-- unavailable: {error}")
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{schedule.now / 1000:.3f} ms, {frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        reason = str(error) or repr(error)
        name = type(error).__name__
        failures.append(Failure(seed, options, name, schedule.events, where, reason, tuple(injector.strikes), world.flag))
        schedule.say(f"!! {reason if isinstance(error, Violation) else f'{name}: {reason}'}")
    schedule.hash.update(f"{invariants.digest} {[node.delivered[-1:] for node in ensemble.nodes.values()]}".encode())
    nodes_of_it = ensemble.nodes.values()
    report = Report(
        seeds=1,
        events=schedule.events,
        proposals=ensemble.number,
        elections=invariants.elections,
        pulls=invariants.pulls,
        broken_pulls=invariants.pulls_begun - invariants.pulls,
        hubs=int(hubs),
        truncations=invariants.truncations,
        torn_tails=sum(node.disk.torn_writes for node in nodes_of_it),
        suspects=invariants.suspects,
        repairs=invariants.repairs,
        mended=sum(invariants.mended.values()),
        replaced=invariants.mended["a peer's snapshot"],
        snapshots=invariants.snapshots,
        checkpoints=invariants.checkpoints,
        pieces=invariants.pieces,
        resumptions=invariants.resumptions,
        superseded=invariants.superseded,
        anew=invariants.anew,
        unread=invariants.unread,
        power_losses=sum(node.power_losses for node in nodes_of_it),
        partitions=sum(injector.counts[kind] for kind in ("partition", "one_way", "partial")),
        read_stops=sum(node.read_errors for node in nodes_of_it),
        stalls=sum(node.stalls for node in nodes_of_it),
        reads=invariants.reads,
        unavailable=unavailable,
        acked=len(ensemble.acknowledged),
        committed=len(invariants.committed),
        faults=injector.counts,
        counts=ensemble.counts,
        found=[] if injector.outside else failures,
        losses=failures if injector.outside else [],
        trace=schedule.hash.intdigest(),
    )
    for part in (*nodes_of_it, ensemble.network, schedule, invariants, injector, ensemble):
        vars(part).clear()  # they hold each other; like this all that was made goes at once, without a search for what holds what
    report.seconds = time.process_time() - begun
    return report


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection within: a run keeps what it makes, and to look through it again and again takes a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def run_many(
    seeds: Sequence[int],
    nodes: int | None = None,
    workers: int = 1,
    pool: Pool | None = None,
    events: int | None = None,
    kinds: Sequence[str] | None = None,
    world: type[Ensemble] = Ensemble,
) -> Iterator[Report]:
    """A report a seed, as they come: from `pool` if there is one, else from so many processes of our own.

    `events` is how long each phase of faults is, `kinds` which faults there are; what is not said is drawn from the seed.
    """
    job = partial(run_drawn, nodes=nodes, events=events, kinds=kinds, world=world)
    if pool is not None:
        yield from pool.imap_unordered(job, seeds)
    elif workers <= 1:
        yield from map(job, seeds)
    else:
        import multiprocessing

        with multiprocessing.get_context("spawn").Pool(workers) as crew:
            yield from crew.imap_unordered(job, seeds)


def run_drawn(
    seed: int,
    nodes: int | None = None,
    events: int | None = None,
    kinds: Sequence[str] | None = None,
    tell: Callable[[str], None] | None = None,
    world: type[Ensemble] = Ensemble,
) -> Report:
    """The run of a seed, with the options that are drawn from it."""
    return run(seed, draw(Random(f"options {seed}"), nodes, events=events, kinds=kinds, more=world.more_faults), tell, world=world)
