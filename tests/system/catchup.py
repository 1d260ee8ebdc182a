"""A node that was away while much was written comes back while producers go on: how long it takes, and what it costs the others.

    python -m tests.system.catchup [--gigabytes 2] [--json]

Three processes on this machine. One is killed, so many bytes are written to the other two, whose logs are trimmed meanwhile; a producer
at full speed is measured for a while without the node, from its start on, and when all three are well. The node must catch up and hold
the same records.
Exit 0 only if it does, and if the leader's memory stayed within 100 MB of what it was.
"""

import argparse
import hashlib
import json
import signal
import sys

import trio

from broker.bench import ensemble, load, meters
from broker.client import Client, connect

SIZE = 1024
SECONDS = 15.0
ROUNDS = 3
MEMORY_MB = 100
MEGABYTE = 1 << 20


async def digest(zl: Client, node: int, stop: int) -> str:
    """Of every value on one node's copy, from the beginning."""
    sha = hashlib.sha256()
    async with zl.consumer("numbers", start="earliest", stop={("numbers", 0): stop}, node=node) as inbox:
        async for records in inbox.batches():
            for record in records:
                sha.update(record.value or b"")
    return sha.hexdigest()


async def run(gigabytes: float) -> dict[str, object]:
    async with ensemble.made(3, None, None) as nodes, connect(",".join(nodes.addresses)) as zl:
        addresses = ",".join(nodes.addresses)
        await zl.create_topic("numbers")
        leader = await nodes.leader()
        away = next(status for status in await nodes.status() if status.id != leader.id)
        await nodes.signal(away, signal.SIGKILL)
        print(f"node {away.id} is away", file=sys.stderr, flush=True)
        records = int(gigabytes * (1 << 30) / SIZE)
        await load.fill(zl, "numbers", SIZE, records)

        async def rate() -> float:
            return (await load.publish(addresses, "numbers", load.Shape(SIZE), warm_up=1.0, seconds=SECONDS)).rate

        without = sorted([await rate() for _ in range(ROUNDS)])
        memory = before = meters.memory_bytes([leader.pid])
        print(f"without it {without[1]:,.0f} records/s, the leader has {before / MEGABYTE:.0f} MB", file=sys.stderr, flush=True)
        begun = trio.current_time()
        caught_up: list[float] = []

        async def watch() -> None:
            nonlocal memory
            while not caught_up:
                memory = max(memory, meters.memory_bytes([leader.pid]))
                await trio.sleep(0.2)

        async def wait() -> None:
            await nodes.start(away.id)
            await nodes.settled()
            caught_up.append(trio.current_time() - begun)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(wait)
            rates = sorted([await rate() for _ in range(ROUNDS)])
            under_way = not caught_up
            print(f"while it comes {rates[1]:,.0f} records/s", file=sys.stderr, flush=True)
        afterwards = sorted([await rate() for _ in range(ROUNDS)])
        end = (await zl.describe_topic("numbers")).partitions[0].end
        same = await digest(zl, away.id, end) == await digest(zl, leader.id, end)
        leads = (await nodes.leader()).id == leader.id
    return {
        "gigabytes": gigabytes,
        "records_per_s_without": without[1],
        "records_per_s_meanwhile": rates[1],
        "records_per_s_afterwards": afterwards[1],
        "ratio_to_two_nodes": rates[1] / without[1],
        "ratio_to_three_nodes": rates[1] / afterwards[1],
        "still_coming_when_measured": under_way,
        "seconds_to_catch_up": caught_up[0],
        "gigabytes_in_the_end": end * SIZE / (1 << 30),
        "leader_mb_before": before / MEGABYTE,
        "leader_mb_most": memory / MEGABYTE,
        "same_leader": leads,
        "same_bytes": same,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.catchup", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    figures = trio.run(run, words.gigabytes)
    print(json.dumps(figures) if words.json else "\n".join(f"{name}: {value}" for name, value in figures.items()))
    grown = float(str(figures["leader_mb_most"])) - float(str(figures["leader_mb_before"]))
    return 0 if figures["same_bytes"] and grown <= MEMORY_MB else 1


if __name__ == "__main__":
    sys.exit(main())
