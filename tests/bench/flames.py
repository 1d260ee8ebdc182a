"""Where the time goes: what a record costs the client, the leader and a follower, and a flame graph of each.

    python -m tests.bench.flames [--to docs/flames] [--only publish_1KiB,one_in_flight] [--seconds 12] [--costs] [--nodes 5]

Needs `py-spy` (pip install py-spy) and the right to look at one's own processes; with `--costs` neither, and nothing is drawn. The SVG
files are opened in a browser. They show what is at work, not what waits; a thread that waits for a disk or for the interpreter's lock
counts as at work.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import trio

from broker.bench import ensemble, load, meters
from broker.client import Client, connect

SAMPLES_PER_SECOND = 100
"""Each stops its process for a moment."""
WARM_UP = 1.5
TITLE = re.compile(r"py-spy record [^<]*")
"""The command, with a number and a path that mean nothing elsewhere."""

Load = Callable[[Client, str, float, Callable[[], None]], Awaitable[int]]
"""With a client and the addresses, for so many seconds, whose both ends are marked: how many records it was."""


def published(shape: load.Shape) -> Load:
    async def run(zl: Client, addresses: str, seconds: float, mark: Callable[[], None]) -> int:
        return (await load.publish(addresses, "one", shape, warm_up=WARM_UP, seconds=seconds, mark=mark)).records

    return run


async def one_in_flight(zl: Client, addresses: str, seconds: float, mark: Callable[[], None]) -> int:
    value, count = os.urandom(1024), 0
    async with zl.producer() as out:
        for _ in range(500):
            await out.send("one", value)
        mark()
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            await out.send("one", value)
            count += 1
        mark()
    return count


async def consumed(zl: Client, addresses: str, seconds: float, mark: Callable[[], None]) -> int:
    """Record by record, from the page cache, again and again."""
    if not (await zl.describe_topic("one")).partitions[0].end:
        await load.fill(zl, "one", 100, 1_000_000)
    mark()
    end, count = trio.current_time() + seconds, 0
    while trio.current_time() < end:
        count += (await load.read(zl, "one", by_batch=False)).records
    mark()
    return count


LOADS: dict[str, Load] = {
    "publish_100B": published(load.Shape(100)),
    "publish_100B_many": published(load.Shape(100, many=True)),
    "publish_1KiB": published(load.Shape(1 << 10)),
    "publish_64KiB": published(load.Shape(64 << 10)),
    "one_in_flight": one_in_flight,
    "consume_100B": consumed,
}


async def look_at(name: str, to: Path | None, seconds: float, nodes_count: int) -> None:
    """One load on a cluster of its own: what it costs, and if `to` is given once more, drawn."""
    async with ensemble.made(nodes_count, None, None) as nodes, connect(",".join(nodes.addresses)) as zl:
        await zl.create_topic("one")
        leader = await nodes.leader()
        follower = next(status for status in await nodes.status() if status.id != leader.id)
        roles = {"client": os.getpid(), "leader": leader.pid, "follower": follower.pid}
        run, addresses = LOADS[name], ",".join(nodes.addresses)

        used: list[list[float]] = []
        records = await run(zl, addresses, seconds / 2, lambda: used.append([meters.cpu_seconds([pid]) for pid in roles.values()]))
        before, after = used
        costs = [1e6 * (late - early) / records for early, late in zip(before, after, strict=True)]
        print(f"| {name} | {2 * records / seconds:,.0f} | " + " | ".join(f"{cost:,.2f}" for cost in costs) + " |", flush=True)
        if to is not None:
            await drawn(run, zl, addresses, seconds, [(role, pid, to / f"{name}-{role}.svg") for role, pid in roles.items()])


async def drawn(run: Load, zl: Client, addresses: str, seconds: float, who: Sequence[tuple[str, int, Path]]) -> None:
    """A load that others look at."""
    lookers: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:

        def look() -> None:
            if lookers:  # the other end of the stretch
                return
            for _, pid, file in who:
                words = [
                    "py-spy",
                    "record",
                    "--pid",
                    str(pid),
                    "--rate",
                    str(SAMPLES_PER_SECOND),
                    "--duration",
                    str(max(1, int(seconds) - 1)),
                ]
                words += ["--threads", "--output", str(file)]
                looker = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                stack.callback(looker.kill)
                lookers.append(looker)

        await run(zl, addresses, seconds, look)
        for looker in lookers:
            if await trio.to_thread.run_sync(looker.wait):
                raise SystemExit(f"py-spy ended with {looker.returncode}: may this user look at these processes (ptrace)?")
        for role, _, file in who:
            file.write_text(TITLE.sub(f"{file.stem.removesuffix('-' + role)}, {role}", file.read_text(), count=1))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.flames", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path("flames"))
    parser.add_argument("--only", default=",".join(LOADS))
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--costs", action="store_true", help="draw nothing")
    parser.add_argument("--nodes", type=int, default=3)
    words = parser.parse_args()
    names = words.only.split(",")
    if unknown := [name for name in names if name not in LOADS]:
        parser.error(f"there is no {', '.join(unknown)}; there is {', '.join(LOADS)}")
    if not words.costs and shutil.which("py-spy") is None:
        print("py-spy is not installed: pip install py-spy, or say --costs", file=sys.stderr)
        return 2
    if not words.costs:
        words.to.mkdir(parents=True, exist_ok=True)
    print("| | records/s | client, µs a record | leader | follower |\n|---|---|---|---|---|", flush=True)
    for name in names:
        trio.run(look_at, name, None if words.costs else words.to, words.seconds, words.nodes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
