"""Requests that change nothing: any node answers them from what it has applied.

A leader answers about topics and offsets only once it has applied everything it knows to be committed, so that what was acknowledged
under its predecessor is there. Other nodes say how far they are and leave it to the client.

What is long written may be on disk alone. A thread waits for it, and the answer is put together once it is in memory: so the indexes
are looked at by the event loop alone, and whatever became of a segment meanwhile is seen.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, TypeVar

import trio

from broker.errors import Code, Corrupt
from broker.log import Partition
from broker.log.cold import Cold
from broker.protocol import (
    Applied,
    ClusterMetadata,
    DescribeTopics,
    Failed,
    Fetch,
    Fetched,
    FetchedPartition,
    FetchFrom,
    FetchStatus,
    Metadata,
    NodeAddress,
    NodeStatus,
    OffsetFound,
    OffsetQuery,
    Offsets,
    OffsetsFound,
    PartitionDetails,
    PeerStatus,
    ReadIndexed,
    TopicDetails,
    TopicEntry,
    TopicsDescribed,
    WaitApplied,
    Where,
)
from broker.server.application import BrokerApplication
from broker.server.config import Limits
from broker.state import Topic
from zablog import LeadershipLost, Node, NodeStopped, NotLeading
from zablog.core.trail import Payload
from zablog.core.zxid import Zxid

Answer = TypeVar("Answer")
Colds = list[Cold] | None
"""Where an answer that must not wait for the disk puts what it would have to wait for. None: it may wait."""

COLD_READS_MAX: Final = 4
"""So many threads at most wait for the disk at a time: more would not make it faster."""
HUNG_SECONDS: Final = 10.0
"""A disk that brings nothing to anybody for so long hangs."""


class Reads:
    """One for the node."""

    def __init__(self, node: Node, application: BrokerApplication, limits: Limits) -> None:
        self._node = node
        self._application = application
        self._limits = limits
        self._threads = trio.CapacityLimiter(COLD_READS_MAX)
        self._hoping: set[trio.CancelScope] = set()
        """Of fetches that wait as long as the disk brings anything."""

    async def caught_up(self) -> None:
        """A leader: wait until everything that was committed when we were asked is applied. Others answer as they are."""
        status = self._node.status()
        if status.leads and status.applied < status.watermark:
            await self._node.wait_applied(status.watermark)

    async def read_index(self) -> ReadIndexed | Failed:
        """For a linearizable read, wherever it is made then. Only a leader that a quorum confirms can say."""
        try:
            return ReadIndexed(await self._node.read_index())
        except NotLeading as error:
            return Failed(Code.NOT_LEADING, str(error), leader=error.leader, leader_address=error.address)
        except (LeadershipLost, NodeStopped) as error:
            return Failed(Code.NOT_LEADING, str(error))

    async def wait_applied(self, request: WaitApplied) -> Applied | Failed:
        """Wait until we have come so far, as long as the request allows; and look whether our log has that place at all."""
        with trio.move_on_after(min(request.wait_ms / 1000, self._limits.fetch_wait)):
            await self._node.wait_applied(request.zxid)
        applied = self._application.state.applied
        if request.zxid <= applied and not self._node.covers(request.zxid):
            words = f"{request.zxid} is not in the log, which is applied through {applied}: its history was given up with its leader"
            return Failed(Code.WRITE_LOST, words, "read without this token to see what there is; write again what is missing")
        return Applied(applied)

    def metadata(self, request: Metadata) -> ClusterMetadata:
        status, state = self._node.status(), self._application.state
        if request.names is None:
            topics = list(state.topics.values())
        else:
            topics = [topic for name in request.names if (topic := state.topic_named(name)) is not None]
        return ClusterMetadata(
            self._node.identity.cluster,
            status.id,
            status.epoch,
            status.leader if status.serving else None,
            tuple(NodeAddress(id, address) for id, address in sorted(self._node.addresses.items())),
            tuple(TopicEntry(topic.id, topic.name, topic.partitions) for topic in topics),
            tuple(state.limits.values().items()),
        )

    def describe(self, request: DescribeTopics) -> TopicsDescribed:
        state = self._application.state
        return TopicsDescribed(tuple(self._details(state.topics.get(topic)) for topic in request.topics))

    def _details(self, topic: Topic | None) -> TopicDetails | None:
        if topic is None:
            return None
        partitions = [self._application.log.partition(topic.id, number) for number in range(topic.partitions)]
        rows = tuple(PartitionDetails(each.first, each.end, each.size) for each in partitions)
        return TopicDetails(topic.id, topic.name, topic.created, rows, topic.retention)

    def status(self) -> NodeStatus:
        status, identity = self._node.status(), self._node.identity
        return NodeStatus(
            identity.cluster,
            status.id,
            self._node.addresses[status.id],
            status.role if status.role in ("following", "leading") else "looking",
            status.phase,
            status.epoch,
            status.leader,
            status.last,
            status.watermark,
            status.applied,
            status.suspect,
            os.getpid(),
            tuple(
                PeerStatus(id, address, id in status.links, None) for id, address in sorted(self._node.addresses.items()) if id != status.id
            ),
            self._application.state.level,
            self._application.levels,
            round(1000 * status.silence_borne_seconds),
        )

    async def offsets(self, request: Offsets) -> OffsetsFound:
        return await self._warmed(partial(self._offsets, request))

    def _offsets(self, request: Offsets, cold: Colds) -> OffsetsFound:
        return OffsetsFound(tuple(self._offset(query, cold) for query in request.queries), self._application.state.applied)

    def _offset(self, query: OffsetQuery, cold: Colds) -> OffsetFound:
        missing = self._missing(query.topic, query.partition)
        if missing is not None:
            return OffsetFound(missing)
        partition = self._application.log.partition(query.topic, query.partition)
        try:
            return OffsetFound(FetchStatus.OK, _found(partition, query, cold is None))
        except Cold as place:
            return OffsetFound(_put_off(place, cold))
        except (Corrupt, OSError) as error:  # the rows of a segment are read when somebody looks for the first time
            self._application.report_damage(_words(error))
            return OffsetFound(FetchStatus.CORRUPT)

    def _missing(self, topic: Zxid, partition: int) -> FetchStatus | None:
        found = self._application.state.topics.get(topic)
        if found is None:
            return FetchStatus.TOPIC_NOT_FOUND
        return None if 0 <= partition < found.partitions else FetchStatus.PARTITION_NOT_FOUND

    def fetch_now(self, request: Fetch, cold: Colds = None) -> Fetched | None:
        """What there is; None if that is nothing yet, and nothing is wrong either. Does not wait for the disk if `cold` is given."""
        room = min(request.bytes_max, self._limits.fetch_bytes)
        answers: list[FetchedPartition] = []
        telling = False
        put_off: Cold | None = None
        for wanted in request.partitions:
            bytes_max = min(room, wanted.bytes_max)
            answer = self._fetch_one(wanted, bytes_max, cold)
            brought = len(answer.batches)
            if cold and cold[-1] is not put_off:
                # It takes up the room that it will need: what the answer will not hold must not be waited for.
                put_off = cold[-1]
                brought = min(bytes_max, put_off.bytes)
            room = max(0, room - brought)
            # A topic that this node has not come to yet is not missing: its id is the zxid of its creation.
            coming = answer.status is FetchStatus.TOPIC_NOT_FOUND and wanted.topic > self._application.state.applied
            telling = telling or bool(answer.batches) or (answer.status is not FetchStatus.OK and not coming)
            answers.append(answer)
        return Fetched(self._application.state.applied, answers) if telling else None

    def nothing(self, request: Fetch) -> Fetched:
        """The answer when the wait is over and nothing came."""
        return self.fetch_now(request) or self._empty(request)

    def _empty(self, request: Fetch) -> Fetched:
        return Fetched(self._application.state.applied, [self._fetch_one(wanted, 0) for wanted in request.partitions])

    def _fetch_one(self, wanted: FetchFrom, bytes_max: int, cold: Colds = None) -> FetchedPartition:
        missing = self._missing(wanted.topic, wanted.partition)
        if missing is not None:
            return FetchedPartition(missing, 0, 0, b"")
        partition = self._application.log.partition(wanted.topic, wanted.partition)
        status = FetchStatus.OK
        batches: Payload = b""
        if wanted.offset < partition.first:
            status = FetchStatus.OFFSET_OUT_OF_RANGE
        elif wanted.offset < partition.end and bytes_max > 0:
            try:
                batches = partition.read(wanted.offset, bytes_max, cold is None)
            except Cold as place:
                status = _put_off(place, cold)
            except (Corrupt, OSError) as error:
                status = FetchStatus.CORRUPT
                self._application.report_damage(_words(error))
        # An offset beyond the end is waited for: its record was committed somewhere, or the client will see that it was not.
        return FetchedPartition(status, partition.first, partition.end, batches)

    async def fetch(self, request: Fetch) -> Fetched:
        """Wait for the disk, then for data, or for something to say, as long as the request allows.

        From a disk that hangs nothing came, as if nothing were there: a client that waits in vain looks whether another node leads by now.
        """
        until = trio.current_time() + min(request.wait_ms / 1000, self._limits.fetch_wait)
        places: Sequence[tuple[Zxid, int]] = [(wanted.topic, wanted.partition) for wanted in request.partitions]
        while True:
            event = trio.Event()
            self._application.watch(places, event)
            try:
                # Looked at after the watch began, so nothing falls between the two.
                with self._hope() as hope:
                    if (fetched := await self._warmed(partial(self.fetch_now, request))) is not None:
                        return fetched
                if hope.cancelled_caught:
                    return self._empty(request)
                with trio.move_on_at(until) as scope:
                    await event.wait()
                if scope.cancelled_caught:
                    return self.nothing(request)
            finally:
                self._application.unwatch(places, event)

    async def _warmed(self, answer: "Callable[[Colds], Answer]") -> Answer:
        """The answer once nothing that it needs is cold. What a thread could not read, or read in vain, is waited for on the spot.

        Nobody has to wait for a thread in order to go away or to stop: a disk may hang, and what a thread warms concerns nobody else.
        """
        warmed: set[object] = set()
        while True:
            cold: list[Cold] = []
            found = answer(cold)
            if not cold:
                return found
            if any(each.place in warmed for each in cold):
                return answer(None)
            for each in cold:
                warmed.add(each.place)
                with suppress(Corrupt, OSError):  # whoever reads on the spot finds the same, and reports it
                    each.take(await trio.to_thread.run_sync(each.warm, limiter=self._threads, abandon_on_cancel=True))
                for scope in self._hoping:
                    scope.deadline = trio.current_time() + HUNG_SECONDS

    @contextmanager
    def _hope(self) -> Iterator[trio.CancelScope]:
        """Give up what is in the block once the disk hangs."""
        with trio.move_on_after(HUNG_SECONDS) as scope:
            self._hoping.add(scope)
            try:
                yield scope
            finally:
                self._hoping.discard(scope)


def _words(error: Corrupt | OSError) -> str:
    return error.message if isinstance(error, Corrupt) else f"a segment cannot be read: {error}"


def _put_off(place: Cold, cold: Colds) -> FetchStatus:
    """The answer is void: it will be given when this is warm."""
    assert cold is not None, "what may be waited for is not cold"
    cold.append(place)
    return FetchStatus.OK


def _found(partition: Partition, query: OffsetQuery, wait: bool) -> int:
    """Raises Corrupt, Cold."""
    match query.where:
        case Where.FIRST:
            return partition.first
        case Where.END:
            return partition.end
        case Where.TIME:
            return partition.offset_at_time(query.time, wait)
        case Where.ZXID:
            return partition.offset_at_zxid(query.zxid, wait)
