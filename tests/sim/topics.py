"""A topic's history and its anomalies: producers that repeat themselves, replicas that apply at their own pace, readers.

The order of commands is given (that is zablog's part, simulated elsewhere); what is at issue is what the replicated state makes of it.
The anomalies are those of Jepsen's workload for Kafka, as far as there are features for them. Each checker looks at the recorded history
alone, so that it can be checked itself by editing a record.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import groupby
from math import inf
from operator import itemgetter
from random import Random
from typing import NamedTuple

from broker.errors import Code
from broker.records import Record, encode_batch
from broker.state import Appended, Part, ProducerAllocated, Refused, State, TopicCreated, Turn, encode
from broker.state.commands import AllocateProducer, CreateTopic, Produce
from zablog.core.zxid import Zxid

PARTITIONS = 2
NO_PARTITION = 7


class Sent(NamedTuple):
    """A producer's command: its values by part, when it was called and answered (0: never), and what became of it."""

    producer: int
    sequence: int
    parts: tuple[tuple[int, tuple[int, ...]], ...]
    """(partition, values) of each part."""
    called: int
    answered: int = 0
    offsets: tuple[int, ...] | None = None
    """The base offset of each part, if it was acknowledged."""
    failed: bool = False
    """It was refused for good: nothing of it may ever be read."""

    @property
    def values(self) -> list[int]:
        return [value for _, values in self.parts for value in values]


class Read(NamedTuple):
    """One poll: the values from `offset` on, in one partition, as one replica has them."""

    reader: int
    partition: int
    offset: int
    values: tuple[int, ...]


@dataclass
class History:
    """What clients saw, in order; and in the end every replica's partitions and the digest of its state."""

    sent: list[Sent] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    final: list[list[list[int]]] = field(default_factory=list)
    """[replica][partition][offset]."""
    digests: list[int] = field(default_factory=list)


class Replica:
    """A state, and the partitions that it fills."""

    def __init__(self) -> None:
        self.state = State()
        self.partitions: list[list[int]] = [[] for _ in range(PARTITIONS)]
        self.applied = 0


class Play:
    """One run. `commands` is the total order; an entry is (payload, values of each part by batch)."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.history = History()
        self.commands: list[bytes] = []
        self.values: dict[bytes, tuple[int, ...]] = {}
        self.replicas = [Replica() for _ in range(3)]
        self.checkpoints = [deepcopy(replica) for replica in self.replicas]
        self.outcomes: dict[int, Appended | Refused] = {}
        """What the first replica that applied a command said."""
        self.number = 0
        self.now = 0
        self.producers = [self.allocate() for _ in range(2)]
        self.sequences = [0, 0]
        topic = self.commit(encode(CreateTopic(self.turn(0), 1, "topic", PARTITIONS)))
        self.topic = self.answer_of(topic, TopicCreated).topic
        self.open: dict[tuple[int, int], tuple[int, bytes]] = {}
        """Commands without an answer: (producer, sequence) -> (their place in `sent`, payload)."""
        self.flying: list[tuple[tuple[int, int], bytes]] = []
        self.positions: dict[tuple[int, int], int] = defaultdict(int)

    # -- the order ----------------------------------------------------------------------------------------------------------

    def commit(self, payload: bytes) -> int:
        self.commands.append(payload)
        return len(self.commands) - 1

    def answer_of(self, command: int, kind: type):
        for replica in self.replicas:
            while replica.applied <= command:
                answer = self.apply(replica)
        assert isinstance(answer, kind)
        return answer

    def allocate(self) -> Zxid:
        return self.answer_of(self.commit(encode(AllocateProducer(1))), ProducerAllocated).producer

    def apply(self, replica: Replica):
        """The next command, at one replica."""
        at = replica.applied
        outcome = replica.state.apply(Zxid(1, at + 1), self.commands[at])
        replica.applied += 1
        for append in outcome.appends:
            log, values = replica.partitions[append.partition], self.values[bytes(append.batch)]
            del log[append.base_offset :]  # a segment is written where the state says
            log.extend([-1] * (append.base_offset - len(log)))
            log.extend(values)
        return outcome.answer

    # -- clients ------------------------------------------------------------------------------------------------------------

    def turn(self, producer: int) -> Turn:
        self.sequences[producer] += 1
        sequence = self.sequences[producer]
        lowest = min([seq for who, seq in getattr(self, "open", {}) if who == producer], default=sequence)
        return Turn(self.producers[producer], 0, sequence, min(lowest, sequence))

    def send(self) -> None:
        """A new command: some records to some partitions, now and then one to a partition that does not exist."""
        producer = self.random.randrange(2)
        parts, batches = [], []
        for _ in range(self.random.randint(1, 3)):
            partition = NO_PARTITION if self.random.random() < 0.08 else self.random.randrange(PARTITIONS)
            values = tuple(self.number + 1 + step for step in range(self.random.randint(1, 3)))
            self.number += len(values)
            batch = encode_batch([Record(b"%d" % value) for value in values])
            self.values[batch] = values
            parts.append((partition, values))
            batches.append(Part(self.topic, partition, batch))
        turn = self.turn(producer)
        payload = encode(Produce(turn, 1, batches))
        key = (producer, turn.sequence)
        self.open[key] = (len(self.history.sent), payload)
        self.history.sent.append(Sent(producer, turn.sequence, tuple(parts), self.now))
        self.flying.append((key, payload))

    def land(self, at: int) -> None:
        """A command on its way enters the order; now and then its producer, in doubt, has sent it twice. The answer may be lost."""
        key, payload = self.flying[at]
        if self.random.random() < 0.7:
            del self.flying[at]
        command = self.commit(payload)
        replica = self.random.choice(self.replicas)
        answer = None
        while replica.applied <= command:
            answer = self.apply(replica)
        if self.random.random() < 0.7:
            self.hear(key, answer)

    def hear(self, key: tuple[int, int], answer) -> None:
        """A producer hears what became of its command. Out of its turn, it tries again."""
        if key not in self.open:
            return
        if isinstance(answer, Refused) and answer.code == Code.OUT_OF_SEQUENCE:
            self.flying.append((key, self.open[key][1]))
            return
        at, _ = self.open.pop(key)
        sent = self.history.sent[at]._replace(answered=self.now)
        self.history.sent[at] = sent._replace(offsets=answer.offsets) if isinstance(answer, Appended) else sent._replace(failed=True)

    def read(self) -> None:
        """A reader, faithful to one replica, goes on where it was."""
        reader, partition = self.random.randrange(3), self.random.randrange(PARTITIONS)
        log, begin = self.replicas[reader].partitions[partition], self.positions[reader, partition]
        values = tuple(log[begin : begin + self.random.randint(1, 6)])
        if values:
            self.history.reads.append(Read(reader, partition, begin, values))
            self.positions[reader, partition] = begin + len(values)

    # -- the run ------------------------------------------------------------------------------------------------------------

    def run(self, steps: int = 150) -> History:
        for self.now in range(1, steps):
            kind = self.random.random()
            replica = self.random.randrange(3)
            if kind < 0.3:
                self.send()
            elif kind < 0.6 and self.flying:
                self.land(self.random.randrange(len(self.flying)))
            elif kind < 0.75 and self.replicas[replica].applied < len(self.commands):
                self.apply(self.replicas[replica])
            elif kind < 0.8:
                self.checkpoints[replica] = deepcopy(self.replicas[replica])
            elif kind < 0.85:
                self.replicas[replica] = deepcopy(self.checkpoints[replica])  # a restart: the rest of the order is applied again
            else:
                self.read()
        return self.finish()

    def finish(self) -> History:
        """Everybody gets an answer, and everything is read."""
        for _ in range(50):
            self.now += 1
            for key, (_, payload) in sorted(self.open.items()):
                command = self.commit(payload)
                while self.replicas[0].applied <= command:
                    answer = self.apply(self.replicas[0])
                self.hear(key, answer)
            if not self.open:
                break
        for replica in self.replicas:
            while replica.applied < len(self.commands):
                self.apply(replica)
        self.history.final = [replica.partitions for replica in self.replicas]
        self.history.digests = [replica.state.digest() for replica in self.replicas]
        return self.history


# -- anomalies ---------------------------------------------------------------------------------------------------------------


def lost_write(history: History) -> Iterator[str]:
    """Acknowledged, and not in the end where it should be read."""
    everything = {value for log in history.final[0] for value in log}
    for sent in history.sent:
        if sent.offsets is not None and not everything.issuperset(sent.values):
            yield f"{sent} was acknowledged and is not there"


def unanswered(history: History) -> Iterator[str]:
    """A producer that goes on asking gets an answer."""
    for sent in history.sent:
        if sent.offsets is None and not sent.failed:
            yield f"{sent} never got an answer"


def duplicate(history: History) -> Iterator[str]:
    """One value at two offsets."""
    seen: set[int] = set()
    for log in history.final[0]:
        for value in log:
            if value in seen:
                yield f"value {value} is there twice"
            seen.add(value)


def inconsistent_offset(history: History) -> Iterator[str]:
    """The acknowledgement, or a poll, names another offset than the value has in the end."""
    for sent in history.sent:
        for (partition, values), offset in zip(sent.parts, sent.offsets or (), strict=False):
            log = history.final[0][partition] if partition < len(history.final[0]) else []
            if tuple(log[offset : offset + len(values)]) != values:
                yield f"{values} were acknowledged at offset {offset} of partition {partition}, where other values are"
    for read in history.reads:
        if tuple(history.final[0][read.partition][read.offset : read.offset + len(read.values)]) != read.values:
            yield f"{read}: other values are there in the end"


def aborted_read(history: History) -> Iterator[str]:
    """A value of a command that was refused for good is there."""
    everything = {value for log in history.final[0] for value in log}
    for sent in history.sent:
        if sent.failed and not everything.isdisjoint(sent.values):
            yield f"{sent} was refused, and some of it is there"


def phantom(history: History) -> Iterator[str]:
    """A value that nobody sent."""
    known = {value for sent in history.sent for value in sent.values}
    for log in history.final[0]:
        for value in log:
            if value not in known:
                yield f"value {value} was never sent"


def torn(history: History) -> Iterator[str]:
    """A part of a command is there, another is not."""
    everything = {value for log in history.final[0] for value in log}
    for sent in history.sent:
        if len({value in everything for value in sent.values}) > 1:
            yield f"{sent} is there in part"


def nonmonotonic_send(history: History) -> Iterator[str]:
    """A producer's later command stands before its earlier one."""
    last: dict[tuple[int, int], tuple[int, int]] = {}
    for sent in sorted(history.sent, key=lambda sent: (sent.producer, sent.sequence)):
        for (partition, _), offset in zip(sent.parts, sent.offsets or (), strict=False):
            before = last.get((sent.producer, partition), (-1, 0))
            if offset < before[0]:
                yield f"sequence {sent.sequence} of producer {sent.producer} stands at {offset}, sequence {before[1]} at {before[0]}"
            last[sent.producer, partition] = (offset, sent.sequence)


def real_time_inversion(history: History) -> Iterator[str]:
    """Acknowledged before another was called, and behind it all the same."""
    rows = sorted(
        (
            (partition, offset, sent)
            for sent in history.sent
            for (partition, _), offset in zip(sent.parts, sent.offsets or (), strict=False)
        ),
        key=itemgetter(0, 1),
        reverse=True,
    )
    for partition, above in groupby(rows, key=itemgetter(0)):
        first: tuple[float, int] = (inf, 0)
        """Of what stands behind: when the first acknowledgement came, and for which offset."""
        for _, offset, sent in above:
            if first[0] < sent.called:
                yield f"partition {partition}: offset {first[1]} was acknowledged before what is at {offset} was called"
            first = min(first, (sent.answered, offset))


def poll_skip(history: History) -> Iterator[str]:
    """Successive polls of one reader leave records out, or go back."""
    position: dict[tuple[int, int], int] = defaultdict(int)
    for read in history.reads:
        if read.offset != position[read.reader, read.partition]:
            yield f"{read}: the poll before it ended at {position[read.reader, read.partition]}"
        position[read.reader, read.partition] = read.offset + len(read.values)


def replica_divergence(history: History) -> Iterator[str]:
    """Replicas that applied the same commands hold the same."""
    for replica, (partitions, digest) in enumerate(zip(history.final, history.digests, strict=True)):
        if partitions != history.final[0] or digest != history.digests[0]:
            yield f"replica {replica} differs from replica 0"


CHECKERS: tuple[Callable[[History], Iterator[str]], ...] = (
    replica_divergence,
    duplicate,
    aborted_read,
    phantom,
    torn,
    lost_write,
    inconsistent_offset,
    nonmonotonic_send,
    real_time_inversion,
    poll_skip,
    unanswered,
)


def anomalies(history: History) -> list[str]:
    """`checker: what is wrong`, the first finding of each checker that has one."""
    return [f"{checker.__name__}: {found}" for checker in CHECKERS for found in [next(checker(history), None)] if found is not None]
