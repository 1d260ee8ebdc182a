"""`zablog bench`: how fast it is on this machine, with real processes, the real disk and the durable default."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli import where
from broker.cli.refusals import Usage
from broker.cli.settings import count as parse_count
from broker.cli.settings import size as parse_size
from broker.cli.terminal import Terminal, terminal
from broker.errors import Exit

if TYPE_CHECKING:
    from broker.bench.report import Peer
    from broker.bench.suite import Outcome, Plan

SIZE_MAX = 1 << 20


def bench(
    context: typer.Context,
    suite: Annotated[bool, typer.Option("--suite", help="Every case, several runs of each; about 20 minutes.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="One short run of each; the suite is done in under a minute.")] = False,
    size: Annotated[str, typer.Option(metavar="SIZE", help="Bytes of a value, without --suite.")] = "1KiB",
    count: Annotated[str, typer.Option(metavar="COUNT", help="Records of a run, without --suite.")] = "100k",
    acks: Annotated[str, typer.Option(metavar="LEVEL", help="none, leader, quorum or all, without --suite.")] = "quorum",
    producers: Annotated[int, typer.Option(min=1, max=1024, help="Each with a connection of its own, without --suite.")] = 1,
    window: Annotated[int, typer.Option(min=1, max=1 << 20, help="Records in flight, of all producers, without --suite.")] = 1024,
    nodes: Annotated[int, typer.Option("-n", "--nodes", min=1, max=9, help="How many nodes the cluster has that is made.")] = 3,
    only: Annotated[str, typer.Option(metavar="CASE,...", help="With --suite: these cases.")] = "",
    versus: Annotated[str, typer.Option("--vs", metavar="PEER,...", help="With --suite: other systems that are installed, or all.")] = "",
    directory: Annotated[Path | None, typer.Option("--dir", metavar="DIR", help="Below it the data lies while it runs.")] = None,
    port: Annotated[int | None, typer.Option(metavar="PORT", min=1024, max=65535, help="The first port of the cluster.")] = None,
    tcp: Annotated[bool, typer.Option("--tcp", help="Its nodes take TCP alone, as between machines.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the comparison.")] = None,
) -> int:
    """Measure: one load, or with --suite everything.

    A cluster of three processes is made for it and deleted behind it; with --cluster the one that runs there is measured, by loads
    alone. Nothing else should run on the machine meanwhile: the result says how much others used of it.

    Example: zablog bench --size 100 --count 1M --producers 4
    """
    import trio

    from broker.bench.suite import Plan

    screen = terminal(context)
    if (only or versus) and not suite:
        raise Usage("--only and --vs are for the suite", hint="zablog bench --suite --vs zookeeper,etcd")
    if directory is not None and not directory.is_dir():
        raise Usage(f"--dir {directory}: there is no such folder", hint="the data of a run lies below it in a folder of its own")
    given = screen.settings.cluster is not None
    if given and tcp:
        raise Usage("--tcp is for the cluster that the benchmark makes", hint="leave --cluster out, or start that one with --tcp")
    addresses = where.place(screen)[0] if given else []
    cases = [name.strip() for name in only.split(",") if name.strip()]
    plan = Plan(nodes, quick, cases, not given, addresses, directory, port, tcp=tcp)
    if suite:
        return trio.run(_ending_well, partial(_suite, screen, plan, versus, svg))
    value_bytes = parse_size(size, "--size")
    if not 1 <= value_bytes <= SIZE_MAX:
        raise Usage(f"--size {size}: a value has 1 byte to 1 MiB", hint="such as 100, 1KiB or 64KiB")
    records = parse_count(count, "--count")
    return trio.run(_ending_well, partial(_one, screen, plan, value_bytes, records, acks, producers, window))


async def _ending_well(measure: Callable[[], Awaitable[int]]) -> int:
    """Measure; SIGTERM ends it as Ctrl-C does, so that our own nodes are ended first. Also where Ctrl-C is ignored, as in a script."""
    import signal

    import trio

    async def listen() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                raise KeyboardInterrupt

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        code = await measure()
        nursery.cancel_scope.cancel()
    return code


async def _one(screen: Terminal, plan: Plan, size: int, count: int, acks: str, producers: int, window: int) -> int:
    from broker.bench import suite
    from broker.bench.load import Shape

    if acks not in ("none", "leader", "quorum", "all"):
        raise Usage(f"--acks {acks}: there is no such level", hint="none, leader, quorum or all")
    shape = Shape(size, window, producers, acks=acks)  # type: ignore[arg-type]  # one of the four, as was just seen
    return _show(screen, await suite.one(plan, shape, count, screen.note), [])


async def _suite(screen: Terminal, plan: Plan, versus: str, svg: Path | None) -> int:
    from broker.bench import peers, suite

    names = peers.chosen(versus)
    plan.check()
    found = await peers.run(names, quick=plan.quick, folder=plan.folder, say=screen.note)
    return _show(screen, await suite.run(plan, screen.note), found, svg)


def _show(screen: Terminal, outcome: Outcome, peers: list[Peer], svg: Path | None = None) -> int:
    from broker.bench import report
    from broker.bench.cases import OTHERS_CORES_MAX

    figures = outcome.figures
    document = report.document(figures, peers, outcome.machine, outcome.disturbed)
    screen.emit(document, report.rows(figures, peers), report.columns(peers))
    for peer in peers:
        screen.note(f"{peer.name}: skipped: {peer.skipped}" if peer.skipped else f"{peer.name} {peer.version}: its ack is {peer.ack}")
    for name, reason in figures.not_reached.items():
        screen.warn(f"{name} was not reached: {reason}")
    if outcome.machine.get("filesystem") == "tmpfs":
        screen.warn("the data lay in memory, not on a disk: an fsync costs nothing there; choose another place with --dir")
    for name, others in (("zablog", max(outcome.disturbed, default=0.0)), *((peer.name, peer.others_cores) for peer in peers)):
        if others > OTHERS_CORES_MAX:
            screen.warn(f"{name}: others used up to {others:.1f} processors of this machine meanwhile, so its figures are rough")
    if svg is not None:
        compared = {peer.name: peer.figures for peer in peers if not peer.skipped}
        units = {name: str(figure.unit) for name, figure in figures.found.items()}
        svg.write_text(report.drawing(figures.values, compared, units, report.DRAWN))
    return Exit.VERIFICATION if figures.not_reached else Exit.OK
