"""Room on the disk that is kept for the time when it is full: a file that holds blocks, and is given up for what cannot wait.

A node whose disk is full stops. To end in order, and to come up again, it may need a new file of its log: to seal the last batch, to cut
what its leader never had, to begin anew. The reserve is that room. With it a cluster whose disks are all full comes up once more, so that
topics can be deleted, or their retention lowered; what it is spent on is taken again as soon as there is room for both.
"""

from contextlib import suppress

import structlog
import trio

from zablog.storage.files import FileDisk

NAME = "reserve"
LOOK_SECONDS = 5.0
"""Between two looks whether there is room again."""

log = structlog.get_logger("zablog.node")


class Reserve:
    """One for the data directory. Blocking, but for `watch`. What the disk refuses here is no reason to stop: it will say so again."""

    def __init__(self, disk: FileDisk, size: int) -> None:
        self.disk = disk
        self.size = size
        """Bytes; 0: none."""

    @property
    def held(self) -> bool:
        return self.disk.exists(NAME) and self.disk.size(NAME) >= self.size

    @property
    def needed(self) -> bool:
        """Is there so little room that what must be written may fail?"""
        return self.disk.free() < self.size // 2

    def begin(self) -> None:
        """Before anything of the directory is recovered."""
        with suppress(OSError):
            self.give_up_if_needed()
            self.take_if_roomy()
            if self.size and not self.held:
                log.warning("the disk is nearly full: make room on it", directory=str(self.disk.path), free_bytes=self.disk.free())

    async def watch(self) -> None:
        """For ever: take it again. While the node runs it is not given up, or appends would spend it."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            with suppress(OSError):
                await trio.to_thread.run_sync(self.take_if_roomy)

    def end(self) -> None:
        """The node is about to write its last words."""
        with suppress(OSError):
            self.give_up_if_needed()

    def give_up_if_needed(self) -> None:
        if self.disk.exists(NAME) and (not self.size or self.needed):
            self.disk.unlink(NAME)
            log.warning("the reserve on the disk is given up", directory=str(self.disk.path), bytes=self.size)

    def take_if_roomy(self) -> None:
        if self.size and not self.held and self.disk.free() >= 2 * self.size:
            self.disk.allocate(NAME, self.size)
