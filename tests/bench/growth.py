"""Does the cost of a record grow with the log, the topics, or the connections? A table, from one cluster of three processes each.

    python -m tests.bench.growth [--gigabytes 20] [--only log,topics,connections] [--json]

Records of 1 KiB, 1,024 in flight. Rates are medians of three stretches; the servers' CPU and memory are those of all three, warm-ups
included. Twenty gigabytes are sixty on the disk. Nothing else should run meanwhile.
"""

import argparse
import json
import os
import statistics
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import trio

from broker.bench import ensemble, load, meters
from broker.client import Client, Pending, connect

SIZE = 1024
SECONDS = 4.0
STRETCHES = 3
WINDOW = 1024
MEGABYTE = 1 << 20

Row = dict[str, float | str]


async def measured(nodes: ensemble.Ensemble, growth: str, one: Callable[[], Awaitable[load.Stretch]]) -> Row:
    """The median of some stretches, and what they cost the servers."""
    pids = await nodes.pids()
    rates: list[float] = []
    records, before = 0, meters.cpu_seconds(pids)
    for _ in range(STRETCHES):
        stretch = await one()
        rates.append(stretch.rate)
        records += stretch.records
    used = meters.cpu_seconds(pids) - before
    if ended := nodes.ended():
        raise SystemExit(f"{growth}: nodes have ended by themselves: {ended}")
    row: Row = {
        "growth": growth,
        "records_per_s": statistics.median(rates),
        "server_us_a_record": 1e6 * used / records,
        "servers_mb": meters.memory_bytes(pids) / MEGABYTE,
    }
    print(
        "  ".join(f"{name} {value:,.1f}" if isinstance(value, float) else value for name, value in row.items()), file=sys.stderr, flush=True
    )
    return row


async def log(gigabytes: float) -> list[Row]:
    """One topic, one producer, and more and more of a log behind it."""
    rows = []
    async with ensemble.made(3, None, None) as nodes, connect(",".join(nodes.addresses)) as zl:
        await zl.create_topic("one")
        for size in (0.001, 0.1, 1.0, 5.0, 10.0, 20.0):
            if size > gigabytes:
                break
            end = (await zl.describe_topic("one")).partitions[0].end
            if (missing := int(size * (1 << 30) / SIZE) - end) > 0:
                await load.fill(zl, "one", SIZE, missing)
            rows.append(
                await measured(
                    nodes,
                    f"{size:g} GB of log",
                    lambda: load.publish(",".join(nodes.addresses), "one", load.Shape(SIZE, WINDOW), warm_up=0.5, seconds=SECONDS),
                )
            )
    return rows


async def in_turn(zl: Client, topics: list[str]) -> load.Stretch:
    """One producer, each record to the next topic."""
    value, held = os.urandom(SIZE), deque[Pending]()
    async with zl.producer() as out:
        begun, acked, at = trio.current_time(), 0, 0
        while trio.current_time() < begun + SECONDS:
            while len(held) < WINDOW:
                held.append(await out.submit(topics[at % len(topics)], value))
                at += 1
            await held[0]
            while held and held[0].done:
                held.popleft().receipt()
                acked += 1
        stretch = load.Stretch(acked, trio.current_time() - begun)
        for pending in held:
            await pending
    return stretch


async def topics() -> list[Row]:
    """More and more topics: all of them written in turn, and one written among the others."""
    rows = []
    async with ensemble.made(3, None, None) as nodes, connect(",".join(nodes.addresses)) as zl:
        names: list[str] = []
        for count in (1, 10, 100, 1000):
            while len(names) < count:
                names.append(f"topic-{len(names)}")
                await zl.create_topic(names[-1])
            rows.append(await measured(nodes, f"{count} topics, one written", lambda: in_turn(zl, names[:1])))
            if count > 1:
                rows.append(await measured(nodes, f"{count} topics, all written in turn", lambda: in_turn(zl, names)))
    return rows


async def connections() -> list[Row]:
    """More and more connections: all of them producing, and one producing among idle ones."""
    rows = []
    async with ensemble.made(3, None, None) as nodes, AsyncExitStack() as stack:
        addresses = ",".join(nodes.addresses)
        async with connect(addresses) as zl:
            await zl.create_topic("one")
        idle = 0
        for count in (1, 10, 100, 500):
            for _ in range(count - 1 - idle):
                client = await stack.enter_async_context(connect(addresses))
                await client.list_topics()
            idle = count - 1
            for what, shape in (
                ("one of them producing", load.Shape(SIZE, WINDOW)),
                ("as many more producing", load.Shape(SIZE, WINDOW, count)),
            ):
                if count > 1 or what == "one of them producing":  # with one connection both are the same
                    rows.append(
                        await measured(
                            nodes,
                            f"{count} connections, {what}",
                            lambda shape=shape: load.publish(addresses, "one", shape, warm_up=1.0, seconds=SECONDS),  # type: ignore[misc]  # the loop's own
                        )
                    )
    return rows


async def run(gigabytes: float, only: list[str]) -> dict[str, list[Row]]:
    tables: dict[str, list[Row]] = {}
    if "topics" in only:
        tables["topics"] = await topics()
    if "connections" in only:
        tables["connections"] = await connections()
    if "log" in only:
        tables["log"] = await log(gigabytes)
    return tables


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--only", default="topics,connections,log")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    tables = trio.run(run, words.gigabytes, words.only.split(","))
    if words.json:
        print(json.dumps(tables))
    else:
        for rows in tables.values():
            print("| | records/s | servers, µs a record | servers, MB |\n|---|---|---|---|")
            for row in rows:
                print(f"| {row['growth']} | {row['records_per_s']:,.0f} | {row['server_us_a_record']:.1f} | {row['servers_mb']:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
