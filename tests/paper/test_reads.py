"""Linearizable reads without a clock. Protocol brief: section 7, "Linearizable read"; the published bug is ZOOKEEPER-1675.

The leader notes its watermark, and a quorum echoes a ping that left after the read was asked.
"""

from tests.driving import Bench, sent
from zablog.core.effects import Effect, ReadReady
from zablog.core.events import ReadAsked
from zablog.core.messages import Ack, AckEpoch, CEpoch, Ping, Pong
from zablog.core.state import Leading
from zablog.core.zxid import ZERO, Epoch, Zxid


def ready(effects: list[Effect]) -> list[Zxid]:
    return [effect.upto for effect in effects if isinstance(effect, ReadReady)]


def nonce_of(effects: list[Effect]) -> int:
    (nonce,) = {message.nonce for _, message, _ in sent(effects, Ping) if isinstance(message, Ping)}
    return nonce


def committed(bench: Bench) -> None:
    bench.established(1, 2)
    bench.propose(b"a")
    bench.sync()
    bench.hear(1, Ack(bench.epoch, Zxid(2, 1)))


def test_a_read_is_ready_once_a_quorum_has_echoed_a_ping_sent_after_it_was_asked() -> None:
    bench = Bench(3, voters=(1, 2, 3, 4, 5))
    bench.established(1, 2, 4)
    bench.propose(b"a")
    bench.sync()
    bench.hear(1, Ack(bench.epoch, Zxid(2, 1)))
    bench.hear(2, Ack(bench.epoch, Zxid(2, 1)))

    nonce = nonce_of(bench.step(ReadAsked()))

    assert ready(bench.hear(1, Pong(bench.epoch, nonce))) == []
    assert ready(bench.hear(4, Pong(bench.epoch, nonce))) == [Zxid(2, 1)], "with the leader itself these are three of five"
    assert ready(bench.hear(2, Pong(bench.epoch, nonce))) == []


def test_an_echo_of_a_ping_that_left_before_does_not_count_even_within_the_same_tick() -> None:
    bench = Bench(3)
    committed(bench)
    before = nonce_of(bench.tick(bench.timing.ping))

    nonce = nonce_of(bench.step(ReadAsked()))

    assert nonce > before
    assert ready(bench.hear(1, Pong(bench.epoch, before))) == []
    assert ready(bench.hear(1, Pong(bench.epoch, nonce))) == [Zxid(2, 1)]


def test_an_echo_of_a_later_ping_counts() -> None:
    bench = Bench(3)
    committed(bench)
    bench.step(ReadAsked())

    later = nonce_of(bench.tick(bench.timing.ping))

    assert ready(bench.hear(2, Pong(bench.epoch, later))) == [Zxid(2, 1)]


def test_what_is_committed_while_a_quorum_is_asked_is_not_owed() -> None:
    bench = Bench(3)
    committed(bench)
    nonce = nonce_of(bench.step(ReadAsked()))
    bench.propose(b"b")
    bench.sync()
    bench.hear(1, Ack(bench.epoch, Zxid(2, 2)))
    assert bench.peer.watermark == Zxid(2, 2)

    assert ready(bench.hear(2, Pong(bench.epoch, nonce))) == [Zxid(2, 1)]


def test_an_echo_of_a_ping_never_sent_or_of_another_epoch_counts_for_nothing() -> None:
    bench = Bench(3)
    committed(bench)
    nonce = nonce_of(bench.step(ReadAsked()))

    assert ready(bench.hear(1, Pong(bench.epoch, nonce + 1))) == []
    assert ready(bench.hear(1, Pong(Epoch(1), nonce))) == []
    assert ready(bench.hear(1, Pong(bench.epoch, nonce))) == [Zxid(2, 1)]


def test_who_joins_says_nothing_about_reads_by_that() -> None:
    """An ACKEPOCH may have been sent before the read was asked, and its sender have promised more since."""
    bench = Bench(3)
    bench.established(1)
    bench.tick(bench.timing.ping - 1)
    bench.step(ReadAsked())
    bench.hear(2, CEpoch(Epoch(1), Epoch(1)))

    assert ready(bench.hear(2, AckEpoch(bench.epoch, True, Epoch(0), ZERO, ZERO, None))) == []


def test_a_leader_alone_is_its_own_quorum() -> None:
    bench = Bench(1, voters=(1,))
    bench.tick()
    bench.sync()
    bench.sync()
    assert isinstance(bench.state.role, Leading) and bench.peer.room > 0

    assert ready(bench.step(ReadAsked())) == [bench.peer.watermark]


def test_a_role_that_has_ended_answers_nobody() -> None:
    bench = Bench(3)
    committed(bench)
    nonce = nonce_of(bench.step(ReadAsked()))
    bench.down(1)
    bench.down(2)
    assert not isinstance(bench.state.role, Leading)

    bench.up(1)
    assert ready(bench.hear(1, Pong(Epoch(2), nonce))) == []
    assert ready(bench.step(ReadAsked())) == []
