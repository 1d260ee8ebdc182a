"""A leader whose client sends one record at a time does not go to sleep over it.

Such a record is waited for twice: for the ack that makes the quorum, and, behind the answer, for the next request. On one machine, or near
it, both come within a millisecond or so, and to wake a processor that has gone to sleep can take a third of that. So the event loop
goes round meanwhile, and each time offers its processor to whoever else wants it. Where somebody takes it for long the machine is busy:
whoever sleeps is served at once there when he wakes up, and whoever is awake has to queue. And where neither ack nor request comes in time,
a few times in a row, it is not waited for like that.
"""

import os
from typing import Final

import trio

ACK_SECONDS: Final = 0.0012
REQUEST_SECONDS: Final = 0.0008
"""So long they are waited for awake: where they take longer, waking up is a small part of it."""
VAIN_MAX: Final = 3
"""So many waits in a row may be in vain."""
TAKEN_SECONDS: Final = 0.001
"""Whoever takes our processor for longer is none of those that we wait for."""
WARY_TIMES: Final = 30
"""What was lost is made up for by sleeping like others for so many times as long."""
ROUNDS_MAX: Final = 1000
"""For clocks of tests, which stand still or creep."""


class _Wait:
    """One kind of what is waited for."""

    __slots__ = ("seconds", "vain", "wary_until")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.vain = 0
        """So many in a row."""
        self.wary_until = 0.0

    def in_vain(self, now: float) -> None:
        self.vain += 1
        if self.vain >= VAIN_MAX:
            self.wary_until = now + WARY_TIMES * self.vain * self.seconds
            self.vain = 0


class Awake:
    """`run` keeps the event loop from sleeping, for a moment behind each of the other calls."""

    def __init__(self) -> None:
        self._ack, self._request = _Wait(ACK_SECONDS), _Wait(REQUEST_SECONDS)
        self._for: _Wait | None = None
        self._until = 0.0
        self._under_way = False
        self._wary_until = 0.0
        self._wake = trio.lowlevel.ParkingLot()

    def proposed(self) -> None:
        """A record is under way, and nothing else is: a request has come."""
        self._under_way = True
        self._begin(self._ack, behind=self._request)

    def committed(self) -> None:
        """What was proposed last is committed: if that was such a record, an ack has come."""
        if self._under_way:
            self._under_way = False
            self._begin(self._request, behind=self._ack)

    def forget(self) -> None:
        """The role that waited is over."""
        self._under_way, self._for = False, None

    def _begin(self, wait: _Wait, behind: _Wait) -> None:
        now = trio.current_time()
        if self._for is behind:
            behind.vain = 0
        elif self._for is not None:
            self._for.in_vain(now)
        self._for = None
        if now >= max(self._wary_until, wait.wary_until):
            self._for, self._until = wait, now + wait.seconds
            self._wake.unpark_all()

    async def run(self) -> None:
        """Until cancelled."""
        offer = getattr(os, "sched_yield", None)
        while offer is not None:
            if self._for is None:
                await self._wake.park()
            before = 0.0
            for _ in range(ROUNDS_MAX):
                now = trio.current_time()
                if self._for is None or now <= before:
                    break
                if now >= self._until:
                    self._for.in_vain(now)
                    break
                offer()
                if (taken := trio.current_time() - now) > TAKEN_SECONDS:
                    self._wary_until = now + WARY_TIMES * taken
                    break
                before = now
                await trio.lowlevel.checkpoint()
            self._for = None
