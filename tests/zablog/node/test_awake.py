"""A leader that stays awake for an ack and the next request: for how long, and when it does not."""

import os
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from zablog.node.awake import ACK_SECONDS, REQUEST_SECONDS, ROUNDS_MAX, TAKEN_SECONDS, VAIN_MAX, WARY_TIMES, Awake

ROUND = 1e-5


class Rounds(trio.abc.Clock):
    """Each look at it takes a while, and nothing else does."""

    def __init__(self) -> None:
        self.now = 1000.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        self.now += ROUND
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0.0


class Machine:
    """The event loop under test, and who else wants its processor."""

    def __init__(self, clock: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = clock
        self.awake = Awake()
        self.offered = 0
        self.taken = 0.0
        """So long somebody takes the processor at each offer."""
        monkeypatch.setattr(os, "sched_yield", self.offer, raising=False)

    def offer(self) -> None:
        self.offered += 1
        self.clock.now += self.taken

    async def rounds_in(self, seconds: float) -> int:
        """So often the loop goes round in that time."""
        before, end = self.offered, self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += ROUND
            await trio.lowlevel.checkpoint()
        return self.offered - before

    async def record(self, ack: bool = True, request: bool = True) -> tuple[bool, bool]:
        """One from its proposal to the next, or until nothing more is waited for. Was each waited for awake?"""
        self.awake.proposed()
        for_ack = await self.rounds_in(ACK_SECONDS * (0.5 if ack else 2))
        self.awake.committed()
        for_request = await self.rounds_in(REQUEST_SECONDS * (0.5 if request else 2))
        return for_ack > 2, for_request > 2


def on(machine_test: Callable[[Machine], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Rounds()

    async def main() -> None:
        machine = Machine(clock, monkeypatch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.awake.run)
            await trio.lowlevel.checkpoint()
            await machine_test(machine)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)


def test_it_goes_round_until_the_ack_and_then_for_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def machine_test(machine: Machine) -> None:
        assert await machine.rounds_in(1e-3) == 0
        machine.awake.proposed()
        assert await machine.rounds_in(ACK_SECONDS * 0.9) > 3
        machine.awake.committed()
        assert await machine.rounds_in(REQUEST_SECONDS * 0.9) > 3
        await machine.rounds_in(REQUEST_SECONDS)
        assert await machine.rounds_in(1e-3) == 0, "nothing came"

    on(machine_test, monkeypatch)


def test_an_ack_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def machine_test(machine: Machine) -> None:
        machine.awake.proposed()
        await machine.rounds_in(ACK_SECONDS * 1.1)
        assert await machine.rounds_in(1e-3) == 0

    on(machine_test, monkeypatch)


def test_what_is_committed_of_a_burst_is_nothing_to_stay_awake_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def machine_test(machine: Machine) -> None:
        machine.awake.committed()
        assert await machine.rounds_in(1e-3) == 0
        await machine.record()
        machine.awake.proposed()
        machine.awake.committed()
        machine.awake.committed()
        await machine.rounds_in(REQUEST_SECONDS * 1.5)
        machine.awake.committed()
        assert await machine.rounds_in(1e-3) == 0

    on(machine_test, monkeypatch)


@pytest.mark.parametrize("kind", ["ack", "request"])
def test_what_is_waited_for_in_vain_is_not_any_more_for_a_while(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = ACK_SECONDS if kind == "ack" else REQUEST_SECONDS

    async def machine_test(machine: Machine) -> None:
        for vain in (VAIN_MAX - 1, VAIN_MAX - 1, VAIN_MAX):
            await machine.record()  # in between all is well
            for _ in range(vain):
                assert await machine.record(**{kind: False}) == (True, True)
        since = machine.clock.now
        assert await machine.record() == (kind == "request", kind == "ack")
        await machine.rounds_in(since + WARY_TIMES * VAIN_MAX * seconds - machine.clock.now)
        for _ in range(VAIN_MAX):
            assert await machine.record(**{kind: False}) == (True, True)
        assert await machine.record() == (kind == "request", kind == "ack")

    on(machine_test, monkeypatch)


def test_an_ack_that_is_overtaken_has_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    async def machine_test(machine: Machine) -> None:
        for _ in range(VAIN_MAX + 1):
            machine.awake.proposed()
            await machine.rounds_in(1e-4)
        assert await machine.rounds_in(1e-3) == 0

    on(machine_test, monkeypatch)


def test_nothing_is_waited_for_in_another_role(monkeypatch: pytest.MonkeyPatch) -> None:
    async def machine_test(machine: Machine) -> None:
        machine.awake.proposed()
        machine.awake.forget()
        assert await machine.rounds_in(1e-3) == 0
        machine.awake.committed()
        assert await machine.rounds_in(1e-3) == 0

    on(machine_test, monkeypatch)


async def test_what_began_before_anybody_could_wait_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    offers: list[int] = []
    monkeypatch.setattr(os, "sched_yield", lambda: offers.append(1), raising=False)
    awake = Awake()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(awake.run)
        awake.proposed()
        await trio.testing.wait_all_tasks_blocked()
        assert offers
        nursery.cancel_scope.cancel()


def test_a_busy_machine_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def machine_test(machine: Machine) -> None:
        machine.taken = TAKEN_SECONDS * 0.9
        machine.awake.proposed()
        assert await machine.rounds_in(ACK_SECONDS) > 1, "so long a follower may take it"
        machine.taken = TAKEN_SECONDS * 2
        machine.awake.proposed()
        assert await machine.rounds_in(1e-4) == 1
        since = machine.clock.now
        await machine.record()
        while machine.clock.now < since + WARY_TIMES * machine.taken * 0.9:
            before = machine.offered
            await machine.record()
            assert machine.offered == before
        await machine.rounds_in(WARY_TIMES * machine.taken * 0.2)
        await machine.record()
        assert machine.offered == before + 1

    on(machine_test, monkeypatch)


async def test_a_clock_that_stands_still_is_not_waited_for(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers: list[int] = []
    monkeypatch.setattr(os, "sched_yield", lambda: offers.append(1), raising=False)
    awake = Awake()
    nursery.start_soon(awake.run)
    await trio.sleep(1)
    for number in range(1, 4):
        awake.proposed()
        await trio.sleep(1)
        assert len(offers) == number, "one look, and no more"


def test_a_clock_that_creeps_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    offers: list[int] = []
    monkeypatch.setattr(os, "sched_yield", lambda: offers.append(1), raising=False)

    async def main() -> None:
        awake = Awake()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(awake.run)
            awake.proposed()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(rate=1e-6))
    assert 0 < len(offers) <= ROUNDS_MAX


async def test_where_no_processor_can_be_offered_nobody_stays_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_yield", raising=False)
    await Awake().run()
