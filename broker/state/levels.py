"""The feature level: which commands, limits and meanings the log may hold. Replicated, and only ever raised. Pure.

Each build knows a range of levels. While nodes of different builds work together the level is one that all of them know, so whatever
the log holds means the same to each of them. When every voter's build knows a higher one, the leader raises the level by a command.

A build that adds a command, another version of one, a limit or another meaning raises `LEVELS.highest`, and neither proposes nor accepts
any of it while `State.level` is below: the older nodes would not. A node whose build does not know the log's level stops before it
applies anything under it (`check`); so does one that comes to a command which it does not know.
"""

from typing import Final

from broker.errors import ConfigError
from zablog.wire.handshake import Versions

LEVELS: Final = Versions(1, 1)
"""The levels that this build can apply."""


class UnknownLevel(ConfigError):
    """This build does not know what another one wrote. Nothing of it was used."""


def check(level: int, levels: Versions = LEVELS) -> None:
    """Raises UnknownLevel if a build of these levels must not apply what is written at `level`."""
    if levels.lowest <= level <= levels.highest:
        return
    if level > levels.highest:
        remedy = "install the version of zablog that the other nodes run"
    else:
        remedy = f"install a version that knows level {level} first, and this one once the cluster has gone further"
    raise UnknownLevel(f"the log is at feature level {level}, and this version of zablog knows {levels}: {remedy}")
