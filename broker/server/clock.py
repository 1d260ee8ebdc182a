"""Leader time: the milliseconds that a leader writes into its commands, so that every replica sees the same time.

It never decreases, not even from one leader to the next: it begins at the last time in the log. It advances with the monotonic
clock; behind the wall clock it catches up at once, before it (the wall clock was set back, or the last leader's went ahead) it
runs at half speed until it is caught up with. Pure: both clocks are handed in.
"""

from collections.abc import Callable


class LeaderClock:
    __slots__ = ("_at", "_monotonic", "_time", "_wall")

    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        """`wall` in seconds since 1970, `monotonic` in seconds."""
        self._wall = wall
        self._monotonic = monotonic
        self._time = 0.0
        self._at = monotonic()

    def now(self, logged: int) -> int:
        """Milliseconds since 1970; `logged` is the time of the last command that was applied."""
        at = self._monotonic()
        elapsed, self._at = 1000 * (at - self._at), at
        self._time = max(self._time, float(logged))
        self._time = max(self._time + elapsed / 2, min(self._time + elapsed, 1000 * self._wall()), 1000 * self._wall())
        return int(self._time)
