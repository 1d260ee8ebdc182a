"""A simulated producer: its commands in their order, each asked for again until there is an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from broker.errors import Code
from broker.records import Record, encode_batch
from broker.sim.history import History, Sent
from broker.state import Answer, Appended, Part, ProducerAllocated, Refused, Retention, TopicCreated, TopicDeleted, Turn, encode
from broker.state.commands import AllocateProducer, AlterTopic, CreateTopic, DeleteTopic, Produce
from zablog.core.zxid import Zxid

RESEND_MICROS: Final = 150_000
IN_FLIGHT: Final = 4
NO_PARTITION: Final = 7
Place = tuple[Zxid, int]
Command = Produce | CreateTopic | AlterTopic | DeleteTopic


@dataclass(slots=True)
class Topic:
    """A topic that clients know of."""

    partitions: int
    deleted: bool = False
    """Its deletion was asked for."""


class World:
    """What all clients share: the topics that they know, and the history. Places are numbered as they become known."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.history = History()
        self.topics: dict[Zxid, Topic] = {}
        self.slots: dict[Place, int] = {}
        self.ends: dict[Place, int] = {}
        """Through where each partition's records are acknowledged."""
        self.values = 0
        self.producers = 0

    def slot(self, place: Place) -> int:
        return self.slots.setdefault(place, len(self.slots))

    @property
    def lasting(self) -> list[Zxid]:
        return [id for id, topic in self.topics.items() if not topic.deleted]


@dataclass(slots=True)
class Call:
    """A command without an answer. `at` is its place among what was sent, if it appends."""

    command: Command
    places: tuple[Place, ...] = ()
    at: int | None = None
    tried: int = -RESEND_MICROS


class Producer:
    """One life of a client that writes. An `admin` makes, alters and deletes topics, too."""

    def __init__(self, world: World, admin: bool = False) -> None:
        self.world = world
        self.admin = admin
        world.producers += 1
        self.number = world.producers
        self.id: Zxid | None = None
        self.asked = -RESEND_MICROS
        self.sequence = 0
        self.open: dict[int, Call] = {}

    def begin(self, now: int) -> None:
        """Maybe something new."""
        if self.id is None or len(self.open) >= IN_FLIGHT:
            return
        lasting, dice = self.world.lasting, self.world.random.random()
        if self.admin and (not lasting or dice < 0.1):
            self.change(lasting)
        elif lasting:
            self.send(lasting, now)

    def turn(self) -> Turn:
        assert self.id is not None
        self.sequence += 1
        return Turn(self.id, 0, self.sequence, min(self.open, default=self.sequence))

    def change(self, lasting: list[Zxid]) -> None:
        random = self.world.random
        if len(lasting) < 2 or (len(lasting) < 4 and random.random() < 0.3):
            self.call(CreateTopic(turn := self.turn(), 0, f"topic-{self.number}-{turn.sequence}", random.randint(1, 3), self.retention()))
        elif random.random() < 0.7:
            self.call(AlterTopic(self.turn(), 0, random.choice(lasting), self.retention()))
        else:
            topic = random.choice(lasting)
            self.world.topics[topic].deleted = True
            self.call(DeleteTopic(self.turn(), 0, topic))

    def retention(self) -> Retention:
        return Retention(records=self.world.random.choice((0, 0, 5, 20)))

    def send(self, lasting: list[Zxid], now: int) -> None:
        """Some records to some partitions, now and then one to a partition that does not exist."""
        world, random = self.world, self.world.random
        parts, batches, places = [], [], []
        for _ in range(random.choice((1, 1, 2, 3))):
            topic = random.choice(lasting)
            partition = NO_PARTITION if random.random() < 0.03 else random.randrange(world.topics[topic].partitions)
            values = tuple(range(world.values + 1, world.values + 1 + random.randint(1, 2)))
            world.values += len(values)
            places.append((topic, partition))
            parts.append((world.slot((topic, partition)), values))
            batches.append(Part(topic, partition, encode_batch([Record(b"%d" % value) for value in values])))
        if random.random() < 0.03:  # cancelled before it had a turn: nothing of it is ever sent
            world.history.sent.append(Sent(self.number, self.sequence, tuple(parts), now, failed=True))
            return
        turn = self.turn()
        world.history.sent.append(Sent(self.number, turn.sequence, tuple(parts), now))
        self.call(Produce(turn, 0, batches), tuple(places), len(world.history.sent) - 1)

    def call(self, command: Command, places: tuple[Place, ...] = (), at: int | None = None) -> None:
        self.open[command.turn.sequence] = Call(command, places, at)

    def requests(self, now: int) -> list[tuple[Callable[[int], bytes], Callable[[Answer, int], None]]]:
        """What is to be asked for now, anew or again: commands to be given the leader's time, and who hears of them."""
        if self.id is None:
            if now - self.asked < RESEND_MICROS:
                return []
            self.asked = now
            return [(lambda time: encode(AllocateProducer(time)), self.allocated)]
        due = [(sequence, call) for sequence, call in sorted(self.open.items()) if now - call.tried >= RESEND_MICROS]
        for _, call in due:
            call.tried = now
        return [(self.stamped(call.command), self.hearer(sequence)) for sequence, call in due]

    def stamped(self, command: Command) -> Callable[[int], bytes]:
        if isinstance(command, Produce):
            return lambda time: encode(command._replace(time=time))
        return lambda time: encode(replace(command, time=time))

    def hearer(self, sequence: int) -> Callable[[Answer, int], None]:
        return lambda answer, now: self.heard(sequence, answer, now)

    def allocated(self, answer: Answer, now: int) -> None:
        assert isinstance(answer, ProducerAllocated)
        self.id = self.id or answer.producer

    def heard(self, sequence: int, answer: Answer, now: int) -> None:
        """What became of a command. Out of its turn, it is asked for again."""
        call = self.open.get(sequence)
        if call is None:
            return
        if isinstance(answer, Refused) and answer.code in (Code.OUT_OF_SEQUENCE, Code.UNKNOWN_PRODUCER, Code.STALE_PRODUCER):
            return
        del self.open[sequence]
        sent, world = self.world.history.sent, self.world
        match answer:
            case TopicCreated(topic) if isinstance(call.command, CreateTopic):
                world.topics[topic] = Topic(call.command.partitions)
            case TopicDeleted(topic):
                world.topics[topic].deleted = True
            case Appended(_, offsets) if call.at is not None:
                sent[call.at] = sent[call.at]._replace(answered=now, offsets=offsets)
                for place, offset, (_, values) in zip(call.places, offsets, sent[call.at].parts, strict=True):
                    world.ends[place] = max(world.ends.get(place, 0), offset + len(values))
            case Refused() if call.at is not None:
                sent[call.at] = sent[call.at]._replace(answered=now, failed=True)

    def end(self) -> None:
        """It is killed: what became of its open commands nobody will know."""
        for call in self.open.values():
            if call.at is not None:
                self.world.history.sent[call.at] = self.world.history.sent[call.at]._replace(abandoned=True)
