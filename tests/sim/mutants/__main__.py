"""`python -m tests.sim.mutants [NAME...]`: the table of the mutants, which stands in docs/correctness.md. Exit code 1 if one got away."""

import sys
from multiprocessing import get_context

from tests.sim.mutants.catalogue import CATALOGUE, Row, measure


def main(names: list[str]) -> int:
    if names in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    known = [prey.name for prey in CATALOGUE]
    if unknown := sorted(set(names) - set(known)):
        print(f"{__doc__}\nNo mutant is called {', '.join(unknown)}. There are: {', '.join(known)}.", file=sys.stderr)
        return 2
    wanted = [name for name in known if not names or name in names]
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
