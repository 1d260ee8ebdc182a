"""What can be wrong with a data directory. Each says what, where, and what can be done now."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zablog.storage.repair import Fault


class StorageError(Exception):
    """The data directory cannot be used, or cannot be used any longer."""


class NotBorn(StorageError):
    """There is no data directory here, or an empty one: a server never makes one."""


class Foreign(StorageError):
    """A data directory, but not the one that was meant: it was born with another cluster, or for another node."""


class AlreadyBorn(StorageError):
    """A data directory can be born only where there is nothing."""


class DirectoryInUse(StorageError):
    """Another process holds the lock."""


class NewerFormat(StorageError):
    """Written by a later version."""


class MetadataLost(StorageError):
    """Both copies of a metadata record are unreadable: this node's promises are lost, and it must not vote again."""


class Corrupt(StorageError):
    """Bytes that may have been acknowledged are damaged. Nothing was cut."""


class Faulty(Corrupt):
    """One batch of the log is damaged, what surrounds it is whole: whoever has its entries can help; see `zablog.storage.repair`."""

    def __init__(self, text: str, fault: "Fault") -> None:
        super().__init__(text)
        self.fault = fault


class Trimmed(StorageError):
    """What is asked for lies below the place where the log begins; the snapshot covers it."""


class Diverged(StorageError):
    """Our history at a zxid has another digest than the leader's. Nothing was cut."""


class StorageFailed(StorageError):
    """A write or a sync failed. What was under way may or may not be on disk; nothing of it was acknowledged. Final."""
