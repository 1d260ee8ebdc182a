"""What a node says of itself."""

from dataclasses import dataclass

from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid


@dataclass(frozen=True, slots=True)
class Status:
    """A moment of a node's life. `role` is looking, draining, following or leading; `phase` election, discovery, sync or broadcast."""

    id: PeerId
    role: str
    phase: str
    epoch: Epoch
    generation: int
    """Rises with each role; commits are waited for within one."""
    leader: PeerId | None
    leader_address: str | None
    last: Zxid
    watermark: Zxid
    applied: Zxid
    suspect: Zxid | None
    """The end of a range a damaged last batch may have held; None once the ensemble has said what was in it."""
    links: tuple[PeerId, ...]
    reason: str
    """Why this role or phase began."""
    log_begins: Zxid = ZERO
    """The log holds what is above this; the rest is in a snapshot."""
    missing: str | None = None
    """Why the application's state is not there, and nothing is applied: it was damaged, and is being restored from a peer."""

    silence_borne_seconds: float = 0.0
    """How long a silent leader is borne: longer than it was told to while this node's own loop is late."""

    @property
    def serving(self) -> bool:
        """Takes part in an established epoch."""
        return self.phase == "broadcast"

    @property
    def leads(self) -> bool:
        """Leads an established epoch."""
        return self.role == "leading" and self.serving
