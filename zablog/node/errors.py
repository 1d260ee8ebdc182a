"""What can go wrong with a node, and what the caller can do now."""

import trio

from zablog.core.zxid import PeerId


class NodeError(Exception):
    """Something about this node."""


class NodeStopped(NodeError):
    """The node must not go on: it would lose data or promises, or its disk failed. The cause says what to do."""


class Unsupported(NodeStopped):
    """The log, or a snapshot, holds what this build of the application does not know. Another version must be installed."""


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


def the_one_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong, without the wrapping: the reason why the node stopped, or the only error there is."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop()
        if isinstance(error, BaseExceptionGroup):
            waiting += reversed(error.exceptions)
        elif not isinstance(error, trio.Cancelled):
            leaves.append(error)
    stopped = [error for error in leaves if isinstance(error, NodeStopped)]
    if stopped:
        return stopped[0]
    return leaves[0] if len(leaves) == 1 else group
