"""How a node is run. Who it is stands in its data directory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zablog.core.state import Limits, Timing
from zablog.core.zxid import PeerId
from zablog.wire.handshake import NO_LEVELS, Versions


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """`directory` was born by `cluster init`. `listen` and `addresses` override the addresses of the base configuration (HOST:PORT)."""

    directory: Path
    listen: str | None = None
    cluster: str | None = None
    """The cluster that the directory must have been born with; a directory of another one is refused."""
    node: PeerId | None = None
    """The node that the directory must have been born for."""
    addresses: Mapping[PeerId, str] = field(default_factory=dict)
    insecure: bool = False
    """Listen on an address that is not loopback although nothing is encrypted or authenticated."""
    unix_sockets: bool = True
    """Listen on a Unix socket beside each loopback address: who is on the same machine takes that, which costs half of what TCP does."""
    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)
    tick_seconds: float = 0.010
    stall_seconds: float = 2.0
    """A leader whose disk has been at one group commit for so long steps down."""
    file_bytes: int = 16 << 20
    """The size of one file of the write-ahead log."""
    checkpoint_bytes: int = 64 << 20
    """After so much log the application's state is written down, if it is `Restorable`."""
    checkpoint_seconds: float = 60.0
    """And after so long, if anything was applied since."""
    keep_bytes: int = 32 << 20
    """So much log below a checkpoint is kept, for peers that were away for a while."""
    pin_bytes: int = 1 << 30
    """And up to so much for a peer that is being read to; what is above goes, and the peer takes a newer snapshot."""
    transfer_bytes_per_second: float = 16 << 20
    """How fast snapshots are sent, all of them together; twice as fast each time that a peer was left behind by what is produced."""
    levels: Versions = NO_LEVELS
    """The feature levels of the log that the application can apply: peers are told, and `Node.levels` says what they told."""
    reserve_bytes: int = 8 << 20
    """So much room on the disk is kept for a node whose disk is full, to stop in order and to come up again; 0: none."""
    memory_bytes: int = 8 << 20
    """How much of the log's tail is kept in memory for readers. A peer that lags by no more than a full outbox finds all of it here."""
