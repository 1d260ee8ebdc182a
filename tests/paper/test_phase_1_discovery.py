"""Zab, phase 1, "Discovery": CEPOCH, NEWEPOCH, ACK-E. Paper: section V-A."""

from dataclasses import replace

from tests.driving import Bench, durable, history, sent
from zablog.core.effects import SaveEpochs
from zablog.core.messages import AckEpoch, CEpoch, NewEpoch, Notification, Ping, Pong, Trunc
from zablog.core.state import Following, Leading, Looking, Phase
from zablog.core.zxid import BEYOND, ZERO, Epoch, Zxid


def test_step_1_1_a_follower_tells_the_leader_its_last_promise() -> None:
    bench = Bench(1, accepted=4, current=3)

    effects = bench.following(leader=3)

    assert sent(effects, CEpoch) == [(3, CEpoch(Epoch(4), Epoch(3)), False)]


def test_step_1_2_the_leader_names_an_epoch_above_all_it_heard_of() -> None:
    bench = Bench(3, accepted=4, current=3)
    bench.elected()

    effects = bench.hear(1, CEpoch(Epoch(9), Epoch(3)))

    assert durable(effects) == [SaveEpochs(1, Epoch(10), Epoch(3), None)]
    assert sent(effects) == [(1, NewEpoch(Epoch(10)), True)]


def test_w1_the_leader_promises_its_own_epoch_on_disk_before_it_names_it() -> None:
    bench = Bench(3)
    bench.elected()

    effects = bench.hear(1, CEpoch(Epoch(1), Epoch(1)))

    save, invitation = effects
    assert isinstance(save, SaveEpochs)
    assert invitation.after == save.token


def test_w2_a_follower_saves_the_epoch_before_it_answers() -> None:
    bench = Bench(1, accepted=4, current=3, trail=history((3, 2)))
    bench.following(leader=3)

    effects = bench.hear(3, NewEpoch(Epoch(6)))

    assert durable(effects) == [SaveEpochs(1, Epoch(6), Epoch(3), None)]
    assert sent(effects) == [(3, AckEpoch(Epoch(6), True, Epoch(3), Zxid(3, 2), ZERO, None), True)]


def test_an_epoch_promised_before_is_acknowledged_but_not_counted() -> None:
    bench = Bench(1, accepted=6, current=3)
    bench.following(leader=3)

    effects = bench.hear(3, NewEpoch(Epoch(6)))

    assert durable(effects) == []
    assert [message.counted for _, message, _ in sent(effects, AckEpoch)] == [False]


def test_an_epoch_below_the_promise_ends_the_link() -> None:
    bench = Bench(1, accepted=6, current=3)
    bench.following(leader=3)

    bench.hear(3, NewEpoch(Epoch(5)))

    assert isinstance(bench.state.role, Looking)
    assert bench.state.accepted == 6
    assert 3 not in bench.state.links


def test_uncounted_acknowledgements_make_no_quorum() -> None:
    bench = Bench(3)
    bench.promised(1)

    bench.hear(1, AckEpoch(bench.epoch, False, Epoch(1), ZERO, ZERO, None))

    assert bench.state.role.phase is Phase.DISCOVERY


def test_the_leaders_own_promise_counts_once_it_is_durable() -> None:
    bench = Bench(3)
    bench.elected()
    bench.hear(1, CEpoch(Epoch(1), Epoch(1)))

    bench.hear(1, AckEpoch(bench.epoch, True, Epoch(1), ZERO, ZERO, None))
    assert bench.state.role.phase is Phase.DISCOVERY

    bench.sync()
    assert bench.state.role.phase is Phase.SYNC


def test_who_comes_later_is_invited_to_the_epoch_in_force() -> None:
    bench = Bench(3)
    bench.established(1)
    epoch = bench.epoch

    effects = bench.hear(2, CEpoch(Epoch(1), Epoch(1)))

    assert [message for _, message, _ in sent(effects)] == [NewEpoch(epoch)]


def test_a_peer_that_decided_for_us_before_we_did_is_not_lost() -> None:
    bench = Bench(3)
    bench.tick()
    bench.up(1, 2)
    bench.hear(1, CEpoch(Epoch(1), Epoch(1)))

    bench.hear(1, bench.looking_vote(1, current=0, leader=3))
    effects = bench.tick(bench.timing.finalize)

    assert isinstance(bench.state.role, Leading)
    assert sent(effects, NewEpoch) == [(1, NewEpoch(Epoch(2)), True)]


def test_a_suspect_tail_is_no_witness() -> None:
    """zab-protocol, storage faults: it counts for the promise, not for what history there is."""
    bench = Bench(3, voters=(1, 2, 3))
    bench.promised(1)

    bench.hear(1, AckEpoch(bench.epoch, True, Epoch(1), ZERO, ZERO, BEYOND))

    assert bench.state.role.phase is Phase.DISCOVERY


def test_a_suspect_tail_that_our_history_covers_is_a_witness() -> None:
    bench = Bench(3, trail=history((1, 5)))
    bench.promised(1)

    bench.hear(1, AckEpoch(bench.epoch, True, Epoch(1), Zxid(1, 2), ZERO, Zxid(1, 4)))

    assert bench.state.role.phase is Phase.SYNC


def test_when_every_voter_answered_suspect_tails_are_given_up() -> None:
    bench = Bench(3, suspect=Zxid(1, 3))
    bench.promised(1, 2)

    bench.hear(1, AckEpoch(bench.epoch, True, Epoch(1), ZERO, ZERO, Zxid(1, 2)))
    assert bench.state.role.phase is Phase.DISCOVERY

    effects = bench.hear(2, AckEpoch(bench.epoch, True, Epoch(1), ZERO, ZERO, Zxid(1, 2)))
    assert bench.state.role.phase is Phase.SYNC
    assert durable(effects)[0].suspect is None


def test_a_suspect_tail_does_not_outrank_a_whole_one() -> None:
    """Found by the simulator: a node that reached a later epoch alone, and then lost a committed entry to rot, cut it everywhere."""
    bench = Bench(3, accepted=3, current=2, trail=history((2, 5)))
    bench.promised(1, 2)

    bench.hear(1, AckEpoch(bench.epoch, True, Epoch(1), Zxid(2, 3), ZERO, None))

    assert bench.state.role.phase is Phase.SYNC
    assert bench.state.role.initial == Zxid(2, 5)
    bench.hear(2, AckEpoch(bench.epoch, True, Epoch(3), Zxid(2, 4), ZERO, BEYOND))
    assert bench.state.role.phase is Phase.SYNC


def test_a_whole_candidate_is_better_than_a_suspect_one() -> None:
    bench = Bench(1, accepted=5, current=2, trail=history((2, 5)))
    bench.tick()
    bench.up(2, 3)
    vote = bench.looking_vote(3, current=4, last=Zxid(2, 4))

    bench.hear(3, replace(vote, whole=False))
    assert bench.state.role.vote.leader != 3

    bench.hear(2, bench.looking_vote(2, current=1))
    assert bench.state.role.vote.leader == 1


def test_a_suspect_leader_gives_way_to_who_holds_more() -> None:
    bench = Bench(3, accepted=4, current=4, trail=history((2, 4)), suspect=BEYOND)
    bench.promised(1, 2)

    bench.hear(1, AckEpoch(bench.epoch, True, Epoch(3), Zxid(2, 5), ZERO, None))
    bench.hear(2, AckEpoch(bench.epoch, True, Epoch(3), Zxid(2, 2), ZERO, Zxid(2, 3)))

    assert isinstance(bench.state.role, Looking)
    assert bench.state.ineligible_until > bench.state.now


def test_a_new_born_ensemble_needs_every_promise() -> None:
    bench = Bench(3, accepted=0, current=0)
    bench.elected()

    assert durable(bench.hear(1, CEpoch(Epoch(0), Epoch(0)))) == []
    assert durable(bench.hear(2, CEpoch(Epoch(0), Epoch(0)))) == [SaveEpochs(1, Epoch(1), Epoch(0), None)]

    bench.sync()
    bench.hear(1, AckEpoch(Epoch(1), True, Epoch(0), ZERO, ZERO, None))
    assert bench.state.role.phase is Phase.DISCOVERY
    bench.hear(2, AckEpoch(Epoch(1), True, Epoch(0), ZERO, ZERO, None))
    assert bench.state.role.phase is Phase.SYNC


def test_an_old_copy_of_a_birth_directory_is_refused_by_its_peers() -> None:
    bench = Bench(3)
    bench.elected()

    bench.hear(1, CEpoch(Epoch(0), Epoch(0)))

    assert 1 not in bench.state.links
    assert bench.state.role.epoch is None


def test_a_leader_gives_up_without_a_quorum() -> None:
    bench = Bench(3)
    bench.elected()

    effects = bench.tick(bench.timing.discovery + 1)

    assert isinstance(bench.state.role, Looking)
    assert sent(effects, Notification)


def test_a_follower_gives_up_a_leader_that_names_no_epoch() -> None:
    bench = Bench(1)
    bench.following(leader=3)

    bench.tick(bench.timing.discovery)
    assert isinstance(bench.state.role, Following)

    bench.tick()
    assert isinstance(bench.state.role, Looking)


def test_a_second_cepoch_on_one_link_closes_it() -> None:
    bench = Bench(3)
    bench.promised(1)

    bench.hear(1, CEpoch(Epoch(1), Epoch(1)))

    assert 1 not in bench.state.links


def test_an_acknowledgement_of_another_epoch_closes_the_link() -> None:
    bench = Bench(3)
    bench.promised(1)

    bench.hear(1, AckEpoch(Epoch(bench.epoch - 1), True, Epoch(0), ZERO, ZERO, None))

    assert 1 not in bench.state.links
    assert bench.state.role.phase is Phase.DISCOVERY


def test_a_better_history_that_comes_when_ours_is_fixed_is_cut() -> None:
    """zab-protocol, section 2, ACK-E: who abdicates does so before the quorum forms. What no quorum knew is not committed."""
    bench = Bench(3)
    bench.acknowledged(1)

    bench.hear(2, CEpoch(Epoch(1), Epoch(1)))
    effects = bench.hear(2, AckEpoch(bench.epoch, True, Epoch(1), Zxid(1, 9), ZERO, None))

    assert sent(effects, Trunc) == [(2, Trunc(bench.epoch, ZERO, 0), False)]


def test_a_voter_with_a_higher_promise_makes_the_leader_give_way_in_the_end() -> None:
    """zab-protocol, section 3 (ZOOKEEPER-335): refused for ever, it would never take part again."""
    bench = Bench(3)
    bench.established(1)

    bench.hear(2, CEpoch(Epoch(bench.epoch + 3), Epoch(1)))
    assert 2 not in bench.state.links
    for _ in range(bench.timing.grace + 1):
        for _, ping, _ in sent(bench.tick(), Ping):
            bench.hear(1, Pong(bench.epoch, ping.nonce))

    assert isinstance(bench.state.role, Looking)


def test_a_stranger_is_synchronized_and_counted_nowhere() -> None:
    bench = Bench(3, voters=(1, 2, 3, 4, 5))
    bench.elected()
    bench.up(9)

    bench.hear(1, CEpoch(Epoch(1), Epoch(1)))
    bench.hear(9, CEpoch(Epoch(1), Epoch(1)))
    assert bench.state.role.epoch is None

    assert durable(bench.hear(2, CEpoch(Epoch(1), Epoch(1))))
