"""`python -m tests.shell SEED...`: replay seeds of the shell in virtual time, with their traces; FROM-TO runs many and prints a line each.

Exit code 1 if one failed. What of the shell these runs reach (`pip install coverage` first); the share of branches alone is in the
last line:

    python -m coverage run --branch --source=zablog.node,zablog.transport,broker.client,broker.server -m tests.shell 0-59
    python -m coverage json -o - | grep -o '"percent_branches_covered[^,]*' | tail -1
"""

import sys
import time
import traceback

from tests.shell.story import Story
from tests.shell.world import World, leaves


def main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words else 2
    failed = 0
    for word in words:
        first, many, last = word.partition("-")
        for seed in range(int(first), int(last or first) + 1):
            failed += replay(seed, bool(many))
    return 1 if failed else 0


def replay(seed: int, short: bool) -> bool:
    world, story = World(seed), Story(seed)
    began, failure = time.process_time(), ""
    try:
        world.run(story)
    except BaseException as error:
        failure = "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in leaves(error)) if short else traceback.format_exc()
        if isinstance(error, KeyboardInterrupt):
            raise
    if not short:
        print(*world.trace, sep="\n")
    seconds = time.process_time() - began
    acked, cancelled = len(story.ledger.acked), story.ledger.cancelled
    print(
        f"{seed}: {world.digest()[:16]}, {world.clock.current_time():.1f} s in {seconds:.2f} s, {acked} acked, {cancelled} cancelled",
        failure,
    )
    return bool(failure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
