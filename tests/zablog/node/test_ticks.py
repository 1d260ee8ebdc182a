"""The node's clock: every tick is told, a heartbeat's at once while the node is at rest, each by itself when the rest is over."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import trio
import trio.testing
from trio.testing import MockClock

from zablog.core.state import Timing
from zablog.core.zxid import PeerId
from zablog.node.config import NodeConfig
from zablog.node.node import Node

TICK = 0.01


class Ticked:
    """What `Node.tick_forever` needs of a driver; remembers when it was ticked."""

    def __init__(self) -> None:
        self.peer = SimpleNamespace(state=SimpleNamespace(timing=Timing()))
        self.at_rest = False
        self.stirred = trio.Event()
        self.ticked_at: list[float] = []

    def tick(self) -> None:
        self.ticked_at.append(trio.current_time())

    def watch_disk(self, stall_seconds: float) -> None:
        pass

    def rest(self) -> None:
        """Takes effect with the next tick."""
        self.at_rest, self.stirred = True, trio.Event()

    def stir(self) -> None:
        self.at_rest = False
        self.stirred.set()

    def times(self) -> int:
        return len(set(self.ticked_at))


@asynccontextmanager
async def ticking() -> AsyncIterator[Ticked]:
    """A node's clock, half a tick on."""
    driver = Ticked()
    node = Node(NodeConfig(Path("unused"), tick_seconds=TICK), SimpleNamespace(node=PeerId(1)), driver, None, {})  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.tick_forever)
        await trio.sleep(TICK / 2)
        yield driver
        nursery.cancel_scope.cancel()


async def test_each_tick_is_told_when_it_is_due(autojump_clock: MockClock) -> None:
    async with ticking() as driver:
        await trio.sleep(100 * TICK)

        assert len(driver.ticked_at) == driver.times() == 100


async def test_at_rest_as_many_ticks_are_told_at_fewer_times(autojump_clock: MockClock) -> None:
    async with ticking() as driver:
        driver.rest()
        await trio.sleep(201 * TICK)

        assert len(driver.ticked_at) == 201
        assert driver.times() == 1 + 200 // Timing().ping


async def test_when_the_rest_is_over_each_tick_counts_again_and_none_is_lost(autojump_clock: MockClock) -> None:
    async with ticking() as driver:
        driver.rest()
        await trio.sleep(104 * TICK)

        driver.stir()
        await trio.testing.wait_all_tasks_blocked()
        assert len(driver.ticked_at) == 104, "those of the rest that was broken off, too"
        times = driver.times()
        await trio.sleep(10 * TICK)

        assert len(driver.ticked_at) == 114
        assert driver.times() == times + 10
