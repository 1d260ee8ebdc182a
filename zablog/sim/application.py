"""The port behind which a simulated node applies what is committed, where it does more than remember it."""

from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from zablog.core.zxid import Zxid
from zablog.sim.disk import SimDisk
from zablog.storage.disk import Disk
from zablog.storage.snapshots import Part

Work = Callable[[], None]
"""Something for the disk. Any operation of it may be the process's last."""


class Capture(Protocol):
    """The state as it was between two commands. The twin of `zablog.node.application.Capture`."""

    def encoded(self) -> Generator[Work | None, None, Sequence[bytes]]:
        """The contents of the snapshot's file, in pieces. Anything may happen between two steps."""

    def over(self) -> None:
        """The snapshot is durable and named: what only an older one needed may go."""


class Application(Protocol):
    """A replicated state, made anew for each life of a node, over files that outlive it. The twin of `zablog.Restorable`.

    It begins with `restore`.
    """

    damaged: str | None
    """What was found damaged of its files, in words."""

    @property
    def files(self) -> Disk:
        """Where its parts lie."""

    @property
    def disk(self) -> SimDisk:
        """What is behind that, for those who judge: some of what was written may not have come there yet."""

    def apply(self, zxid: Zxid, payload: bytes) -> None:
        """Carry out what was committed under `zxid`."""

    def applied(self) -> None:
        """A burst is applied; another may follow at once."""

    def settle(self) -> None:
        """Give the disk what was written and has not come there yet. Raises OSError, PowerLost."""

    def flush(self) -> Generator[Work | None, None, None]:
        """Some of what was written becomes durable ahead of the next checkpoint."""

    def capture(self) -> Capture:
        """Everything applied so far."""

    def parts(self, raw: bytes) -> Sequence[Part]:
        """What of its files belongs to a snapshot. Raises zablog's Corrupt."""

    def restore(self, zxid: Zxid, raw: bytes | None) -> None:
        """Become what was captured when `zxid` had been applied; None: the beginning. Raises zablog's Corrupt where a part is damaged."""

    def check(self, restored: bool = False) -> str | None:
        """Look into all files, behind the back of the disk's troubles: what there is not what was written, in words.

        No file is longer than it should be when it was just `restored`; later one may be, where a fetch was given up.
        """
