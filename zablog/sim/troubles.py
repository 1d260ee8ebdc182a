"""What is about to go wrong with a node's disk. The faults plan it here, and it happens at one of the operations to come."""

import errno

from zablog.sim.disk import PowerLost, SimDisk
from zablog.sim.schedule import Schedule

SYNC_MICROS = (50, 3_000)


class Troubles:
    """Of one disk, over all lives of its node. Each operation of the disk is counted here, and shown in the trace."""

    def __init__(self, node: int, disk: SimDisk, schedule: Schedule) -> None:
        self.node = node
        self.schedule = schedule
        self.crash_at: int | None = None
        """The process dies at this many disk operations from now, be it while it recovers."""
        self.power_fails = False
        """Does the power fail with it?"""
        self.fail_at: int | None = None
        """The disk fails once, with the error `failure`, at this many operations from now."""
        self.failure = errno.EIO
        self.read_fail_at: int | None = None
        """A file cannot be read, once, at this many reads from now."""
        self.full = False
        """Nothing can be created or written."""
        self.sync_micros = SYNC_MICROS
        """How long a group commit takes at least and at most."""
        self.hang_micros = 0
        """How long the next one hangs."""
        disk.step, disk.reading = self.step, self.reading

    def step(self, operation: str) -> None:
        """Before each operation of the disk."""
        self.schedule.count(self.node, operation)
        if self.schedule.tell is not None:
            self.schedule.say(f"{self.node}       disk: {operation}")
        if self.crash_at is not None:
            self.crash_at -= 1
            if self.crash_at <= 0:
                raise PowerLost
        if self.fail_at is not None:
            self.fail_at -= 1
            if self.fail_at <= 0:
                self.fail_at = None
                raise OSError(self.failure, f"the {operation} failed")
        if self.full and operation in ("create", "write"):
            raise OSError(errno.ENOSPC, f"no space left for the {operation}")

    def reading(self, name: str) -> None:
        """Before each reading of a file."""
        if self.read_fail_at is not None:
            self.read_fail_at -= 1
            if self.read_fail_at <= 0:
                self.read_fail_at = None
                raise OSError(errno.EIO, f"{name} cannot be read")

    def died(self) -> None:
        """What was to strike the process has no victim any more. Whatever cannot be read still cannot."""
        self.crash_at = self.fail_at = None
        self.hang_micros = 0

    def mend(self) -> None:
        """The disk is as fast and as empty as it should be."""
        self.sync_micros = SYNC_MICROS
        self.full = False
