"""A leader whose client sends one record at a time does not go to sleep over it.

Such a record is waited for twice: for the ack that makes the quorum, and, behind the answer, for the next request. Both come within a part
of a millisecond, and to wake a processor that has gone to sleep can take a third of that. So the event loop goes round meanwhile, and each
time offers its processor to whoever else wants it. Where somebody takes it for long the machine is busy: who sleeps is served at once there
when he wakes up, and who is awake has to queue.
"""

import os
import time
from typing import Final

import trio

ACK_SECONDS: Final = 0.001
"""So long an ack is waited for,"""
REQUEST_SECONDS: Final = 0.0002
"""and the next request."""
TAKEN_SECONDS: Final = 0.0005
"""Whoever takes our processor for longer is none of those that we wait for."""
WARY_TIMES: Final = 100
"""Then we sleep like others for so many times as long."""


class Awake:
    """`run` keeps the event loop from sleeping between `wait_for_ack` and `wait_for_request` and a little longer."""

    def __init__(self) -> None:
        self._until = 0.0
        self._waits = False
        self._wary_until = 0.0
        self._wake = trio.lowlevel.ParkingLot()

    def wait_for_ack(self) -> None:
        """A record is under way, and nothing else is."""
        self._waits = True
        self._stay(ACK_SECONDS)

    def wait_for_request(self) -> None:
        """It is committed, if one was."""
        if self._waits:
            self._waits = False
            self._stay(REQUEST_SECONDS)

    def _stay(self, seconds: float) -> None:
        now = trio.current_time()
        if now >= self._wary_until:
            self._until = now + seconds
            self._wake.unpark_all()

    async def run(self) -> None:
        """Until cancelled."""
        offer = getattr(os, "sched_yield", None)
        while offer is not None:
            await self._wake.park()
            before = 0.0
            while before < (now := trio.current_time()) < self._until:  # a clock that stands still is a test's
                before = now
                begun = time.perf_counter()
                offer()
                if (taken := time.perf_counter() - begun) > TAKEN_SECONDS:
                    self._until, self._wary_until = now, now + WARY_TIMES * taken
                await trio.lowlevel.checkpoint()
