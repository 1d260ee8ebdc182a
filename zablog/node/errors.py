"""What can go wrong with a node, and what the caller can do now."""

from zablog.core.zxid import PeerId


class NodeError(Exception):
    """Something about this node."""


class NodeStopped(NodeError):
    """The node must not go on: it would lose data or promises, or its disk failed. The cause says what to do."""


class NotLeading(NodeError):
    """Nothing was proposed: this node does not lead. `leader` and `address` say who does, if that is known."""

    def __init__(self, leader: PeerId | None, address: str | None) -> None:
        where = f"node {leader} at {address} does" if leader is not None else "nobody is known to"
        super().__init__(f"this node does not lead an established epoch; {where}. Nothing was proposed.")
        self.leader = leader
        self.address = address


class Full(NodeError):
    """Nothing was proposed: the window of uncommitted entries is full. Wait, or use `propose`."""


class PayloadTooLarge(NodeError):
    """Nothing was proposed: one payload is more than a proposal takes. Cut it into several."""


class LeadershipLost(NodeError):
    """This node no longer leads the epoch of the proposal: unless the words say otherwise it may be committed or not. The log will tell."""


class ConfigError(NodeError):
    """The node's configuration cannot be used."""
