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
    from zablog.node.application import Application, Restorable
    from zablog.node.config import NodeConfig
    from zablog.node.errors import ConfigError, Full, LeadershipLost, NodeError, NodeStopped, NotLeading, PayloadTooLarge, Unsupported
    from zablog.node.node import Node, open_node
    from zablog.node.status import Status
    from zablog.storage.errors import Corrupt, DirectoryInUse, Foreign, MetadataLost, NewerFormat, NotBorn, StorageError
    from zablog.storage.manifest import Identity, Member, give_birth
    from zablog.storage.snapshots import Part
    from zablog.transport.errors import AddressInUse, CannotListen, InsecureAddress, TransportError
    from zablog.wire.handshake import Versions

ROOMS = {
    "Limits": "zablog.core.state",
    "Timing": "zablog.core.state",
    "Epoch": "zablog.core.zxid",
    "PeerId": "zablog.core.zxid",
    "Zxid": "zablog.core.zxid",
    "Application": "zablog.node.application",
    "Restorable": "zablog.node.application",
    "NodeConfig": "zablog.node.config",
    "ConfigError": "zablog.node.errors",
    "Full": "zablog.node.errors",
    "LeadershipLost": "zablog.node.errors",
    "NodeError": "zablog.node.errors",
    "NodeStopped": "zablog.node.errors",
    "NotLeading": "zablog.node.errors",
    "PayloadTooLarge": "zablog.node.errors",
    "Unsupported": "zablog.node.errors",
    "Node": "zablog.node.node",
    "open_node": "zablog.node.node",
    "Status": "zablog.node.status",
    "Corrupt": "zablog.storage.errors",
    "DirectoryInUse": "zablog.storage.errors",
    "Foreign": "zablog.storage.errors",
    "MetadataLost": "zablog.storage.errors",
    "NewerFormat": "zablog.storage.errors",
    "NotBorn": "zablog.storage.errors",
    "StorageError": "zablog.storage.errors",
    "Identity": "zablog.storage.manifest",
    "Member": "zablog.storage.manifest",
    "give_birth": "zablog.storage.manifest",
    "Part": "zablog.storage.snapshots",
    "AddressInUse": "zablog.transport.errors",
    "CannotListen": "zablog.transport.errors",
    "InsecureAddress": "zablog.transport.errors",
    "TransportError": "zablog.transport.errors",
    "Versions": "zablog.wire.handshake",
}

__all__ = [
    "AddressInUse",
    "Application",
    "CannotListen",
    "ConfigError",
    "Corrupt",
    "DirectoryInUse",
    "Epoch",
    "Foreign",
    "Full",
    "Identity",
    "InsecureAddress",
    "LeadershipLost",
    "Limits",
    "Member",
    "MetadataLost",
    "NewerFormat",
    "Node",
    "NodeConfig",
    "NodeError",
    "NodeStopped",
    "NotBorn",
    "NotLeading",
    "Part",
    "PayloadTooLarge",
    "PeerId",
    "Restorable",
    "Status",
    "StorageError",
    "Timing",
    "TransportError",
    "Unsupported",
    "Versions",
    "Zxid",
    "give_birth",
    "open_node",
]


def __getattr__(name: str) -> Any:  # Any: the type of whatever is asked for
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(ROOMS[name]), name)
