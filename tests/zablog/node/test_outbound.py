"""What waits on its way to followers: COMMITs for a proposal that is likely to say as much, and proposals where the quorum does not need
them. Nothing waits for anything else, or for longer than it may."""

from collections.abc import AsyncIterator
from random import Random

import pytest
import trio
import trio.testing

from zablog.core.effects import Send
from zablog.core.events import Link
from zablog.core.messages import Commit, Message, Ping, Propose
from zablog.core.trail import Entries
from zablog.core.zxid import Epoch, PeerId, Zxid
from zablog.node.outbound import DOUBT, DOUBTS_MAX, GATHER_SECONDS, LITTLE_BYTES, SOON_SECONDS, WAIT_SECONDS, WARY_SECONDS, Outbound

FIRST, SECOND = Link(PeerId(2), 1), Link(PeerId(3), 1)
EPOCH = Epoch(1)


def commit(counter: int, link: Link = FIRST) -> Send:
    return Send(link, Commit(EPOCH, Zxid(1, counter)), 0)


def proposal(counter: int, watermark: int, link: Link = FIRST, epoch: int = 1) -> Send:
    entries = Entries(Zxid(epoch, counter), Zxid(1, counter - 1), [b"x"], counter)
    return Send(link, Propose(Epoch(epoch), entries, Zxid(1, watermark)), 0)


class Leader:
    """Says what the core of a leader would have said, and hears what leaves."""

    def __init__(self) -> None:
        self.left: list[tuple[Link, Message]] = []
        self.quick: list[Link] = []
        """Who would make a quorum with us, of those that have acknowledged everything."""
        self.outbound = Outbound(lambda send: self.left.append((send.link, send.message)), lambda: self.quick)

    def commit(self, counter: int, *links: Link) -> None:
        for link in links or (FIRST,):
            self.outbound.commit(commit(counter, link))
        self.outbound.applied()

    def propose(self, counter: int, watermark: int, *links: Link) -> None:
        for link in links or (FIRST,):
            self.outbound.propose(proposal(counter, watermark, link))

    @property
    def told(self) -> list[int]:
        """The watermarks of COMMITs that have left since the last look."""
        told = [message.watermark.counter for _, message in self.left if isinstance(message, Commit)]
        self.left.clear()
        return told


@pytest.fixture
async def leader() -> AsyncIterator[Leader]:
    leader = Leader()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leader.outbound.keep_telling)
        await trio.testing.wait_all_tasks_blocked()
        yield leader
        nursery.cancel_scope.cancel()


async def one_by_one(leader: Leader, records: int = 3) -> None:
    """A client that sends the next record behind the answer to the last one; the last of them is not committed yet."""
    for number in range(1, records + 1):
        leader.propose(number, number - 1)
        if number < records:
            leader.commit(number)
            await trio.sleep(SOON_SECONDS / 3)


async def test_of_the_first_record_followers_hear_at_once(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    leader.propose(1, 0)
    leader.commit(1)
    assert leader.told == [1]


async def test_of_records_one_by_one_they_hear_with_the_next(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    assert leader.told == [1], "nobody knew yet what would follow"
    leader.propose(4, 3)
    assert leader.told == []


async def test_of_the_last_one_they_hear_in_time(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    begun = trio.current_time()
    assert leader.told == [1]
    await trio.sleep(WAIT_SECONDS / 2)
    assert leader.told == []
    while not (told := leader.told):
        await trio.sleep(WAIT_SECONDS / 100)
    assert told == [3]
    assert trio.current_time() - begun <= WAIT_SECONDS * 1.02


async def test_each_commit_waits_as_long_as_the_first(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    """The timer of one whose proposal came is not that of the next."""
    await one_by_one(leader)
    leader.commit(3)
    await trio.sleep(SOON_SECONDS * 0.9)
    leader.propose(4, 3)
    leader.commit(4)
    await trio.sleep(WAIT_SECONDS - SOON_SECONDS * 0.5)
    assert leader.told == [1]
    await trio.sleep(SOON_SECONDS)
    assert leader.told == [4]


async def test_behind_a_pause_nothing_waits(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    await trio.sleep(1)
    assert leader.told == [1, 3]
    leader.propose(4, 3)
    leader.commit(4)
    assert leader.told == [4]
    await trio.sleep(1)
    leader.propose(5, 4)
    leader.commit(5)
    assert leader.told == [5], "the proposal was late, though no COMMIT waited for it"


async def test_who_is_sent_no_proposal_is_told_in_time(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    """A follower that is being streamed to gets proposals of another kind, which say nothing of commits."""
    await one_by_one(leader)
    leader.commit(3, FIRST, SECOND)
    leader.propose(4, 3, FIRST)
    leader.left.clear()
    await trio.sleep(WAIT_SECONDS * 2)
    assert leader.left == [(SECOND, Commit(EPOCH, Zxid(1, 3)))]


async def test_the_last_of_several_says_it_all(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    leader.commit(4)
    leader.left.clear()
    await trio.sleep(WAIT_SECONDS * 2)
    assert leader.told == [4]


async def test_the_last_of_several_waits_no_longer_than_the_first(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    await trio.sleep(WAIT_SECONDS * 0.7)
    leader.commit(4)
    await trio.sleep(WAIT_SECONDS * 0.4)
    assert leader.told == [1, 4]


async def test_a_proposal_that_says_less_comes_behind_it(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    leader.left.clear()
    leader.propose(4, 2)
    assert leader.told == [3]


async def test_whatever_else_is_sent_comes_behind_it(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3, FIRST, SECOND)
    leader.left.clear()
    leader.outbound.tell()
    leader.left.append((FIRST, Ping(EPOCH, 1)))
    assert leader.left == [(FIRST, Commit(EPOCH, Zxid(1, 3))), (SECOND, Commit(EPOCH, Zxid(1, 3))), (FIRST, Ping(EPOCH, 1))]


async def test_what_is_not_applied_yet_waits_for_that_alone(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    """A proposal from within the application's own call, before what was committed is applied."""
    await one_by_one(leader)
    leader.outbound.commit(commit(3))
    leader.propose(4, 3)
    assert leader.told == [1, 3]


async def test_nobody_is_told_by_a_role_that_is_over(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    leader.left.clear()
    leader.outbound.forget()
    await trio.sleep(1)
    leader.outbound.propose(proposal(1, 3, epoch=2))
    assert leader.told == []


async def test_who_waits_for_a_follower_is_not_made_to_wait_again_and_again(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    """A client that sends the next record once a consumer at a follower has the last one: its proposal can only come behind the COMMIT."""
    waits = []
    for number in range(1, 21):
        leader.propose(number, number - 1)
        begun = trio.current_time()
        leader.commit(number)
        while not leader.told:
            await trio.sleep(WAIT_SECONDS / 100)
        waits.append(trio.current_time() - begun)
        await trio.sleep(SOON_SECONDS / 3)
    late = sum(wait > SOON_SECONDS for wait in waits)
    assert late <= 3, f"{late} of {len(waits)} COMMITs were held back for a proposal that was waiting for them"


async def test_no_commit_waits_longer_than_it_may_behind_those_of_others(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    """A follower whose link is congested is sent no proposals; each COMMIT for another one sets the clock back for it."""
    await one_by_one(leader)
    leader.commit(3, FIRST, SECOND)
    begun = trio.current_time()
    for number in range(4, 24):
        await trio.sleep(SOON_SECONDS / 3)
        leader.propose(number, number - 1, FIRST)
        leader.commit(number, FIRST)
    assert (SECOND, Commit(EPOCH, Zxid(1, 3))) in leader.left, f"not told after {trio.current_time() - begun:.3f} s"


async def test_what_was_likely_in_one_role_is_not_in_the_next(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.outbound.forget()
    leader.left.clear()
    await trio.sleep(10)
    leader.commit(3)
    assert leader.told == [3], "nobody has proposed anything to this role yet"


async def test_one_wait_in_vain_is_forgiven_once_a_wait_is_not(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    await trio.sleep(WAIT_SECONDS * 2)
    assert leader.told == [1, 3]
    for number in range(4, 4 + DOUBT + 3):
        leader.propose(number, number - 1)
        leader.commit(number)
    assert leader.told == list(range(4, 4 + DOUBT)), "the first proposal came late; then enough came soon"
    await trio.sleep(WAIT_SECONDS / 2)
    leader.propose(50, 49)
    leader.propose(51, 50)
    leader.commit(51)
    leader.propose(52, 51)
    leader.commit(52)
    assert leader.told == [51], "one that was late, then one that was soon, and no doubts any more"


async def test_a_step_that_commits_nothing_is_no_commit(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    await trio.sleep(SOON_SECONDS * 0.9)
    leader.outbound.applied()
    await trio.sleep(SOON_SECONDS * 0.9)
    leader.propose(4, 3)
    leader.commit(4)
    assert leader.told == [1, 4], "that proposal came late"


async def test_a_proposal_is_soon_behind_the_last_commit_before_it(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await trio.sleep(1)
    leader.propose(1, 0)
    leader.commit(1)
    await trio.sleep(1)
    leader.commit(2)
    leader.propose(3, 2)
    leader.commit(3)
    assert leader.told == [1, 2]


async def test_of_several_proposals_behind_a_commit_the_first_counts(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    leader.propose(4, 3)
    await trio.sleep(1)
    leader.propose(5, 3)
    leader.commit(5)
    assert leader.told == [1]


async def test_what_waits_for_a_proposal_leaves_before_what_is_not_applied_yet(
    autojump_clock: trio.testing.MockClock, leader: Leader
) -> None:
    await one_by_one(leader)
    leader.commit(3)
    leader.outbound.commit(commit(4))
    leader.outbound.tell()
    assert leader.told == [1, 3, 4]


async def test_a_proposal_of_another_epoch_comes_behind_it(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    leader.outbound.propose(proposal(4, 3, epoch=2))
    assert leader.told == [1, 3]


async def test_what_was_never_applied_is_not_told_by_a_role_that_is_over(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    leader.outbound.commit(commit(1))
    leader.outbound.forget()
    leader.outbound.applied()
    leader.outbound.tell()
    assert leader.told == []


# -- proposals ------------------------------------------------------------------------------------------------------------------


def what_left(leader: Leader) -> list[tuple[str, int, int]]:
    """(message, to whom, through which entry) of all that has left since the last look."""
    left = [
        (type(message).__name__, link.peer, message.entries.last.counter if isinstance(message, Propose) else message.watermark.counter)
        for link, message in leader.left
        if isinstance(message, Propose | Commit)
    ]
    leader.left.clear()
    return left


async def to_both(leader: Leader, first: int, last: int, seconds: float = 0.0) -> None:
    """Records one by one, each committed by whoever is quick; so long between a proposal and its commit."""
    for number in range(first, last + 1):
        leader.propose(number, number - 1, FIRST, SECOND)
        await trio.sleep(seconds)
        leader.commit(number, FIRST, SECOND)


async def test_the_quorum_hears_of_each_record_and_others_of_several(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    leader.quick = [SECOND]
    await to_both(leader, 1, 2)
    leader.left.clear()
    await to_both(leader, 3, 5)
    assert what_left(leader) == [("Propose", 3, 3), ("Propose", 3, 4), ("Propose", 3, 5)]
    leader.outbound.tell()
    assert what_left(leader) == [("Propose", 2, 3), ("Propose", 2, 4), ("Propose", 2, 5), ("Commit", 2, 5), ("Commit", 3, 5)]


async def test_who_hears_of_several_hears_in_time_and_behind_an_answer(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    leader.quick = [FIRST]
    await to_both(leader, 1, 2)
    leader.left.clear()
    await to_both(leader, 3, 100, 0.001)
    heard = [number for kind, peer, number in what_left(leader) if (kind, peer) == ("Propose", 3)]
    assert heard == list(range(3, len(heard) + 3)) and len(heard) >= 98 - GATHER_SECONDS / 0.001
    for number in range(101, 121):
        leader.propose(number, number - 1, FIRST, SECOND)
        assert [peer for kind, peer, _ in what_left(leader) if kind == "Propose"] == [2], "nobody is told before the client has its answer"
        await trio.sleep(0.001)
        leader.commit(number, FIRST, SECOND)
        what_left(leader)


async def test_the_last_record_is_told_to_everybody_in_time(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    leader.quick = [FIRST]
    await to_both(leader, 1, 5)
    leader.left.clear()
    begun = trio.current_time()
    while ("Commit", 3, 5) not in (left := what_left(leader)):
        await trio.sleep(WAIT_SECONDS / 100)
    assert trio.current_time() - begun <= WAIT_SECONDS * 1.02
    assert left == [("Propose", 3, 3), ("Propose", 3, 4), ("Propose", 3, 5), ("Commit", 3, 5), ("Commit", 2, 5)]


async def test_a_quorum_that_does_not_answer_is_helped_by_the_others_and_distrusted(
    autojump_clock: trio.testing.MockClock, leader: Leader
) -> None:
    leader.quick = [FIRST]
    await to_both(leader, 1, 5)
    leader.left.clear()
    leader.propose(6, 5, FIRST, SECOND)
    await trio.sleep(WAIT_SECONDS * 1.02)
    assert ("Propose", 3, 6) in what_left(leader)
    leader.commit(6, FIRST, SECOND)
    begun = trio.current_time()
    number = 6
    while trio.current_time() - begun < WARY_SECONDS * 0.9:
        number += 1
        leader.propose(number, number - 1, FIRST, SECOND)
        assert ("Propose", 3, number) in what_left(leader)
        await trio.sleep(WAIT_SECONDS / 4)
        leader.commit(number, FIRST, SECOND)
    await trio.sleep(WARY_SECONDS * 0.2)
    await to_both(leader, number + 1, number + DOUBT + 3)  # the last COMMIT has waited in vain, too
    leader.left.clear()
    leader.propose(number + DOUBT + 4, number + DOUBT + 3, FIRST, SECOND)
    assert what_left(leader) == [("Propose", 2, number + DOUBT + 4)], "all is well again"


async def test_a_quorum_that_does_not_answer_is_helped_also_if_nothing_waited_for_a_moment(
    autojump_clock: trio.testing.MockClock, leader: Leader
) -> None:
    """What waited has left behind an answer, and the timer found nothing, before the next proposal waits."""
    leader.quick = [FIRST]
    await to_both(leader, 1, 3)
    number = 3
    while ("Propose", 3, number) not in what_left(leader):
        number += 1
        leader.propose(number, number - 1, FIRST, SECOND)
        await trio.sleep(WAIT_SECONDS * 0.3)
        leader.commit(number, FIRST, SECOND)
    await trio.sleep(SOON_SECONDS * 0.9)
    leader.propose(number + 1, number, FIRST, SECOND)
    assert what_left(leader) == [("Propose", 2, number + 1)]
    await trio.sleep(WAIT_SECONDS * 1.02)
    assert ("Propose", 3, number + 1) in what_left(leader)


async def test_what_a_pause_ends_says_nothing_against_the_quorum(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    leader.quick = [FIRST]
    await to_both(leader, 1, 5)
    await trio.sleep(1)
    assert leader.outbound._wary_until < trio.current_time()
    await to_both(leader, 6, 6 + DOUBT + 2)
    leader.left.clear()
    leader.propose(7 + DOUBT + 2, 6 + DOUBT + 2, FIRST, SECOND)
    assert what_left(leader) == [("Propose", 2, 7 + DOUBT + 2)]


@pytest.mark.parametrize("milliseconds", range(1, 12))
async def test_a_quorum_that_takes_its_time_is_trusted(autojump_clock: trio.testing.MockClock, leader: Leader, milliseconds: int) -> None:
    leader.quick = [FIRST]
    await to_both(leader, 1, 50, milliseconds / 1000)
    assert leader.outbound._wary_until == 0.0


async def test_what_is_under_way_when_all_are_told_is_nobodys_alone_any_more(
    autojump_clock: trio.testing.MockClock, leader: Leader
) -> None:
    leader.quick = [FIRST]
    await to_both(leader, 1, 4)
    leader.propose(5, 4, FIRST, SECOND)
    leader.outbound.tell()
    leader.quick = [SECOND]
    leader.commit(5, FIRST, SECOND)
    leader.left.clear()
    leader.propose(6, 5, FIRST, SECOND)
    assert what_left(leader) == [("Propose", 3, 6)], "who is quick was looked at"


async def test_the_commit_of_a_heartbeat_does_not_make_the_next_record_alone(
    autojump_clock: trio.testing.MockClock, leader: Leader
) -> None:
    await to_both(leader, 1, 3)
    leader.propose(4, 3)
    leader.propose(5, 3)
    leader.left.clear()
    leader.commit(4)
    assert 4 in leader.told, "at once"
    leader.propose(6, 4)
    assert not leader.outbound.is_alone(Zxid(1, 6))
    leader.commit(6)
    leader.propose(7, 6)
    assert leader.outbound.is_alone(Zxid(1, 7)) and not leader.outbound.is_alone(Zxid(1, 8))
    leader.outbound.forget()
    assert not leader.outbound.is_alone(Zxid(1, 7))


async def test_doubts_have_an_end(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    for number in range(1, 4 * DOUBTS_MAX):
        leader.propose(number, number - 1)
        leader.commit(number)
        if leader.outbound._waiting:
            await trio.sleep(WAIT_SECONDS * 1.1)
    assert leader.outbound._doubts == DOUBTS_MAX


async def test_where_more_than_one_record_is_under_way_all_are_told(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    leader.quick = [FIRST]
    await to_both(leader, 1, 3)
    leader.propose(4, 3, FIRST, SECOND)
    leader.left.clear()
    leader.propose(5, 3, FIRST, SECOND)
    assert what_left(leader) == [("Propose", 2, 5), ("Propose", 3, 3), ("Propose", 3, 4), ("Propose", 3, 5)]


async def test_what_is_not_little_waits_for_nothing(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    leader.quick = [FIRST]
    await to_both(leader, 1, 3)
    leader.left.clear()
    for link in (FIRST, SECOND):
        entries = Entries(Zxid(1, 4), Zxid(1, 3), [bytes(LITTLE_BYTES + 1)], 4)
        leader.outbound.propose(Send(link, Propose(EPOCH, entries, Zxid(1, 3)), 0))
    assert what_left(leader) == [("Propose", 2, 4), ("Propose", 3, 3), ("Propose", 3, 4)]


async def test_where_no_quorum_has_been_quick_all_are_told(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await to_both(leader, 1, 4)
    assert [left for left in what_left(leader) if left[0] == "Propose"] == [("Propose", peer, n) for n in (1, 2, 3, 4) for peer in (2, 3)]


async def test_behind_whatever_else_is_sent_all_are_told_so_that_the_quickest_is_seen_anew(
    autojump_clock: trio.testing.MockClock, leader: Leader
) -> None:
    """A heartbeat, or the end of a link of the quorum."""
    leader.quick = [FIRST]
    await to_both(leader, 1, 3)
    leader.outbound.tell()
    leader.quick = [SECOND]
    leader.left.clear()
    leader.propose(4, 3, FIRST, SECOND)
    assert what_left(leader) == [("Propose", 2, 4), ("Propose", 3, 4)]
    leader.commit(4, FIRST, SECOND)
    leader.propose(5, 4, FIRST, SECOND)
    assert what_left(leader) == [("Propose", 3, 5)]


async def test_proposals_that_wait_are_forgotten_with_their_role(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    leader.quick = [FIRST]
    await to_both(leader, 1, 4)
    leader.left.clear()
    leader.outbound.forget()
    await trio.sleep(1)
    leader.outbound.tell()
    assert leader.left == []
    for link in (FIRST, SECOND):
        leader.outbound.propose(proposal(1, 4, link, epoch=2))
    assert [link for link, _ in leader.left] == [FIRST, SECOND]


@pytest.mark.parametrize("seed", range(40))
async def test_each_link_keeps_the_order_of_the_core(autojump_clock: trio.testing.MockClock, leader: Leader, seed: int) -> None:
    """Whatever comes, and when: all proposals in order, no COMMIT above them or lower than before, and nothing is late."""
    dice, links, proposed, committed = Random(seed), (FIRST, SECOND, Link(PeerId(4), 1)), 0, 0
    emitted_at: dict[tuple[Link, int], float] = {}
    told, known = dict.fromkeys(links, 0), dict.fromkeys(links, 0)

    def look() -> None:
        for link, message in leader.left:
            if isinstance(message, Propose):
                assert message.entries.first.counter == told[link] + 1
                told[link] += 1
            assert isinstance(message, Propose | Commit) and known[link] <= message.watermark.counter <= told[link]
            known[link] = message.watermark.counter
        leader.left.clear()

    for _ in range(400):
        leader.quick = dice.sample(links, dice.choice([0, 2, 2, 2]))
        match dice.choices(["record", "propose", "commit", "tell", "pause"], [12, 2, 2, 1, 1])[0]:
            case "record" if proposed == committed:
                proposed += 1
                leader.propose(proposed, committed, *links)
                emitted_at |= {(link, proposed): trio.current_time() for link in links}
                await trio.sleep(dice.choice([0, 0.0005, 0.001, 0.02]))
                committed = proposed
                leader.commit(committed, *links)
            case "propose":
                proposed += 1
                leader.propose(proposed, committed, *links)
                emitted_at |= {(link, proposed): trio.current_time() for link in links}
            case "commit" if proposed > committed:
                committed = proposed
                leader.commit(committed, *links)
            case "tell":
                leader.outbound.tell()
            case _:
                await trio.sleep(dice.choice([0.0005, 0.004, 0.03]))
        look()
        for link in links:
            if told[link] < proposed:
                assert trio.current_time() - emitted_at[link, told[link] + 1] <= WAIT_SECONDS * 1.01
    await trio.sleep(WAIT_SECONDS * 1.01)
    look()
    assert set(told.values()) == {proposed} and set(known.values()) == {committed}
