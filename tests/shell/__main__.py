"""`python -m tests.shell SEED...`: seeds of the shell again: hash of the trace, and what happened. Exit code 1: a promise was broken."""

import sys
import traceback

from tests.shell.scenes import scene
from tests.shell.world import run_world


def main(words: list[str]) -> int:
    if not words or not all(word.isdecimal() for word in words):
        print(__doc__)
        return 0 if words in (["-h"], ["--help"]) else 2
    broken = 0
    for word in words:
        try:
            trace, counts = run_world(scene, int(word))
        except BaseException as error:
            traceback.print_exception(error)
            broken += 1
        else:
            print(word, trace, ", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
