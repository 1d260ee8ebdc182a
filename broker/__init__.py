"""A publish/subscribe broker on `zablog`'s ordered log: topics with partitions, stored and replicated.

    async with broker.connect("127.0.0.1:7401") as zl:
        async with zl.producer() as out:
            receipt = await out.send("orders", b"paid", key=b"42")
        async with zl.consumer("orders", start="earliest") as inbox:
            async for record in inbox:
                ...

`broker.sync` is the same for blocking code. Names are loaded when they are used, so a pure room, or the command line's help, pulls
in no trio.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import broker.sync as sync
    from broker.client import Client, ClusterStatus, Consumer, Pending, Producer, Receipt, connect
    from broker.errors import (
        Attempt,
        BadName,
        BadRequest,
        BrokerError,
        ConfigError,
        ConnectionLost,
        Corrupt,
        CutGone,
        InternalError,
        LevelNotReached,
        LimitReached,
        NoCluster,
        NodeNotFound,
        NoQuorum,
        NoStartPosition,
        NotAllowed,
        OffsetOutOfRange,
        OutcomeUnknown,
        Overloaded,
        PartitionNotFound,
        ProducerLost,
        RecordTooLarge,
        StaleOwner,
        StaleProducer,
        TimedOut,
        TopicExists,
        TopicNotFound,
        WriteLost,
    )
    from broker.records import Record
    from broker.state.commands import Retention
    from broker.state.limits import Limits
    from zablog.core.zxid import Zxid

__all__ = [
    "Attempt",
    "BadName",
    "BadRequest",
    "BrokerError",
    "Client",
    "ClusterStatus",
    "ConfigError",
    "ConnectionLost",
    "Consumer",
    "Corrupt",
    "CutGone",
    "InternalError",
    "LevelNotReached",
    "LimitReached",
    "Limits",
    "NoCluster",
    "NoQuorum",
    "NoStartPosition",
    "NodeNotFound",
    "NotAllowed",
    "OffsetOutOfRange",
    "OutcomeUnknown",
    "Overloaded",
    "PartitionNotFound",
    "Pending",
    "Producer",
    "ProducerLost",
    "Receipt",
    "Record",
    "RecordTooLarge",
    "Retention",
    "StaleOwner",
    "StaleProducer",
    "TimedOut",
    "TopicExists",
    "TopicNotFound",
    "WriteLost",
    "Zxid",
    "connect",
    "sync",
]

_ROOMS = {
    "Client": "broker.client",
    "ClusterStatus": "broker.client",
    "Consumer": "broker.client",
    "Limits": "broker.state.limits",
    "Pending": "broker.client",
    "Producer": "broker.client",
    "Receipt": "broker.client",
    "Record": "broker.records",
    "Retention": "broker.state.commands",
    "Zxid": "zablog.core.zxid",
    "connect": "broker.client",
}
"""Where a name lives; every other one is an error's."""


def __getattr__(name: str) -> Any:  # Any: the type of whatever is asked for
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "sync":
        return import_module("broker.sync")
    return getattr(import_module(_ROOMS.get(name, "broker.errors")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
