"""Records on their way into batches: one lane a partition, batches close when they are full or when their turn comes.

A lane sends what it has gathered as soon as nothing of it is under way, so a lone record leaves at once and a busy lane's batches
grow while a request is in flight; full batches need not wait. What is ready leaves topic by topic, in turn; where a topic has little,
others join it, since a request costs every node far more than one more batch in it. A refusal concerns a whole request, though: what
was refused together is sent again topic by topic, so that only those fail who are meant. That keeps its order because nothing else of a
lane is under way while a batch of it travels with other topics'. Pure but for the fates that senders wait for.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, TypeVar

from broker.client.partitioner import partition_of
from broker.client.pending import Fate, Pending, Run
from broker.errors import PartitionNotFound
from broker.protocol import TopicEntry
from broker.records import RECORDS_MAX, BatchBuilder, Headers, content_bytes
from broker.state.commands import PARTS_MAX
from zablog.core.zxid import Zxid

FULL_BYTES: Final = 512 << 10
"""A batch of so many bytes is not added to any more; one record may make it larger."""
FULL_RECORDS: Final = 16 << 10
assert FULL_RECORDS < RECORDS_MAX, "a full batch is a batch"
REQUEST_BYTES: Final = 1 << 20
"""A request takes no more batches once it holds so much."""
SHARED_BYTES: Final = 64 << 10
"""Other topics join a request that holds less than this."""
SHARED_PARTS: Final = 128
"""And fewer batches: the cluster keeps the answer to each producer's last request, an offset a batch, and room for so many offsets only."""
RECORD_OVERHEAD: Final = 10
"""About what a record takes beside its content."""


Promise = TypeVar("Promise", Pending, Run)


class OpenBatch:
    """Records that will share one batch and one fate. Plain ones are only gathered until it is sealed: together they cost less."""

    __slots__ = ("_builder", "_plain", "_sealed", "_time", "fate", "full", "size")

    def __init__(self) -> None:
        self._builder = BatchBuilder()
        self._plain: list[bytes] = []
        """Values without key and headers, of one time, that the builder has yet to be given."""
        self._time = 0
        self._sealed: bytes | None = None
        self.fate = Fate()
        self.size = 0
        """About how many bytes its records will take."""
        self.full = False
        """Takes it no more records?"""

    def add(self, value: bytes | None, timestamp: int, key: bytes | None, headers: Headers) -> Pending:
        if key is None and not headers and value is not None:
            return self.add_plain(value, timestamp)
        self._settle(timestamp)
        self._builder.add(value, timestamp, key, headers)
        self.size += content_bytes(value, key, headers) + RECORD_OVERHEAD
        return self._joined(self.fate.join())

    def add_plain(self, value: bytes, timestamp: int) -> Pending:
        """Without key and headers, as nearly every record is."""
        if timestamp != self._time:
            self._settle(timestamp)
        self._plain.append(value)
        self.size += len(value) + RECORD_OVERHEAD
        fate = self.fate
        if self.size >= FULL_BYTES or fate.records >= FULL_RECORDS - 1:
            self.full = True
        return fate.join()

    def add_values(self, values: Sequence[bytes], size: int, timestamp: int) -> Run:
        """`size` is that of all values together."""
        if timestamp != self._time:
            self._settle(timestamp)
        self._plain += values
        self.size += size + len(values) * RECORD_OVERHEAD
        return self._joined(self.fate.join_many(len(values)))

    def _joined(self, promise: Promise) -> Promise:
        self.full = self.size >= FULL_BYTES or self.fate.records >= FULL_RECORDS
        return promise

    def seal(self) -> bytes:
        """The batch. Nothing can be added any more, and the pieces it was made of are let go."""
        if self._sealed is None:
            self.full = True
            self._settle(self._time)
            self._sealed = self._builder.build()
            del self._builder, self._plain
        return self._sealed

    def _settle(self, timestamp: int) -> None:
        """Whatever comes next does not belong to those that were gathered."""
        if len(self._plain) == 1:
            self._builder.add(self._plain.pop(), self._time)
        elif self._plain:
            self._builder.add_values(self._plain, self._time)
            self._plain = []
        self._time = timestamp


class Lane:
    """The batches of one partition that no request has taken yet, and how many requests of it are under way."""

    __slots__ = ("apart", "batches", "in_flight", "name", "partition", "shared", "topic")

    def __init__(self, name: str, topic: Zxid, partition: int) -> None:
        self.name = name
        self.topic = topic
        self.partition = partition
        self.batches: deque[OpenBatch] = deque()
        """Only the last one takes more records."""
        self.in_flight = 0
        self.shared = False
        """What is under way of it travels with other topics'."""
        self.apart = False
        """What was refused together with other topics' comes next, and without them."""

    @property
    def ready(self) -> bool:
        """Is there a batch that may leave now?"""
        return bool(self.batches) and (not self.in_flight or (not self.shared and (len(self.batches) > 1 or self.batches[0].full)))

    def open(self) -> OpenBatch:
        """The batch that takes the next record."""
        if not self.batches or self.batches[-1].full:
            self.batches.append(OpenBatch())
        return self.batches[-1]

    def add_values(self, values: Sequence[bytes], timestamp: int) -> tuple[Run, int]:
        """As many of these plain records as fit into the open batch, at least one: their promises, and the bytes they take."""
        batch = self.open()
        ends = list(accumulate(map(len, values[: FULL_RECORDS - batch.fate.records])))
        count = min(bisect_left(ends, FULL_BYTES - batch.size) + 1, len(ends))
        before = batch.size
        run = batch.add_values(values[:count], ends[count - 1], timestamp)
        return run, batch.size - before


class Lanes:
    """All lanes of a producer: where a record waits, and what leaves next."""

    __slots__ = ("_by_topic", "_sticky", "_waiting", "gathering")

    def __init__(self) -> None:
        # By id: what waits for a deleted topic must not go to another one that was given its name.
        self._by_topic: dict[Zxid, dict[int, Lane]] = {}
        self._sticky: dict[Zxid, int] = {}
        """The partition to which a topic's records without a key go until their batch is full."""
        self.gathering: dict[Zxid, OpenBatch] = {}
        """That batch, while no request has taken it. It may be full."""
        self._waiting: dict[Zxid, None] = {}
        """Topics that may have something waiting, in turn."""

    def open(self, topic: TopicEntry, key: bytes | None, partition: int | None) -> OpenBatch:
        """The batch that takes the next record. Raises PartitionNotFound."""
        if key is not None or partition is not None:
            return self.lane(topic, key, partition).open()
        gathering = self.gathering.get(topic.id)
        if gathering is None or gathering.full:
            gathering = self.gathering[topic.id] = self.lane(topic, None, None).open()
        return gathering

    def lane(self, topic: TopicEntry, key: bytes | None, partition: int | None) -> Lane:
        """Where the next record waits. Raises PartitionNotFound."""
        self._waiting[topic.id] = None
        lanes = self._by_topic.setdefault(topic.id, {})
        if partition is None:
            partition = partition_of(key, topic.partitions) if key is not None else self._sticky_partition(topic, lanes)
        elif not 0 <= partition < topic.partitions:
            raise PartitionNotFound(f"topic {topic.name!r} has partitions 0 to {topic.partitions - 1}, no partition {partition}")
        lane = lanes.get(partition)
        if lane is None:
            lane = lanes[partition] = Lane(topic.name, topic.id, partition)
        return lane

    def _sticky_partition(self, topic: TopicEntry, lanes: Mapping[int, Lane]) -> int:
        """Stay until the open batch leaves or is full; then the next partition in turn."""
        partition = self._sticky.get(topic.id, 0) % topic.partitions
        lane = lanes.get(partition)
        if lane is not None and lane.batches and lane.batches[-1].full:
            partition = (partition + 1) % topic.partitions
        self._sticky[topic.id] = partition
        return partition

    def take_ready(self) -> list[tuple[Lane, OpenBatch]]:
        """What leaves together as the next request: batches of the first topic that has something ready; empty if none has.

        Where these are little, batches of other topics join them, each the only one of its lane that is under way.
        """
        batches: list[tuple[Lane, OpenBatch]] = []
        size, joined = 0, False
        for topic in [*self._waiting]:
            if not batches:
                size = self._take(topic, batches, size, REQUEST_BYTES)
            elif size >= SHARED_BYTES or len(batches) >= SHARED_PARTS:
                break
            elif not joined and any(lane.in_flight > 1 or lane.apart for lane, _ in batches):
                break  # asked of the first topic's alone, once: each that joins is neither
            else:
                joined = True
                size = self._take(topic, batches, size, SHARED_BYTES, joining=True)
        if batches and batches[-1][0].topic != batches[0][0].topic:
            for lane, _ in batches:
                lane.shared = True
        return batches

    def _take(self, topic: Zxid, batches: list[tuple[Lane, OpenBatch]], size: int, size_max: int, joining: bool = False) -> int:
        """Take what is ready of a topic, as long as there is room; the size of all that is taken."""
        taken = waiting = False
        lanes, parts_max = self._by_topic[topic], SHARED_PARTS if joining else PARTS_MAX
        for lane in lanes.values():
            # A second batch of a lane may join the request only if there is no other way to fill it.
            while lane.ready and size < size_max and len(batches) < parts_max and not (joining and (lane.in_flight or lane.apart)):
                batch = lane.batches.popleft()
                batches.append((lane, batch))
                size += batch.size
                lane.in_flight += 1
                taken = True
                self.gathering.pop(topic, None)
                if self._sticky.get(topic) == lane.partition:
                    self._sticky[topic] += 1
            waiting = waiting or bool(lane.batches)
        if size >= size_max:
            # The next request begins with those partitions for which there was no room.
            for lane, _ in batches:
                if lane.topic == topic:
                    lanes[lane.partition] = lanes.pop(lane.partition)
        if not waiting:
            del self._waiting[topic]
        elif taken and not joining:
            # The next request begins with another topic. Who joined has had no turn of its own: some of it may wait for just that.
            del self._waiting[topic]
            self._waiting[topic] = None
        return size

    def answered(self, batches: list[tuple[Lane, OpenBatch]]) -> None:
        """These are under way no longer."""
        for lane, _ in batches:
            lane.in_flight -= 1
            lane.shared = lane.apart = False

    def put_back(self, batches: list[tuple[Lane, OpenBatch]]) -> None:
        """These were refused together, and are answered: each topic's shall be sent again without the others'."""
        for lane, batch in batches:
            assert not lane.in_flight, "the law that nothing overtakes what was refused together"
            lane.batches.appendleft(batch)
            lane.apart = True
            self._waiting[lane.topic] = None

    def take_waiting(self) -> Iterator[OpenBatch]:
        """What no request has taken yet, and none will."""
        self.gathering.clear()
        self._waiting.clear()
        for lanes in self._by_topic.values():
            for lane in lanes.values():
                lane.apart = False
                while lane.batches:
                    yield lane.batches.popleft()
