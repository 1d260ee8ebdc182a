"""The leader raises the feature level once every voter's build knows a higher one, so that an upgrade ends by itself.

What a build knows is said in each handshake, and counts as long as the link lives. A node that is away may come back as any build, so
nothing is raised without it.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from broker.server.clock import LeaderClock
from broker.state import RaiseLevel, encode
from zablog import Full, Node, NotLeading

if TYPE_CHECKING:
    from broker.server.application import BrokerApplication

LOOK_SECONDS: Final = 0.5
"""Between two looks at what the voters know."""


async def keep_raising(application: "BrokerApplication", node: Node, clock: LeaderClock) -> None:
    """For ever, while this node leads."""
    while True:
        await trio.sleep(LOOK_SECONDS)
        status, state = node.status(), application.state
        if not status.leads or status.applied < status.watermark or application.levels.highest <= state.level:
            continue
        level = common_level(node)
        if level is not None and level > state.level:
            with suppress(Full, NotLeading):
                node.propose_nowait([encode(RaiseLevel(clock.now(state.time), level))])


def common_level(node: Node) -> int | None:
    """The highest feature level that every voter knows; None if one of them cannot be asked."""
    known = node.levels()
    if any(member.id not in known for member in node.identity.members):
        return None
    return min(levels.highest for levels in known.values())
