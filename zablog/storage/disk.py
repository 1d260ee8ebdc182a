"""The port to the disk: what a node needs of one directory, and no more. Blocking; the simulator has a twin of the real one.

Names are plain names within the directory. Nothing is durable before `sync` (a file's bytes) and `sync_names` (creations, renames and
removals of the directory) have returned. Every method raises OSError for what the disk does to us.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from zablog.core.trail import Payload


class Disk(Protocol):
    """One directory."""

    def names(self) -> list[str]:
        """The files here, sorted."""
        ...

    def exists(self, name: str) -> bool: ...

    def size(self, name: str) -> int:
        """Bytes."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes, fewer only at the end of the file."""
        ...

    def read_now(self, name: str, offset: int, length: int) -> Payload:
        """What `read` gives, as far as it is in memory: fewer bytes, or none, where one would have to wait. See `warm`."""
        ...

    def warm(self, name: str, begin: int, end: int) -> None:
        """Wait until these bytes are in memory, as far as it has room. What follows them may be on its way then."""
        ...

    def create(self, name: str) -> None:
        """A new, empty file. FileExistsError if there is one."""
        ...

    def allocate(self, name: str, length: int) -> None:
        """A new file of so many bytes, which read as zeros: as the file system does it, without writing them where it can.

        The blocks are ours, whatever others write; durable with the next `sync`. OSError also where the file system cannot do it.
        """
        ...

    def write(self, name: str, offset: int, pieces: Sequence[Payload]) -> None:
        """All of it, or an OSError; a short write is one."""
        ...

    def sync(self, name: str) -> None:
        """The file's bytes and length are durable."""
        ...

    def cool(self, name: str, begin: int, end: int) -> None:
        """These bytes are durable and will hardly be read soon: the memory they take may go. Advice, no more."""
        ...

    def truncate(self, name: str, length: int) -> None: ...

    def rename(self, old: str, new: str) -> None:
        """Replaces `new` if it exists; atomic."""
        ...

    def unlink(self, name: str) -> None: ...

    def sync_names(self) -> None:
        """Creations, renames and removals so far are durable."""
        ...

    def child(self, name: str) -> "Disk":
        """The directory of that name within this one; made, durably, if it is missing."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Overlapping(Protocol):
    """A disk that may sync a file while the caller goes on."""

    @property
    def sync_end(self) -> int | None:
        """A descriptor that is readable once a sync that was begun is over, and perhaps in vain; None if this system begins none."""
        ...

    def begin_sync(self, name: str) -> None:
        """`sync`, without waiting for it; one at a time. OSError if it has not begun, which says nothing about the file."""
        ...

    def finish_sync(self, wait: bool) -> bool:
        """Is what was in the file at `begin_sync` durable, if need be after waiting? False if nothing is under way. Raises as `sync`."""
        ...
