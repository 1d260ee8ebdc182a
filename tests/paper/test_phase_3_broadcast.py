"""Zab, phase 3, "Broadcast": PROPOSE, ACK, COMMIT. Paper: section V-C."""

from tests.driving import Bench, durable, entries_after, history, sent
from zablog.core.effects import Append, Deliver, DropLink, RoleChanged, Stream
from zablog.core.events import Congested, Durable, Stalled, Streamed
from zablog.core.messages import Ack, AckEpoch, AckNewLeader, CEpoch, Commit, Notification, Ping, Pong, Propose
from zablog.core.state import Draining, Leading, Limits, Looking, Phase
from zablog.core.zxid import ZERO, Epoch, Zxid


def test_a_leader_proposes_in_order_to_every_follower_and_to_its_own_log() -> None:
    bench = Bench(3)
    bench.established(1, 2)

    effects = bench.propose(b"a", b"b")

    (append,) = durable(effects)
    assert append.entries.first == Zxid(2, 1)
    assert append.entries.payloads == (b"a", b"b")
    assert [(peer, message.entries, gated) for peer, message, gated in sent(effects, Propose)] == [
        (1, append.entries, False),
        (2, append.entries, False),
    ]


def test_w10_a_leaders_own_ack_needs_its_own_fsync() -> None:
    bench = Bench(3, voters=(1, 2, 3, 4, 5))
    bench.established(1, 2)
    bench.propose(b"a")

    bench.hear(1, Ack(bench.epoch, Zxid(2, 1)))
    assert bench.peer.watermark == ZERO
    bench.hear(2, Ack(bench.epoch, Zxid(2, 1)))
    assert bench.peer.watermark == ZERO

    effects = bench.sync()
    assert bench.peer.watermark == Zxid(2, 1)
    assert effects[0] == Deliver(Zxid(2, 1))


def test_an_ack_covers_everything_before_it() -> None:
    bench = Bench(3)
    bench.established(1, 2)
    for payload in (b"a", b"b", b"c"):
        bench.propose(payload)
    bench.sync()

    effects = bench.hear(2, Ack(bench.epoch, Zxid(2, 2)))

    assert effects == [Deliver(Zxid(2, 2))]


def test_commit_is_said_aloud_only_when_no_proposal_will_carry_it() -> None:
    bench = Bench(3)
    bench.established(1, 2)
    bench.propose(b"a")
    bench.propose(b"b")
    bench.sync()

    assert sent(bench.hear(1, Ack(bench.epoch, Zxid(2, 1)))) == []
    effects = bench.hear(1, Ack(bench.epoch, Zxid(2, 2)))
    assert sent(effects) == [(peer, Commit(bench.epoch, Zxid(2, 2)), False) for peer in (1, 2)]

    (first, *_) = sent(bench.propose(b"c"), Propose)
    assert first[1].watermark == Zxid(2, 2)


def test_a_watermark_that_no_proposal_carried_is_told_with_the_next_tick() -> None:
    bench = Bench(3)
    bench.established(1, 2)
    bench.propose(b"a")
    bench.propose(b"b")
    bench.sync()
    bench.hear(1, Ack(bench.epoch, Zxid(2, 1)))

    effects = bench.tick()

    assert sent(effects, Commit) == [(peer, Commit(bench.epoch, Zxid(2, 1)), False) for peer in (1, 2)]


def test_an_ack_before_that_of_newleader_closes_the_link() -> None:
    """ZOOKEEPER-4685."""
    bench = Bench(3)
    bench.acknowledged(1)

    effects = bench.hear(1, Ack(bench.epoch, ZERO))

    assert any(isinstance(effect, DropLink) for effect in effects)


def test_a_follower_acknowledges_after_its_fsync() -> None:
    bench = Bench(1)
    bench.up_to_date(leader=3, epoch=6)
    entries = entries_after(bench.state.trail, 6, b"x", b"y")

    effects = bench.hear(3, Propose(Epoch(6), entries, ZERO))

    append, ack = effects
    assert append == Append(append.token, entries)
    assert (ack.message, ack.after) == (Ack(Epoch(6), Zxid(6, 2)), append.token)


def test_a_duplicate_is_ignored_but_acknowledged() -> None:
    bench = Bench(1)
    bench.up_to_date(leader=3, epoch=6)
    entries = entries_after(bench.state.trail, 6, b"x")
    bench.hear(3, Propose(Epoch(6), entries, ZERO))

    effects = bench.hear(3, Propose(Epoch(6), entries, ZERO))

    assert durable(effects) == []
    assert [message for _, message, _ in sent(effects)] == [Ack(Epoch(6), Zxid(6, 1))]


def test_a_proposal_carries_the_watermark() -> None:
    bench = Bench(1)
    bench.up_to_date(leader=3, epoch=6)
    bench.hear(3, Propose(Epoch(6), entries_after(bench.state.trail, 6, b"x"), ZERO))

    effects = bench.hear(3, Propose(Epoch(6), entries_after(bench.state.trail, 6, b"y"), Zxid(6, 1)))

    assert effects[-1] == Deliver(Zxid(6, 1))


def test_a_commit_of_what_we_do_not_have_ends_the_role() -> None:
    bench = Bench(1)
    bench.up_to_date(leader=3, epoch=6)

    bench.hear(3, Commit(Epoch(6), Zxid(6, 1)))

    assert isinstance(bench.state.role, Looking)
    assert bench.peer.watermark == ZERO


def test_w12_the_next_role_waits_for_the_writer_and_the_old_ones_votes_are_void() -> None:
    """ZOOKEEPER-4712: the old role's log writer still ran in the next role."""
    bench = Bench(1)
    bench.up_to_date(leader=3, epoch=6)
    bench.hear(3, Propose(Epoch(6), entries_after(bench.state.trail, 6, b"x"), ZERO))
    generation = bench.state.generation

    effects = bench.down(3)
    assert [type(effect) for effect in effects] == [RoleChanged]
    assert bench.state.generation > generation
    assert not isinstance(bench.state.role, Looking)

    bench.sync()
    assert isinstance(bench.state.role, Looking)
    assert bench.state.role.vote.last == Zxid(6, 1)


def test_a_leader_whose_pings_nobody_echoes_steps_down() -> None:
    bench = Bench(3)
    bench.established(1, 2)

    effects = bench.tick(bench.timing.ping)
    (ping, *_) = sent(effects, Ping)
    bench.hear(1, Pong(bench.epoch, ping[1].nonce))
    bench.tick(bench.timing.echo - 1)
    assert isinstance(bench.state.role, Leading)

    bench.tick(bench.timing.ping + 1)
    assert isinstance(bench.state.role, Looking)


def test_a_follower_echoes_only_while_it_has_promised_nothing_higher() -> None:
    bench = Bench(1)
    bench.up_to_date(leader=3, epoch=6)

    assert sent(bench.hear(3, Ping(Epoch(6), 7))) == [(3, Pong(Epoch(6), 7), False)]
    assert sent(bench.hear(3, Ping(Epoch(5), 8))) == []


def test_a_silent_leader_is_given_up() -> None:
    bench = Bench(1)
    bench.up_to_date(leader=3, epoch=6)

    bench.tick(bench.timing.suspect)
    assert bench.state.phase is Phase.BROADCAST

    bench.tick()
    assert isinstance(bench.state.role, Looking)


def test_the_window_bounds_what_is_outstanding() -> None:
    bench = Bench(3, limits=Limits(window_entries=3, window_bytes=1000))
    bench.established(1, 2)

    assert bench.peer.room == 3
    bench.propose(b"a", b"b", b"c")
    assert bench.peer.room == 0

    bench.sync()
    bench.hear(1, Ack(bench.epoch, Zxid(2, 2)))
    assert bench.peer.room == 2


def test_a_used_up_counter_ends_the_epoch() -> None:
    """ZOOKEEPER-1277: the counter must not wrap."""
    bench = Bench(3, limits=Limits(counter_max=2))
    bench.established(1, 2)
    bench.propose(b"a", b"b")
    assert bench.peer.room == 0
    bench.sync()
    bench.hear(1, Ack(bench.epoch, Zxid(2, 2)))

    bench.tick()

    assert isinstance(bench.state.role, Looking)


def test_a_congested_link_is_streamed_to_until_it_has_caught_up() -> None:
    bench = Bench(3)
    bench.established(1, 2)
    bench.propose(b"a")
    bench.step(Congested(bench.links[2]))

    effects = bench.propose(b"b")
    assert [peer for peer, _, _ in sent(effects, Propose)] == [1]
    assert effects[-1] == Stream(bench.links[2], bench.epoch, Zxid(2, 1), Zxid(2, 2))

    bench.propose(b"c")
    effects = bench.step(Streamed(bench.links[2], Zxid(2, 2)))
    assert effects == [Stream(bench.links[2], bench.epoch, Zxid(2, 2), Zxid(2, 3))]

    assert bench.step(Streamed(bench.links[2], Zxid(2, 3))) == []
    assert [peer for peer, _, _ in sent(bench.propose(b"d"), Propose)] == [1, 2]


def test_acks_under_way_when_durable_comes_in_pieces_are_cumulative() -> None:
    bench = Bench(3)
    bench.established(1, 2)
    tokens = [durable(bench.propose(payload))[0].token for payload in (b"a", b"b")]
    bench.hear(1, Ack(bench.epoch, Zxid(2, 2)))

    bench.step(Durable(tokens[0]))
    assert bench.peer.watermark == Zxid(2, 1)
    bench.step(Durable(tokens[1]))
    assert bench.peer.watermark == Zxid(2, 2)


def test_a_leader_whose_disk_hangs_makes_room_and_is_no_candidate_for_a_while() -> None:
    """zab-protocol, section 3: a stalled disk behind healthy pings."""
    bench = Bench(3)
    bench.established(1, 2)
    bench.propose(b"a")

    effects = bench.step(Stalled())

    assert {effect.link.peer for effect in effects if isinstance(effect, DropLink)} == {1, 2}
    assert isinstance(bench.state.role, Draining)
    bench.up(1, 2)
    bench.sync()
    assert isinstance(bench.state.role, Looking)
    assert all(message.heard == () for _, message, _ in sent(bench.tick(bench.timing.ineligible - 5), Notification))


def test_a_follower_whose_disk_hangs_stays_one() -> None:
    bench = Bench(1)
    bench.up_to_date(leader=3, epoch=2)

    assert bench.step(Stalled()) == []


def test_the_first_entry_of_an_epoch_is_its_number_one_and_names_what_is_before_it() -> None:
    """zab-protocol, section 4: an epoch's boundary cannot be told from a gap without prevZxid."""
    bench = Bench(3, trail=history((1, 3)))
    bench.promised(1)
    bench.hear(1, AckEpoch(bench.epoch, True, Epoch(1), Zxid(1, 3), ZERO, None))
    bench.sync()
    bench.hear(1, AckNewLeader(bench.epoch, Zxid(1, 3)))

    ((_, message, _),) = sent(bench.propose(b"a"), Propose)

    assert (message.entries.first, message.entries.prev) == (Zxid(bench.epoch, 1), Zxid(1, 3))


def test_proposals_go_to_everybody_whose_stream_has_begun_not_only_to_those_who_acknowledged_newleader() -> None:
    """zab-protocol, section 2, PROPOSE: otherwise there is a hole between the stream and the first proposal."""
    bench = Bench(3)
    bench.established(1)
    bench.hear(2, CEpoch(Epoch(1), Epoch(1)))
    bench.hear(2, AckEpoch(bench.epoch, True, Epoch(1), ZERO, ZERO, None))

    effects = bench.propose(b"a")

    assert [peer for peer, _, _ in sent(effects, Propose)] == [1, 2]


def test_only_a_quorum_of_those_bound_to_the_epoch_commits() -> None:
    bench = Bench(3, voters=(1, 2, 3, 4, 5))
    bench.established(1, 2)
    bench.propose(b"a")
    bench.sync()

    bench.hear(1, Ack(bench.epoch, Zxid(2, 1)))
    assert bench.peer.watermark == ZERO

    bench.hear(2, Ack(bench.epoch, Zxid(2, 1)))
    assert bench.peer.watermark == Zxid(2, 1)


def test_a_watermark_that_is_no_news_changes_nothing() -> None:
    bench = Bench(1)
    bench.up_to_date(leader=3, epoch=6)
    bench.hear(3, Propose(Epoch(6), entries_after(bench.state.trail, 6, b"x", b"y"), ZERO))
    bench.hear(3, Commit(Epoch(6), Zxid(6, 2)))

    assert bench.hear(3, Commit(Epoch(6), Zxid(6, 1))) == []
    assert bench.peer.watermark == Zxid(6, 2)


def test_a_frame_of_another_epoch_ends_the_role() -> None:
    for message in (Commit(Epoch(5), ZERO), Propose(Epoch(5), entries_after(history(), 5, b"x"), ZERO)):
        bench = Bench(1)
        bench.up_to_date(leader=3, epoch=6)

        effects = bench.hear(3, message)

        assert durable(effects) == []
        assert isinstance(bench.state.role, Looking)


def test_an_ack_of_what_was_never_sent_closes_the_link() -> None:
    bench = Bench(3)
    bench.established(1, 2)

    bench.hear(1, Ack(bench.epoch, Zxid(2, 7)))

    assert 1 not in bench.state.links
    assert bench.peer.watermark == ZERO
