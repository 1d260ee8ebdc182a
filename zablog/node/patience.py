"""How long a node waits for the others while it is late itself.

A loop that is late (other programs have the processors, a call held it up) speaks late and listens late, and the machine that makes it late
often carries its peers, too: silence means less then. So the lateness that was observed is added to the waits for a silent leader and for a
quorum without echoes, once for each end of a heartbeat, up to a bound; a calm while takes it off again. Nothing here is about safety:
the core's waits cost availability only, and no answer of a leader is believed for the time it came at.

Pure: told how late the loop was, in ticks.
"""

from dataclasses import replace
from typing import Final

from zablog.core.state import Timing

STEP_TICKS: Final = 5
"""Lateness is counted in such steps: less than one is what every wait bears, and not each tick is worth a line in the log."""
PAUSE_TICKS: Final = 100
"""Later than this is no load: the process was stopped, or the machine asleep. It says nothing of the next second."""
TIMES: Final = 3
"""What happens as often counts. Once is a hiccup: a start, a checkpoint, a collection of garbage."""
CALM_TICKS: Final = 3000
"""What was seen counts for so long, and then what was seen meanwhile."""
WIDER_MAX: Final = 3
"""The waits grow by at most so many times what they are without load."""


class Patience:
    """`timing` is the one in force."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.late_ticks = 0
        """The lateness that is reckoned with."""
        self._born = timing
        self._worst = [0] * TIMES
        """The worst of this calm while, ascending."""
        self._calm_at = CALM_TICKS
        self._now = 0

    def observe(self, late_ticks: int, due_ticks: int = 1) -> bool:
        """The loop came so much too late, to what was due after `due_ticks`. True if `timing` is another one now."""
        self._now += due_ticks + late_ticks
        late = late_ticks // STEP_TICKS * STEP_TICKS
        if late > self._worst[0] and late_ticks <= PAUSE_TICKS:
            self._worst = sorted([*self._worst[1:], late])
        if self._worst[0] <= self.late_ticks and self._now < self._calm_at:
            return False
        before, self.late_ticks = self.late_ticks, self._worst[0]
        self._worst, self._calm_at = [0] * TIMES, self._now + CALM_TICKS
        wider = min(2 * self.late_ticks, WIDER_MAX * self._born.suspect)
        self.timing = replace(self._born, suspect=self._born.suspect + wider, echo=self._born.echo + wider)
        return self.late_ticks != before
