"""`python -m tests.sim.mutants [NAME...]`: the table of the mutants, which stands in docs/correctness.md. Some minutes on one core."""

import sys
from multiprocessing import get_context

from tests.sim.mutants.catalogue import CATALOGUE, Row, measure


def main(names: list[str]) -> int:
    wanted = [prey.name for prey in CATALOGUE if not names or prey.name in names]
    missed = 0
    print("| mutant | what it breaks | rule | caught by | seeds | without that guarantee |")
    print("|---|---|---|---|---:|---|")
    with get_context("spawn").Pool(2) as pool:
        row: Row
        for row in pool.imap(measure, wanted):
            print(row.line(), flush=True)
            missed += row.seeds is None
    print(f"\n{len(wanted) - missed} of {len(wanted)} mutants caught within 1,000 seeds by the guarantee they name.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
