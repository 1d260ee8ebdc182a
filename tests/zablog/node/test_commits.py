"""COMMITs wait for the proposal that is likely to say as much, and for nothing else."""

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from zablog.core.effects import Send
from zablog.core.events import Link
from zablog.core.messages import Commit, Message, Ping, Propose
from zablog.core.trail import Entries
from zablog.core.zxid import Epoch, PeerId, Zxid
from zablog.node.commits import DOUBT, SOON_SECONDS, WAIT_SECONDS, Commits

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
        self.commits = Commits(lambda send: self.left.append((send.link, send.message)))

    def commit(self, counter: int, *links: Link) -> None:
        for link in links or (FIRST,):
            self.commits.add(commit(counter, link))
        self.commits.applied()

    def propose(self, counter: int, watermark: int, *links: Link) -> None:
        for link in links or (FIRST,):
            self.commits.proposing(proposal(counter, watermark, link))

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
        nursery.start_soon(leader.commits.keep_telling)
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
    leader.commits.tell()
    leader.left.append((FIRST, Ping(EPOCH, 1)))
    assert leader.left == [(FIRST, Commit(EPOCH, Zxid(1, 3))), (SECOND, Commit(EPOCH, Zxid(1, 3))), (FIRST, Ping(EPOCH, 1))]


async def test_what_is_not_applied_yet_waits_for_that_alone(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    """A proposal from within the application's own call, before what was committed is applied."""
    await one_by_one(leader)
    leader.commits.add(commit(3))
    leader.propose(4, 3)
    assert leader.told == [1, 3]


async def test_nobody_is_told_by_a_role_that_is_over(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    leader.left.clear()
    leader.commits.forget()
    await trio.sleep(1)
    leader.commits.proposing(proposal(1, 3, epoch=2))
    assert leader.left == []


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
    leader.commits.forget()
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
    leader.commits.applied()
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
    leader.commits.add(commit(4))
    leader.commits.tell()
    assert leader.told == [1, 3, 4]


async def test_a_proposal_of_another_epoch_comes_behind_it(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    await one_by_one(leader)
    leader.commit(3)
    leader.commits.proposing(proposal(4, 3, epoch=2))
    assert leader.told == [1, 3]


async def test_what_was_never_applied_is_not_told_by_a_role_that_is_over(autojump_clock: trio.testing.MockClock, leader: Leader) -> None:
    leader.commits.add(commit(1))
    leader.commits.forget()
    leader.commits.applied()
    leader.commits.tell()
    assert leader.told == []
