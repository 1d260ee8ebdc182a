"""Retention: what goes is decided once, by a command, and every node lets go of the same."""

import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from broker.client import connect
from broker.errors import BadRequest, OffsetOutOfRange
from broker.records import Record, encode_batch
from broker.server.application import BrokerApplication
from broker.server.clock import LeaderClock
from broker.server.config import DiskUse
from broker.server.retention import SEGMENT_BYTES_MIN, SEGMENT_MS_MIN, bounds_of, first_kept, limits_of, retain
from broker.state import Bound, MoveBounds, Part, Retention, Turn, commands, encode
from broker.state.commands import BOUNDS_MAX
from tests.broker.ensemble import Ensemble, open_ensemble
from tests.broker.server.test_checkpoints import applied_alike, contents, everything, publish, until
from zablog.core.zxid import ZERO, Zxid
from zablog.sim.disk import SimDisk

TOPIC = Zxid(1, 2)
BIG = encode_batch([Record(bytes(SEGMENT_BYTES_MIN // 4))])
BATCH = encode_batch([Record(b"a"), Record(b"b")])


async def an_application(disk: SimDisk | None = None) -> BrokerApplication:
    application = BrokerApplication(lambda: disk or SimDisk())
    await application.restore(ZERO, None)
    return application


class Feed:
    """Commands for applications: each is applied to all of them, in bursts of their own."""

    def __init__(self, *applications: BrokerApplication, seed: int = 0) -> None:
        self.applications = applications
        self.dice = random.Random(seed)
        self.counter = 0
        self.sequence = 0
        self.commands: list[tuple[Zxid, bytes]] = []
        self(commands.AllocateProducer(0))

    def __call__(self, command: commands.Command) -> Zxid:
        self.counter += 1
        zxid, payload = Zxid(1, self.counter), encode(command)
        self.commands.append((zxid, payload))
        for application in self.applications:
            application.apply(zxid, payload)
            if self.dice.random() < 0.3 or application is self.applications[0]:
                application.applied(zxid)
        return zxid

    def turn(self) -> Turn:
        self.sequence += 1
        return Turn(Zxid(1, 1), 0, self.sequence, self.sequence)

    def create(self, retention: Retention, partitions: int = 1) -> Zxid:
        return self(commands.CreateTopic(self.turn(), 0, f"t{self.counter}", partitions, retention))

    def produce(self, time: int, batch: bytes = BATCH, topic: Zxid = TOPIC, partition: int = 0) -> Zxid:
        return self(commands.Produce(self.turn(), time, [Part(topic, partition, batch)]))

    def settle(self) -> None:
        for application in self.applications:
            application.applied(Zxid(1, self.counter))


async def test_records_are_kept_to_the_number() -> None:
    application = await an_application()
    feed = Feed(application)
    feed.create(Retention(records=3))
    for time in range(5):
        feed.produce(time)
    topic, log = application.state.topics[TOPIC], application.log

    (bound,) = bounds_of(topic, log, 10)
    assert bound == Bound(TOPIC, 1, 0, 7)
    feed(MoveBounds(10, (bound,)))

    partition = log.partition(TOPIC, 0)
    assert (partition.first, partition.end) == (7, 10)
    assert application.state.firsts == {(TOPIC, 0): 7}
    assert list(bounds_of(topic, log, 10)) == []
    with pytest.raises(OffsetOutOfRange):
        partition.read(6, 100)
    assert partition.read(7, 100)
    assert partition.offset_at_time(0) == 7 and partition.offset_at_zxid(ZERO) == 7


async def test_whole_segments_go_by_bytes_and_their_files_after_the_next_checkpoint() -> None:
    application = await an_application(disk := SimDisk())
    feed = Feed(application)
    feed.create(Retention(bytes=2 * SEGMENT_BYTES_MIN))
    for time in range(40):
        feed.produce(time, BIG)
    before = disk.names()

    (bound,) = bounds_of(application.state.topics[TOPIC], application.log, 10)
    feed(MoveBounds(10, (bound,)))

    partition = application.log.partition(TOPIC, 0)
    assert 2 * SEGMENT_BYTES_MIN <= partition.size < 3 * SEGMENT_BYTES_MIN + len(BIG) + 100
    assert disk.names() == before, "the last checkpoint names them still"
    capture = application.capture()
    await capture.encode()
    await capture.durable()
    assert [name for name in disk.names() if name.endswith(".segment")] == partition.files


async def test_old_segments_go_and_an_idle_topic_ends_empty() -> None:
    application = await an_application()
    feed = Feed(application)
    feed.create(Retention(ms=8 * SEGMENT_MS_MIN))
    for time in range(0, 20_000, 500):
        feed.produce(time)
    partition = application.log.partition(TOPIC, 0)
    assert len(partition.files) > 10, "segments are short in time, too"

    first = first_kept(partition, Retention(ms=8000), 20_000)
    assert first == 42, "offset 48 is of time 12,000, and its segment of three batches begins with the one before"
    assert first_kept(partition, Retention(ms=8000), 27_499) < 80
    assert first_kept(partition, Retention(ms=8000), 27_501) == 80 == partition.end
    feed(MoveBounds(27_501, (Bound(TOPIC, 1, 0, 80),)))
    assert (partition.first, partition.end, partition.files) == (80, 80, [])
    feed.produce(28_000)
    assert (partition.first, partition.end) == (80, 82)


async def test_bounds_under_other_settings_of_gone_topics_and_beyond_the_end_do_nothing() -> None:
    application = await an_application()
    feed = Feed(application)
    feed.create(Retention(records=1))
    feed.produce(1)
    feed(commands.AlterTopic(feed.turn(), 1, TOPIC, Retention()))
    state = application.state
    assert state.topics[TOPIC].settings == 2 and state.topics[TOPIC].retention == Retention()

    feed(MoveBounds(2, (Bound(TOPIC, 1, 0, 1), Bound(Zxid(9, 9), 1, 0, 1), Bound(TOPIC, 2, 7, 1))))
    assert not state.firsts
    feed(MoveBounds(2, (Bound(TOPIC, 2, 0, 1),)))
    feed(MoveBounds(2, (Bound(TOPIC, 2, 0, 99),)))
    feed(MoveBounds(2, (Bound(TOPIC, 2, 0, 1),)))
    assert state.firsts == {(TOPIC, 0): 2} and application.log.partition(TOPIC, 0).first == 2
    feed(commands.DeleteTopic(feed.turn(), 3, TOPIC))
    assert not state.firsts


@pytest.mark.parametrize("seed", range(6))
async def test_replicas_with_bursts_of_their_own_hold_the_same_and_so_does_one_that_begins_with_a_snapshot(seed: int) -> None:
    dice = random.Random(seed)
    ours, theirs = await an_application(), await an_application()
    feed = Feed(ours, theirs, seed=seed)
    clock, restored = 0, None
    kinds = (Retention(), Retention(records=5), Retention(bytes=1), Retention(ms=2000), Retention(4000, 2 * SEGMENT_BYTES_MIN, 90))
    topics = [feed.create(dice.choice(kinds), 2) for _ in range(3)]
    for step in range(300):
        clock += dice.randrange(200)
        feed.produce(clock, dice.choice((BATCH, BATCH, BIG)), dice.choice(topics), dice.randrange(2))
        if dice.random() < 0.1:
            bounds = [bound for topic in ours.state.topics.values() for bound in bounds_of(topic, ours.log, clock)]
            if dice.random() < 0.5:
                feed(commands.AlterTopic(feed.turn(), clock, dice.choice(topics), dice.choice(kinds)))
            if bounds:
                feed(MoveBounds(clock, tuple(bounds)))
        if step == 150:
            feed.settle()
            capture = theirs.capture()
            raw = b"".join(await capture.encode())
            restored = BrokerApplication(lambda: theirs.files)
            at = len(feed.commands)
            names = {name: theirs.files.read(name, 0, 1 << 30) for name in theirs.files.names()}
    feed.settle()
    disk = SimDisk()
    for name, data in names.items():
        disk.create(name)
        disk.write(name, 0, [data])
    restored = BrokerApplication(lambda: disk)
    await restored.restore(feed.commands[at - 1][0], raw)
    for zxid, payload in feed.commands[at:]:
        restored.apply(zxid, payload)
        restored.applied(zxid)

    assert any(ours.state.firsts.values())
    for other in (theirs, restored):
        assert other.state.digest() == ours.state.digest()
        for topic, number in ours.state.ends:
            mine, its = ours.log.partition(topic, number), other.log.partition(topic, number)
            assert (its.first, its.end, its.files) == (mine.first, mine.end, mine.files)
            assert [other.files.read(name, 0, 1 << 30) for name in its.files] == [ours.files.read(name, 0, 1 << 30) for name in mine.files]


@pytest.mark.parametrize(
    ("kept", "then"), [(Retention(ms=100), None), (Retention(ms=8000), Retention()), (Retention(ms=8000), Retention(bytes=1))]
)
async def test_segments_begin_alike_whether_or_not_a_burst_ends_where_all_is_let_go_of(kept: Retention, then: Retention | None) -> None:
    quick, slow = await an_application(), await an_application()
    feed = Feed(quick, slow)
    feed.dice.random = lambda: 1.0  # type: ignore[method-assign]  # one ends its burst after each command, the other at the end
    feed.create(kept)
    feed.produce(1)

    feed(MoveBounds(kept.ms + 2, (Bound(TOPIC, 1, 0, 2),)))
    if then is not None:
        feed(commands.AlterTopic(feed.turn(), 1, TOPIC, then))
    feed.produce(kept.ms + 3)
    feed.produce(kept.ms + 3)
    feed.settle()

    here, there = quick.log.partition(TOPIC, 0), slow.log.partition(TOPIC, 0)
    assert here.files == there.files and len(here.files) == 1
    assert (here.first, here.end) == (there.first, there.end) == (2, 6)
    assert here.read(2, 1 << 20) == there.read(2, 1 << 20)


@pytest.mark.parametrize("how", ["moved", "deleted"])
@pytest.mark.parametrize("batch", [BATCH, BIG], ids=["small", "big"])
async def test_a_checkpoint_outlives_a_power_cut_though_what_it_names_is_let_go_of_before_it_is_written(how: str, batch: bytes) -> None:
    for seed in range(20):
        application = await an_application(disk := SimDisk())
        feed = Feed(application)
        feed.create(Retention(ms=8000))
        feed.produce(1, batch)
        capture, at = application.capture(), Zxid(1, feed.counter)
        if how == "moved":
            feed(MoveBounds(9000, (Bound(TOPIC, 1, 0, application.state.ends[TOPIC, 0]),)))
        else:
            feed(commands.DeleteTopic(feed.turn(), 2, TOPIC))

        raw = b"".join(await capture.encode())
        disk.power_loss(random.Random(seed))

        back = BrokerApplication(lambda: disk)
        await back.restore(at, raw)
        assert len(back.log.partition(TOPIC, 0).read(0, 1 << 20)) > len(batch)


async def test_what_is_let_go_of_is_no_longer_work_for_the_flusher() -> None:
    application = await an_application()
    feed, log = Feed(application), application.log
    feed.create(Retention(records=1), partitions=3)
    for partition in range(3):
        feed.produce(1, BIG, partition=partition)
    size = log.dirty_bytes // 3
    log.capture()

    feed(MoveBounds(2, tuple(Bound(TOPIC, 1, number, 1) for number in range(3))))
    assert log.dirty_bytes == 3 * size, "the last capture names them, so they are to be made durable still"
    log.clean([next(log.dirt())])
    assert log.dirty_bytes == 2 * size

    log.capture()
    log.doomed()
    assert (log.dirty_bytes, list(log.dirt())) == (0, [])


def test_a_keep_below_the_usual_segment_makes_smaller_segments() -> None:
    assert limits_of(Retention(records=7)) is None
    assert limits_of(Retention(bytes=1)).bytes == SEGMENT_BYTES_MIN
    assert limits_of(Retention(ms=80_000)).ms == 10_000


async def test_a_round_comes_to_every_topic_however_many_bounds_the_first_one_moves_each_time() -> None:
    application = await an_application()
    feed = Feed(application)
    topic = feed.create(Retention(records=1), partitions=BOUNDS_MAX + 5)
    for partition in range(BOUNDS_MAX + 5):
        feed.produce(1, topic=topic, partition=partition)

    last = feed.create(Retention(records=1))
    feed.produce(1, topic=last)

    class Leader:
        commands = 0

        def propose_nowait(self, payloads: list[bytes]) -> None:
            (payload,) = payloads
            self.commands += 1
            feed.counter += 1
            application.apply(Zxid(1, feed.counter), payload)
            application.applied(Zxid(1, feed.counter))

    leader, clock = Leader(), LeaderClock(lambda: 0.0, lambda: 0.0)
    await retain(application, leader, clock)
    assert leader.commands == 2
    assert len(application.state.firsts) == BOUNDS_MAX + 5 + 1
    assert application.state.firsts[last, 0] == 1
    await retain(application, leader, clock)
    assert leader.commands == 2, "nothing was left to do"


# -- real nodes -----------------------------------------------------------------------------------------------------------------

QUICK = DiskUse(checkpoint_bytes=1 << 18, keep_bytes=0, file_bytes=1 << 18, retention_seconds=0.05)


@pytest.fixture
async def ensemble(tmp_path: Path) -> AsyncIterator[Ensemble]:
    async with open_ensemble(tmp_path, disk_use=QUICK) as ensemble:
        yield ensemble


async def test_disk_use_stays_bounded_while_much_is_written_and_nodes_stay_alike(ensemble: Ensemble, tmp_path: Path) -> None:
    keep = 4 * SEGMENT_BYTES_MIN
    values = [b"%06d" % number + bytes(1000) for number in range(8000)]
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("numbers", retention=Retention(bytes=keep))
        with pytest.raises(BadRequest):
            await zl.alter_topic("numbers", Retention(bytes=-1))
    await publish(ensemble.addresses, values[:4000])
    down = await ensemble.stop_leader()
    await publish(ensemble.addresses, values[4000:])
    await ensemble.start(down)

    def small() -> bool:
        folders = [tmp_path / f"node{number}" / "topics" for number in ensemble.servers]
        return all(bytes_in(folder) < 3 * keep for folder in folders)

    async with connect(ensemble.addresses) as zl, zl.producer() as out:
        with trio.fail_after(30):
            while not small():  # files go with a checkpoint, and those go with what is written
                await out.send_many("numbers", values[:100])
                await trio.sleep(0.02)
        (partition,) = (await zl.describe_topic("numbers")).partitions
        assert 0 < partition.first < partition.end and partition.bytes >= keep
        assert (await zl.describe_topic("numbers")).retention == Retention(bytes=keep)
        await zl.alter_topic("numbers", Retention(records=10))
        await until(lambda: all(end - first == 10 for end, first in bounds(ensemble)))
    await applied_alike(ensemble)
    assert len(await everything(ensemble.addresses, node=down)) == 10
    assert contents(ensemble.servers[down])


async def test_a_consumer_from_the_earliest_begins_with_what_is_there_and_one_that_fell_behind_is_told(ensemble: Ensemble) -> None:
    values = [b"%06d" % number for number in range(3000)]
    async with connect(ensemble.addresses) as zl:
        await zl.create_topic("numbers")
        await publish(ensemble.addresses, values)
        async with (
            zl.consumer("numbers", start="earliest", stop="end") as opened_before,
            zl.consumer("numbers", start=0) as told,
            zl.consumer("numbers", start="earliest", stop=500) as over,
        ):
            await zl.alter_topic("numbers", Retention(records=1000))
            await until(lambda: all(end - first == 1000 for end, first in bounds(ensemble)))

            assert [record.value async for record in opened_before] == values[2000:]
            assert opened_before.positions == {("numbers", 0): 3000}
            assert [record.value async for record in over] == []
            with pytest.raises(OffsetOutOfRange) as refused:
                await told.next_batch()
        assert (refused.value.first, refused.value.last) == (2000, 3000)
        assert await everything(ensemble.addresses) == values[2000:]


async def test_nodes_that_replay_their_logs_hold_what_they_held(tmp_path: Path) -> None:
    use = DiskUse(checkpoint_bytes=1 << 40, checkpoint_seconds=86_400, retention_seconds=0.05)
    async with open_ensemble(tmp_path, disk_use=use) as ensemble:
        async with connect(ensemble.addresses) as zl:
            await zl.create_topic("numbers", retention=Retention(records=700))
            await zl.create_topic("gone", retention=Retention(records=1))
        await publish(ensemble.addresses, [b"%06d" % number for number in range(2000)])
        await publish(ensemble.addresses, [b"x"] * 100, "gone")
        await until(lambda: all(end - first in (700, 1) for end, first in bounds(ensemble)))
        async with connect(ensemble.addresses) as zl:
            await zl.delete_topic("gone")
        await applied_alike(ensemble)
        before = {number: (server.application.state.firsts, contents(server)) for number, server in ensemble.servers.items()}

        for number in list(ensemble.servers):
            await ensemble.stop(number)
        for number in ensemble.all_addresses:
            await ensemble.start(number)
        await until(lambda: all(server.application.state.firsts for server in ensemble.servers.values()))
        await applied_alike(ensemble)

        for number, server in ensemble.servers.items():
            assert server.node.status().log_begins.counter == 0, "there was no checkpoint to begin with"
            assert (server.application.state.firsts, contents(server)) == before[number]


def bytes_in(folder: Path) -> int:
    """Of all files, some of which may go at any moment."""
    size = 0
    for file in folder.iterdir():
        with suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


def bounds(ensemble: Ensemble) -> list[tuple[int, int]]:
    partitions = [
        server.application.log.partition(*place) for server in ensemble.servers.values() for place in server.application.state.ends
    ]
    return [(partition.end, partition.first) for partition in partitions]
