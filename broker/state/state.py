"""The tables that every node holds alike, and `apply`, the only thing that changes them.

`apply` is a function of the state, the zxid and the payload, and of nothing else. It never raises over a payload that its build could
have proposed: a command that crashed it would crash every node, again at each replay. All parts of a command are checked before
anything changes.

What apply verifies of a batch is its header: form, exact length, count, codec. The batch's CRC-32C is verified by the leader before
it proposes, not here: from there on the log's own running digest vouches for the bytes, and the outcome of a command must not hang
on work that costs every node, at every replay, time in proportion to its bytes. (Nodes would agree either way.)

A refusal uses up its sequence, except: gap, stale epoch, unknown producer (see `Producers.judge`).
"""

from dataclasses import dataclass, field, replace
from typing import Final

from xxhash import xxh3_64_intdigest

from broker.errors import Code, Corrupt
from broker.records import header_of
from broker.state.commands import (
    FOR_EVER,
    NAME_CHARACTERS_MAX,
    AllocateProducer,
    AlterTopic,
    CreateTopic,
    DeleteTopic,
    MalformedCommand,
    MoveBounds,
    Produce,
    RaiseLevel,
    Retention,
    SetLimits,
    UnknownCommand,
    decode,
)
from broker.state.limits import DEFAULTS, Limits, reached
from broker.state.outcomes import (
    Answer,
    Append,
    Appended,
    BoundsMoved,
    LevelRaised,
    LimitsSet,
    Moved,
    Outcome,
    ProducerAllocated,
    Refused,
    TopicAltered,
    TopicCreated,
    TopicDeleted,
)
from broker.state.producers import Producers
from zablog.core.trail import Payload
from zablog.core.zxid import ZERO, Zxid

NAME_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def name_problem(name: str) -> str | None:
    """What is wrong with a topic's name, in words."""
    if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
        return f"a topic's name of {len(name)} characters: 1 to {NAME_CHARACTERS_MAX} are allowed"
    if not NAME_CHARACTERS.issuperset(name) or name in (".", ".."):
        return f"{name!r} is no name for a topic: letters, digits, dots, underscores and hyphens are allowed, but not . or .. alone"
    return None


@dataclass(frozen=True, slots=True)
class Topic:
    id: Zxid
    """The zxid of its creation."""
    name: str
    partitions: int
    created: int
    """Leader time, milliseconds since 1970."""
    retention: Retention = FOR_EVER
    settings: int = 1
    """Rises with each change of the settings."""


@dataclass(slots=True)
class State:
    """The tables hold immutable values. Read them freely between two commands; change them by `apply` alone."""

    topics: dict[Zxid, Topic] = field(default_factory=dict)
    names: dict[str, Zxid] = field(default_factory=dict)
    ends: dict[tuple[Zxid, int], int] = field(default_factory=dict)
    """The offset that the next record of each (topic, partition) gets."""
    firsts: dict[tuple[Zxid, int], int] = field(default_factory=dict)
    """The first offset that can be read of each (topic, partition); 0 if it is not here."""
    producers: Producers = field(default_factory=Producers)
    applied: Zxid = ZERO
    time: int = 0
    """Leader time of the last command, milliseconds since 1970; never decreases."""
    limits: Limits = DEFAULTS
    level: int = 1
    """The feature level: see `broker.state.levels`."""

    def topic_named(self, name: str) -> Topic | None:
        topic = self.names.get(name)
        return None if topic is None else self.topics[topic]

    def apply(self, zxid: Zxid, payload: Payload) -> Outcome:
        """Carry out the command that was committed under `zxid`. Zxids come in ascending order.

        Raises UnknownCommand for one of a later build, having changed nothing: nothing may be applied behind it.
        """
        assert zxid > self.applied, "commands are applied once, in the order of their zxids"
        try:
            command = decode(payload)
        except UnknownCommand:
            raise
        except MalformedCommand as error:
            self.applied = zxid
            return Outcome(Refused(Code.BAD_REQUEST, str(error)))
        self.applied = zxid
        # The leader's clock never runs backwards within its reign; across reigns the log's own time is the floor.
        if command.time > self.time:
            self.time = command.time
        if isinstance(command, AllocateProducer):
            self.producers.allocate(zxid, command.gaps, self.limits)
            return Outcome(ProducerAllocated(zxid))
        if isinstance(command, MoveBounds):
            return Outcome(BoundsMoved(), moved=self._move(command))
        if isinstance(command, RaiseLevel):
            self.level = max(self.level, command.level)
            return Outcome(LevelRaised())
        settled = self.producers.judge(command.turn)
        if settled is not None:
            return settled
        match command:
            case Produce():
                outcome = self._produce(zxid, command)
            case CreateTopic():
                outcome = Outcome(self._create_topic(zxid, command))
            case AlterTopic():
                outcome = Outcome(self._alter_topic(command))
            case SetLimits():
                outcome = Outcome(self._set_limits(command))
            case DeleteTopic():
                outcome = self._delete_topic(command)
        self.producers.take(zxid, command.turn, outcome.answer)
        return outcome

    def capture(self) -> "State":
        """The state as it is now, whatever is applied later."""
        producers = Producers(rows=self.producers.rows.copy(), answers=self.producers.answers.copy())
        return replace(
            self,
            topics=self.topics.copy(),
            names=self.names.copy(),
            ends=self.ends.copy(),
            firsts=self.firsts.copy(),
            producers=producers,
        )

    def digest(self) -> int:
        """64 bits of everything here: equal on two nodes that applied the same log. Walks all tables; for checks."""
        tables = (
            self.topics,
            self.names,
            self.ends,
            sorted(self.firsts.items()),
            list(self.producers.rows.items()),
            self.producers.answers,
            self.applied,
            self.time,
            self.limits,
            self.level,
        )
        return xxh3_64_intdigest(repr(tables).encode())

    def _produce(self, zxid: Zxid, command: Produce) -> Outcome:
        limits, size = self.limits, 0
        appends: list[Append] = []
        ends: dict[tuple[Zxid, int], int] = {}
        for position, (topic, partition, batch) in enumerate(command.parts):
            place = (topic, partition)
            size += len(batch)
            if len(batch) > limits.batch_bytes:
                text = reached("batch_bytes", limits, f"part {position}: a record batch of {len(batch):,} bytes")
                return Outcome(Refused(Code.RECORD_TOO_LARGE, text))
            end = ends.get(place)
            if end is None:
                end = self.ends.get(place)
                if end is None:
                    return Outcome(self._missing(topic, partition))
            try:
                records = header_of(batch).records
            except Corrupt as error:
                return Outcome(Refused(Code.BAD_REQUEST, f"part {position}: {error.message}"))
            appends.append(Append(topic, partition, end, position, records, batch))
            ends[place] = end + records
        if size > limits.proposal_bytes:
            return Outcome(Refused(Code.RECORD_TOO_LARGE, reached("proposal_bytes", limits, f"batches of {size:,} bytes at once")))
        self.ends.update(ends)
        return Outcome(Appended(zxid, tuple([append.base_offset for append in appends])), appends)

    def _missing(self, topic: Zxid, partition: int) -> Refused:
        found = self.topics.get(topic)
        if found is None:
            return Refused(Code.TOPIC_NOT_FOUND, f"there is no topic {topic} (any longer)")
        return Refused(Code.PARTITION_NOT_FOUND, f"topic {found.name} has no partition {partition}, but 0 to {found.partitions - 1}")

    def _create_topic(self, zxid: Zxid, command: CreateTopic) -> Answer:
        name, partitions = command.name, command.partitions
        if problem := name_problem(name):
            return Refused(Code.BAD_NAME, problem)
        if partitions < 1:
            return Refused(Code.BAD_REQUEST, f"topic {name}: {partitions:,} partitions: 1 or more are needed")
        if name in self.names:
            return Refused(Code.TOPIC_EXISTS, f"topic {name} exists")
        limits = self.limits
        if partitions > limits.topic_partitions:
            return Refused(Code.LIMIT_REACHED, reached("topic_partitions", limits, f"topic {name}: {partitions:,} partitions"))
        if len(self.topics) >= limits.topics:
            return Refused(Code.LIMIT_REACHED, reached("topics", limits, f"topic {name}: there are {len(self.topics):,} topics"))
        if len(self.ends) + partitions > limits.partitions:
            what = f"topic {name}: {partitions:,} partitions besides the {len(self.ends):,} that there are"
            return Refused(Code.LIMIT_REACHED, reached("partitions", limits, what))
        self.topics[zxid] = Topic(zxid, name, partitions, self.time, command.retention)
        self.names[name] = zxid
        for partition in range(partitions):
            self.ends[zxid, partition] = 0
        return TopicCreated(zxid)

    def _alter_topic(self, command: AlterTopic) -> Answer:
        topic = self.topics.get(command.topic)
        if topic is None:
            return Refused(Code.TOPIC_NOT_FOUND, f"there is no topic {command.topic} (any longer)")
        self.topics[topic.id] = replace(topic, retention=command.retention, settings=topic.settings + 1)
        return TopicAltered(topic.id)

    def _set_limits(self, command: SetLimits) -> Answer:
        limits = self.limits.changed(dict(command.values))
        if isinstance(limits, str):
            return Refused(Code.BAD_REQUEST, limits)
        self.limits = limits
        return LimitsSet()

    def _move(self, command: MoveBounds) -> list[Moved]:
        """Those bounds that really move: of topics whose settings are still the ones that they follow from, and never beyond the end."""
        moved = []
        for id, settings, partition, first in command.bounds:
            topic, place = self.topics.get(id), (id, partition)
            if topic is None or topic.settings != settings or place not in self.ends:
                continue
            first = min(first, self.ends[place])
            if first > self.firsts.get(place, 0):
                self.firsts[place] = first
                moved.append(Moved(id, partition, first))
        return moved

    def _delete_topic(self, command: DeleteTopic) -> Outcome:
        topic = self.topics.pop(command.topic, None)
        if topic is None:
            return Outcome(Refused(Code.TOPIC_NOT_FOUND, f"there is no topic {command.topic} (any longer)"))
        del self.names[topic.name]
        for partition in range(topic.partitions):
            del self.ends[topic.id, partition]
            self.firsts.pop((topic.id, partition), None)
        return Outcome(TopicDeleted(topic.id), deleted=topic.id)
