"""An ensemble of brokers: producers that repeat themselves, admins, readers of any node, and readers who must not see the past."""

from collections import defaultdict
from functools import partial
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from broker.errors import Corrupt
from broker.records import read_batch
from broker.sim.history import End, Read, anomalies
from broker.sim.producer import Place, Producer, World
from broker.sim.replica import Replica
from broker.state import Answer, State, encode
from broker.state.commands import Bound, MoveBounds
from zablog.sim.ensemble import Ensemble
from zablog.sim.faults import WITH_FILES
from zablog.sim.node import Node

PRODUCERS: Final = 3
READERS: Final = 3
MEMORY_BYTES: Final = 4_000
STREAM_BYTES: Final = 1_500
PIECE_BYTES: Final = (2_000, 20_000, 60_000)
"""Commands are ten times as long as what a bare ensemble broadcasts."""
PATIENCE_MICROS: Final = 8_000_000
"""How long producers go on asking in the end."""
EPOCH_MS: Final = 1_700_000_000_000
SKEW_MS: Final = 60_000


class Anomaly(AssertionError):
    """The clients' history shows what must not be: its message begins with the name of the checker that says so."""


class BrokerEnsemble(Ensemble):
    """`counts` holds what clients were told."""

    flag = " --broker"
    more_faults = WITH_FILES
    proposed_once = False

    def __init__(self, *words: Any, **more: Any) -> None:  # Any: as Ensemble
        super().__init__(*words, **more)
        self.random = self.schedule.random
        self.world = World(self.random)
        self.producers = [Producer(self.world, admin=number == 0) for number in range(PRODUCERS)]
        self.positions: dict[tuple[int, Place], int] = defaultdict(int)
        self.patience: int | None = None
        """When producers give up asking, once it is the end."""
        self.skews: dict[int, int] = {}
        self.counts = dict.fromkeys(
            ("records_acked", "sends_acked", "refused", "duplicates", "polls", "jumps", "linearizable_ends", "bounds_moved", "topics"), 0
        )
        for node in self.nodes.values():
            node.memory_bytes, node.stream_bytes, node.piece_bytes = MEMORY_BYTES, STREAM_BYTES, PIECE_BYTES
            node.make = partial(Replica, self.counts)
            self.skews[node.id] = self.random.randint(-SKEW_MS, SKEW_MS)

    # -- clients ------------------------------------------------------------------------------------------------------------

    def drive(self, per_second: int) -> None:
        """Everybody has a turn."""
        now = self.schedule.now
        if self.patience is None or now < self.patience:
            for at, producer in enumerate(self.producers):
                if self.clients:
                    if self.random.random() < 0.004:
                        producer.end()
                        producer = self.producers[at] = Producer(self.world, producer.admin)
                    if self.random.random() < 0.6:
                        producer.begin(now)
                self.request(producer)
        if self.clients:
            self.retain()
            self.poll()
            self.look()
        self.collect()
        self.schedule.at(self.random.randint(1, 2_000_000 // per_second), self.drive, per_second)

    def request(self, producer: Producer) -> None:
        """All that is due goes to one who says that it leads. The request may be lost on the way, and so may the answer."""
        leaders = [node for node in self.nodes.values() if leads_clients(node)]
        if not leaders or not (requests := producer.requests(self.schedule.now)) or self.random.random() < 0.03:
            return
        node = self.random.choice(leaders)
        requests = requests[: node.peer.room]
        time = self.clock(node)
        payloads = [stamped(time) for stamped, _ in requests]
        self.number += len(payloads)
        first = self.hand(node, payloads)
        if first is None:
            return
        replica, generation = replica_of(node), node.generation
        for step, (_, hear) in enumerate(requests):

            def settled(answer: Answer, hear: Any = hear) -> None:
                if node.generation == generation and self.random.random() >= 0.05:
                    self.schedule.at(self.random.randint(50, 3_000), self.answer, hear, answer)

            replica.waiting[first.after(step)] = settled

    def answer(self, hear: Any, answer: Answer) -> None:
        hear(answer, self.schedule.now)

    def clock(self, node: Node) -> int:
        """The leader's time: its own clock, and never behind the log's."""
        return max(EPOCH_MS + self.schedule.now // 1000 + self.skews[node.id], replica_of(node).state.time)

    def retain(self) -> None:
        """Leaders move the bounds of topics that keep a number of records."""
        for node in self.nodes.values():
            if not leads_clients(node) or self.random.random() > 0.1:
                continue
            state = replica_of(node).state
            bounds = [
                Bound(topic.id, topic.settings, number, first)
                for topic in state.topics.values()
                if topic.retention.records
                for number in range(topic.partitions)
                if (first := state.ends[topic.id, number] - topic.retention.records) > state.firsts.get((topic.id, number), 0)
            ]
            if bounds:
                self.counts["bounds_moved"] += len(bounds)
                self.hand(node, [encode(MoveBounds(self.clock(node), tuple(bounds)))])

    def poll(self) -> None:
        """A reader goes on where it was, with what any node has."""
        alive = [node for node in self.nodes.values() if serves(node)]
        if not alive or not self.world.slots or self.random.random() < 0.4:
            return
        node, reader, place = self.random.choice(alive), self.random.randrange(READERS), self.random.choice(list(self.world.slots))
        replica = replica_of(node)
        if place not in replica.state.ends:
            return
        partition, offset = replica.log.partition(*place), self.positions[reader, place]
        if offset > partition.end:
            return  # this node is behind the one that was read before
        jumped = offset < partition.first
        offset = max(offset, partition.first)
        assert node.applier is not None, "the law that who serves applies"
        if not node.applier.on_disk(replica.settle):
            return  # what a reader has written may be what ends the node
        try:
            values = replica.read(*place, offset)
        except Corrupt as error:
            if node.id not in self.invariants.decayed:
                self.world.history.unreadable.append(f"node {node.id}: {error.message}")
            replica.damaged = error.message
            return
        except OSError:  # the disk cannot read it, and the reader is told so
            return
        if values:
            self.counts["polls"] += 1
            self.counts["jumps"] += jumped
            self.world.history.reads.append(Read(reader, self.world.slot(place), offset, values, jumped))
            self.positions[reader, place] = offset + len(values)

    def look(self) -> None:
        """Somebody asks who says that it leads for the end of a partition, and must see all that was acknowledged before."""
        lasting = [place for place in self.world.ends if not self.world.topics[place[0]].deleted]
        for node in self.nodes.values():
            if lasting and leads_clients(node) and node.reading is None:
                self.ask_end(node, self.random.choice(lasting))

    def ask_end(self, node: Node, place: Place) -> None:
        owed = self.world.ends[place]

        def answer() -> None:
            self.found(node, place, owed)

        node.on_read = answer
        node.read()

    def found(self, node: Node, place: Place, owed: int) -> None:
        end = replica_of(node).state.ends.get(place)
        assert node.applier is not None, "the law that a broker applies"
        if node.applier.applied == len(node.delivered) and end is not None:  # else it waits; or deleted meanwhile, as somebody asked
            self.counts["linearizable_ends"] += 1
            self.world.history.ends.append(End(self.world.slot(place), owed, end))

    # -- the end ------------------------------------------------------------------------------------------------------------

    @property
    def silent(self) -> bool:
        """All commands are answered, too, or nobody asks any longer."""
        self.patience = self.patience or self.schedule.now + PATIENCE_MICROS
        asking = any(producer.open or producer.id is None for producer in self.producers) and self.schedule.now < self.patience
        return not asking and super().silent and not self.invariants.decayed and all(map(idle, self.nodes.values()))

    def finish(self, seconds: float = 15.0) -> None:
        """Beside what must hold of any ensemble: no anomaly in what clients were told, and all replicas alike, byte by byte."""
        super().finish(seconds)
        history, replicas = self.world.history, [replica_of(node) for node in self.nodes.values()]
        written = self.written()
        for replica in replicas:
            logs = []
            for place in self.world.slots:
                everything = written.get(place, [])
                if place in replica.state.ends:
                    first = replica.log.partition(*place).first
                    everything = [*everything[:first], *replica.read_all(*place)]
                logs.append(everything)
            history.final.append(logs)
            history.digests.append(xxh3_64_intdigest(replica.tables()))
            replica.settle()
            history.segments.append(replica.segments())
        for sent in history.sent:
            self.counts["sends_acked"] += sent.offsets is not None
            self.counts["records_acked"] += len(sent.values) if sent.offsets is not None else 0
            self.counts["refused"] += sent.failed
        self.counts["topics"] = len(self.world.topics)
        invariants = self.invariants
        self.counts["parts"], self.counts["parts_kept"] = invariants.parts, invariants.parts_kept
        self.counts["parts_anew"], self.counts["states_mended"] = invariants.parts_anew, invariants.states_mended
        self.counts["torn_segments"] = sum(replica.disk.torn_writes for replica in replicas)
        if found := anomalies(history):
            raise Anomaly("; ".join(found))

    def written(self) -> dict[Place, list[int]]:
        """What all partitions would hold had nothing been let go of: the committed commands, applied once more."""
        state, logs = State(), defaultdict[Place, list[int]](list)
        for zxid, payload in self.invariants.committed:
            for append in state.apply(zxid, payload).appends:
                logs[append.topic, append.partition][append.base_offset :] = [
                    int(record.value or b"") for record in read_batch(append.batch)
                ]
        return logs


def replica_of(node: Node) -> Replica:
    assert isinstance(node.application, Replica)
    return node.application


def serves(node: Node) -> bool:
    """Is it up, with a state to answer from?"""
    return node.running and node.paused is None and node.applier is not None and node.applier.missing is None


def leads_clients(node: Node) -> bool:
    return serves(node) and node.peer.room > 0


def idle(node: Node) -> bool:
    return node.applier is not None and node.applier.idle
