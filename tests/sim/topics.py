"""A topic's history and its anomalies: producers that repeat themselves, replicas that apply at their own pace, readers.

The order of commands is given (that is zablog's part, simulated elsewhere); what is at issue is what the replicated state makes of it.
The anomalies are those of `broker.sim.history`.
"""

from collections import defaultdict
from copy import deepcopy
from random import Random

from broker.errors import Code
from broker.records import Record, encode_batch
from broker.sim.history import History, Read, Sent
from broker.state import Appended, Part, ProducerAllocated, Refused, State, TopicCreated, Turn, encode
from broker.state.commands import AllocateProducer, CreateTopic, Produce
from zablog.core.zxid import Zxid

PARTITIONS = 2
NO_PARTITION = 7


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
