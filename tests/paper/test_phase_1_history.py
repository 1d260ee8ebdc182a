"""Zab, phase 1, its end: the history with the highest (f.a, last zxid) of the quorum becomes the initial one. Paper: section V-A, step 1.2
of the leader: "selects the history of one follower in Q". The exchange is ours: zab-protocol, sections 2 (ACK-E, HISTORYQUERY) and 3.
"""

import pytest

from tests.driving import Bench, durable, entries_after, history, sent
from zablog.core.effects import Append, DropLink, Effect, ReadDigest, SaveEpochs, Stream, Truncate
from zablog.core.events import Checkpointed, DigestRead, Durable, Streamed
from zablog.core.messages import AckEpoch, CEpoch, Diff, HistoryAnswer, HistoryQuery, Message, NewEpoch, Ping, Propose
from zablog.core.state import Following, Leading, Looking, Phase
from zablog.core.trail import Entries, Mark, Trail
from zablog.core.zxid import BEYOND, ZERO, Epoch, Zxid

BETTER = history((1, 4))
"""What the follower has whose history is pulled; the leader has the first two entries of it."""


def run(whole: Trail, begin: int, end: int) -> Entries:
    """The entries of epoch 1 above counter `begin`, through `end`."""
    payloads = [f"1.{counter}".encode() for counter in range(begin + 1, end + 1)]
    return entries_after(history((1, begin)) if begin else Trail(), 1, *payloads)


def ack(bench: Bench, last: Zxid, current: int = 1, *, counted: bool = True, base: Zxid = ZERO, suspect: Zxid | None = None) -> AckEpoch:
    return AckEpoch(bench.epoch, counted, Epoch(current), last, base, suspect)


def asking(trail: Trail | None = None, **more) -> Bench:
    """Leader 3 of three, whose history ends at 1.2 unless said, has a quorum with follower 1, which has 1.4, and has asked it."""
    bench = Bench(3, trail=trail or history((1, 2)), **more)
    bench.promised(1, 2)
    bench.hear(1, ack(bench, BETTER.last))
    return bench


def met(bench: Bench) -> list[Effect]:
    """Its history ends where the follower's goes on."""
    return bench.hear(1, HistoryAnswer(bench.epoch, bench.peer.last, bench.state.trail.digest))


def dropped(effects: list[Effect]) -> list[int]:
    return [effect.link.peer for effect in effects if isinstance(effect, DropLink)]


# -- leader -------------------------------------------------------------------------------------------------------------------


def test_step_1_2_the_best_history_of_the_quorum_is_asked_for_where_it_is() -> None:
    bench = Bench(3, trail=history((1, 2)))
    bench.promised(1)

    effects = bench.hear(1, ack(bench, BETTER.last))

    assert sent(effects) == [(1, HistoryQuery(bench.epoch, Zxid(1, 2)), True)]
    assert durable(effects) == []
    assert bench.state.role.phase is Phase.DISCOVERY


def test_step_1_2_what_is_asked_for_becomes_the_initial_history_once_it_is_durable() -> None:
    bench = asking()
    entries = run(BETTER, 2, 4)

    assert met(bench) == []
    effects = bench.hear(1, Propose(bench.epoch, entries, ZERO))
    assert durable(effects) == [Append(2, entries)]
    assert bench.state.role.phase is Phase.DISCOVERY

    effects = bench.sync()
    assert bench.state.role.phase is Phase.SYNC
    assert bench.state.role.initial == Zxid(1, 4)
    assert sent(effects, Diff) == [(1, Diff(bench.epoch, Zxid(1, 4), BETTER.digest), False)]


def test_w8_current_epoch_stays_what_it_was_until_the_history_is_here_and_durable() -> None:
    bench = asking()
    met(bench)

    first = bench.hear(1, Propose(bench.epoch, run(BETTER, 2, 3), ZERO)) + bench.sync()
    assert not [effect for effect in first if isinstance(effect, SaveEpochs)]
    assert bench.state.role.phase is Phase.DISCOVERY
    assert bench.state.role.self_acked is None

    effects = bench.hear(1, Propose(bench.epoch, run(BETTER, 3, 4), ZERO))
    assert [type(effect) for effect in durable(effects)] == [Append]
    assert durable(bench.sync()) == [SaveEpochs(4, bench.epoch, bench.epoch, None)]
    assert bench.state.role.self_acked is None
    bench.sync()
    assert bench.state.role.self_acked == Zxid(1, 4)


def test_part_of_a_pull_becoming_durable_fixes_nothing() -> None:
    bench = asking()
    met(bench)
    bench.hear(1, Propose(bench.epoch, run(BETTER, 2, 3), ZERO), Propose(bench.epoch, run(BETTER, 3, 4), ZERO))

    bench.step(Durable(bench.peer.out.token - 1))

    assert bench.state.role.phase is Phase.DISCOVERY


def test_nothing_is_asked_for_or_cut_before_a_quorum_promised() -> None:
    """zab-protocol, section 2: nothing may be truncated on the word of an unconfirmed leader, and it holds for the leader's own."""
    bench = Bench(3, voters=(1, 2, 3, 4, 5), trail=history((1, 2), (2, 3)))
    bench.promised(1, 2)

    effects = bench.hear(1, ack(bench, Zxid(1, 2), current=1))
    assert sent(effects, HistoryQuery) == [] and durable(effects) == []
    effects = bench.hear(2, ack(bench, Zxid(1, 2), current=2))
    assert sent(effects, HistoryQuery) == [(2, HistoryQuery(bench.epoch, Zxid(2, 3)), True)]


def test_of_several_that_are_ahead_the_one_with_the_highest_epoch_and_zxid_is_asked() -> None:
    bench = Bench(3, voters=(1, 2, 3, 4, 5), trail=history((1, 2)))
    bench.promised(1, 2, 4)

    bench.hear(1, ack(bench, Zxid(1, 9), current=1))
    effects = bench.hear(2, ack(bench, Zxid(1, 4), current=2))

    assert sent(effects, HistoryQuery) == [(2, HistoryQuery(bench.epoch, Zxid(1, 2)), True)]


def test_a_still_better_history_that_comes_half_way_is_not_taken() -> None:
    """It was no part of the quorum: nothing that it has beyond the one chosen is committed. It will be cut like any other tail."""
    bench = asking()
    met(bench)

    effects = bench.hear(2, ack(bench, Zxid(1, 9)))
    assert effects == []
    bench.hear(1, Propose(bench.epoch, run(BETTER, 2, 4), ZERO))
    bench.sync()

    assert bench.state.role.initial == Zxid(1, 4)


def test_a_tail_of_our_own_is_cut_at_the_common_place_and_asked_again_once_that_is_durable() -> None:
    """Its follower is of epoch 3, which began with 1.2: what the leader has of epoch 2 is its own. W3: the query describes the disk."""
    bench = Bench(3, accepted=3, current=2, trail=history((1, 2), (2, 3)))
    bench.promised(1)
    effects = bench.hear(1, ack(bench, Zxid(3, 1), current=3))
    assert sent(effects) == [(1, HistoryQuery(bench.epoch, Zxid(2, 3)), True)]

    effects = bench.hear(1, HistoryAnswer(bench.epoch, Zxid(1, 2), history((1, 2)).digest))

    assert durable(effects) == [Truncate(2, Mark(Zxid(1, 2), history((1, 2)).digest))]
    assert sent(effects) == [(1, HistoryQuery(bench.epoch, Zxid(1, 2)), True)]
    bench.sync()
    entries = entries_after(history((1, 2)), 3, b"x")
    bench.hear(1, HistoryAnswer(bench.epoch, Zxid(1, 2), history((1, 2)).digest), Propose(bench.epoch, entries, ZERO))
    bench.sync()
    assert bench.state.role.initial == Zxid(3, 1)


def test_our_own_digest_is_looked_up_before_anything_is_cut() -> None:
    bench = Bench(3, accepted=3, current=2, trail=history((1, 4)))
    bench.promised(1)
    bench.hear(1, ack(bench, Zxid(1, 2), current=3))

    effects = bench.hear(1, HistoryAnswer(bench.epoch, Zxid(1, 2), history((1, 2)).digest))
    assert effects == [ReadDigest(bench.links[1], Zxid(1, 2))]

    effects = bench.step(DigestRead(bench.links[1], Zxid(1, 2), history((1, 2)).digest))
    assert durable(effects) == [Truncate(2, Mark(Zxid(1, 2), history((1, 2)).digest))]


@pytest.mark.parametrize("known", [True, False])
def test_where_digests_differ_nothing_is_cut_or_taken(known: bool) -> None:
    bench = Bench(3, accepted=3, current=2, trail=history((1, 2), (2, 3)) if known else history((1, 4)))
    bench.promised(1)
    bench.hear(1, ack(bench, Zxid(1, 2), current=3))

    effects = bench.hear(1, HistoryAnswer(bench.epoch, Zxid(1, 2), 99))
    if not known:
        effects += bench.step(DigestRead(bench.links[1], Zxid(1, 2), history((1, 2)).digest))

    assert durable(effects) == []
    assert isinstance(bench.state.role, Looking)


@pytest.mark.parametrize("after", [Zxid(1, 0), Zxid(2, 1), ZERO])
def test_a_place_that_is_not_ours_or_below_what_is_committed_is_no_place_to_cut(after: Zxid) -> None:
    bench = Bench(3, accepted=3, current=2, trail=history((1, 2), (2, 3)), watermark=Zxid(1, 1))
    if after == Zxid(2, 1):
        bench = Bench(3, accepted=3, current=2, trail=history((1, 2), (3, 3)), watermark=Zxid(1, 1))
    bench.promised(1)
    bench.hear(1, ack(bench, Zxid(3, 9), current=3))

    effects = bench.hear(1, HistoryAnswer(bench.epoch, after, 0))

    assert durable(effects) == []
    assert isinstance(bench.state.role, Looking)


def test_the_same_history_of_a_later_epoch_is_compared_and_that_is_all() -> None:
    bench = Bench(3, trail=history((1, 4)))
    bench.promised(1)
    bench.hear(1, ack(bench, Zxid(1, 4), current=2))

    met(bench)

    assert bench.state.role.initial == Zxid(1, 4)


def test_when_the_link_to_the_follower_is_lost_the_role_ends_and_what_came_stays() -> None:
    """W7: history may be of more than f.a says. The next leader's vote is the old f.a, with the new last zxid."""
    bench = asking()
    met(bench)
    bench.hear(1, Propose(bench.epoch, run(BETTER, 2, 3), ZERO))

    bench.down(1)
    bench.sync()

    assert isinstance(bench.state.role, Looking)
    assert bench.state.self_vote == (1, Zxid(1, 3), 3)
    assert bench.state.durable.current == 1


def test_losing_another_follower_half_way_changes_nothing() -> None:
    bench = asking()
    met(bench)

    bench.down(2)
    bench.hear(1, Propose(bench.epoch, run(BETTER, 2, 4), ZERO))
    bench.sync()

    assert bench.state.role.phase is Phase.SYNC


def test_no_other_history_takes_the_place_of_one_that_broke_off() -> None:
    """The second best may lack what is committed: a new epoch asks again."""
    bench = Bench(3, voters=(1, 2, 3, 4, 5), trail=history((1, 2)))
    bench.promised(1, 2)
    bench.hear(1, ack(bench, Zxid(1, 4)))
    bench.hear(2, ack(bench, Zxid(1, 3)))

    bench.down(1)

    assert isinstance(bench.state.role, Looking)


def test_a_follower_that_reconnected_is_asked_on_its_new_link() -> None:
    """Its promise counts, from the link on which it came; on the new one it is told again, uncounted, with the same history."""
    bench = Bench(3, voters=(1, 2, 3, 4, 5), trail=history((1, 2)))
    bench.promised(1, 2)
    bench.hear(1, ack(bench, BETTER.last))
    bench.up(1)
    bench.hear(1, CEpoch(bench.epoch, Epoch(1)))
    bench.hear(1, ack(bench, BETTER.last, counted=False))

    effects = bench.hear(2, ack(bench, ZERO))

    assert sent(effects) == [(1, HistoryQuery(bench.epoch, Zxid(1, 2)), True)]


def test_a_follower_that_reconnected_with_another_history_is_not_asked() -> None:
    bench = Bench(3, voters=(1, 2, 3, 4, 5), trail=history((1, 2)))
    bench.promised(1, 2)
    bench.hear(1, ack(bench, BETTER.last))
    bench.up(1)
    bench.hear(1, CEpoch(bench.epoch, Epoch(1)))
    bench.hear(1, ack(bench, BETTER.last, counted=False, suspect=BEYOND))

    effects = bench.hear(2, ack(bench, ZERO))

    assert sent(effects, HistoryQuery) == []
    assert isinstance(bench.state.role, Looking)


@pytest.mark.parametrize("lost", ["link", "log"])
def test_a_quorum_without_the_best_is_waited_for_while_it_may_come(lost: str) -> None:
    """What only he has who cannot be asked is committed nowhere, once a quorum without him has promised."""
    bench = Bench(3, voters=(1, 2, 3, 4, 5), trail=history((1, 2)))
    bench.promised(1, 2, 4)
    bench.hear(1, ack(bench, BETTER.last, base=Zxid(1, 3) if lost == "log" else ZERO))
    if lost == "link":
        bench.down(1)
    bench.hear(2, ack(bench, Zxid(1, 3)))
    assert bench.state.role.phase is Phase.DISCOVERY

    effects = bench.hear(4, ack(bench, Zxid(1, 1)))

    assert sent(effects) == [(2, HistoryQuery(bench.epoch, Zxid(1, 2)), True)]


def test_nothing_is_begun_below_what_somebody_says_is_committed() -> None:
    """His log begins at 1.3: that is in a snapshot, and was committed. More than a minority has lost it, and goes no further."""
    bench = Bench(3, voters=(1, 2, 3, 4, 5), trail=history((1, 2)))
    bench.promised(1, 2, 4)
    bench.hear(1, ack(bench, BETTER.last, base=Zxid(1, 3)))
    bench.hear(2, ack(bench, ZERO))

    bench.hear(4, ack(bench, Zxid(1, 1)))

    assert isinstance(bench.state.role, Looking)


def test_who_was_waited_for_and_is_gone_is_waited_for_no_longer() -> None:
    bench = Bench(3, voters=(1, 2, 3, 4, 5), trail=history((1, 2)))
    bench.promised(1, 2, 4)
    bench.hear(1, ack(bench, BETTER.last, base=Zxid(1, 3)))
    bench.hear(2, ack(bench, ZERO))
    assert isinstance(bench.state.role, Leading)

    bench.down(4)

    assert isinstance(bench.state.role, Looking)


def test_a_better_history_that_is_no_part_of_the_quorum_is_not_pulled() -> None:
    """A promise that does not count was given before, to another leader perhaps. Those whose promises do are a quorum without it."""
    bench = Bench(3, voters=(1, 2, 3, 4, 5), trail=history((1, 2)))
    bench.promised(1, 2, 4)
    bench.hear(1, ack(bench, BETTER.last, counted=False))
    bench.hear(2, ack(bench, ZERO))

    effects = bench.hear(4, ack(bench, ZERO))

    assert sent(effects, HistoryQuery) == []
    assert bench.state.role.initial == Zxid(1, 2)


def test_a_leader_abdicates_where_it_would_need_a_snapshot() -> None:
    bench = Bench(3, trail=history((1, 2)))
    bench.promised(1)

    effects = bench.hear(1, ack(bench, Zxid(1, 9), base=Zxid(1, 3)))

    assert sent(effects, HistoryQuery) == []
    assert isinstance(bench.state.role, Looking)


def test_a_suspect_history_is_not_pulled() -> None:
    """zab-protocol, section 9: it is a witness under its own rule, and lends no weight (decision 7)."""
    bench = Bench(3, trail=history((1, 5)))
    bench.promised(1, 2)
    bench.hear(1, ack(bench, Zxid(1, 7), current=2, suspect=BEYOND))

    effects = bench.hear(2, ack(bench, Zxid(1, 5)))

    assert sent(effects, HistoryQuery) == []
    assert bench.state.role.initial == Zxid(1, 5)


def test_a_leader_whose_own_tail_is_suspect_pulls_nothing() -> None:
    bench = Bench(3, trail=history((1, 2)), suspect=BEYOND)
    bench.promised(1)

    effects = bench.hear(1, ack(bench, BETTER.last))

    assert sent(effects, HistoryQuery) == []
    assert bench.state.role.phase is Phase.DISCOVERY


def test_a_leader_whose_own_tail_is_suspect_takes_the_best_of_a_whole_quorum() -> None:
    """It has nothing to weigh in; whatever it lost and was committed, they have."""
    bench = Bench(3, trail=history((1, 2)), suspect=BEYOND)
    bench.promised(1, 2)
    bench.hear(1, ack(bench, BETTER.last))

    effects = bench.hear(2, ack(bench, Zxid(1, 3)))

    assert sent(effects) == [(1, HistoryQuery(bench.epoch, Zxid(1, 2)), True)]


def test_without_a_quorum_of_whole_histories_a_leader_abdicates() -> None:
    bench = Bench(3, voters=(1, 2, 3, 4, 5), trail=history((1, 2)))
    bench.promised(1, 2)
    bench.hear(2, ack(bench, ZERO, suspect=BEYOND))

    effects = bench.hear(1, ack(bench, BETTER.last))

    assert sent(effects, HistoryQuery) == []
    assert isinstance(bench.state.role, Looking)


def test_a_whole_quorum_is_waited_for_while_it_may_come() -> None:
    bench = Bench(3, voters=(1, 2, 3, 4, 5), trail=history((1, 2)))
    bench.promised(1, 2, 4)
    bench.hear(2, ack(bench, ZERO, suspect=BEYOND))
    bench.hear(1, ack(bench, BETTER.last))
    assert bench.state.role.phase is Phase.DISCOVERY

    effects = bench.hear(4, ack(bench, ZERO))

    assert sent(effects) == [(1, HistoryQuery(bench.epoch, Zxid(1, 2)), True)]


@pytest.mark.parametrize("last", [Zxid(2, 1), Zxid(3, 1), BEYOND])
def test_a_promise_with_entries_of_the_promised_epoch_closes_the_link(last: Zxid) -> None:
    """An enemy's: pulled, they would stand where the leader's own entries are to come."""
    bench = Bench(3, trail=history((1, 2)))
    bench.promised(1)
    assert bench.epoch == 2

    effects = bench.hear(1, ack(bench, last))

    assert dropped(effects) == [1]
    assert isinstance(bench.state.role, Leading) and bench.state.role.pull is None


@pytest.mark.parametrize("words", ["unasked", "twice", "of another epoch", "beyond ours", "from another"])
def test_an_answer_that_is_out_of_place_closes_its_link_and_changes_nothing(words: str) -> None:
    bench = asking()
    answer = HistoryAnswer(bench.epoch, Zxid(1, 2), history((1, 2)).digest)
    speaker = 2 if words == "from another" else 1
    if words == "unasked":
        bench = Bench(3, trail=history((1, 2)))
        bench.promised(1)
    elif words == "twice":
        bench.hear(1, answer)
    elif words == "of another epoch":
        answer = HistoryAnswer(Epoch(bench.epoch - 1), answer.after, answer.digest)
    elif words == "beyond ours":
        answer = HistoryAnswer(bench.epoch, Zxid(1, 3), 0)

    effects = bench.hear(speaker, answer)

    assert dropped(effects)[:1] == [speaker]
    assert durable(effects) == [] and bench.peer.last == Zxid(1, 2)
    assert isinstance(bench.state.role, Leading if words in ("unasked", "from another") else Looking)


@pytest.mark.parametrize("words", ["too early", "a gap", "too many", "altered", "of another epoch", "from another"])
def test_entries_that_are_not_what_was_acknowledged_close_the_link_and_are_not_taken(words: str) -> None:
    bench = asking()
    if words != "too early":
        met(bench)
    message = Propose(bench.epoch, run(BETTER, 2, 4), ZERO)
    speaker = 2 if words == "from another" else 1
    if words == "a gap":
        message = Propose(bench.epoch, run(BETTER, 3, 4), ZERO)
    elif words == "too many":
        message = Propose(bench.epoch, run(BETTER, 2, 5), ZERO)
    elif words == "altered":
        message = Propose(bench.epoch, message.entries._replace(payloads=[b"x", b"y"]), ZERO)
    elif words == "of another epoch":
        message = Propose(Epoch(bench.epoch - 1), message.entries, ZERO)

    effects = bench.hear(speaker, message)

    assert dropped(effects)[:1] == [speaker]
    assert durable(effects) == [] and bench.peer.last == Zxid(1, 2)


def test_entries_from_a_follower_when_the_history_is_fixed_close_the_link() -> None:
    bench = Bench(3)
    bench.established(1)

    effects = bench.hear(1, Propose(bench.epoch, run(BETTER, 0, 1), ZERO))

    assert dropped(effects) == [1]
    assert bench.peer.last == ZERO


def test_a_pull_may_take_as_long_as_it_makes_progress() -> None:
    bench = asking()
    met(bench)

    bench.tick(bench.timing.discovery + 10)
    assert isinstance(bench.state.role, Leading)
    effects = bench.tick(bench.timing.ping)
    assert sent(effects, Ping), "followers do not suspect us meanwhile"

    bench.tick(bench.timing.sync)
    assert isinstance(bench.state.role, Looking)


# -- follower -----------------------------------------------------------------------------------------------------------------


def test_a_pull_may_take_as_long_as_the_disk_makes_progress() -> None:
    """All of it has come, and the leader's own disk is slow."""
    bench = asking()
    met(bench)
    for begin in (2, 3):
        bench.hear(1, Propose(bench.epoch, run(BETTER, begin, begin + 1), ZERO))

    bench.tick(bench.timing.sync - 1)
    bench.step(Durable(bench.peer.out.token - 1))
    bench.tick(bench.timing.sync - 1)

    assert isinstance(bench.state.role, Leading)


def promised_to(trail: Trail, **more) -> Bench:
    """Follower 1 has promised epoch 3 to leader 3."""
    bench = Bench(1, trail=trail, **more)
    bench.following(3)
    bench.hear(3, NewEpoch(Epoch(3)))
    bench.sync()
    return bench


def test_a_follower_answers_with_its_digest_and_reads_on_from_there() -> None:
    bench = promised_to(history((1, 2), (2, 3)), accepted=2, current=2)

    effects = bench.hear(3, HistoryQuery(Epoch(3), Zxid(1, 2)))

    link = bench.links[3]
    assert sent(effects) == [(3, HistoryAnswer(Epoch(3), Zxid(1, 2), history((1, 2)).digest), False)]
    assert effects[1:] == [Stream(link, Epoch(3), Zxid(1, 2), Zxid(2, 3))]
    assert bench.step(Streamed(link, Zxid(2, 1))) == [Stream(link, Epoch(3), Zxid(2, 1), Zxid(2, 3))]
    assert bench.step(Streamed(link, Zxid(2, 3))) == []


def test_a_follower_names_the_last_common_place_and_is_asked_again_from_there() -> None:
    bench = promised_to(history((1, 4)))

    effects = bench.hear(3, HistoryQuery(Epoch(3), Zxid(2, 7)))
    assert effects[0].message == HistoryAnswer(Epoch(3), Zxid(1, 4), BETTER.digest)
    assert len(effects) == 1

    effects = bench.hear(3, HistoryQuery(Epoch(3), Zxid(1, 4)))
    assert [message for _, message, _ in sent(effects)] == [HistoryAnswer(Epoch(3), Zxid(1, 4), BETTER.digest)]


def test_a_follower_looks_up_its_digest_within_an_epoch() -> None:
    bench = promised_to(history((1, 4)))

    effects = bench.hear(3, HistoryQuery(Epoch(3), Zxid(1, 2)))
    assert effects == [ReadDigest(bench.links[3], Zxid(1, 2))]

    effects = bench.step(DigestRead(bench.links[3], Zxid(1, 2), 7))
    assert [message for _, message, _ in sent(effects)] == [HistoryAnswer(Epoch(3), Zxid(1, 2), 7)]


@pytest.mark.parametrize("words", ["before a promise", "of another epoch", "while reading", "from elsewhere", "when repaired", "suspect"])
def test_a_question_that_is_out_of_place_ends_the_role(words: str) -> None:
    bench = promised_to(history((1, 4)), suspect=BEYOND if words == "suspect" else None)
    query = HistoryQuery(Epoch(3), Zxid(1, 4))
    if words == "before a promise":
        bench = Bench(1, trail=history((1, 4)))
        bench.following(3)
    elif words == "of another epoch":
        query = HistoryQuery(Epoch(2), Zxid(1, 4))
    elif words == "while reading":
        bench.hear(3, query)
    elif words == "from elsewhere":
        bench.hear(3, HistoryQuery(Epoch(3), Zxid(2, 1)))
        query = HistoryQuery(Epoch(3), Zxid(1, 3))
    elif words == "when repaired":
        bench.hear(3, Diff(Epoch(3), Zxid(1, 4), BETTER.digest))

    effects = bench.hear(3, query)

    assert sent(effects, HistoryAnswer) == []
    assert not isinstance(bench.state.role, Following)
    assert bench.state.trail == BETTER


def test_a_follower_whose_log_begins_above_the_place_meanwhile_ends_the_role() -> None:
    """A checkpoint between its ACKEPOCH and the question, or while the leader is read to."""
    trail = history((1, 6))
    bench = promised_to(trail, watermark=Zxid(1, 5))
    bench.step(Checkpointed(Mark(Zxid(1, 5), 5), Mark(Zxid(1, 5), 5)))

    bench.hear(3, HistoryQuery(Epoch(3), Zxid(1, 4)))
    assert not isinstance(bench.state.role, Following)

    bench = promised_to(history((1, 6)), watermark=Zxid(1, 5))
    bench.hear(3, HistoryQuery(Epoch(3), Zxid(1, 4)))
    bench.step(DigestRead(bench.links[3], Zxid(1, 4), 4))
    bench.step(Checkpointed(Mark(Zxid(1, 5), 5), Mark(Zxid(1, 5), 5)))
    assert not isinstance(bench.state.role, Following)


def test_what_the_leader_sends_behind_the_pull_is_not_read_to_it() -> None:
    """The news that the stream is through may come when the leader has repaired us and proposes."""
    bench = promised_to(history((1, 4)))
    bench.hear(3, HistoryQuery(Epoch(3), Zxid(1, 2)))
    bench.step(DigestRead(bench.links[3], Zxid(1, 2), 7))
    bench.hear(3, Diff(Epoch(3), Zxid(1, 4), BETTER.digest), Propose(Epoch(3), entries_after(BETTER, 2, b"x"), ZERO))

    assert bench.step(Streamed(bench.links[3], Zxid(1, 4))) == []


# -- whoever asks or answers out of turn ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["looking", "leading"])
@pytest.mark.parametrize("message", [HistoryQuery(Epoch(2), ZERO), HistoryAnswer(Epoch(2), ZERO, 0)])
def test_who_neither_follows_nor_asked_closes_the_link(role: str, message: Message) -> None:
    bench = Bench(3)
    if role == "leading":
        bench.established(1)
    else:
        bench.tick()
        bench.up(1, 2)

    effects = bench.hear(1, message)

    assert dropped(effects)[:1] == [1]
    assert sent(effects, HistoryAnswer) == [] and durable(effects) == []


def test_a_stranger_s_better_history_is_neither_pulled_nor_made_room_for() -> None:
    """It is no voter: nothing was committed for being on its disk."""
    bench = Bench(3, trail=history((1, 2)))
    bench.promised(1)
    bench.up(9)
    bench.hear(9, CEpoch(Epoch(1), Epoch(1)))
    bench.hear(9, ack(bench, Zxid(1, 8)))

    bench.hear(1, ack(bench, Zxid(1, 1)))

    assert bench.state.role.initial == Zxid(1, 2)
