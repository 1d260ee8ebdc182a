"""The ways in which a command line ends badly, beyond what the client already has a class for in `broker.errors`.

A command raises; `broker.cli.main` prints the one clear error and turns it into the exit code that stands beside its class.
"""

import errno
import re
from collections.abc import Iterator
from typing import Final

from broker.errors import AlreadyExists, BrokerError, DiskFull, Exit, NotFound


class Usage(BrokerError):
    """What was typed cannot be meant."""

    code = "usage"
    exit_code = Exit.USAGE


class NoSuchFile(NotFound):
    """A file that was named is not there or cannot be read."""

    code = "file_not_found"


class ClusterRunning(AlreadyExists):
    """There is a running cluster already where one was to be made, started or wiped."""

    code = "cluster_running"


class NotEmpty(AlreadyExists):
    """A folder that was to be made is there already, with something in it."""

    code = "not_empty"


class Relayed(BrokerError):
    """The error of another layer or of another process, with its own code and its own exit code."""

    def __init__(self, code: str, exit: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.exit = exit


class PartlyWritten(BrokerError):
    """Some of the input was acknowledged and some was not."""

    code = "partly_written"
    exit_code = Exit.UNKNOWN


_STORAGE_EXITS: Final = {
    "NotBorn": Exit.NOT_FOUND,
    "Foreign": Exit.WOULD_LOSE,
    "AlreadyBorn": Exit.EXISTS,
    "DirectoryInUse": Exit.EXISTS,
    "MetadataLost": Exit.WOULD_LOSE,
    "NewerFormat": Exit.WOULD_LOSE,
    "Corrupt": Exit.VERIFICATION,
    "Diverged": Exit.VERIFICATION,
}


def told(error: BaseException) -> BrokerError | None:
    """What to tell about `error`; None if it is nobody's fault but ours. A group is searched for the first cause we know."""
    for leaf in _leaves(error):
        found = _told(leaf)
        if found is not None:
            return found
    return None


def exit_code(error: BrokerError) -> int:
    """What the shell is told."""
    return error.exit if isinstance(error, Relayed) else error.exit_code


def _told(error: BaseException) -> BrokerError | None:
    from zablog.storage.errors import StorageError

    if isinstance(error, BrokerError):
        return error
    if isinstance(error, StorageError):
        name = type(error).__name__
        return Relayed(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(), _STORAGE_EXITS.get(name, Exit.INTERNAL), str(error))
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        words = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        return DiskFull(words) if error.errno == errno.ENOSPC else BrokerError(words, hint="")
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
