"""A cluster at 70 % of what it can do, for half an hour, on a machine that is busy with something else.

    python -m tests.system.stability [--minutes 30] [--share 0.7] [--json]

Two busy processes (`stress-ng --cpu 2` where it is installed) take the processor. The peak is measured under them, then a steady load of
1 KiB records runs at `--share` of it. Exit 0 only if no other epoch began, every record was acknowledged, and the memory of the
servers in the last minute is within a tenth of the highest of the first ten minutes.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from broker import Retention
from broker.bench import ensemble, load, meters
from broker.bench.figures import percentile
from broker.client import connect

SIZE = 1024
PEAK_SECONDS = 30.0
KEPT_BYTES = 512 << 20
"""Retention: half an hour must not fill the disk."""
MEGABYTE = 1 << 20


@contextmanager
def busy() -> Iterator[str]:
    """Two processes that want all of both cores; says which."""
    if found := shutil.which("stress-ng"):
        commands = [[found, "--cpu", "2", "--quiet"]]
    else:
        commands = [[sys.executable, "-c", "while True: sum(range(1000))"]] * 2
    processes = [subprocess.Popen(command) for command in commands]
    try:
        yield " ".join(commands[0][:3])
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


async def run(minutes: float, share: float) -> dict[str, object]:
    """Measure; the figures."""
    with busy() as beside:
        async with ensemble.made(3, None, None) as nodes, connect(",".join(nodes.addresses)) as zl:
            addresses = ",".join(nodes.addresses)
            await zl.create_topic("steady", retention=Retention(bytes=KEPT_BYTES))
            peak = (await load.publish(addresses, "steady", load.Shape(SIZE), warm_up=5.0, seconds=PEAK_SECONDS)).rate
            rate = share * peak
            print(f"peak {peak:,.0f} records/s; now {rate:,.0f} for {minutes:g} minutes", file=sys.stderr, flush=True)
            epoch = (await nodes.leader()).epoch
            rows: list[dict[str, float]] = []
            begun = trio.current_time()
            while trio.current_time() - begun < 60 * minutes:
                taken = sorted(await load.steady(zl, "steady", SIZE, rate, 60.0))
                found = await nodes.status()
                rows.append(
                    {
                        "minute": len(rows) + 1,
                        "epoch": max(status.epoch for status in found),
                        "nodes": len(found),
                        "p50_ms": 1000 * statistics.median(taken),
                        "p99_ms": 1000 * percentile(taken, 0.99),
                        "max_ms": 1000 * taken[-1],
                        "memory_mb": meters.memory_bytes([status.pid for status in found]) / MEGABYTE,
                        "silence_borne_ms": max(status.silence_ms for status in found),
                    }
                )
                print("  ".join(f"{name} {value:,.1f}" for name, value in rows[-1].items()), file=sys.stderr, flush=True)
    early, late = max(row["memory_mb"] for row in rows[:10]), rows[-1]["memory_mb"]
    return {
        "beside": beside,
        "peak_records_per_s": peak,
        "records_per_s": rate,
        "minutes": len(rows),
        "elections": sum(row["epoch"] != epoch for row in rows),
        "p50_ms": statistics.median(row["p50_ms"] for row in rows),
        "p99_ms": statistics.median(row["p99_ms"] for row in rows),
        "max_ms": max(row["max_ms"] for row in rows),
        "memory_mb_early": early,
        "memory_mb_late": late,
        "silence_borne_ms": max(row["silence_borne_ms"] for row in rows),
        "stable": all(row["epoch"] == epoch and row["nodes"] == 3 for row in rows) and late <= 1.1 * early,
        "rows": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.stability", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--share", type=float, default=0.7, help="of the peak that the same machine reaches under the same load")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    figures = trio.run(run, words.minutes, words.share)
    rows = figures.pop("rows")
    print(json.dumps({**figures, "rows": rows}) if words.json else "\n".join(f"{name}: {value}" for name, value in figures.items()))
    return 0 if figures["stable"] else 1


if __name__ == "__main__":
    sys.exit(main())
