"""Which cases are run, on which nodes, and that one which fails leaves the others their turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import trio

from broker.bench import cases, meters
from broker.bench.cases import BIG, CASES, GIGABYTE, HARMFUL, QUICK, WIDE, Bench, Case, Effort
from broker.bench.ensemble import Ensemble, made
from broker.bench.figures import Figures
from broker.bench.load import Shape
from broker.errors import BadRequest, NotAllowed

NODES: Final = 3
WIDE_NODES: Final = 5
NAMES: Final = tuple(case.name for case in (*CASES, *HARMFUL, *BIG))
QUICK_NAMES: Final = (
    "publish_100B", "publish_1KiB", "publish_64KiB", "publish_100B_many", "consume_100B", "latency", "failover_kill", "start_up",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for."""

    nodes: int = NODES
    quick: bool = False
    only: Sequence[str] = ()
    """Names of cases; all of them if empty."""
    wide: bool = True
    """With five nodes, too."""
    addresses: Sequence[str] = ()
    """Of a cluster that runs already; one of our own if empty."""
    folder: Path | None = None
    port: int | None = None
    tcp: bool = False
    """Our own nodes take TCP alone, as between machines."""

    def check(self) -> None:
        """Raises BadRequest or NotAllowed for what cannot be done."""
        if unknown := [name for name in self.only if name not in NAMES]:
            raise BadRequest(f"there is no case {unknown[0]}", hint=f"there are {', '.join(NAMES)}")
        harmful = [case.name for case in (*HARMFUL, *BIG) if case.name in self.only]
        if self.addresses and harmful:
            raise NotAllowed(
                f"{harmful[0]} kills nodes or fills disks, and is run on clusters of the benchmark's own only",
                hint="leave --cluster out: then it makes one",
            )

    @property
    def effort(self) -> Effort:
        return QUICK if self.quick else Effort()

    def chosen(self, table: Sequence[Case]) -> list[Case]:
        """The cases of a table that were asked for."""
        wanted = self.only or (QUICK_NAMES if self.quick else NAMES)
        return [case for case in table if case.name in wanted and not (self.addresses and case.ours)]


@dataclass(slots=True)
class Outcome:
    """What was measured, and on what."""

    figures: Figures = field(default_factory=Figures)
    machine: dict[str, object] = field(default_factory=dict)
    disturbed: list[float] = field(default_factory=list)


async def run(plan: Plan, say: Callable[[str], None]) -> Outcome:
    """Run the suite. Raises BadRequest, NotAllowed, and CommandFailed if not even a cluster can be started."""
    plan.check()
    outcome = Outcome()
    await _stage(plan, plan.chosen(CASES), plan.nodes, outcome, say)
    if plan.addresses:
        return outcome
    await _stage(plan, plan.chosen(HARMFUL), plan.nodes, outcome, say)
    await _stage(plan, plan.chosen(BIG), plan.nodes, outcome, say)
    if plan.wide and not plan.quick and not plan.only and plan.nodes != WIDE_NODES:
        also = [case for case in HARMFUL if case.name == "failover_kill"]
        await _stage(plan, [*WIDE, *also], WIDE_NODES, outcome, say, suffix=f"_{WIDE_NODES}_nodes")
    return outcome


async def one(plan: Plan, shape: Shape, records: int, say: Callable[[str], None]) -> Outcome:
    """One load: so many records published, as often as the plan's effort says, and read back."""
    plan.check()
    if records * shape.size > cases.BYTES_MAX:
        raise BadRequest(
            f"{records:,} records of {shape.size:,} bytes are {records * shape.size / GIGABYTE:.1f} GB; at most "
            f"{cases.BYTES_MAX / GIGABYTE:.0f} GB are published in one run",
            hint="choose a smaller --count or --size",
        )
    name = f"publish_{cases.label(shape.size)}"

    async def publish(bench: Bench) -> None:
        for _ in range(bench.effort.runs):
            await cases.publish_once(name, shape, bench, 120.0, records)

    async def consume(bench: Bench) -> None:
        await cases.consume(cases.label(shape.size), shape.size, bench)

    outcome = Outcome()
    effort = replace(plan.effort, runs=1 if plan.quick else 3, warm_up=0.5, records=max(1, records * shape.size // 100))
    table = [Case(name, publish, 600.0), Case(f"consume_{cases.label(shape.size)}", consume, 600.0)]
    await _stage(plan, table, plan.nodes, outcome, say, effort=effort)
    return outcome


async def _stage(
    plan: Plan,
    table: Sequence[Case],
    nodes: int,
    outcome: Outcome,
    say: Callable[[str], None],
    suffix: str = "",
    effort: Effort | None = None,
) -> None:
    """Run these cases on one cluster: the given one, or one that is made for them and gone behind them."""
    if not table:
        return
    if plan.addresses:
        outcome.machine = meters.machine(Path("/"))
        await _cases(table, Bench(Ensemble(plan.addresses), effort or plan.effort, outcome.figures, say, suffix, outcome.disturbed))
        return
    say(f"starting {nodes} nodes")
    async with made(nodes, plan.folder, plan.port, tcp=plan.tcp) as ensemble:
        assert ensemble.folder is not None, "it was made for us"
        outcome.machine = {**meters.machine(ensemble.folder), "tcp_alone": plan.tcp}
        await _cases(table, Bench(ensemble, effort or plan.effort, outcome.figures, say, suffix, outcome.disturbed))


async def _cases(table: Sequence[Case], bench: Bench) -> None:
    for case in table:
        bench.say(case.name + bench.suffix)
        if bench.ensemble.ours:
            with trio.move_on_after(cases.SETTLE_SECONDS):  # no case pays for what the one before it left behind, or gains by it
                await bench.ensemble.settled()
        begun = trio.current_time()
        with bench.part(case.name, case.limit):
            await case.run(bench)
        for node, words in bench.ensemble.ended().items() if bench.ensemble.ours else ():
            bench.missed(case.name, f"node {node} ended by itself, which is a defect: {words}")
            with bench.part(f"node {node} once more", cases.SETTLE_SECONDS):
                await bench.ensemble.start(node)
        bench.say(f"  ({trio.current_time() - begun:.1f} s)")
