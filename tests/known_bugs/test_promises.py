"""Published bugs about epochs: promised twice, named too early, mistaken for history, guessed (ZooKeeper's issue tracker, by number)."""

import pytest

from tests.driving import Bench, durable, history, sent
from tests.known_bugs.replay import at_once, known_bug, written
from tests.sim.mutants import histories, promises
from zablog.core import heartbeat, synchronization
from zablog.core.messages import AckEpoch, AckNewLeader, CEpoch, Diff, HistoryQuery, NewEpoch, NewLeader, Ping, Pong, UpToDate
from zablog.core.quorum import Configuration
from zablog.core.state import Phase, State
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.sim.disk import SimDisk
from zablog.storage.copies import Copies
from zablog.storage.epochs import BIRTH, EpochsFile
from zablog.storage.errors import MetadataLost
from zablog.storage.storage import Storage


@known_bug(promises.one_promise_counts_twice, "a promise counts once")
def test_zookeeper_335_an_epoch_is_acknowledged_to_one_leader_only() -> None:
    """The same epoch was acknowledged to two leaders, and each had a quorum."""
    bench = Bench(1)
    bench.following(leader=3)
    bench.hear(3, NewEpoch(Epoch(2)))
    bench.sync()
    bench.down(3)
    bench.sync()
    bench.up(3)
    bench.following(leader=3)

    effects = bench.hear(3, NewEpoch(Epoch(2)))

    ((_, ack, _),) = sent(effects, AckEpoch)
    assert not ack.counted, "a promise counts once"


def tried_epoch_is_kept_in_the_zxid(patch: pytest.MonkeyPatch) -> None:
    original = State.self_vote.fget
    assert original is not None
    patch.setattr(State, "self_vote", property(lambda self: original(self)._replace(last=max(self.trail.last, Zxid(self.accepted, 0)))))


@known_bug(tried_epoch_is_kept_in_the_zxid, "only entries count")
def test_zookeeper_790_a_failed_leader_does_not_look_ahead() -> None:
    """Node 3 has tried epoch 9 in vain, which is stored; it has no entry of it, and must not win by it."""
    bench = Bench(3, accepted=9, current=1, trail=history((1, 2)))
    bench.tick()
    bench.up(1, 2)

    bench.hear(1, bench.looking_vote(1, last=Zxid(1, 3)))

    assert bench.state.role.vote.leader == 1, "only entries count in a vote, not an epoch that was tried"


@known_bug(promises.epoch_named_before_it_is_promised, "before its own promise")
def test_zookeeper_1291_a_leader_stores_an_epoch_before_it_offers_it() -> None:
    bench = Bench(3)
    bench.elected()

    effects = bench.hear(1, CEpoch(Epoch(1), Epoch(1)))

    assert durable(effects), "the leader promises its own epoch"
    assert at_once(effects, NewEpoch, bench.state.durable.token) == [], "no epoch is offered before its own promise is durable"


def current_epoch_is_set_at_uptodate(patch: pytest.MonkeyPatch) -> None:
    settle, up_to_date = State.settle, synchronization.on_up_to_date

    def later(self, current, out):
        if isinstance(self.role, synchronization.Leading):
            settle(self, current, out)

    def on_up_to_date(state, following, message, out):
        up_to_date(state, following, message, out)
        settle(state, message.epoch, out)

    patch.setattr(State, "settle", later)
    patch.setattr(State, "check", lambda self: None)  # which would object at once
    patch.setattr(synchronization, "on_up_to_date", on_up_to_date)


@known_bug(current_epoch_is_set_at_uptodate, "bound to the epoch")
def test_zookeeper_1282_current_epoch_is_durable_when_newleader_is_acknowledged() -> None:
    bench = Bench(1)
    bench.following(leader=3)
    bench.hear(3, NewEpoch(Epoch(6)))
    bench.sync()

    bench.hear(3, Diff(Epoch(6), ZERO, 0), NewLeader(Epoch(6), ZERO))
    bench.sync()

    assert bench.state.durable.current == 6, "who acknowledges NEWLEADER is bound to the epoch on disk"
    bench.hear(3, UpToDate(Epoch(6), ZERO))
    assert bench.state.phase is Phase.BROADCAST


def everybody_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Configuration, "is_quorum", lambda self, peers: 2 * len(set(peers)) > len(self.voters))


@known_bug(everybody_counts, "only voters")
def test_zookeeper_2959_who_does_not_vote_is_in_no_quorum() -> None:
    """Observers were counted in the quorums of an epoch."""
    bench = Bench(3, voters=(1, 2, 3, 4, 5))
    bench.acknowledged(1, 2)
    bench.sync()
    bench.up(8, 9)

    for stranger in (8, 9):
        bench.hear(stranger, CEpoch(Epoch(1), Epoch(1)))
        bench.hear(stranger, AckEpoch(bench.epoch, True, Epoch(1), ZERO, ZERO, None))
        bench.hear(stranger, AckNewLeader(bench.epoch, ZERO))

    assert bench.state.phase is Phase.SYNC, "only voters establish an epoch"
    bench.hear(1, AckNewLeader(bench.epoch, ZERO))
    bench.hear(2, AckNewLeader(bench.epoch, ZERO))
    assert bench.state.phase is Phase.BROADCAST


@known_bug(histories.recency_by_zxid_alone, "later epoch")
def test_zookeeper_4643_a_longer_log_of_an_earlier_epoch_does_not_lead() -> None:
    """Node 1 is of epoch 5 and ends at 4.7; our log goes on to 4.9, but we were not there when epoch 5 began without that tail."""
    bench = Bench(3, accepted=5, current=4, trail=history((4, 9)))
    bench.promised(1)

    effects = bench.hear(1, AckEpoch(bench.epoch, True, Epoch(5), Zxid(4, 7), ZERO, None))

    assert bench.state.phase is Phase.DISCOVERY, "a history of a later epoch is the better one"
    assert sent(effects) == [(1, HistoryQuery(bench.epoch, Zxid(4, 9)), True)]


def missing_epochs_are_read_off_the_log(patch: pytest.MonkeyPatch) -> None:
    load = Copies.load

    def guess(self: Copies) -> bytes:
        if any(self.disk.exists(file) for file in self.files):
            return load(self)
        self.give_birth(EpochsFile(self.disk).encode(BIRTH._replace(accepted=Epoch(5), current=Epoch(5))))
        return load(self)

    patch.setattr(Copies, "load", guess)


@known_bug(missing_epochs_are_read_off_the_log, "promises are lost")
def test_epochs_that_are_missing_are_not_read_off_the_log() -> None:
    """Code reading: a missing epoch file was made anew from the last zxid, and what had been promised above it was forgotten."""
    disk, storage, _ = written((5, 2))
    storage.save(storage.epochs._replace(accepted=Epoch(7)))
    for name in ("epochs.a", "epochs.b"):
        disk.unlink(name)

    assert refused(disk) is MetadataLost, "a node whose promises are lost does not vote"


def refused(disk: SimDisk) -> type[Exception] | None:
    try:
        Storage.open(disk)
    except MetadataLost as error:
        return type(error)
    return None


def every_ping_is_echoed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(heartbeat, "on_ping", lambda state, following, message, out: out.send(following.link, Pong(message.epoch, message.nonce)))


@known_bug(every_ping_is_echoed, "of an epoch that is over")
def test_zookeeper_1675_a_deposed_leader_is_not_confirmed() -> None:
    """SYNC was answered by a leader that had been deposed. Echoes are what confirms a leader: there is none for an epoch that is over."""
    bench = Bench(1)
    bench.up_to_date(leader=3, epoch=6)

    assert sent(bench.hear(3, Ping(Epoch(6), 7))) == [(3, Pong(Epoch(6), 7), False)]
    assert sent(bench.hear(3, Ping(Epoch(5), 8))) == [], "a ping of an epoch that is over is not echoed"


@known_bug(histories.newleader_acked_before_fsync, "while entries are only queued")
def test_zookeeper_3023_newleader_is_acknowledged_after_its_own_epoch_is_saved() -> None:
    bench = Bench(1, accepted=5, current=4, trail=history((4, 2)))
    bench.following(leader=3)
    bench.hear(3, NewEpoch(Epoch(6)))
    bench.sync()

    effects = bench.hear(3, Diff(Epoch(6), Zxid(4, 2), bench.state.trail.digest), NewLeader(Epoch(6), Zxid(4, 2)))

    assert at_once(effects, AckNewLeader, bench.state.durable.token) == [], "nothing is acknowledged while entries are only queued"
