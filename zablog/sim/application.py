"""The port behind which a simulated node applies what is committed, where it does more than remember it."""

from typing import Protocol

from zablog.core.zxid import Zxid


class Application(Protocol):
    """A replicated state, made anew for each life of a node. The twin of `zablog.Application`, in virtual time: nothing waits."""

    def apply(self, zxid: Zxid, payload: bytes) -> None:
        """Carry out what was committed under `zxid`."""

    def applied(self) -> None:
        """A burst is applied; another may follow at once."""

    def capture(self) -> bytes:
        """The whole state as it is now."""

    def restore(self, raw: bytes) -> None:
        """Take a state that was captured, by this node or another, in the place of our own."""
