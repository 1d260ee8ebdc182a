"""How the writes of many connections become proposals: at once while few are under way, together otherwise."""

from collections.abc import Sequence
from types import SimpleNamespace

import trio
import trio.testing
from trio.testing import MockClock

from broker.protocol import Failed, Response
from broker.server import writes
from broker.server.writes import UNDER_WAY_FEW, WORTH_BYTES, Proposal, Writes
from zablog import Full, NotLeading
from zablog.core.zxid import ZERO, Zxid


class FakeNode:
    """Takes what there is room for."""

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []
        self.room = 1000
        self.leads = True
        self.last = Zxid(1, 0)
        self.steps = trio.lowlevel.ParkingLot()

    async def changed(self) -> None:
        await self.steps.park()

    @property
    def taken(self) -> list[bytes]:
        return [payload for call in self.calls for payload in call]

    def propose_nowait(self, payloads: Sequence[bytes]) -> Zxid:
        if not self.leads:
            raise NotLeading(None, None)
        if len(payloads) > self.room:
            raise Full("full")
        self.room -= len(payloads)
        self.calls.append(list(payloads))
        first, self.last = self.last.after(1), self.last.after(len(payloads))
        return first


class Scene:
    def __init__(self) -> None:
        self.node = FakeNode()
        self.application = SimpleNamespace(state=SimpleNamespace(applied=ZERO, time=0), advanced=None, wait_for=lambda first, waiters: None)
        self.writes = Writes(self.node, self.application, None)  # type: ignore[arg-type]  # what it needs of them
        self.answers: list[tuple[bytes, Response]] = []

    async def propose(self, *commands: bytes) -> None:
        await self.writes.propose([Proposal(each, lambda answer, each=each: self.answers.append((each, answer))) for each in commands])

    def apply(self, upto: Zxid) -> None:
        self.application.state.applied = upto
        self.application.advanced()


async def test_a_few_are_proposed_at_once_and_the_others_together_when_one_is_applied() -> None:
    scene = Scene()

    for number in range(UNDER_WAY_FEW + 3):
        await scene.propose(b"%d" % number)
    assert scene.node.calls == [[b"%d" % number] for number in range(UNDER_WAY_FEW)]

    scene.apply(Zxid(1, 1))
    assert scene.node.calls[UNDER_WAY_FEW:] == [[b"4", b"5", b"6"]]


async def test_what_is_large_does_not_wait() -> None:
    scene = Scene()
    for number in range(UNDER_WAY_FEW):
        await scene.propose(b"%d" % number)

    await scene.propose(b"waits")
    await scene.propose(bytes(WORTH_BYTES))

    assert scene.node.calls[UNDER_WAY_FEW:] == [[b"waits", bytes(WORTH_BYTES)]]


async def test_one_call_takes_no_more_than_a_proposal_should_hold() -> None:
    scene, half = Scene(), bytes(writes.PROPOSED_BYTES // 2)

    await scene.propose(half, half, half, b"behind")

    assert [len(call) for call in scene.node.calls] == [2, 2]


async def test_what_there_is_no_room_for_waits_in_its_order() -> None:
    scene = Scene()
    scene.node.room = 2

    await scene.propose(b"1", b"2", b"3")
    await scene.propose(b"4")
    assert scene.node.taken == [b"1", b"2"]

    scene.node.room = 10
    scene.apply(Zxid(1, 1))
    assert scene.node.taken == [b"1", b"2", b"3", b"4"]


async def test_room_that_comes_without_anything_applied_is_seen(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    scene = Scene()
    nursery.start_soon(scene.writes.run)
    scene.node.room = 0
    await scene.propose(b"waits")
    await trio.testing.wait_all_tasks_blocked()

    scene.node.steps.unpark_all()
    await trio.testing.wait_all_tasks_blocked()
    assert scene.node.calls == []
    scene.node.room = 1  # the disk was far behind, and has caught up
    scene.node.steps.unpark_all()
    await trio.testing.wait_all_tasks_blocked()

    assert scene.node.calls == [[b"waits"]]


async def test_whoever_waits_is_told_when_the_node_leads_no_longer() -> None:
    scene = Scene()
    for number in range(UNDER_WAY_FEW + 2):
        await scene.propose(b"%d" % number)

    scene.node.leads = False
    scene.application.advanced()

    assert [command for command, _ in scene.answers] == [b"4", b"5"]
    assert all(isinstance(answer, Failed) and not answer.maybe_written for _, answer in scene.answers)


async def test_proposals_of_an_earlier_reign_keep_nobody_waiting() -> None:
    scene = Scene()
    for number in range(UNDER_WAY_FEW + 1):
        await scene.propose(b"%d" % number)
    scene.node.leads = False
    scene.application.advanced()

    scene.node.leads = True
    await scene.propose(b"anew")

    assert scene.node.calls[-1] == [b"anew"]


async def test_a_connection_that_brings_too_much_is_read_no_further(autojump_clock: MockClock) -> None:
    scene = Scene()
    scene.node.room = 0
    much = [bytes(writes.GATHERED_BYTES_MAX // 4)] * 5

    with trio.move_on_after(1) as patience:
        await scene.propose(*much)
    assert patience.cancelled_caught

    scene.node.room = 100
    scene.apply(Zxid(1, 0))
    await scene.propose(b"there is room")
