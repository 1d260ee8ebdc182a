"""Who votes, and which sets of voters decide."""

from collections.abc import Iterable
from dataclasses import dataclass

from zablog.core.zxid import PeerId


@dataclass(frozen=True, slots=True)
class Configuration:
    """The voters of an ensemble. A second, pending configuration will be asked alongside this one when membership changes come."""

    version: int
    voters: tuple[PeerId, ...]

    def is_quorum(self, peers: Iterable[PeerId]) -> bool:
        """Any two quorums share a voter: here, more than half of the voters. Strangers do not count."""
        return 2 * len(set(peers).intersection(self.voters)) > len(self.voters)

    def is_everyone(self, peers: Iterable[PeerId]) -> bool:
        """All voters: what the first election of a new-born ensemble asks for."""
        return set(self.voters) <= set(peers)
