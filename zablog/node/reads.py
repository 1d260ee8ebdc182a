"""Linearizable reads wait here for word of a quorum, in rounds: those who come while one is under way share the next."""

from collections.abc import Callable

import trio

from zablog.core.zxid import Zxid
from zablog.node.errors import LeadershipLost


class Round:
    """Those who wait for the same word."""

    __slots__ = ("ended", "upto")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.upto: Zxid | None = None
        """What they must see; None after the end: the role has ended before it was known."""


class ReadRounds:
    """One for the driver. `begin` asks the core."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self.begin = begin
        self.under_way: Round | None = None
        self.following: Round | None = None

    async def wait(self) -> Zxid:
        """What a read must see that is to see everything acknowledged before this call. Only for a leader. Raises LeadershipLost."""
        if self.under_way is None:
            mine = self.under_way = Round()
            self.begin()
        else:
            mine = self.following = self.following or Round()
        await mine.ended.wait()
        if mine.upto is None:
            raise LeadershipLost("this node stopped leading before a quorum had confirmed that it leads.")
        return mine.upto

    def ready(self, upto: Zxid) -> None:
        """A quorum has echoed. Whoever came meanwhile has the next round."""
        assert self.under_way is not None, "the law that what is ready was asked for"
        self.under_way.upto = upto
        self.under_way.ended.set()
        self.under_way, self.following = self.following, None
        if self.under_way is not None:
            self.begin()

    def give_up(self) -> None:
        """The role that was asked has ended."""
        for each in (self.under_way, self.following):
            if each is not None:
                each.ended.set()
        self.under_way = self.following = None
