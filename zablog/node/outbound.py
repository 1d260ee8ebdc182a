"""What leaves for the followers at once, and what may wait a little.

**COMMITs** leave behind the application, and best of all with the next proposal. Clients wait for what is applied here; followers can wait
a little. And the watermark rides on proposals: whoever sends one record at a time has the next one proposed right behind the answer to the
last. Then a COMMIT of its own is a message to each follower, and a turn of its event loop, for what the proposal says anyway. So where the
last COMMIT was overtaken by a proposal, the next one waits for one.

**Proposals** of such a client leave at once for as many followers as make a quorum with us: those that were quick to acknowledge when all
were told. The others hear of several together. The client waits for the quorum alone; and the others would write and sync each record
beside it, in its way where they share disks or processors with it.

The core knows nothing of it. To it what waits here is on its way, and each link keeps the core's order.
"""

from collections.abc import Callable, Collection
from typing import Final, NamedTuple

import trio

from zablog.core.effects import Send
from zablog.core.events import Link
from zablog.core.messages import Commit, Propose
from zablog.core.zxid import ZERO, Zxid

SOON_SECONDS: Final = 0.003
"""A proposal that comes so soon behind a commit lets the next COMMIT wait for one."""
GATHER_SECONDS: Final = 0.008
"""What has waited for so long leaves behind the next answer to a client, when nobody waits for us."""
WAIT_SECONDS: Final = 0.012
"""And in any case after so long, COMMIT or proposal: so late a follower may hear of a record. To wake up costs as much as a message."""
DOUBT: Final = 4
"""After a wait in vain so many times as many proposals in a row must have come soon. Who sends the next record once somebody at a follower
has the last one is made to wait by whoever waits for him."""
DOUBTS_MAX: Final = 1024
LITTLE_BYTES: Final = 4 << 10
"""A larger proposal waits for nothing: it takes its time by itself."""
WARY_SECONDS: Final = 1.0
"""Where a client waited for a quorum until the others were told of its record, everybody is told at once for so long."""


class Outbound:
    """Messages on their way to `send`: on each link in the order of the core, but for COMMITs that another message says as much as.

    `quick()`: followers that make a quorum with us, of those that have acknowledged everything by now; none if these are too few, or if our
    own disk came behind theirs.
    """

    def __init__(self, send: Callable[[Send], None], quick: Callable[[], Collection[Link]]) -> None:
        self._send = send
        self._quick = quick
        self._behind_apply: list[Send] = []
        self._waiting: dict[Link, _Waiting] = {}
        """Who waits longest comes first."""
        self._applied_at: float | None = None
        """When a COMMIT last was ready to leave, as long as no proposal has followed it."""
        self._soon = 0
        """So many proposals in a row came soon."""
        self._doubts = 1
        """So many must have."""
        self._prompt: Collection[Link] = ()
        """Those that hear of each proposal at once; none: everybody does, and we see who is quick."""
        self._first, self._last = ZERO, ZERO
        """Of the entries of the last proposal."""
        self._lazy = False
        """Did it leave for the prompt ones alone,"""
        self._lazy_since = 0.0
        self._alone = False
        """and come soon behind the commit of everything before it?"""
        self._wary_until = 0.0
        self._wake = trio.lowlevel.ParkingLot()

    def commit(self, commit: Send) -> None:
        """The core has emitted it: it leaves once that is applied here."""
        self._behind_apply.append(commit)

    def applied(self) -> None:
        """What was committed is applied here."""
        if not self._behind_apply:
            return
        last = self._behind_apply[-1].message
        assert isinstance(last, Commit), "what was added"
        if last.watermark < self._last:  # a heartbeat's, while more is under way
            self.tell()
            return
        now = self._applied_at = trio.current_time()
        if self._soon < self._doubts:
            self.tell()
            return
        if not self._lazy:
            self._prompt = self._quick()
        for commit in self._behind_apply:
            self._wait(commit, now)
        self._behind_apply.clear()
        if now - self._since >= GATHER_SECONDS:
            self._leave()

    def propose(self, proposal: Send) -> None:
        """The core has emitted it, with a watermark of its own: for one link after the other before anything else."""
        assert isinstance(proposal.message, Propose), "what it is"
        entries = proposal.message.entries
        if entries.first != self._first:
            self._first, self._last = entries.first, entries.last
            self._lazy, self._lazy_since = self._may_wait(entries.size), trio.current_time()
        if self._lazy and proposal.link not in self._prompt:
            self._wait(proposal, self._lazy_since)
            return
        waiting = self._waiting.pop(proposal.link, None)
        if waiting is not None:
            waiting.put(proposal)
        for send in waiting.sends if waiting is not None else (proposal,):
            self._send(send)

    def _may_wait(self, size: int) -> bool:
        """Another proposal comes: may it wait where it can?"""
        now = trio.current_time()
        self._alone = self._applied_at is not None and now - self._applied_at < SOON_SECONDS
        if self._applied_at is not None:
            self._soon = self._soon + 1 if self._alone else 0
            self._applied_at = None
            if self._waiting:
                self._doubts = 1
        if self._behind_apply:
            self.tell()
        return self._alone and bool(self._prompt) and size <= LITTLE_BYTES and now >= self._wary_until

    def is_alone(self, first: Zxid) -> bool:
        """Did the proposal that begins there leave, soon behind the commit of everything before it?"""
        return self._alone and first == self._first

    def _wait(self, send: Send, now: float) -> None:
        if send.link not in self._waiting:
            self._waiting[send.link] = _Waiting(now, [])
            self._wake.unpark_all()
        self._waiting[send.link].put(send)

    @property
    def _since(self) -> float:
        """When the first of what waits began to."""
        return next(iter(self._waiting.values())).since

    def tell(self) -> None:
        """All of it, now: something else is to leave behind it, or others make the quorum."""
        self._prompt, self._lazy = (), False
        self._leave()

    def _leave(self) -> None:
        sends = [*(send for waiting in self._waiting.values() for send in waiting.sends), *self._behind_apply]
        self._waiting.clear()
        self._behind_apply.clear()
        for send in sends:
            self._send(send)

    def forget(self) -> None:
        """The role that had it to tell is over."""
        self._waiting.clear()
        self._behind_apply.clear()
        self._applied_at, self._soon, self._doubts = None, 0, 1
        self._prompt, self._lazy, self._alone = (), False, False
        self._first = self._last = ZERO
        self._wary_until = 0.0

    async def keep_telling(self) -> None:
        """What nothing came for in time."""
        while True:
            if not self._waiting:
                await self._wake.park()
                continue
            now = trio.current_time()
            if (left := self._since + WAIT_SECONDS - now) > 0:
                await trio.sleep(left)
                continue
            if self._applied_at is not None:
                self._soon, self._doubts = 0, min(self._doubts * DOUBT, DOUBTS_MAX)
            elif self._lazy and now - self._lazy_since >= GATHER_SECONDS:
                self._wary_until = now + WARY_SECONDS
            self.tell()


class _Waiting(NamedTuple):
    """What waits for one link: nothing but proposals, and a COMMIT at the end perhaps."""

    since: float
    sends: list[Send]

    def put(self, send: Send) -> None:
        """Behind the others; in the place of a COMMIT that it says as much as."""
        if self.sends and _says_as_much(send, self.sends[-1]):
            self.sends.pop()
        self.sends.append(send)


def _says_as_much(send: Send, earlier: Send) -> bool:
    """About the watermark, in the same epoch, and the earlier one says nothing else."""
    later, commit = send.message, earlier.message
    assert isinstance(later, Commit | Propose), "what may wait"
    return isinstance(commit, Commit) and later.epoch == commit.epoch and later.watermark >= commit.watermark
