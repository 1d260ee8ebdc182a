"""`bin/demo`: three processes, a stream of lines, the death of the leader half way, and proof that nothing was lost.

What is compared in the end is not what the client believes but what each of the three nodes has on its own disk: its records are
read from that node alone and their SHA-256 set against the input's. The digest covers each record followed by a newline.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from random import randrange
from typing import Annotated, Final

import trio
import typer
from rich.console import Console
from rich.table import Table

from broker.cli import birth, local, running
from broker.cli.framing import Delimited
from broker.cli.local import LocalCluster
from broker.cli.refusals import ClusterRunning, NoSuchFile, NotEmpty
from broker.cli.survey import Survey, survey
from broker.cli.terminal import Terminal, terminal
from broker.client import Client, connect
from broker.client.consumer import Batches
from broker.errors import BrokerError, Exit

NAME: Final = "demo"
TOPIC: Final = "demo"
MAKER: Final = "bin/demo"
NODES: Final = 3
PORTS: Final = (8400, 18000)
"""Where its ports begin is drawn, so that two demos on one machine (of two users, of two checkouts) keep out of each other's way:
a port is free while the node that had it is dead."""
LOADS: Final = 40
"""The input is sent in about so many loads: small enough for "half way" to be half way."""
LOAD_RECORDS_MAX: Final = 2000
READ_BYTES: Final = 1 << 20

app = typer.Typer(name="demo", rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@dataclass(slots=True)
class Outcome:
    """What the demo has seen."""

    records: int = 0
    digest: str = ""
    """Of the input."""
    acked: int = 0
    send_seconds: float = 0.0
    killed: int = 0
    leader: int = 0
    epochs: tuple[int, int] = (0, 0)
    killed_at: float = 0.0
    failover_ms: float = 0.0
    digests: dict[str, str] = field(default_factory=dict)
    """Of every copy that was read: the consumer's and the nodes'."""
    counts: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    repeated: int = 0
    out_of_order: int = 0

    @property
    def well(self) -> bool:
        return len(self.digests) == NODES + 1 and all(each == self.digest for each in self.digests.values())

    def document(self) -> dict[str, object]:
        return {
            "records": self.records,
            "lost": self.lost,
            "repeated": self.repeated,
            "out_of_order": self.out_of_order,
            "failover_ms": round(self.failover_ms, 1),
            "records_per_s": round(self.acked / self.send_seconds) if self.send_seconds else 0,
            "nodes_compared": len([name for name in self.digests if name.startswith("node")]),
        }


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def demo(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Any text file; a log of 5,000 lines if none is named.")] = None,
) -> int:
    """bin/demo [FILE] [--json]: lose the leader half way through a stream, and nothing else.

    Three processes on this machine, a topic, the file streamed in line by line, a consumer reading along. Half way the leader is
    killed with -9, later started again. Then the records of all three nodes are compared with the input. --json ends with one line
    of JSON. Exit code 0 only if nothing was lost, repeated or out of order.
    """

    screen = terminal(context)
    if file is None:
        with as_file(files("broker.cli") / "shop.log") as shipped:
            return trio.run(run, screen, shipped)
    return trio.run(run, screen, file)


async def run(screen: Terminal, file: Path) -> int:
    """The demo, from the empty folder to the verdict."""

    outcome = Outcome()
    screen.note(f"reading {file}")
    outcome.records, outcome.digest = await trio.to_thread.run_sync(_measure, file)
    with ExitStack() as turn:
        await trio.to_thread.run_sync(turn.enter_context, birth.choosing())
        cluster = _born()
        try:
            screen.note(f"starting {NODES} processes; their data lies in {cluster.directory}")
            running.launch(cluster)
            await _served(screen, cluster)
            turn.close()
            await _through(screen, cluster, file, outcome)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_stop, cluster)
    _show(screen, cluster, outcome)
    return Exit.OK if outcome.well else Exit.VERIFICATION


async def _through(screen: Terminal, cluster: LocalCluster, file: Path, outcome: Outcome) -> None:
    """A leader lost half way, and what became of the stream."""
    await _stream_and_kill(screen, cluster, file, outcome)
    await _compare(screen, cluster, outcome)
    if not outcome.well:
        await _count_damage(cluster, file, outcome)


def _born() -> LocalCluster:
    """A new cluster in the place of the last demo's, which nobody needs any more unless it runs. Another's is left alone."""
    old = local.find(NAME)
    if old is not None:
        if old.made_by != MAKER:
            raise NotEmpty(f"{old.directory} holds a cluster that is not the demo's", hint=f"zablog --cluster {NAME} cluster down --wipe")
        if old.running:
            raise ClusterRunning(f"the last demo's cluster is running in {old.directory}", hint=f"zablog --cluster {NAME} cluster down")
        with old.changing():
            local.wipe(old)
    return local.make(NAME, None, NODES, first_port=randrange(*PORTS), made_by=MAKER)


def _stop(cluster: LocalCluster) -> None:
    with cluster.changing():
        cluster.stop()


async def _served(screen: Terminal, cluster: LocalCluster) -> Survey:
    return await trio.to_thread.run_sync(running.until_served, cluster, screen.settings.timeout, abandon_on_cancel=True)


async def _stream_and_kill(screen: Terminal, cluster: LocalCluster, file: Path, outcome: Outcome) -> None:
    """Send all lines, read them along, kill the leader half way and start it again."""

    half = trio.Event()
    leader = (await survey(cluster.addresses, cluster=cluster.cluster)).leader
    assert leader is not None, "the cluster serves"
    outcome.killed, outcome.epochs = leader.id, (leader.epoch, 0)
    async with connect(",".join(cluster.addresses), timeout=screen.settings.timeout, cluster=cluster.cluster) as client:
        await client.create_topic(TOPIC)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send, screen, client, file, outcome, half)
            nursery.start_soon(_read_along, client, outcome)
            nursery.start_soon(_kill_and_revive, screen, cluster, outcome, half)


async def _send(screen: Terminal, client: Client, file: Path, outcome: Outcome, half: trio.Event) -> None:

    screen.note(f"streaming {outcome.records:,} records, each acknowledged by the disks of a quorum")
    size = max(1, min(LOAD_RECORDS_MAX, outcome.records // LOADS))
    async with client.producer() as producer:
        begun = trio.current_time()
        for load in _loads(file, size):
            if outcome.acked + len(load) > outcome.records // 2:
                half.set()  # this very load is under way when the leader dies
            receipts = await producer.send_many(TOPIC, load)
            outcome.acked += len(receipts)
            _note_failover(outcome, receipts[-1].zxid.epoch)
        outcome.send_seconds = trio.current_time() - begun
    half.set()


def _note_failover(outcome: Outcome, epoch: int) -> None:
    """From the kill to the first answer of the next epoch."""
    if outcome.killed_at and not outcome.failover_ms and epoch > outcome.epochs[0]:
        outcome.failover_ms = (time.monotonic() - outcome.killed_at) * 1000


async def _read_along(client: Client, outcome: Outcome) -> None:
    async with client.consumer(TOPIC, start="earliest", stop={(TOPIC, 0): outcome.records}) as inbox:
        await _digest("consumer", inbox.batches(), outcome)


async def _kill_and_revive(screen: Terminal, cluster: LocalCluster, outcome: Outcome, half: trio.Event) -> None:

    await half.wait()
    outcome.killed_at = time.monotonic()
    with cluster.changing():
        cluster.kill(outcome.killed)
    screen.note(f"kill -9 of the leader, node {outcome.killed}, with {outcome.acked:,} records acknowledged")
    following = (await _served(screen, cluster)).leader
    assert following is not None, "it serves, so it has a leader"
    outcome.leader, outcome.epochs = following.id, (outcome.epochs[0], following.epoch)
    if outcome.acked == outcome.records:
        _note_failover(outcome, following.epoch)  # nothing is left to send: the new epoch itself has to do
    screen.note(f"node {following.id} leads epoch {following.epoch}; starting node {outcome.killed} again")
    with cluster.changing():
        cluster.start(outcome.killed)


async def _compare(screen: Terminal, cluster: LocalCluster, outcome: Outcome) -> None:
    """Read each node's own copy. One that has just come back is read until it has caught up."""

    await _served(screen, cluster)
    screen.note(f"comparing the records of all {NODES} nodes with the input")
    async with connect(",".join(cluster.addresses), timeout=screen.settings.timeout, cluster=cluster.cluster) as client:
        end = (await client.describe_topic(TOPIC)).partitions[0].end
        for node in cluster.nodes:
            with trio.move_on_after(max(60.0, outcome.records / 5000)):
                async with client.consumer(TOPIC, start="earliest", stop={(TOPIC, 0): end}, node=node) as inbox:
                    await _digest(f"node {node}", inbox.batches(), outcome)


async def _digest(name: str, batches: Batches, outcome: Outcome) -> None:

    sha, count = hashlib.sha256(), 0
    async for records in batches:
        sha.update(b"".join([(record.value or b"") + b"\n" for record in records]))
        count += len(records)
    outcome.digests[name], outcome.counts[name] = sha.hexdigest(), count


async def _count_damage(cluster: LocalCluster, file: Path, outcome: Outcome) -> None:
    """Something is wrong: say what, for the worst of the nodes."""

    sent = [hashlib.blake2b(value, digest_size=16).digest() for load in _loads(file, LOAD_RECORDS_MAX) for value in load]
    wanted = Counter(sent)
    async with connect(",".join(cluster.addresses), cluster=cluster.cluster) as client:
        for node in cluster.nodes:
            got: list[bytes] = []
            try:
                async with client.consumer(TOPIC, start="earliest", stop="end", node=node) as inbox:
                    async for record in inbox:
                        got.append(hashlib.blake2b(record.value or b"", digest_size=16).digest())
            except BrokerError:
                pass  # what cannot be read counts as lost
            found = Counter(got)
            outcome.lost = max(outcome.lost, (wanted - found).total())
            outcome.repeated = max(outcome.repeated, (found - wanted).total())
            if found == wanted:
                outcome.out_of_order = max(outcome.out_of_order, sum(a != b for a, b in zip(sent, got, strict=True)))


def _measure(file: Path) -> tuple[int, str]:
    """How many records the file has, and their digest."""
    sha, count = hashlib.sha256(), 0
    for load in _loads(file, 65536):
        count += len(load)
        sha.update(b"".join([value + b"\n" for value in load]))
    return count, sha.hexdigest()


def _loads(file: Path, size: int) -> Iterator[list[bytes]]:
    """The file's records, `size` at a time."""
    splitter = Delimited(b"\n")
    held: list[bytes] = []
    try:
        with open(file, "rb") as stream:
            while chunk := stream.read(READ_BYTES):
                held += splitter.feed(chunk)
                while len(held) >= size:
                    yield held[:size]
                    held = held[size:]
    except OSError as error:
        raise NoSuchFile(f"{file}: {error.strerror}", hint="bin/demo FILE, any text file") from error
    held += splitter.finish()
    for at in range(0, len(held), size):
        yield held[at : at + size]


def _show(screen: Terminal, cluster: LocalCluster, outcome: Outcome) -> None:
    document = outcome.document()
    change = f"node {outcome.killed} to node {outcome.leader}, epoch {outcome.epochs[0]} to {outcome.epochs[1]}"
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in (
        ("records", f"{outcome.records:,}"),
        ("lost", str(outcome.lost)),
        ("repeated", str(outcome.repeated)),
        ("out of order", str(outcome.out_of_order)),
        ("failover", f"{document['failover_ms']} ms: {change}"),
        ("throughput", f"{document['records_per_s']:,} records/s, the failover included"),
        ("SHA-256", outcome.digest),
        *((name, "the same" if digest == outcome.digest else f"DIFFERS: {digest}") for name, digest in outcome.digests.items()),
        ("data", str(cluster.directory)),
    ):
        table.add_row(*row)
    with_colour = Console(highlight=False)
    plain = Console(highlight=False, width=max(100, 20 + len(str(cluster.directory))))
    (with_colour if with_colour.is_terminal else plain).print(table)
    screen.line("\nTry next:")
    for command in (
        "cluster up --detach",
        "cluster status",
        "consume demo --from earliest --until +5 --json",
        "cluster down --wipe",
    ):
        screen.line(f"  bin/zablog --cluster {NAME} {command}")
    if screen.settings.json:
        screen.line(json.dumps(document))


if __name__ == "__main__":
    from broker.cli.main import main

    main(app)
