"""Starting a local cluster and standing by it: until a leader serves, and in the foreground until Ctrl-C.

A node that ends before the cluster serves is reported with its own last words and its own exit code; one that ends later is
reported and left dead, for whoever killed it may want to see that.
"""

import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from broker.cli import birth, local
from broker.cli.local import LocalCluster
from broker.cli.refusals import ClusterRunning, Usage
from broker.cli.terminal import Terminal
from broker.errors import Exit, NoQuorum

if TYPE_CHECKING:
    import trio

    from broker.cli.survey import Survey

LOOK_SECONDS = 0.02
"""How often a starting cluster is looked at."""
SLOW_SECONDS = 5.0
"""How long a cluster that serves is waited for to have all its nodes."""


def up(screen: Terminal, name: str, count: int | None, directory: Path | None, port: int, detach: bool, tcp: bool) -> int:
    """`zablog cluster up`."""
    if ":" in name:
        raise Usage(f"cluster up makes a cluster on this machine, of a name; {name} are addresses", hint="zablog --cluster NAME cluster up")
    cluster = local.find(name)
    if cluster is not None and directory is not None and directory.absolute().resolve() != cluster.directory:
        raise ClusterRunning(
            f"cluster {name} lies in {cluster.directory}", hint="choose another name with --cluster NAME, or leave --dir out"
        )
    if cluster is not None and tcp:
        raise Usage(
            f"cluster {name} is there already, and --tcp is for a new one",
            hint=f"write unix_sockets = false into {cluster.directory}/node*/node.toml",
        )
    with ExitStack() as turn:
        # Also where the ports are chosen: until our nodes listen at them they are free to whoever looks.
        turn.enter_context(birth.choosing())
        if cluster is None:
            cluster = local.make(name, directory, count or 3, first_port=port, unix_sockets=not tcp)
            screen.note(f"cluster {name} is born in {cluster.directory}")
        elif count is not None and count != len(cluster.nodes):
            raise Usage(
                f"cluster {name} has {len(cluster.nodes)} nodes, not {count}",
                hint=f"zablog --cluster {name} cluster down --wipe  deletes it",
            )
        launch(cluster)
        try:
            _show(screen, cluster, until_served(cluster, screen.settings.timeout))
            turn.close()
            if not detach:
                import trio

                return trio.run(stand_by, screen, cluster)
        except BaseException:
            with cluster.changing():
                cluster.stop()
            raise
    return Exit.OK


def launch(cluster: LocalCluster) -> None:
    """Start every node. Raises ClusterRunning if one runs already."""
    with cluster.changing():
        if cluster.running:
            dead = [node.id for node in cluster.nodes.values() if not node.alive]
            more = f"start what is dead with: zablog cluster start {dead[0]}" if dead else "zablog cluster status shows it"
            raise ClusterRunning(f"cluster {cluster.name} is running already, from {cluster.directory}", hint=more)
        cluster.up = True
        for number in cluster.nodes:
            cluster.start(number)


def until_served(cluster: LocalCluster, seconds: float) -> "Survey":
    """Wait until a leader serves and every node that runs follows it. Raises how a node ended, if that leaves no quorum.

    What is needed to ask them is loaded only now, while they load what they need themselves.
    """
    from broker.cli.asking import Asked
    from broker.cli.survey import Survey

    begun = time.monotonic()
    with ExitStack() as connections:
        nodes = {number: connections.enter_context(Asked(node.address, cluster.cluster)) for number, node in cluster.nodes.items()}
        while True:
            alive = {number: node.alive for number, node in cluster.nodes.items()}
            if sum(alive.values()) <= len(alive) // 2:
                raise cluster.why_it_ended(next(number for number in alive if not alive[number]))
            seen = Survey({node.address: node.status(1.0) if alive[number] else None for number, node in nodes.items()})
            quiet = any(alive[number] and seen.answers[node.address] is None for number, node in nodes.items())
            waited = time.monotonic() - begun
            # One that is slow to come must not hold up a cluster that serves without it.
            if seen.leader is not None and ((seen.settled and not quiet) or waited > SLOW_SECONDS):
                return seen
            if waited > seconds:
                raise NoQuorum(
                    f"cluster {cluster.name}: no leader within {seconds:g} s",
                    hint=f"the nodes' logs are {cluster.directory}/node*/server.log",
                )
            time.sleep(LOOK_SECONDS)


async def stand_by(screen: Terminal, cluster: LocalCluster) -> int:
    """Report nodes that end, until Ctrl-C, SIGTERM or `cluster down` from elsewhere. Then stop the nodes in order."""
    import trio

    screen.note("Ctrl-C stops it")
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, screen, cluster, nursery.cancel_scope)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break
    with cluster.changing():
        if cluster.up:
            screen.note("stopping")
            cluster.stop()
    return Exit.OK


async def _watch(screen: Terminal, cluster: LocalCluster, scope: "trio.CancelScope") -> None:
    import trio

    alive = {node.id for node in cluster.running}
    while True:
        await trio.sleep(0.2)
        for child in cluster.children.values():
            child.poll()  # nobody else waits for them
        cluster.load()
        if not cluster.up:
            scope.cancel()
            return
        now = {node.id for node in cluster.running}
        for number in sorted(alive - now):
            screen.note(f"node {number} has ended; start it again with: zablog cluster start {number}   (log: {cluster.log(number)})")
        for number in sorted(now - alive):
            screen.note(f"node {number} runs again")
        alive = now


def start(screen: Terminal, cluster: LocalCluster, number: int) -> None:
    """`zablog cluster start`: returns once the node answers."""
    with cluster.changing():
        cluster.up = True
        if not cluster.start(number):
            raise ClusterRunning(f"node {number} of cluster {cluster.name} is running already", hint="zablog cluster status shows it")
        until_answered(cluster, number, screen.settings.timeout)
    screen.note(f"node {number} of cluster {cluster.name} is running")


def until_answered(cluster: LocalCluster, number: int, seconds: float) -> None:
    """Wait until the node's process answers. Raises how it ended, if it does."""
    from broker.cli.asking import Asked

    deadline = time.monotonic() + seconds
    with Asked(cluster.node(number).address, cluster.cluster) as node:
        while node.status(1.0) is None:
            if not cluster.node(number).alive:
                raise cluster.why_it_ended(number)
            if time.monotonic() > deadline:
                raise NoQuorum(f"node {number} does not answer within {seconds:g} s", hint=f"its log is {cluster.log(number)}")
            time.sleep(LOOK_SECONDS)


def _show(screen: Terminal, cluster: LocalCluster, seen: "Survey") -> None:
    from broker.cli.survey import COLUMNS

    document = seen.document()
    rows = document["nodes"]
    assert isinstance(rows, list), "a survey lists nodes"
    screen.emit(document, rows, COLUMNS)
    for node in cluster.nodes.values():
        if not node.alive:
            screen.warn(str(cluster.why_it_ended(node.id)))
    flag = "" if cluster.name == local.DEFAULT_NAME else f" --cluster {cluster.name}"
    screen.note(f"cluster {cluster.name} serves. Try: zablog{flag} topic create numbers; seq 10 | zablog{flag} produce numbers")
