"""`zablog cluster`: a cluster on this machine, or the born directories of one for several machines."""

from pathlib import Path
from typing import Annotated

import typer

from broker.cli import birth, local, where
from broker.cli.birth import FIRST_PORT
from broker.cli.settings import HELP
from broker.cli.terminal import Terminal, terminal
from broker.errors import Exit, NoCluster

app = typer.Typer(help="Make, start, look at and stop clusters.", rich_markup_mode=None, no_args_is_help=True, epilog=HELP)

_Number = Annotated[int, typer.Argument(metavar="NODE", help="The number of a node.", show_default=False)]


@app.command(epilog=HELP)
def init(
    context: typer.Context,
    nodes: Annotated[str, typer.Option(metavar="HOST:PORT,...", help="Where each node will listen, for its peers and for clients.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the directories are written, one a node.")],
) -> None:
    """Write one born directory a node, to be carried to its machine and started there with `zablog server`.

    Example: zablog cluster init --nodes 10.0.0.1:7401,10.0.0.2:7401,10.0.0.3:7401 --out born
    """
    screen = terminal(context)
    addresses = birth.parse_addresses(nodes)
    cluster = birth.bear(out, addresses)
    rows = [
        {"id": node, "address": address, "configuration": str(birth.configuration_file(out, node))}
        for node, address in enumerate(addresses, start=1)
    ]
    screen.emit({"cluster": cluster, "nodes": rows}, rows, ("id", "address", "configuration"))
    if len(addresses) % 2 == 0:
        screen.warn(f"{len(addresses)} nodes survive the loss of no more nodes than {len(addresses) - 1} would")
    screen.note("carry each directory to its machine and start it with: zablog server nodeN/node.toml")


@app.command(epilog=HELP)
def up(
    context: typer.Context,
    count: Annotated[
        int | None, typer.Option("-n", "--nodes", min=1, max=255, help="How many nodes a new cluster has; 3 if not said.")
    ] = None,
    directory: Annotated[Path | None, typer.Option("--dir", metavar="DIR", help="Where a new cluster is kept.")] = None,
    port: Annotated[int, typer.Option(metavar="PORT", min=1024, max=65535, help="The first port a new cluster tries.")] = FIRST_PORT,
    tcp: Annotated[bool, typer.Option("--tcp", help="Nodes of a new cluster take TCP alone, no Unix sockets.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it serves; it goes on running.")] = False,
) -> int:
    """Start the local cluster, one process a node; make it first if there is none. Ctrl-C stops it, unless --detach.

    Example: zablog cluster up -n 3 --detach
    """
    from broker.cli import running

    return running.up(terminal(context), where.named(terminal(context)), count, directory, port, detach, tcp)


@app.command(epilog=HELP)
def start(context: typer.Context, node: _Number) -> None:
    """Start a node of the local cluster again.

    Example: zablog cluster start 2
    """
    from broker.cli import running

    running.start(terminal(context), where.local_cluster(terminal(context)), node)


@app.command(epilog=HELP)
def kill(context: typer.Context, node: _Number) -> None:
    """kill -9 a node of the local cluster, to see what happens.

    Example: zablog cluster kill 1
    """
    screen, cluster = terminal(context), where.local_cluster(terminal(context))
    with cluster.changing():
        if not cluster.kill(node):
            raise NoCluster(f"node {node} of cluster {cluster.name} is not running", hint=f"zablog cluster start {node}")
    screen.note(f"node {node} is dead; bring it back with: zablog cluster start {node}")


@app.command(epilog=HELP)
def down(
    context: typer.Context,
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete the cluster and all its data, too.")] = False,
) -> None:
    """Stop the local cluster, node by node.

    Example: zablog cluster down
    """
    screen, cluster = terminal(context), where.local_cluster(terminal(context))
    with cluster.changing():
        stopped = [node.id for node in cluster.running]
        cluster.stop()
        if wipe:
            local.wipe(cluster)
    screen.note(
        f"cluster {cluster.name}: {len(stopped)} nodes stopped"
        + (", its data deleted" if wipe else f"; its data stays in {cluster.directory}")
    )


@app.command(epilog=HELP)
def status(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again each second, until Ctrl-C.")] = False,
) -> int:
    """Who leads, in which epoch, and how far each node is. Exit code 3 if nobody leads.

    Example: zablog cluster status --watch
    """
    import trio

    screen = terminal(context)
    addresses, cluster = where.place(screen)
    if watch:
        trio.run(_watch, screen, addresses, cluster)
    return trio.run(_show, screen, addresses, cluster)


async def _show(screen: Terminal, addresses: list[str], cluster: str | None) -> int:
    from broker.cli.survey import COLUMNS, survey

    seen = await survey(addresses, min(screen.settings.timeout, 2.0), cluster)
    document = seen.document()
    rows = document["nodes"]
    assert isinstance(rows, list), "a survey lists nodes"
    screen.emit(document, rows, COLUMNS)
    if seen.leader is not None:
        level = document["feature_level"]
        screen.note(f"cluster {document['cluster']}: node {seen.leader.id} leads epoch {seen.leader.epoch}, feature level {level}")
        return Exit.OK
    if not any(seen.answers.values()):
        raise NoCluster(f"no node answered at {', '.join(addresses)}", hint="zablog cluster up --detach")
    screen.warn("nobody leads: without a quorum of nodes nothing can be written")
    return Exit.NO_CLUSTER


async def _watch(screen: Terminal, addresses: list[str], cluster: str | None) -> None:
    import sys

    import trio

    while True:
        if sys.stdout.isatty() and not screen.settings.json:
            sys.stdout.write("\033[H\033[2J")
        try:
            await _show(screen, addresses, cluster)
        except NoCluster as error:
            screen.refuse(error)
        await trio.sleep(1)
