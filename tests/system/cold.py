"""A consumer of what is on disk alone, beside a producer, where the disk is slow to read: does the producer notice?

    python -m tests.system.cold [--megabytes-per-second 20] [--seconds 15] [--json]

Needs root and Linux with the blkio controller of control groups (version 1), which bounds what the three servers together read from the
disk of the data directory (by default where temporary files lie). Exit 0 only if no other epoch began while the consumer read.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from broker.bench import ensemble, load
from broker.bench.figures import percentile
from broker.client import connect

BLKIO = Path("/sys/fs/cgroup/blkio")
SIZE = 4096
WRITTEN_SECONDS = 8.0
PAUSE_SECONDS = 0.005
SENDS_ALONE = 200


@contextmanager
def slow_disk(bytes_per_second: int) -> Iterator[Path]:
    """A control group whose members read no faster than that. They go back to the root when it ends."""
    device = os.stat(tempfile.gettempdir()).st_dev
    group = BLKIO / f"zablog-{os.getpid()}"
    group.mkdir()
    try:
        (group / "blkio.throttle.read_bps_device").write_text(f"{os.major(device)}:{os.minor(device)} {bytes_per_second}")
        yield group
    finally:
        for task in (group / "tasks").read_text().split():
            (BLKIO / "tasks").write_text(task)
        group.rmdir()


def throttle(group: Path, pids: list[int]) -> None:
    """Nothing that was written is in memory, and these processes read slowly from now on."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            (group / "tasks").write_text(task)


async def run(bytes_per_second: int, seconds: float) -> dict[str, float]:
    """Measure; the figures."""
    latencies: list[float] = []
    read = 0

    async def produce(addresses: str) -> None:
        async with connect(addresses) as zl, zl.producer() as producer:
            while True:
                before = time.perf_counter()
                await producer.send("lone", bytes(1024))
                latencies.append(1000 * (time.perf_counter() - before))
                await trio.sleep(PAUSE_SECONDS)

    with slow_disk(bytes_per_second) as group:
        async with ensemble.made(3, None, None) as nodes, connect(",".join(nodes.addresses)) as zl:
            addresses = ",".join(nodes.addresses)
            await zl.create_topic("old")
            await zl.create_topic("lone")
            written = await load.publish(addresses, "old", load.Shape(SIZE), warm_up=1.0, seconds=WRITTEN_SECONDS)
            epoch = (await nodes.leader()).epoch
            await trio.sleep(3.0)  # until checkpoints have synced it
            await trio.to_thread.run_sync(throttle, group, await nodes.pids())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(produce, addresses)
                while len(latencies) < SENDS_ALONE:
                    await trio.sleep(0.1)
                alone = sorted(latencies)
                latencies.clear()
                with trio.move_on_after(seconds):
                    async with zl.consumer("old", start="earliest") as consumer:
                        async for _ in consumer:
                            read += 1
                beside = sorted(latencies)
                nursery.cancel_scope.cancel()
            return {
                "written_mb": written.records * SIZE / 1e6,
                "read_mb": read * SIZE / 1e6,
                "alone_p50_ms": percentile(alone, 0.5),
                "alone_worst_ms": alone[-1],
                "beside_p50_ms": percentile(beside, 0.5),
                "beside_worst_ms": beside[-1],
                "epochs": (await nodes.leader()).epoch - epoch,
            }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes-per-second", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if os.geteuid() or not (BLKIO / "tasks").exists():
        print("needs root and the blkio controller of control groups (version 1)", file=sys.stderr)
        return 2
    figures = trio.run(run, int(1e6 * arguments.megabytes_per_second), arguments.seconds)
    print(json.dumps(figures) if arguments.json else "\n".join(f"{name:16} {value:10.2f}" for name, value in figures.items()))
    return 1 if figures["epochs"] else 0


if __name__ == "__main__":
    sys.exit(main())
