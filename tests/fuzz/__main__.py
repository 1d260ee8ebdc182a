"""`python -m tests.fuzz [--minutes N] [--seed N] [TARGET...]`: fuzz every decoder, or these, in turn; a line each with counts and costs.

Exit code 1 where something else than a named refusal was raised. The costs are of the processor, in ms, of the worst example,
tried four times: the least counts, since a collection of garbage or an interrupt is no fault of the example's.
"""

import argparse
import sys
import time
from contextlib import suppress
from random import Random

from tests.fuzz.targets import TARGETS, Target, damaged


def cost(target: Target, raw: bytes) -> float:
    """Seconds of the processor for one more try."""
    began = time.process_time()
    with suppress(BaseException):
        target.decode(raw)
    return time.process_time() - began


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(target.name for target in TARGETS))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args(words)
    if unknown := set(said.targets) - {target.name for target in TARGETS}:
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    wanted = [target for target in TARGETS if not said.targets or target.name in said.targets]
    failures = 0
    for target in wanted:
        random = Random(f"{target.name} {said.seed}")
        until, tried, decoded, worst, size = time.monotonic() + said.minutes * 60 / len(wanted), 0, 0, 0.0, 0
        while time.monotonic() < until:
            raw = damaged([*target.examples, *target.hostile], random)
            tried, began = tried + 1, time.process_time()
            try:
                target.decode(raw)
                decoded += 1
            except target.refuses:
                pass
            except BaseException as error:
                failures += 1
                print(f"{target.name}: {error!r} for {raw[:300]!r}", file=sys.stderr)
            if (spent := time.process_time() - began) > worst and (spent := min(spent, *(cost(target, raw) for _ in range(3)))) > worst:
                worst, size = spent, len(raw)
        print(f"{target.name:14} {tried:>9,} tried, {decoded:>8,} decoded; at worst {worst * 1e3:6.2f} ms for {size:,} bytes", flush=True)
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
