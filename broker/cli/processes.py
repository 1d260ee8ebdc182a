"""Processes of this machine, told apart by more than their number: a pid alone may long belong to somebody else.

A process is remembered with the moment it started, as the system tells it; only one that still has both is ours to signal.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import NamedTuple


class Process(NamedTuple):
    """One process that we started."""

    pid: int
    started: str
    """The system's own words for the moment it started; compared, never read."""

    @property
    def alive(self) -> bool:
        return started(self.pid) == self.started

    def send(self, number: signal.Signals) -> bool:
        """Signal it, if it is still the process we mean. False if it is gone."""
        if not self.alive:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False

    def wait(self, seconds: float) -> bool:
        """Wait for its end. False if it is still there. It need not be a child of ours."""
        deadline = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() > deadline:
                return False
            with suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
            time.sleep(0.01)
        return True

    def stop(self, seconds: float) -> None:
        """Ask it to end, and after `seconds` end it."""
        if self.send(signal.SIGTERM) and not self.wait(seconds):
            self.kill()

    def kill(self) -> bool:
        """kill -9, and wait until it is gone. False if it was gone before."""
        if not self.send(signal.SIGKILL):
            return False
        self.wait(10)
        return True


def this(pid: int) -> Process | None:
    """The process that has this pid now."""
    moment = started(pid)
    return Process(pid, moment) if moment is not None else None


def started(pid: int) -> str | None:
    """When the process started; None if there is none, or only what is left of one that nobody has waited for."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        return None if os.path.exists("/proc/self/stat") else _started_by_ps(pid)


def _started_by_ps(pid: int) -> str | None:
    """Where there is no /proc."""
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
    return None if not shown or shown.startswith("Z") else shown.partition(" ")[2].strip()
