"""A hostile reviewer's schedules: each test is one finding, or guards a place where he expected one."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.driving import Bench, durable, entries_after, history, sent
from zablog.core.effects import Append, Deliver, DropLink, Halt, ReadDigest, SaveEpochs, Send, Stream, Truncate
from zablog.core.events import Congested, DigestRead, Durable, Event, Link, LinkDown, LinkUp, Received, Streamed, Tick
from zablog.core.gate import Gate
from zablog.core.messages import (
    Ack,
    AckEpoch,
    AckNewLeader,
    CEpoch,
    Commit,
    Diff,
    Message,
    NewEpoch,
    NewLeader,
    Notification,
    Ping,
    Pong,
    Propose,
    Standing,
    Trunc,
    UpToDate,
)
from zablog.core.state import Following, Leading, Looking, Phase
from zablog.core.trail import Trail
from zablog.core.zxid import BEYOND, ZERO, Epoch, PeerId, Zxid


class Room:
    """A few real peers with empty or prepared logs, one step of time a tick: a message takes one tick, a write `slow[id]` ticks.

    Histories are trails only, whose payloads are the zxids in words: that is what is streamed.
    """

    def __init__(self, benches: dict[int, Bench], links: set[frozenset[int]], slow: dict[int, int] | None = None) -> None:
        self.benches, self.wanted, self.slow = benches, links, slow or {}
        self.now = self.generation = 0
        self.open: dict[frozenset[int], int] = {}
        self.mail: deque[tuple[int, int, Event]] = deque()
        self.gates = {id: Gate() for id in benches}
        self.writes: dict[int, deque[tuple[int, int]]] = {id: deque() for id in benches}
        self.generations = dict.fromkeys(benches, 0)
        self.reasons: list[tuple[int, int, str]] = []

    def step(self, id: int, event: Event) -> None:
        for effect in self.benches[id].step(event):
            match effect:
                case Append(token=token) | Truncate(token=token) | SaveEpochs(token=token):
                    self.writes[id].append((self.now + self.slow.get(id, 0), token))
                case Send():
                    if self.gates[id].passes(effect):
                        self.post(id, effect)
                case DropLink(link=link):
                    self.close(frozenset({id, link.peer}), link.generation)
                case Halt(reason=reason):
                    raise AssertionError(reason)
                case Stream():
                    self.stream(id, effect)
                case ReadDigest(link=link, zxid=zxid):
                    digest = part(self.benches[id].state.trail, zxid).digest
                    self.mail.append((self.now + 1, id, DigestRead(link, zxid, digest)))
                case _ if hasattr(effect, "generation"):
                    self.reasons.append((self.now, id, effect.reason))
                    if effect.generation != self.generations[id]:
                        self.generations[id] = effect.generation
                        self.gates[id].void()

    def post(self, id: int, send: Send) -> None:
        if self.open.get(frozenset({id, send.link.peer})) == send.link.generation:
            self.mail.append((self.now + 1, send.link.peer, Received(Link(PeerId(id), send.link.generation), [send.message])))

    def stream(self, id: int, effect: Stream) -> None:
        """Entry by entry, a tick each for the first; then word that it is done."""
        trail = self.benches[id].state.trail
        while effect.after < effect.upto:
            before = part(trail, effect.after)
            first = next(zxid for zxid in places(trail) if zxid > effect.after)
            entries = entries_after(before, first.epoch, str(first).encode())
            self.post(id, Send(effect.link, Propose(effect.epoch, entries, ZERO), 0))
            effect = replace(effect, after=first)
        self.mail.append((self.now + 1, id, Streamed(effect.link, effect.upto)))

    def close(self, pair: frozenset[int], generation: int) -> None:
        if self.open.get(pair) == generation:
            del self.open[pair]
            a, b = pair
            self.mail.append((self.now + 1, a, LinkDown(Link(PeerId(b), generation))))
            self.mail.append((self.now + 1, b, LinkDown(Link(PeerId(a), generation))))

    def run(self, ticks: int, until: Callable[[], bool]) -> bool:
        for _ in range(ticks):
            self.now += 1
            for id in self.benches:
                while self.writes[id] and self.writes[id][0][0] < self.now:
                    _, token = self.writes[id].popleft()
                    for send in self.gates[id].open_to(token):
                        self.post(id, send)
                    self.step(id, Durable(token))
                self.step(id, Tick())
            while self.mail and self.mail[0][0] <= self.now:
                _, id, event = self.mail.popleft()
                self.step(id, event)
            for pair in sorted(self.wanted - set(self.open), key=sorted):
                self.generation += 1
                self.open[pair] = self.generation
                a, b = sorted(pair)
                self.step(a, LinkUp(Link(PeerId(b), self.generation)))
                self.step(b, LinkUp(Link(PeerId(a), self.generation)))
            if until():
                return True
        return False

    def history_fixed(self) -> bool:
        return any(isinstance(b.state.role, Leading) and b.state.phase >= Phase.SYNC for b in self.benches.values())

    def established(self) -> bool:
        return any(isinstance(b.state.role, Leading) and b.state.phase is Phase.BROADCAST for b in self.benches.values())


def places(trail: Trail) -> list[Zxid]:
    """All of a history that began at the origin."""
    return [Zxid(end.zxid.epoch, counter) for end in trail.ends for counter in range(1, end.zxid.counter + 1)]


def part(trail: Trail, upto: Zxid) -> Trail:
    """The history up to a place."""
    runs: dict[int, int] = {}
    for zxid in places(trail):
        if zxid <= upto:
            runs[zxid.epoch] = zxid.counter
    return history(*runs.items())


def pairs(*links: tuple[int, int]) -> set[frozenset[int]]:
    return {frozenset(link) for link in links}


# -- progress -------------------------------------------------------------------------------------------------------------------


def test_the_acknowledgement_of_newleader_that_completes_a_quorum_for_an_open_entry_commits_it() -> None:
    """5.1 is on the leader and 3; 2, which acked nothing of it, goes; 3 acks with AckNewLeader. Nothing else will ever come."""
    bench = Bench(1)
    bench.established(2)
    bench.hear(3, CEpoch(Epoch(1), Epoch(1)))
    bench.hear(3, AckEpoch(bench.epoch, True, Epoch(0), ZERO, ZERO, None))
    # congestion or a slow stream: 3 has been told everything (live), its NEWLEADER ack is still on its way
    bench.propose(b"x")
    bench.sync()
    bench.down(2)
    last = bench.peer.last
    assert bench.state.phase is Phase.BROADCAST and bench.peer.watermark < last

    bench.hear(3, AckNewLeader(bench.epoch, last))
    bench.tick(10)

    assert bench.peer.watermark == last, "the leader and 3 hold it durably, and both are bound to the epoch"


def test_a_late_learner_whose_sync_covered_an_open_entry_commits_it() -> None:
    """The same by the plain road, with honest frames: the entry is proposed before 3 joins, streamed to it, then NEWLEADER names it."""
    bench = Bench(1)
    bench.established(2)
    bench.propose(b"x")
    bench.sync()
    last = bench.peer.last
    bench.hear(3, CEpoch(Epoch(1), Epoch(1)))
    effects = bench.hear(3, AckEpoch(bench.epoch, True, Epoch(0), ZERO, ZERO, None))
    assert any(isinstance(effect, Stream) and effect.upto == last for effect in effects)
    effects = bench.step(Streamed(bench.links[3], last))
    assert sent(effects, NewLeader) == [(3, NewLeader(bench.epoch, last), False)]
    bench.down(2)
    assert isinstance(bench.state.role, Leading)

    effects = bench.hear(3, AckNewLeader(bench.epoch, last))
    for _ in range(40):
        effects += bench.tick()
        for ping in [message for _, message, _ in sent(effects, Ping)][-1:]:
            effects += bench.hear(3, Pong(bench.epoch, ping.nonce))

    assert isinstance(bench.state.role, Leading), "3 echoes: the leader stays"
    assert [effect.upto for effect in effects if isinstance(effect, Deliver)] == [last]


def test_a_hub_learns_a_better_history_from_a_leaf_that_cannot_lead() -> None:
    """5 voters, 2 dead for good; hub 3, leaves 1 and 2. Leaf 1 has the best log but hears no quorum (§3, "history pull")."""
    voters = (1, 2, 3, 4, 5)
    benches = {
        1: Bench(1, voters, trail=history((1, 1))),
        2: Bench(2, voters),
        3: Bench(3, voters),
    }
    room = Room(benches, pairs((1, 3), (2, 3)))

    assert room.run(5000, room.established), f"{len(room.reasons)} roles in 50 s; last: {room.reasons[-4:]}"
    assert isinstance(benches[3].state.role, Leading)
    assert benches[3].peer.watermark == Zxid(1, 1)


@pytest.mark.parametrize(
    ("leaf", "hub"),
    [
        ([(1, 2), (2, 1), (3, 2)], [(1, 2), (2, 3)]),  # 2.2 and 2.3 are the hub's alone: the leaf's epoch 3 began without them
        ([(1, 2), (2, 1)], [(1, 2), (2, 3)]),  # nothing is missing: the tail is cut, and that is all
        ([(1, 2), (2, 3)], [(1, 2), (2, 1)]),  # nothing is cut; the leaf looks up its digest in the middle of an epoch
        ([(1, 2), (2, 3)], [(1, 2), (2, 3)]),  # the same history, and only the leaf knows that it is of a later epoch
    ],
)
def test_a_hub_that_has_a_tail_of_its_own_comes_to_have_the_history_of_the_leaf(
    leaf: list[tuple[int, int]], hub: list[tuple[int, int]]
) -> None:
    """§4: where histories meet is a matter of membership. The leaf is of epoch 3, the hub of 2."""
    voters = (1, 2, 3, 4, 5)
    benches = {
        1: Bench(1, voters, accepted=3, current=3, trail=history(*leaf)),
        2: Bench(2, voters, accepted=2, current=2, trail=history((1, 1))),
        3: Bench(3, voters, accepted=2, current=2, trail=history(*hub)),
    }
    room = Room(benches, pairs((1, 3), (2, 3)))

    assert room.run(500, room.established), f"{len(room.reasons)} roles in 5 s; last: {room.reasons[-4:]}"
    assert all(benches[id].state.trail == history(*leaf) for id in (1, 2, 3))
    assert benches[3].peer.watermark == history(*leaf).last


@pytest.mark.parametrize("alive", [(1, 2, 3), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("hub", [1, 3])
def test_a_hub_that_hears_a_quorum_is_established_though_its_leaves_hear_only_the_hub(alive: tuple[int, ...], hub: int) -> None:
    """§3 hub topology, §5 Liveness, decision 2. A leaf votes for the hub and never hears a quorum of votes: it never follows."""
    voters = (1, 2, 3, 4, 5)
    room = Room({id: Bench(id, voters) for id in alive}, pairs(*[(leaf, hub) for leaf in alive if leaf != hub]))

    assert room.run(3000, room.established), f"{len(room.reasons)} roles in 30 s; last: {room.reasons[-4:]}"


def test_control_a_full_mesh_of_three_of_five_is_established() -> None:
    room = Room({id: Bench(id, (1, 2, 3, 4, 5)) for id in (1, 2, 3)}, pairs((1, 3), (2, 3), (1, 2)))

    assert room.run(300, room.established)


def test_a_leaf_of_an_established_leader_joins_it() -> None:
    """1, 2, 3 are established; 4 is linked to the leader alone and is not needed. It must become a follower all the same."""
    voters = (1, 2, 3, 4, 5)
    room = Room({id: Bench(id, voters) for id in (1, 2, 3, 4)}, pairs((1, 2), (1, 3), (2, 3), (3, 4)))

    assert room.run(1000, lambda: room.benches[4].state.phase is Phase.BROADCAST)


def test_a_follower_whose_disk_is_slower_than_the_suspect_time_can_still_found_an_epoch() -> None:
    """1 is dead. The leader's disk is fast; the follower's fsync takes 35 ticks: within discovery (50), beyond suspect (30)."""
    room = Room({2: Bench(2), 3: Bench(3)}, pairs((2, 3)), slow={2: 35})

    assert room.run(5000, room.established), f"{len(room.reasons)} roles in 50 s; last: {room.reasons[-4:]}"


def test_control_a_follower_whose_disk_is_just_faster_founds_it() -> None:
    room = Room({2: Bench(2), 3: Bench(3)}, pairs((2, 3)), slow={2: 25})

    assert room.run(300, room.established)


def test_a_leader_pings_those_it_has_invited_while_they_save_their_promise() -> None:
    bench = Bench(3)
    bench.promised(2)

    effects = bench.tick(29)

    assert sent(effects, Ping), "29 ticks of silence: a follower that is busy saving suspects this leader"


def test_a_whole_node_of_an_unestablished_epoch_and_two_suspect_tails_agree_on_somebody() -> None:
    """2 led epoch 3 and was cut off writing 3.9; 1 fixed 3.2 as I_4 with 3's promise and saved currentEpoch 4; while 3 still wrote 3.2
    the power failed, its batch header is torn. 1 abandons for 2 (`holds_most`), 2 abandons for 1 ("better history"), for ever.
    """
    benches = {
        1: Bench(1, accepted=4, current=4, trail=history((3, 2))),
        2: Bench(2, accepted=3, current=3, trail=history((3, 8)), suspect=Zxid(3, 9)),
        3: Bench(3, accepted=4, current=3, trail=history((3, 1)), suspect=BEYOND),
    }
    room = Room(benches, pairs((1, 2), (1, 3), (2, 3)))

    fixed = room.run(5000, room.history_fixed)

    reasons = [row for row in room.reasons if "promised" not in row[2]]
    assert fixed, f"{len(reasons)} roles in 50 s, last: {reasons[-6:]}"


def test_control_without_the_higher_unestablished_epoch_the_same_tails_heal() -> None:
    benches = {
        1: Bench(1, accepted=4, current=3, trail=history((3, 2))),
        2: Bench(2, accepted=3, current=3, trail=history((3, 8)), suspect=Zxid(3, 9)),
        3: Bench(3, accepted=4, current=3, trail=history((3, 1)), suspect=BEYOND),
    }
    room = Room(benches, pairs((1, 2), (1, 3), (2, 3)))

    assert room.run(1000, room.history_fixed)


def test_a_vote_for_us_is_not_lost_because_its_sender_decided_first() -> None:
    """2 voted for us, decided, and answers our next notification as FOLLOWING us in this very round (§3: if l=me, rounds must match)."""
    bench = Bench(3)
    bench.tick()
    bench.up(1, 2)
    vote = bench.looking_vote(2, current=0, leader=3)
    bench.hear(2, vote)
    assert isinstance(bench.state.role, Looking) and bench.state.role.decide_at is not None
    bench.hear(2, CEpoch(Epoch(1), Epoch(1)))
    bench.hear(2, Notification(Standing.FOLLOWING, vote.round, bench.state.self_vote, vote.self_vote, Epoch(1), ()))

    bench.tick(bench.timing.finalize + 1)

    assert isinstance(bench.state.role, Leading), "a quorum, ourselves included, wants us; one has even sent CEPOCH"


def test_a_node_that_looks_forgets_the_vote_of_a_link_it_closed_itself() -> None:
    """2's vote came on a link that we then closed for an illegal frame. It must not elect anybody."""
    bench = Bench(3)
    bench.tick()
    bench.up(1, 2)
    bench.hear(2, bench.looking_vote(2, current=0, leader=3))
    effects = bench.hear(2, Pong(Epoch(1), 0))
    assert any(isinstance(effect, DropLink) for effect in effects)
    bench.step(LinkDown(bench.links[2]))

    bench.tick(bench.timing.finalize + 1)

    assert isinstance(bench.state.role, Looking), "elected by a peer that is not linked"


def test_the_end_of_the_rounds_does_not_end_the_talking() -> None:
    """A peer's round at the end of what the wire can carry is adopted; our next round must still fit the wire."""
    bench = Bench(3)
    bench.tick()
    bench.up(1, 2)
    vote = bench.looking_vote(2, current=0, leader=3)
    bench.hear(2, Notification(vote.standing, 2**64 - 1, vote.vote, vote.self_vote, Epoch(1), vote.heard))
    bench.tick(bench.timing.finalize + bench.timing.discovery + 5)
    assert isinstance(bench.state.role, Looking)

    notification = sent(bench.tick(30), Notification)[0][1]

    assert notification.round <= 2**64 - 1, "every peer refuses this frame and closes the link"


# -- what a leader's bytes can do to a follower -----------------------------------------------------------------------------------


def test_a_watermark_on_a_proposal_that_is_no_entry_ends_the_role() -> None:
    bench = Bench(1, accepted=1, current=1, trail=history((1, 2)))
    bench.up_to_date(3, 2)
    entries = entries_after(bench.state.trail, 2, b"x")

    effects = bench.hear(3, Propose(Epoch(2), entries, Zxid(2, 0)))

    assert not [effect for effect in effects if isinstance(effect, Deliver)]


def test_a_watermark_above_the_entries_that_carry_it_ends_the_role() -> None:
    """§2: no watermark exceeds the last entry sent on the link. COMMIT checks it, PROPOSE takes the minimum in silence."""
    bench = Bench(1)
    bench.up_to_date(3, 2)
    entries = entries_after(bench.state.trail, 2, b"x")

    bench.hear(3, Propose(Epoch(2), entries, Zxid(2, 99)))

    assert not isinstance(bench.state.role, Following)


def test_a_duplicate_with_another_payload_is_no_duplicate() -> None:
    bench = Bench(1)
    bench.up_to_date(3, 2)
    before = bench.state.trail.copy()
    bench.hear(3, Propose(Epoch(2), entries_after(before, 2, b"x"), ZERO))
    bench.sync()

    effects = bench.hear(3, Propose(Epoch(2), entries_after(before, 2, b"another"), ZERO))

    assert not sent(effects, Ack), "histories diverge at 2.1 and we acknowledge it"


def test_uptodate_twice_on_one_link_is_illegal() -> None:
    bench = Bench(1)
    bench.up_to_date(3, 2)

    bench.hear(3, UpToDate(Epoch(2), ZERO))

    assert not isinstance(bench.state.role, Following)


def test_an_entry_of_a_lower_epoch_after_newleader_is_refused() -> None:
    """§2: a leader proposes only its own epoch's counters. Behind NEWLEADER nothing of an older epoch can come."""
    bench = Bench(1)
    bench.up_to_date(3, 5)

    bench.hear(3, Propose(Epoch(5), entries_after(bench.state.trail, 3, b"x"), ZERO))

    assert bench.peer.last == ZERO


# -- what a follower's bytes can do to a leader -----------------------------------------------------------------------------------


def test_a_congested_link_gets_nothing_but_pings_before_its_stream() -> None:
    bench = Bench(1)
    bench.established(2, 3)
    bench.propose(b"x")
    bench.step(Congested(bench.links[3]))

    effects = bench.sync() + bench.hear(2, Ack(bench.epoch, bench.peer.last))

    assert not [peer for peer, _, _ in sent(effects, Commit) if peer == 3]


# -- places that held: kept as guards -----------------------------------------------------------------------------------------------


def test_an_acknowledged_promise_that_never_left_is_counted_for_nobody() -> None:
    """OneCandidate: the promise became durable, its ACKEPOCH was voided with the role; asked again, it is uncounted."""
    bench = Bench(1)
    bench.following(3)
    bench.hear(3, NewEpoch(Epoch(2)))
    bench.down(3)
    bench.sync()
    bench.up(3)
    bench.following(3)

    effects = bench.hear(3, NewEpoch(Epoch(2)))

    (_, message, _), *_ = sent(effects, AckEpoch)
    assert isinstance(message, AckEpoch) and not message.counted


def test_a_leader_that_abandons_an_epoch_never_names_it_again() -> None:
    bench = Bench(3)
    bench.promised(2)
    named = bench.epoch
    bench.tick(bench.timing.discovery + 1)
    bench.sync()

    bench.up(2)
    bench.elected()
    bench.hear(2, CEpoch(named, Epoch(1)))

    assert bench.epoch > named


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_truncation_to_a_place_that_is_not_ours_is_refused(epoch: int) -> None:
    bench = Bench(1, accepted=1, current=1, trail=history((1, 2)))
    bench.following(3)
    bench.hear(3, NewEpoch(Epoch(2)))
    bench.sync()

    effects = bench.hear(3, Trunc(Epoch(2), Zxid(epoch, 0 if epoch == 1 else 7), 0))

    assert not durable(effects)


def test_a_stale_link_says_nothing_after_a_reconnection_within_one_step() -> None:
    bench = Bench(1)
    bench.up_to_date(3, 2)
    old = bench.links[3]
    bench.up(3)

    effects = bench.step(Received(old, [Propose(Epoch(2), entries_after(Trail(), 2, b"x"), ZERO)]))

    assert effects == []


def test_messages_behind_an_illegal_one_in_the_same_burst_are_not_heard() -> None:
    bench = Bench(1)
    bench.up_to_date(3, 2)
    good = Propose(Epoch(2), entries_after(Trail(), 2, b"x"), ZERO)
    burst: list[Message] = [Commit(Epoch(2), Zxid(2, 9)), good]

    effects = bench.hear(3, *burst)

    assert not durable(effects) and bench.peer.last == ZERO


def test_an_acknowledged_epoch_is_not_said_before_the_entries_that_were_streamed_are_durable() -> None:
    """W6 within one burst: DIFF, entries, NEWLEADER at once; the ack waits for the token of the epochs, which is behind the entries."""
    bench = Bench(1)
    bench.following(3)
    bench.hear(3, NewEpoch(Epoch(3)))
    bench.sync()
    entries = entries_after(Trail(), 2, b"x", b"y")

    effects = bench.hear(3, Diff(Epoch(3), ZERO, 0), Propose(Epoch(3), entries, ZERO), NewLeader(Epoch(3), entries.last))

    kinds = [type(effect) for effect in effects if isinstance(effect, Append | SaveEpochs | Send)]
    assert kinds == [Append, SaveEpochs, Send]
    assert effects[-1].after == effects[-2].token


def test_early_epochs_of_a_closed_link_are_not_counted() -> None:
    bench = Bench(3)
    bench.tick()
    bench.up(1, 2)
    bench.hear(2, CEpoch(Epoch(1), Epoch(1)))
    bench.down(2)
    bench.hear(1, bench.looking_vote(1, current=0, leader=3))
    bench.tick(bench.timing.finalize + 1)

    assert isinstance(bench.state.role, Leading) and bench.state.role.epoch is None
