"""What a program brings that wants the ordered log: a state machine."""

from typing import Protocol

from zablog.core.trail import Payload
from zablog.core.zxid import Zxid
from zablog.node.status import Status


class Application(Protocol):
    """Called on the event loop, one call after the other, never concurrently. What it raises stops the node.

    `apply` is called for every committed entry exactly once a process life, in zxid order, from the beginning of the log: it must
    come to the same result on every node. Checkpoints come with a later version.
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
