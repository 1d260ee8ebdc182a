"""Zab atomic broadcast: a group of processes agrees on one ordered, durable log.

    async with zablog.open_node(zablog.NodeConfig(directory), application) as node:
        zxid = await node.propose(b"payload")
        await node.committed(zxid)

Names are loaded when they are used: a program that wants a zxid pulls in no trio.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zablog.core.state import Limits, Timing
    from zablog.core.zxid import Epoch, PeerId, Zxid
    from zablog.node.application import Application
    from zablog.node.config import NodeConfig
    from zablog.node.errors import ConfigError, Full, LeadershipLost, NodeError, NodeStopped, NotLeading
    from zablog.node.node import Node, open_node
    from zablog.node.status import Status
    from zablog.storage.manifest import Identity, Member, give_birth

ROOMS = {
    "Limits": "zablog.core.state",
    "Timing": "zablog.core.state",
    "Epoch": "zablog.core.zxid",
    "PeerId": "zablog.core.zxid",
    "Zxid": "zablog.core.zxid",
    "Application": "zablog.node.application",
    "NodeConfig": "zablog.node.config",
    "ConfigError": "zablog.node.errors",
    "Full": "zablog.node.errors",
    "LeadershipLost": "zablog.node.errors",
    "NodeError": "zablog.node.errors",
    "NodeStopped": "zablog.node.errors",
    "NotLeading": "zablog.node.errors",
    "Node": "zablog.node.node",
    "open_node": "zablog.node.node",
    "Status": "zablog.node.status",
    "Identity": "zablog.storage.manifest",
    "Member": "zablog.storage.manifest",
    "give_birth": "zablog.storage.manifest",
}

__all__ = [
    "Application",
    "ConfigError",
    "Epoch",
    "Full",
    "Identity",
    "LeadershipLost",
    "Limits",
    "Member",
    "Node",
    "NodeConfig",
    "NodeError",
    "NodeStopped",
    "NotLeading",
    "PeerId",
    "Status",
    "Timing",
    "Zxid",
    "give_birth",
    "open_node",
]


def __getattr__(name: str) -> Any:  # Any: the type of whatever is asked for
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(ROOMS[name]), name)
