"""Random histories of retention: replicas at their own pace, leaders that change in mid-round, power cuts; and all hold the same."""

from collections import Counter
from random import Random
from typing import NamedTuple

import pytest

from broker.log.stored import PREFIX_BYTES
from broker.records import Record, encode_batch
from broker.server.application import BrokerApplication
from broker.server.retention import SEGMENT_BYTES_MIN, bounds_of
from broker.state import MoveBounds, Part, Retention, Turn, commands, encode
from tests.pace import few
from zablog.core.zxid import ZERO, Zxid
from zablog.sim.disk import SimDisk

STEPS = 600
BATCHES = [encode_batch([Record(b"v")] * count) for count in (1, 2, 5)] + [encode_batch([Record(bytes(SEGMENT_BYTES_MIN))])]
RECORDS = (1, 2, 5, 1)
STEADY = (Retention(records=7), Retention(bytes=SEGMENT_BYTES_MIN), Retention(ms=3000))
"""Of the topics that are never altered nor deleted."""
RETENTIONS = (
    Retention(), Retention(records=7), Retention(bytes=1), Retention(bytes=2 * SEGMENT_BYTES_MIN), Retention(ms=50), Retention(ms=3000),
    Retention(2000, 3 * SEGMENT_BYTES_MIN, 40),
)  # fmt: skip


class Written(NamedTuple):
    """A batch, as the history remembers it."""

    end_offset: int
    time: int
    size: int


class Replica:
    """A node's half of it: what it has applied, and its last checkpoint."""

    def __init__(self) -> None:
        self.disk = SimDisk()
        self.at = 0
        self.checkpoint: tuple[int, bytes | None] = (0, None)

    async def start(self) -> None:
        self.application = BrokerApplication(lambda: self.disk)
        self.at, raw = self.checkpoint
        await self.application.restore(Zxid(1, self.at) if raw is not None else ZERO, raw)

    def apply(self, payloads: list[bytes]) -> None:
        """One burst."""
        for payload in payloads:
            self.at += 1
            self.application.apply(Zxid(1, self.at), payload)
        self.application.applied(Zxid(1, self.at))


class History:
    """The log that all agree on, and who has come how far."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.log = [encode(commands.AllocateProducer(0))]
        self.time = 0
        self.sequence = 0
        self.ends: Counter[tuple[Zxid, int]] = Counter()
        self.written: dict[tuple[Zxid, int], list[Written]] = {}
        self.retentions: dict[Zxid, Retention] = {}
        """Of the topics that are there."""
        self.altered: set[Zxid] = set()
        self.flying: list[bytes] = []
        """Proposed by who leads, and not committed."""
        self.leader = 0
        self.replicas = [Replica() for _ in range(3)]
        self.happened: Counter[str] = Counter()

    def turn(self) -> Turn:
        self.sequence += 1
        return Turn(Zxid(1, 1), 0, self.sequence, self.sequence)

    def create(self, retention: Retention) -> None:
        self.log.append(encode(commands.CreateTopic(self.turn(), self.time, f"t{self.sequence}", 2, retention)))
        self.retentions[Zxid(1, len(self.log))] = retention

    def produce(self) -> None:
        place = (self.dice.choice(list(self.retentions)), self.dice.randrange(2))
        which = self.dice.choice((0, 1, 2, 3, 3))
        self.log.append(encode(commands.Produce(self.turn(), self.time, [Part(*place, BATCHES[which])])))
        self.ends[place] += RECORDS[which]
        self.written.setdefault(place, []).append(Written(self.ends[place], self.time, len(BATCHES[which])))

    def alter(self) -> None:
        topic = self.dice.choice(list(self.retentions)[len(STEADY) :])
        self.retentions[topic] = self.dice.choice(RETENTIONS)
        self.altered.add(topic)
        self.log.append(encode(commands.AlterTopic(self.turn(), self.time, topic, self.retentions[topic])))

    def replace(self) -> None:
        topic = self.dice.choice(list(self.retentions)[len(STEADY) :])
        del self.retentions[topic]
        self.log.append(encode(commands.DeleteTopic(self.turn(), self.time, topic)))
        self.create(self.dice.choice(RETENTIONS))

    def look(self) -> None:
        """The leader proposes, by what it has applied, which may be little."""
        application = self.replicas[self.leader].application
        bounds = [bound for topic in application.state.topics.values() for bound in bounds_of(topic, application.log, self.time)]
        if bounds:
            self.flying.append(encode(MoveBounds(self.time, tuple(bounds))))

    def commit(self) -> None:
        self.log += self.flying
        self.flying.clear()

    def change_leader(self) -> None:
        """What the last one proposed survives it, or does not."""
        self.happened["lost" if self.flying else "idle"] += 1
        self.flying = self.flying[: self.dice.randint(0, len(self.flying))]
        self.commit()
        self.leader = self.dice.randrange(3)

    def advance(self, replica: Replica, count: int) -> None:
        replica.apply(self.log[replica.at : replica.at + count])

    async def checkpoint(self, replica: Replica) -> None:
        """Commands may be applied between the capture and its encoding; the power may go at any place."""
        capture, at = replica.application.capture(), replica.at
        self.advance(replica, self.dice.choice((0, 0, 5, 50)))
        raw = b"".join(await capture.encode())
        if self.dice.random() < 0.3:
            await self.cut_power(replica)
            return
        replica.checkpoint = (at, raw)
        if self.dice.random() < 0.3:
            await self.cut_power(replica)
            return
        await capture.durable()

    async def cut_power(self, replica: Replica) -> None:
        self.happened["power cut"] += 1
        replica.disk.power_loss(self.dice)
        await replica.start()

    async def step(self) -> None:
        self.time += self.dice.choice((0, 1, 10, 100, 400))
        chance = self.dice.random()
        replica = self.dice.choice(self.replicas)
        if chance < 0.5:
            self.produce()
        elif chance < 0.75:
            self.advance(replica, self.dice.choice((1, 3, 30)))
        elif chance < 0.83:
            self.look()
        elif chance < 0.90:
            self.commit()
        elif chance < 0.93:
            self.change_leader()
        elif chance < 0.95:
            self.alter()
        elif chance < 0.96:
            self.replace()
        elif chance < 0.99:
            await self.checkpoint(replica)
        else:
            await self.cut_power(replica)

    def needed(self, place: tuple[Zxid, int], written: Written) -> bool:
        """Does the topic's retention, which was always the same, keep this batch to the end?"""
        ms, size, records = self.retentions[place[0]]
        behind = [each for each in self.written[place] if each.end_offset > written.end_offset]
        too_old = bool(ms) and self.time - written.time > ms
        too_much = bool(size) and sum(each.size + PREFIX_BYTES for each in behind) >= size
        too_many = bool(records) and self.ends[place] - written.end_offset >= records
        return not (too_old or too_much or too_many)


def segments(application: BrokerApplication, place: tuple[Zxid, int]) -> list[tuple[str, bytes]]:
    return [(name, application.files.read(name, 0, 1 << 30)) for name in application.log.partition(*place).files]


@pytest.mark.parametrize("seed", few(range(12), fast=2))
async def test_replicas_at_their_own_pace_hold_the_same_whoever_led_and_whenever_the_power_went(seed: int) -> None:
    history = History(seed)
    for replica in history.replicas:
        await replica.start()
    for retention in (*STEADY, Retention(), Retention(1000, 1, 30)):
        history.create(retention)

    for _ in range(STEPS):
        await history.step()
    history.commit()
    for _ in range(2):  # the second time for what the leader proposes once it has applied everything
        for replica in history.replicas:
            history.advance(replica, len(history.log))
        history.look()
        history.commit()
    assert all(replica.at == len(history.log) for replica in history.replicas), "there was nothing left to propose"

    one, *others = (replica.application for replica in history.replicas)
    assert set(one.state.topics) == set(history.retentions)
    for place in one.state.ends:
        here = one.log.partition(*place)
        assert (here.first, here.end) == (one.state.firsts.get(place, 0), history.ends[place])
        if place[0] not in history.altered:
            gone = [each for each in history.written.get(place, []) if each.end_offset <= here.first]
            assert not any(history.needed(place, each) for each in gone)
        for other in others:
            assert segments(other, place) == segments(one, place)
    assert len({application.state.digest() for application in (one, *others)}) == 1
    assert history.happened["power cut"] and history.happened["lost"], history.happened
    records, size, age = list(history.retentions)[: len(STEADY)]
    for number in range(2):
        assert one.state.firsts[records, number] == history.ends[records, number] - STEADY[0].records
        assert one.log.partition(size, number).size < STEADY[1].bytes + 3 * SEGMENT_BYTES_MIN
        assert one.state.firsts[size, number] and one.state.firsts[age, number]
