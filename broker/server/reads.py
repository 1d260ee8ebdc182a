"""Requests that change nothing: any node answers them from what it has applied.

A leader answers about topics and offsets only once it has applied everything it knows to be committed, so that what was acknowledged
under its predecessor is there. Other nodes say how far they are and leave it to the client.
"""

import os
from collections.abc import Sequence

import trio

from broker.errors import Code, Corrupt
from broker.log import Partition
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
from zablog.core.zxid import Zxid


class Reads:
    """One for the node."""

    def __init__(self, node: Node, application: BrokerApplication, limits: Limits) -> None:
        self._node = node
        self._application = application
        self._limits = limits

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

    def offsets(self, request: Offsets) -> OffsetsFound:
        return OffsetsFound(tuple(self._offset(query) for query in request.queries), self._application.state.applied)

    def _offset(self, query: OffsetQuery) -> OffsetFound:
        missing = self._missing(query.topic, query.partition)
        if missing is not None:
            return OffsetFound(missing)
        partition = self._application.log.partition(query.topic, query.partition)
        try:
            return OffsetFound(FetchStatus.OK, _found(partition, query))
        except (Corrupt, OSError) as error:  # the rows of a segment are read when somebody looks for the first time
            self._application.report_damage(_words(error))
            return OffsetFound(FetchStatus.CORRUPT)

    def _missing(self, topic: Zxid, partition: int) -> FetchStatus | None:
        found = self._application.state.topics.get(topic)
        if found is None:
            return FetchStatus.TOPIC_NOT_FOUND
        return None if 0 <= partition < found.partitions else FetchStatus.PARTITION_NOT_FOUND

    def fetch_now(self, request: Fetch) -> Fetched | None:
        """What there is; None if that is nothing yet, and nothing is wrong either."""
        room = min(request.bytes_max, self._limits.fetch_bytes)
        answers: list[FetchedPartition] = []
        telling = False
        for wanted in request.partitions:
            answer = self._fetch_one(wanted, min(room, wanted.bytes_max))
            room = max(0, room - len(answer.batches))
            # A topic that this node has not come to yet is not missing: its id is the zxid of its creation.
            coming = answer.status is FetchStatus.TOPIC_NOT_FOUND and wanted.topic > self._application.state.applied
            telling = telling or bool(answer.batches) or (answer.status is not FetchStatus.OK and not coming)
            answers.append(answer)
        return Fetched(self._application.state.applied, answers) if telling else None

    def nothing(self, request: Fetch) -> Fetched:
        """The answer when the wait is over and nothing came."""
        return self.fetch_now(request) or Fetched(
            self._application.state.applied, [self._fetch_one(wanted, 0) for wanted in request.partitions]
        )

    def _fetch_one(self, wanted: FetchFrom, bytes_max: int) -> FetchedPartition:
        missing = self._missing(wanted.topic, wanted.partition)
        if missing is not None:
            return FetchedPartition(missing, 0, 0, b"")
        partition = self._application.log.partition(wanted.topic, wanted.partition)
        status, batches = FetchStatus.OK, b""
        if wanted.offset < partition.first:
            status = FetchStatus.OFFSET_OUT_OF_RANGE
        elif wanted.offset < partition.end and bytes_max > 0:
            try:
                batches = partition.read(wanted.offset, bytes_max)
            except (Corrupt, OSError) as error:
                status = FetchStatus.CORRUPT
                self._application.report_damage(_words(error))
        # An offset beyond the end is waited for: its record was committed somewhere, or the client will see that it was not.
        return FetchedPartition(status, partition.first, partition.end, batches)

    async def fetch_later(self, request: Fetch) -> Fetched:
        """Wait for data, or for something to say, as long as the request allows."""
        places: Sequence[tuple[Zxid, int]] = [(wanted.topic, wanted.partition) for wanted in request.partitions]
        with trio.move_on_after(min(request.wait_ms / 1000, self._limits.fetch_wait)):
            while True:
                event = trio.Event()
                self._application.watch(places, event)
                try:
                    # Looked at after the watch began, so nothing falls between the two.
                    if (fetched := self.fetch_now(request)) is not None:
                        return fetched
                    await event.wait()
                finally:
                    self._application.unwatch(places, event)
        return self.nothing(request)


def _words(error: Corrupt | OSError) -> str:
    return error.message if isinstance(error, Corrupt) else f"a segment cannot be read: {error}"


def _found(partition: Partition, query: OffsetQuery) -> int:
    """Raises Corrupt."""
    match query.where:
        case Where.FIRST:
            return partition.first
        case Where.END:
            return partition.end
        case Where.TIME:
            return partition.offset_at_time(query.time)
        case Where.ZXID:
            return partition.offset_at_zxid(query.zxid)
