"""The shell round the core, with the core played by a script: what is performed, in which order, and when nothing is any more."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from zablog.core.effects import Append, Deliver, DropLink, Effect, Halt, ReadDigest, RoleChanged, SaveEpochs, Send, Stream
from zablog.core.events import Congested, Durable, Event, Link, LinkUp, Proposals, Stalled, Streamed, Tick
from zablog.core.messages import Ack, CEpoch, Commit, Message, Ping, Propose
from zablog.core.peer import Peer
from zablog.core.quorum import Configuration
from zablog.core.state import Following, Leading, Learner, Phase, Timing
from zablog.core.trail import ORIGIN, Entries, Trail, extend_digest
from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid
from zablog.node.driver import HOLD_BYTES, HOLD_BYTES_MAX, Driver
from zablog.node.errors import NodeStopped
from zablog.node.writer import Writer
from zablog.storage.errors import Corrupt
from zablog.storage.files import FileDisk
from zablog.storage.history import History
from zablog.storage.manifest import Identity, Member, give_birth
from zablog.storage.storage import Storage

LINK = Link(PeerId(2), 1)
Answers = Callable[[Event], Sequence[Effect]]


class ScriptedPeer(Peer):
    """A core that answers as it is told, and remembers what it heard."""

    def __init__(self) -> None:
        configuration = Configuration(0, (PeerId(1), PeerId(2), PeerId(3)))
        super().__init__(PeerId(1), configuration, Epoch(0), Epoch(0), None, Trail(), ZERO, Timing(), lambda n: 0)
        self.heard: list[Event] = []
        self.answers: Answers = lambda event: []

    def step(self, event: Event) -> Sequence[Effect]:
        self.heard.append(event)
        return self.answers(event)


class FakeLinks:
    """A network that remembers; `full` says whether outboxes are."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.full = False
        self.open = trio.Event()

    def send(self, link: Link, message: Message) -> bool:
        self.sent.append(message)
        return not self.full

    def drop(self, link: Link, reason: str) -> None:
        pass

    async def room(self, link: Link) -> None:
        await self.open.wait()


class IdleWriter(Writer):
    """Takes everything, writes nothing."""

    def __init__(self) -> None:
        self.queued_bytes = 0
        self.watermark = ZERO
        self.taken: list[Effect] = []
        self.at_once: list[bool] = []
        self.beside = ()
        self.waiting = trio.lowlevel.ParkingLot()

    def put(self, effects: Sequence[Effect], at_once: bool = False) -> None:
        self.taken += effects
        self.at_once.append(at_once)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    member = Member(PeerId(1), f"{1:032x}", "127.0.0.1:1")
    disk = FileDisk(tmp_path / "data", create=True)
    give_birth(disk, Identity("ab" * 16, member.id, member.incarnation, (member,)))
    yield Storage.open(disk, 1 << 16)
    disk.close()


class Stage:
    """A driver among fakes."""

    def __init__(self, storage: Storage, nursery: trio.Nursery) -> None:
        self.peer, self.links, self.writer = ScriptedPeer(), FakeLinks(), IdleWriter()
        self.driver = Driver(self.peer, History(storage), self.links, nursery)
        self.driver.writer = self.writer
        self.driver.link_up(LINK)
        self.peer.heard.clear()


@pytest.fixture
def stage(storage: Storage, nursery: trio.Nursery) -> Stage:
    return Stage(storage, nursery)


def run(words: list[bytes]) -> Entries:
    """The first entries of all."""
    first = Zxid(1, 1)
    return Entries(first, ZERO, words, extend_digest(ORIGIN.digest, ZERO, first, words))


def role(generation: int) -> RoleChanged:
    return RoleChanged(generation, "looking", "election", Epoch(0), None, "the script says so")


async def test_a_vote_leaves_when_what_it_speaks_of_is_durable(stage: Stage) -> None:
    ack, ping = Ack(Epoch(1), Zxid(1, 1)), Ping(Epoch(1), 1)
    stage.peer.answers = lambda event: [Append(1, run([b"x"])), Send(LINK, ack, 1), Send(LINK, ping, 0)] if event == Tick() else []

    stage.driver.tick()
    assert stage.links.sent == [ping]

    stage.driver.durable(1)
    assert stage.links.sent == [ping, ack]


@pytest.mark.parametrize(("role", "waits"), [(Following(PeerId(2), since=0), True), (Leading(since=0), False)])
async def test_a_follower_has_nothing_to_do_but_to_write(stage: Stage, role: Following | Leading, waits: bool) -> None:
    stage.peer.state.role = role
    stage.peer.answers = lambda event: [Append(1, run([b"x"]))]

    stage.driver.tick()

    assert stage.writer.at_once == [waits]


async def test_a_commit_leaves_when_the_application_has_what_it_speaks_of(stage: Stage) -> None:
    """A client waits for the answer, and to tell the followers takes a while."""
    commit, ping = Commit(Epoch(1), Zxid(1, 1)), Ping(Epoch(1), 1)
    sent_when_applied: list[list[Message]] = []
    stage.driver.apply = lambda at_once: sent_when_applied.append(list(stage.links.sent))
    stage.peer.answers = lambda event: [Send(LINK, ping, 0), Deliver(Zxid(1, 1)), Send(LINK, commit, 0)]

    stage.driver.tick()

    assert sent_when_applied == [[ping]]
    assert stage.links.sent == [ping, commit]


@pytest.mark.parametrize("who", ["the same step", "the application"])
async def test_nothing_overtakes_a_commit_but_the_application(stage: Stage, who: str) -> None:
    commit, propose = Commit(Epoch(1), Zxid(1, 1)), Propose(Epoch(1), run([b"x"]), Zxid(1, 1))
    first = [Deliver(Zxid(1, 1)), Send(LINK, commit, 0)]
    last: list[Effect] = [Send(LINK, propose, 0)]
    answers: list[Sequence[Effect]] = [first, last] if who == "the application" else [first + last]
    stage.peer.answers = lambda event: answers.pop(0) if answers else []
    stage.driver.apply = lambda at_once: stage.driver.tick() if answers else None

    stage.driver.tick()

    assert stage.links.sent == [commit, propose]


async def test_an_ended_node_applies_nothing_and_tells_no_commit(stage: Stage) -> None:
    applied: list[bool] = []
    stage.driver.apply = lambda at_once: applied.append(True)
    stage.peer.answers = lambda event: [Deliver(Zxid(1, 1)), Send(LINK, Commit(Epoch(1), Zxid(1, 1)), 0), Halt("the script says so")]

    with pytest.raises(ExceptionGroup):
        async with trio.open_nursery() as nursery:
            stage.driver.nursery = nursery
            stage.driver.tick()

    assert applied == [] and stage.links.sent == []


async def test_a_new_role_voids_what_the_old_one_had_to_say(stage: Stage) -> None:
    save, vote = SaveEpochs(1, Epoch(1), Epoch(0), None), Send(LINK, Ack(Epoch(1), ZERO), 1)
    stage.peer.answers = lambda event: [save, vote, role(1)] if event == Tick() else []

    stage.driver.tick()
    stage.driver.durable(1)

    assert stage.links.sent == []
    assert stage.writer.taken == [save]


async def test_a_phase_within_a_role_voids_nothing(stage: Stage) -> None:
    ack = Ack(Epoch(1), ZERO)
    stage.peer.answers = lambda event: [role(1), Send(LINK, ack, 1), role(1)] if event == Tick() else []

    stage.driver.tick()
    stage.driver.durable(1)

    assert stage.links.sent == [ack]


async def test_a_full_outbox_is_an_event_after_the_step_that_filled_it(stage: Stage) -> None:
    stage.links.full = True
    stage.peer.answers = lambda event: [Send(LINK, Propose(Epoch(1), run([b"x"]), ZERO), 0)] * 2 if event == Tick() else []

    stage.driver.tick()

    assert stage.peer.heard == [Tick(), Congested(LINK), Congested(LINK)]


async def test_a_heartbeat_into_a_full_outbox_congests_nothing(stage: Stage) -> None:
    stage.links.full = True
    stage.peer.answers = lambda event: [Send(LINK, Ping(Epoch(1), 1), 0)] if event == Tick() else []

    stage.driver.tick()

    assert stage.peer.heard == [Tick()]


async def test_what_is_in_memory_is_streamed_before_anything_else_happens(stage: Stage) -> None:
    entries = run([b"a", b"b"])
    stage.driver.history.append(entries)
    stage.peer.answers = lambda event: [Stream(LINK, Epoch(1), ZERO, entries.last)] if event == Tick() else []

    stage.driver.tick()

    assert stage.links.sent == [Propose(Epoch(1), entries, ZERO)]
    assert stage.peer.heard == [Tick(), Streamed(LINK, entries.last)]


async def test_what_is_on_disk_alone_is_streamed_at_the_pace_of_the_link(stage: Stage, storage: Storage) -> None:
    entries = run([b"a", b"b"])
    storage.perform([Append(1, entries)], ZERO)
    stage.driver.history = History(storage)
    stage.peer.answers = lambda event: [Stream(LINK, Epoch(1), ZERO, entries.last)] if event == Tick() else []

    stage.driver.tick()
    await trio.testing.wait_all_tasks_blocked()
    assert stage.links.sent == []

    stage.links.open.set()
    while stage.peer.heard[-1] != Streamed(LINK, entries.last):
        await trio.lowlevel.checkpoint()
    assert stage.links.sent == [Propose(Epoch(1), entries, ZERO)]


async def test_a_stream_ends_silently_with_the_role_it_belonged_to(stage: Stage) -> None:
    first = run([b"a"])
    words = [b"b"]
    second = Entries(Zxid(1, 2), first.last, words, extend_digest(first.digest, first.last, Zxid(1, 2), words))
    stage.driver.history.append(first)
    stage.driver.history.append(second)
    stage.peer.answers = lambda event: [Stream(LINK, Epoch(1), ZERO, second.last)] if event == Tick() else []
    stage.links.full = True
    stage.driver.tick()
    await trio.testing.wait_all_tasks_blocked()  # the outbox took the first; the stream waits for room
    assert stage.links.sent == [Propose(Epoch(1), first, ZERO)]

    stage.driver.change_role(role(1))
    stage.links.full = False
    stage.links.open.set()
    await trio.testing.wait_all_tasks_blocked()

    assert stage.links.sent == [Propose(Epoch(1), first, ZERO)]
    assert stage.peer.heard == [Tick()]


@pytest.mark.parametrize("role_ends", [True, False])
async def test_a_digest_that_cannot_be_read_stops_the_node_unless_it_was_cut_away_with_its_role(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, role_ends: bool
) -> None:
    reading, go = threading.Event(), threading.Event()

    def gone(self: Storage, zxid: Zxid) -> int:
        reading.set()
        assert go.wait(20)
        raise Corrupt(f"the log has no entry {zxid}")

    monkeypatch.setattr(Storage, "digest_at", gone)
    monkeypatch.setattr(History, "in_memory", lambda self, after: False)
    stopped: list[BaseException] = []
    try:
        async with trio.open_nursery() as nursery:  # ends when the reader has
            stage = Stage(storage, nursery)
            stage.peer.answers = lambda event: [ReadDigest(LINK, Zxid(1, 1))] if event == Tick() else []
            stage.driver.tick()
            assert await trio.to_thread.run_sync(reading.wait, 20)
            if role_ends:
                stage.driver.change_role(role(1))
            go.set()
    except* NodeStopped as group:
        stopped += group.exceptions

    assert [str(error) for error in stopped] == ([] if role_ends else ["the log cannot be read: the log has no entry 1.1"])
    assert stage.peer.heard == [Tick()]


async def test_after_a_halt_nothing_is_written_sent_or_stepped(storage: Storage) -> None:
    ack = Ack(Epoch(1), ZERO)
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            stage = Stage(storage, nursery)
            stage.peer.answers = lambda event: (
                [Send(LINK, ack, 1), Append(1, run([b"x"])), Halt("histories diverge")] if event == Tick() else []
            )

            stage.driver.tick()
            stage.driver.durable(1)
            stage.driver.tick()

    # Asserted out here: within the nursery a failed assertion would be one more exception of the group that is expected.
    assert (stage.peer.heard, stage.links.sent, stage.writer.taken) == ([Tick()], [], [])
    (stopped,) = caught.value.exceptions
    assert isinstance(stopped, NodeStopped)
    assert str(stopped) == "histories diverge"


async def test_after_a_broken_law_nothing_is_stepped_and_the_breach_stands_behind_the_error(storage: Storage) -> None:
    breach = AssertionError("the law that laws are kept")

    def answers(event: Event) -> Sequence[Effect]:
        raise breach

    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            stage = Stage(storage, nursery)
            stage.peer.answers = answers
            stage.driver.tick()
            stage.driver.tick()

    assert stage.peer.heard == [Tick()]
    (stopped,) = caught.value.exceptions
    assert isinstance(stopped, NodeStopped)
    assert stopped.__cause__ is breach


async def test_the_core_is_never_entered_twice(stage: Stage) -> None:
    depth: list[int] = []

    def answers(event: Event) -> Sequence[Effect]:
        depth.append(len(depth))
        if event == Tick():
            stage.driver.step(LinkUp(LINK))
            assert len(depth) == 1, "the law that the core is never entered twice"
        return []

    stage.peer.answers = answers
    stage.driver.tick()

    assert stage.peer.heard == [Tick(), LinkUp(LINK)]


async def test_a_follower_behind_its_disk_hears_its_leader_slowly_but_in_time(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    stage.peer.state.role = Following(PeerId(2), since=0)
    begun = trio.current_time()
    await stage.driver.hold()
    assert trio.current_time() == begun

    stage.writer.queued_bytes = HOLD_BYTES + 1
    with trio.fail_after(3600):
        await stage.driver.hold()
    waited_seconds = trio.current_time() - begun

    assert 0 < waited_seconds < Timing().suspect * 0.010


async def test_a_follower_whose_disk_hangs_takes_nothing_more_in(
    stage: Stage, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stage.peer.state.role = Following(PeerId(2), since=0)
    stage.writer.queued_bytes = HOLD_BYTES_MAX
    with trio.move_on_after(3600) as an_hour:
        await stage.driver.hold()
    assert an_hour.cancelled_caught

    async def write_some() -> None:
        stage.writer.waiting.unpark_all()

    nursery.start_soon(write_some)
    with trio.fail_after(5):
        await stage.driver.hold()


async def test_a_leader_that_takes_a_followers_history_reads_it_slowly_while_its_disk_is_behind(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    stage.peer.state.role = Leading(since=0, phase=Phase.DISCOVERY)
    stage.writer.queued_bytes = HOLD_BYTES + 1
    begun = trio.current_time()
    await stage.driver.hold()
    assert trio.current_time() > begun

    stage.peer.state.role = Leading(since=0, phase=Phase.BROADCAST)
    begun = trio.current_time()
    await stage.driver.hold()
    assert trio.current_time() == begun, "an established leader is sent acknowledgements only"


async def test_elections_are_heard_however_far_the_disk_is_behind(stage: Stage) -> None:
    stage.writer.queued_bytes = HOLD_BYTES_MAX

    with trio.fail_after(5):
        await stage.driver.hold()


async def test_a_durable_event_reaches_the_core_after_the_gate_is_open(stage: Stage) -> None:
    ack = Ack(Epoch(1), ZERO)
    order: list[str] = []

    def answers(event: Event) -> Sequence[Effect]:
        if event == Tick():
            return [Send(LINK, ack, 1)]
        order.append(f"{type(event).__name__} after {len(stage.links.sent)} sent")
        return []

    stage.peer.answers = answers
    stage.driver.tick()
    stage.driver.durable(1)

    assert order == ["Durable after 1 sent"]
    assert stage.peer.heard == [Tick(), Durable(1)]


async def test_only_a_leader_whose_disk_hangs_is_told_so(stage: Stage) -> None:
    writer = stage.writer
    for role, begun_at, told in (
        (Leading(0), time.monotonic() - 3, [Stalled()]),
        (Leading(0), time.monotonic(), []),
        (Leading(0), None, []),
        (Following(PeerId(2), 0), time.monotonic() - 3, []),
    ):
        stage.peer.state.role, writer.begun_at, writer.last_seconds = role, begun_at, 3.0
        stage.peer.heard.clear()

        stage.driver.watch_disk(2.0)

        assert stage.peer.heard == told


def proposal(number: int) -> Propose:
    return Propose(Epoch(1), Entries(Zxid(1, number), Zxid(1, number - 1), [b"x"], number), Zxid(1, number - 1))


@pytest.fixture
def waiting(stage: Stage, autojump_clock: trio.testing.MockClock) -> Stage:
    """A COMMIT of it waits for a proposal, since a proposal followed the last one at once."""
    first, second = proposal(1), proposal(2)
    for message in (first, Commit(Epoch(1), Zxid(1, 1)), second, Commit(Epoch(1), Zxid(1, 2))):
        stage.peer.answers = lambda event, message=message: [Send(LINK, message, 0)]  # type: ignore[misc]
        stage.driver.tick()
    assert stage.links.sent == [first, Commit(Epoch(1), Zxid(1, 1)), second]
    stage.links.sent.clear()
    return stage


@pytest.mark.parametrize("effect", [Send(LINK, Ping(Epoch(1), 1), 0), Stream(LINK, Epoch(1), ZERO, ZERO)])
async def test_whatever_leaves_behind_a_commit_that_waits_leaves_behind_it(
    autojump_clock: trio.testing.MockClock, waiting: Stage, effect: Effect
) -> None:
    waiting.peer.answers = lambda event: [effect] if event == Tick() else []
    waiting.driver.tick()
    assert waiting.links.sent[0] == Commit(Epoch(1), Zxid(1, 2))


async def test_a_proposal_takes_the_place_of_a_commit_that_waits(autojump_clock: trio.testing.MockClock, waiting: Stage) -> None:
    waiting.peer.answers = lambda event: [Send(LINK, proposal(3), 0)]
    waiting.driver.tick()
    assert waiting.links.sent == [proposal(3)]


@pytest.mark.parametrize("closed", [False, True])
async def test_a_commit_that_waits_is_not_told_by_the_next_role_nor_by_a_node_that_ends(
    autojump_clock: trio.testing.MockClock, waiting: Stage, closed: bool
) -> None:
    waiting.peer.answers = lambda event: [role(waiting.driver.generation + 1)]
    if closed:
        waiting.driver.close("the test says so")
    else:
        waiting.driver.tick()
    waiting.driver.outbound.tell()
    assert waiting.links.sent == []


def follower(number: int, acked: Zxid | None) -> Learner:
    peer = PeerId(number)
    return Learner(Link(peer, 1), CEpoch(Epoch(0), Epoch(0)), acked=acked)


@pytest.mark.parametrize(
    ("voters", "acked", "quick"),
    [
        (3, {2: 5, 3: 5}, [2]),
        (3, {2: 4, 3: 5}, [3]),
        (3, {2: None, 3: 4}, []),
        (5, {2: 4, 3: 5, 4: None, 5: 5}, [3, 5]),
        (5, {2: 5, 3: 4, 4: 4}, []),
        (2, {2: 5}, [2]),
        (3, {9: 5, 3: 5}, [9, 3]),
    ],
)
async def test_a_quorum_is_quick_if_it_has_acknowledged_everything(
    stage: Stage, voters: int, acked: dict[int, int | None], quick: list[int]
) -> None:
    """Whoever is no voter makes none, but may well be told."""
    state = stage.peer.state
    state.configuration = Configuration(0, tuple(PeerId(number) for number in range(1, voters + 1)))
    state.trail.append(run([b"x"] * 5))
    state.durable.last = state.trail.last
    learners = {PeerId(peer): follower(peer, Zxid(1, counter) if counter else None) for peer, counter in acked.items()}
    state.role = Leading(since=0, phase=Phase.BROADCAST, epoch=Epoch(1), learners=learners)
    assert [link.peer for link in stage.driver.quick()] == quick


async def test_nobody_is_quick_with_a_disk_of_ours_that_is_not(stage: Stage) -> None:
    """The others commit without us; told alone, one of them would wait for our disk."""
    state = stage.peer.state
    state.trail.append(run([b"x"] * 5))
    state.durable.last = Zxid(1, 4)
    learners = {PeerId(peer): follower(peer, Zxid(1, 5)) for peer in (2, 3)}
    state.role = Leading(since=0, phase=Phase.BROADCAST, epoch=Epoch(1), learners=learners)
    assert not stage.driver.quick()


async def test_a_follower_knows_nobody_who_is_quick(stage: Stage) -> None:
    stage.peer.state.role = Following(PeerId(2), since=0)
    assert not stage.driver.quick()


class Lone:
    """A leader of two followers whose client sends one record at a time; the first of them is needed."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stage, self.driver, self.number = stage, stage.driver, 0
        self.other = Link(PeerId(3), 1)
        self.driver.link_up(self.other)
        monkeypatch.setattr(self.driver.outbound, "_quick", lambda: [LINK])
        self.calls: list[str] = []
        for name in ("proposed", "committed", "forget"):
            monkeypatch.setattr(self.driver.awake, name, lambda name=name: self.calls.append(name))

    def propose(self, *links: Link) -> Propose:
        self.number += 1
        sent = proposal(self.number)
        sends = [Send(link, sent, 0) for link in links or (LINK, self.other)]
        self.stage.peer.answers = lambda event: [*sends, Append(self.number, sent.entries)] if isinstance(event, Proposals) else []
        self.driver.propose([b"x"])
        return sent

    def commit(self) -> Commit:
        commit = Commit(Epoch(1), Zxid(1, self.number))
        sends = [Send(link, commit, 0) for link in (LINK, self.other)]
        self.answer([Deliver(commit.watermark), *sends])
        return commit

    def answer(self, effects: Sequence[Effect]) -> None:
        self.stage.peer.answers = lambda event: effects if isinstance(event, Tick) else []
        self.driver.tick()

    def take_sent(self) -> list[Message]:
        sent = self.stage.links.sent.copy()
        self.stage.links.sent.clear()
        return sent


@pytest.fixture
def lone(stage: Stage, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock) -> Lone:
    """Two proposals of it wait for whom the quorum does not need."""
    lone = Lone(stage, monkeypatch)
    for _ in range(4):
        lone.take_sent()
        propose = lone.propose()
        lone.commit()
    assert lone.take_sent() == [propose]
    return lone


async def test_when_a_link_is_down_those_that_are_left_are_told_what_waited(autojump_clock: trio.testing.MockClock, lone: Lone) -> None:
    """They may be those that make the quorum now."""
    lone.driver.link_down(LINK, "the test says so")
    assert lone.take_sent() == [proposal(3), proposal(4), Commit(Epoch(1), Zxid(1, 4))]


async def test_when_a_link_is_dropped_they_are_told_too(autojump_clock: trio.testing.MockClock, lone: Lone) -> None:
    propose = lone.propose()
    assert lone.take_sent() == [propose]
    lone.answer([DropLink(LINK, "the test says so")])
    assert lone.take_sent() == [proposal(3), proposal(4), propose]


async def test_a_leader_stays_awake_for_lone_records_alone(autojump_clock: trio.testing.MockClock, lone: Lone) -> None:
    lone.calls.clear()
    lone.propose()
    assert lone.calls == ["proposed"]
    lone.propose()
    lone.propose()
    assert lone.calls == ["proposed"], "these are not alone"
    lone.answer([Deliver(Zxid(1, lone.number - 1))])
    assert lone.calls == ["proposed"], "there is more to come"
    lone.commit()
    assert lone.calls == ["proposed", "committed"]
    lone.answer([role(lone.driver.generation + 1)])
    assert lone.calls == ["proposed", "committed", "forget"]


async def test_it_does_not_where_nobody_is_sent_to(autojump_clock: trio.testing.MockClock, lone: Lone) -> None:
    """All followers are behind, say, and get what is proposed from a stream."""
    lone.propose()
    lone.calls.clear()
    for number in range(lone.number + 1, lone.number + 5):
        lone.stage.peer.answers = lambda event, number=number: [Append(number, proposal(number).entries)]  # type: ignore[misc]
        lone.driver.propose([b"x"])
    assert lone.calls == []
