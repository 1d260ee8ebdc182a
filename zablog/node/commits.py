"""When followers are told of commits: behind the application, and best of all with the next proposal.

Clients wait for what is applied here; followers can wait a little. And the watermark rides on proposals: whoever sends one record at a time
has the next one proposed right behind the answer to the last. Then a COMMIT of its own is a message to each follower, and a turn of its
event loop, for what the proposal says anyway. So where the last COMMIT was overtaken by a proposal, the next one waits for one.
"""

from collections.abc import Callable
from typing import Final

import trio

from zablog.core.effects import Send
from zablog.core.events import Link
from zablog.core.messages import Commit, Propose

SOON_SECONDS: Final = 0.003
"""A proposal that comes so soon behind a commit lets the next COMMIT wait for one."""
WAIT_SECONDS: Final = 0.008
"""But no longer than this: so late a follower may hear of the last of several records. To wake up for that costs as much as a message."""
DOUBT: Final = 4
"""After a wait in vain so many times as many proposals in a row must have come soon. Who sends the next record once somebody at a follower
has the last one is made to wait by whoever waits for him."""
DOUBTS_MAX: Final = 1024


class Commits:
    """COMMITs on their way to `send`, which they reach in the order of the core, or not at all if a proposal says as much."""

    def __init__(self, send: Callable[[Send], None]) -> None:
        self._send = send
        self._behind_apply: list[Send] = []
        self._waiting: dict[Link, tuple[float, Send]] = {}
        """For a proposal, and until when; who waits longest comes first. Later COMMITs say more, so one for each link is enough."""
        self._applied_at: float | None = None
        """When a COMMIT last was ready to leave, as long as no proposal has followed it."""
        self._soon = 0
        """So many proposals in a row came soon."""
        self._doubts = 1
        """So many must have."""
        self._wake = trio.lowlevel.ParkingLot()

    def add(self, commit: Send) -> None:
        """The core has emitted it: it leaves once that is applied here."""
        self._behind_apply.append(commit)

    def applied(self) -> None:
        """What was committed is applied here."""
        if not self._behind_apply:
            return
        now = trio.current_time()
        self._applied_at = now
        if self._soon < self._doubts:
            self.tell()
            return
        for commit in self._behind_apply:
            until, _ = self._waiting.get(commit.link, (now + WAIT_SECONDS, commit))
            self._waiting[commit.link] = until, commit
        self._behind_apply.clear()
        self._wake.unpark_all()

    def proposing(self, proposal: Send) -> None:
        """This proposal is about to leave, with a watermark of its own."""
        if self._applied_at is not None:
            self._soon = self._soon + 1 if trio.current_time() - self._applied_at < SOON_SECONDS else 0
            self._applied_at = None
            if self._waiting:
                self._doubts = 1
        if self._behind_apply:
            self.tell()
        _, waiting = self._waiting.pop(proposal.link, (0.0, None))
        if waiting is not None and not _says_as_much(proposal, waiting):
            self._send(waiting)

    def tell(self) -> None:
        """Now, all of them: something else is to leave behind them."""
        commits = [*(commit for _, commit in self._waiting.values()), *self._behind_apply]
        self._waiting.clear()
        self._behind_apply.clear()
        for commit in commits:
            self._send(commit)

    def forget(self) -> None:
        """The role that had them to tell is over."""
        self._waiting.clear()
        self._behind_apply.clear()
        self._applied_at, self._soon, self._doubts = None, 0, 1

    async def keep_telling(self) -> None:
        """Those that no proposal came for in time."""
        while True:
            if not self._waiting:
                await self._wake.park()
                continue
            until, _ = next(iter(self._waiting.values()))
            if (left := until - trio.current_time()) > 0:
                await trio.sleep(left)
            else:
                self._soon, self._doubts = 0, min(self._doubts * DOUBT, DOUBTS_MAX)
                self.tell()


def _says_as_much(proposal: Send, commit: Send) -> bool:
    assert isinstance(proposal.message, Propose) and isinstance(commit.message, Commit), "what they are"
    return proposal.message.epoch == commit.message.epoch and proposal.message.watermark >= commit.message.watermark
