"""What a program brings that wants the ordered log: a state machine."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from zablog.core.trail import Payload
from zablog.core.zxid import Zxid
from zablog.node.status import Status
from zablog.storage.disk import Disk
from zablog.storage.snapshots import Part


class Application(Protocol):
    """Called on the event loop, one call after the other, never concurrently, nor from within a call of its own to the node. What it raises
    stops the node.

    It raises Unsupported, in words for whoever runs the node, for what a later version must have written, be it in `apply`, `parts` or
    `restore`: to skip it, or to take it for damage, would make this node's state another one than its peers'.

    `apply` is called for every committed entry exactly once a process life, in zxid order, from the beginning of the log (or from
    what was restored): it must come to the same result on every node. An application that is no `Restorable` keeps its whole log.
    """

    def apply(self, zxid: Zxid, payload: Payload) -> None:
        """One committed entry. Keep no view of `payload`: copy what is to be kept."""
        ...

    def applied(self, upto: Zxid) -> None:
        """A burst of entries has been applied, through `upto`: write out what was collected, answer who waits."""
        ...

    def role_changed(self, status: Status) -> None:
        """The node began another role or phase."""
        ...


class Capture(Protocol):
    """The state as it was between two commands. It must not change while later commands are applied."""

    async def encode(self) -> Sequence[bytes]:
        """The contents of the snapshot's file, in pieces. All parts that it names are durable when this returns.

        Runs beside everything else: a slice at a time on the event loop, the disk in threads. Raises OSError, which is final.
        """
        ...

    async def durable(self) -> None:
        """The snapshot is durable, and an older one will not be restored any more: what only that one needed may go."""
        ...


@runtime_checkable
class Restorable(Application, Protocol):
    """An application whose state can be captured and restored, so that the log below a snapshot can be let go of.

    The state may lie in one file, and in others of its own (`parts`), which only ever grow.
    """

    @property
    def files(self) -> Disk:
        """The directory of its parts."""
        ...

    @property
    def damaged(self) -> str | None:
        """What was found damaged of what the disk should hold, in words. It is restored from a peer's snapshot then."""
        ...

    def capture(self) -> Capture:
        """Everything applied so far. Takes no longer than a slice of the event loop."""
        ...

    def parts(self, raw: bytes) -> Sequence[Part]:
        """The parts that a snapshot's file names, which may come from another node. Called in a thread. Raises Corrupt."""
        ...

    async def restore(self, zxid: Zxid, raw: bytes | None) -> None:
        """Become what was captured when `zxid` had been applied, whatever we were; None: the beginning. The parts are on our disk.

        A part may be longer than `raw` says: the rest is of no snapshot. Raises Corrupt where a part is not what it should be.
        """
        ...
