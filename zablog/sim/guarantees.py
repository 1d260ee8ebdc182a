"""The guarantees of Zab, a class each (zab-protocol, section 5): what a run that breaks one is refused with.

ConfigChain comes with its subject. `zablog.sim.invariants` does the checking.
"""


class Violation(AssertionError):
    """A guarantee was broken."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{type(self).__name__}: {reason}")


class Unavailable(Exception):
    """Nobody may go on: the logs of so many nodes are damaged that something committed may be in none of the others. Not a violation."""


# -- promises and acknowledgements --------------------------------------------------------------------------------------------


class PromiseMono(Violation):
    """acceptedEpoch and currentEpoch on disk never decrease, and the second never exceeds the first."""


class OneCandidate(Violation):
    """A node's promise of an epoch counts once, for one candidacy."""


class SingleLeader(Violation):
    """At most one candidacy ever begins an epoch: has a quorum's promises of it; so at most one establishes it."""


class DurableBeforeAck(Violation):
    """What a message says of promises and history is on its sender's disk before it is sent (W1, W2, W3, W6, W9)."""


class NoStaleAck(Violation):
    """No acknowledgement of an epoch is sent above which something was promised."""


# -- what is committed stays --------------------------------------------------------------------------------------------------


class CommitQuorum(Violation):
    """When the watermark passes an entry, a quorum has it on disk and is bound to the epoch that commits it (W8)."""


class LeaderComplete(Violation):
    """An epoch begins with everything that was committed in earlier ones, before anybody's history is cut to it."""


class CommittedKept(Violation):
    """A committed entry stays on the disks of a quorum, and no later epoch orders it cut."""


# -- what is delivered --------------------------------------------------------------------------------------------------------


class TotalOrder(Violation):
    """Everybody delivers the same entries in the same order (prefix, agreement, total order)."""


class Integrity(Violation):
    """Only what was broadcast is delivered, once, in ascending order; and what was acknowledged is."""


class LocalOrder(Violation):
    """The entries of an epoch are delivered as they were broadcast, without a gap."""


class GlobalOrder(Violation):
    """The epochs of what is delivered never go back."""


class PrimaryIntegrity(Violation):
    """An epoch begins with everything of earlier epochs that is ever delivered, before it or after."""


class LinearizableReads(Violation):
    """A linearizable read sees everything that was committed before it was asked."""


# -- logs and watermarks ------------------------------------------------------------------------------------------------------


class LogMatching(Violation):
    """The same zxid in two logs means the same history up to there."""


class Contiguity(Violation):
    """Successive entries of a log: the next counter, or counter 1 of a later epoch."""


class ProcessConsistency(Violation):
    """The history of a follower past NEWLEADER is a prefix of its leader's."""


class CwSane(Violation):
    """The watermark never goes back in a life, and names something committed; what it passed is delivered."""


class SnapshotExact(Violation):
    """A snapshot is the exact state at one committed place."""


class RestartFidelity(Violation):
    """What is recovered is what was durable."""


# -- conduct ------------------------------------------------------------------------------------------------------------------


class Legal(Violation):
    """No message comes out of its phase, and none outlives the role that had it to say (W12)."""


class Diverged(Violation):
    """A healthy node must not halt."""


class Liveness(Violation):
    """Once faults are healed, an epoch is established, writes commit, and everybody delivers them."""
