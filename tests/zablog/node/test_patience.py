"""A node whose own loop is late waits longer for the others, within a bound, and says so; and no longer than the lateness lasts."""

from pathlib import Path
from types import SimpleNamespace

import structlog
import trio
from trio.testing import MockClock

from tests.driving import Bench
from zablog.core.messages import Ping
from zablog.core.state import Following, Looking, Timing
from zablog.core.zxid import Epoch, PeerId
from zablog.node.config import NodeConfig
from zablog.node.node import Node
from zablog.node.patience import CALM_TICKS, PAUSE_TICKS, STEP_TICKS, TIMES, WIDER_MAX, Patience

BORN = Timing()


def late(patience: Patience, ticks: int) -> bool:
    """As often as it counts. Did the timing change?"""
    return [patience.observe(ticks) for _ in range(TIMES)][-1]


def test_lateness_is_added_for_both_ends_of_a_heartbeat() -> None:
    patience = Patience(BORN)

    assert late(patience, 12)

    assert patience.timing.suspect == BORN.suspect + 20 and patience.timing.echo == BORN.echo + 20
    assert patience.timing.ping == BORN.ping, "what a node does itself it does as ever"


def test_a_hiccup_a_little_lateness_and_a_pause_of_the_process_change_nothing() -> None:
    patience = Patience(BORN)

    assert not any(patience.observe(40) for _ in range(TIMES - 1))
    assert not late(patience, STEP_TICKS - 1)
    assert not late(patience, PAUSE_TICKS + 1)

    assert patience.timing == BORN


def test_waits_grow_within_a_bound() -> None:
    patience = Patience(BORN)

    late(patience, PAUSE_TICKS)

    assert patience.timing.suspect == (1 + WIDER_MAX) * BORN.suspect


def test_a_calm_while_takes_off_what_was_added() -> None:
    patience = Patience(BORN)
    late(patience, 40)
    changes = [patience.observe(10 if tick in (100, 200, 300) else 0) for tick in range(CALM_TICKS)]
    assert changes.count(True) == 1, "down to what was seen in the last while"
    assert patience.late_ticks == 10

    changes = [patience.observe(0) for _ in range(CALM_TICKS)]
    assert changes.count(True) == 1
    assert patience.timing == BORN


def test_a_follower_that_is_late_itself_bears_a_leader_that_is_silent_for_longer() -> None:
    patience = Patience(BORN)
    late(patience, 20)
    bench = Bench(id=1)
    bench.up_to_date(leader=3, epoch=2)
    bench.hear(3, Ping(Epoch(2), 1))
    bench.state.timing = patience.timing

    bench.tick(BORN.suspect + 40)
    assert isinstance(bench.state.role, Following)

    bench.tick(1)
    assert isinstance(bench.state.role, Looking)


class Ticked:
    """What `Node.tick_forever` needs of a driver."""

    at_rest = False

    def __init__(self) -> None:
        self.peer = SimpleNamespace(state=SimpleNamespace(timing=BORN))
        self.ticks = 0

    def tick(self) -> None:
        self.ticks += 1

    def watch_disk(self, stall_seconds: float) -> None:
        pass


async def test_a_node_whose_loop_was_held_up_widens_its_waits_and_says_so_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    driver = Ticked()
    node = Node(NodeConfig(Path("unused")), SimpleNamespace(node=PeerId(1)), driver, None, {})
    nursery.start_soon(node.tick_forever)
    await trio.sleep(1)
    with structlog.testing.capture_logs() as lines:
        for _ in range(TIMES):
            autojump_clock.jump(0.225)  # whatever it was that had the processor
            await trio.sleep(1)

    assert driver.peer.state.timing.suspect == BORN.suspect + 40
    assert [(line["event"], line["loop_late_seconds"], line["silence_borne_seconds"]) for line in lines] == [("patience", 0.2, 0.7)]

    await trio.sleep(CALM_TICKS / 100)
    assert driver.peer.state.timing == BORN
