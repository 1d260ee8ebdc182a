"""Names of things that are agreed upon: peers, epochs, zxids."""

from typing import Final, NamedTuple, NewType

PeerId = NewType("PeerId", int)
"""The number of a process of the ensemble, 1 to 255; the tie-breaker of elections."""

Epoch = NewType("Epoch", int)
"""The number of a leader's reign. 0 is the birth value: no leader has been promised anything."""

EPOCH_MAX: Final = 2**32 - 1
COUNTER_MAX: Final = 2**64 - 1


class Zxid(NamedTuple):
    """One place in the total order: (epoch, counter). Counters count 1, 2, 3, … within an epoch; zxids compare as tuples.

    Paper: the pair <e, c> of "Zab: High-performance broadcast for primary-backup systems" (DSN 2011), section III.
    """

    epoch: int
    counter: int

    def after(self, steps: int) -> "Zxid":
        """The zxid `steps` entries further on in the same epoch."""
        return Zxid(self.epoch, self.counter + steps)

    def __str__(self) -> str:
        return f"{self.epoch}.{self.counter}"


ZERO: Final = Zxid(0, 0)
"""Before the first entry of all."""

BEYOND: Final = Zxid(EPOCH_MAX, COUNTER_MAX)
"""Above every entry that can exist: the end of a suspect range whose header is unreadable."""
