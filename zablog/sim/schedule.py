"""Virtual time: a heap of what will happen. One source of chance for a whole run, so that a seed tells everything."""

import sys
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

from xxhash import xxh3_64


class Schedule:
    """`now` is in microseconds of virtual time. Things that are due at the same moment happen in the order in which they were planned."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now = 0
        self.events = 0
        """Messages handled, disk operations completed, faults, proposals. Ticks do not count."""
        self.heap: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []
        self.number = 0
        self.hash = xxh3_64()
        self.tell: Callable[[str], None] | None = None
        """Takes the lines of the trace, if anybody wants them."""
        self.witness: Callable[[int, object], None] | None = None
        """Is shown (node, what happened there): messages as (sender, message), roles as effects, deliveries as (zxid, payload)."""

    def at(self, delay: int, call: Callable[..., None], *words: object) -> None:
        """Plan `call(*words)` in `delay` microseconds."""
        self.number += 1
        heappush(self.heap, (self.now + delay, self.number, call, words))

    def between(self, low: int, high: int) -> int:
        """From `low` to `high`, both ends included: what `random.randint` draws, for half of its price."""
        count = high - low + 1
        bits = count.bit_length()
        drawn = self.random.getrandbits(bits)
        while drawn >= count:
            drawn = self.random.getrandbits(bits)
        return low + drawn

    def run_until(self, moment: int, events_max: int = sys.maxsize) -> None:
        """Let everything happen that is due before `moment`, or until so many events have happened since the beginning."""
        heap = self.heap
        while heap and heap[0][0] < moment:
            if self.events >= events_max:
                return
            self.now, _, call, words = heappop(heap)
            call(*words)
        self.now = moment

    def count(self, node: int, what: str) -> None:
        """One event: part of the count and of the trace's hash."""
        self.events += 1
        self.hash.update(f"{self.now} {node} {what}\n".encode())

    def say(self, line: str) -> None:
        """One line of the trace."""
        if self.tell is not None:
            self.tell(f"{self.now / 1000:10.3f} ms  {line}")
