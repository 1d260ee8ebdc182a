"""The client: what `broker.connect` gives. Everything it starts lives inside its block.

    async with broker.connect("127.0.0.1:7401") as zl:
        ...

Addresses are where to begin; the other nodes are learned from whoever answers. Calls look for the leader as long as `timeout`
seconds without progress allow, so a change of leader is a delay and not an error.
"""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import trio

from broker.client.cluster import READS_VERSION, Cluster, unexpected
from broker.client.consumer import Consumer
from broker.client.nursery import quiet_nursery
from broker.client.pending import Acks
from broker.client.positions import Start, Stop
from broker.client.producer import Producer, open_producer
from broker.client.session import Build, Session, open_session
from broker.client.topics import Topics, check_name, chunks
from broker.errors import (
    Attempt,
    BadRequest,
    ConfigError,
    ConnectionLost,
    NotAllowed,
    OffsetOutOfRange,
    ProducerLost,
    TopicExists,
    TopicNotFound,
    error_of,
)
from broker.protocol import (
    AlterTopic,
    CreateTopic,
    DeleteTopic,
    DescribeTopics,
    Failed,
    Level,
    LimitsSet,
    NodeAddress,
    NodeStatus,
    Response,
    SetLimits,
    Status,
    TopicAltered,
    TopicCreated,
    TopicDeleted,
    TopicDetails,
    TopicEntry,
    TopicsDescribed,
)
from broker.records import Record
from broker.state.commands import FOR_EVER, PARTITIONS_MAX, SEQUENCE_MAX, TIME_MAX, Retention
from broker.state.limits import Limits
from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid

BUFFER_BYTES = 32 << 20
TIMEOUT_SECONDS = 30.0
STATUS_SECONDS = 2.0
"""How long the status of the whole cluster waits for nodes that do not answer."""

ReadLevel = Literal["local", "session", "linearizable"]


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """Every node's own word, and why the others have none."""

    cluster: str
    leader: PeerId | None
    epoch: Epoch | None
    nodes: tuple[NodeStatus, ...]
    silent: tuple[Attempt, ...]
    """The nodes that did not answer."""


class Client:
    """Use `connect`. Its methods may be called from any number of tasks, and cancelled at any point."""

    def __init__(self, nursery: trio.Nursery, cluster: Cluster, timeout: float) -> None:
        self._nursery = nursery
        self._cluster = cluster
        self._timeout = timeout
        self._topics = Topics(cluster)
        self._session: Session | None = None
        """For administration; allocated with its first use."""
        self._opening = trio.Lock()

    # -- topics -------------------------------------------------------------------------------------------------------------

    async def create_topic(
        self, name: str, partitions: int = 1, *, exist_ok: bool = False, retention: Retention | None = None
    ) -> TopicEntry:
        """Make a topic. `exist_ok` accepts one that exists with as many partitions. Records are kept for ever unless `retention` says else.

        Raises TopicExists, BadName, BadRequest, LimitReached, NoQuorum.
        """
        check_name(name)
        if isinstance(partitions, bool) or not isinstance(partitions, int) or not 1 <= partitions <= PARTITIONS_MAX:
            raise BadRequest(f"topic {name}: {partitions!r} partitions: 1 to {PARTITIONS_MAX:,} are allowed")
        kept = check_retention(retention or FOR_EVER)
        try:
            answer = await self._change(lambda turn: CreateTopic(turn, name, partitions, kept))
        except TopicExists:
            entry = await self._topics.ask(name)
            if exist_ok and entry.partitions == partitions:
                return entry
            if exist_ok:
                raise TopicExists(
                    f"topic {name} exists with {entry.partitions} partitions, not {partitions}", hint="use another name"
                ) from None
            raise
        if not isinstance(answer, TopicCreated):
            raise unexpected("CreateTopic", answer)
        return await self._topics.ask(name)

    async def alter_topic(self, name: str, retention: Retention) -> None:
        """Keep a topic's records so long from now on. Raises TopicNotFound, BadRequest, NoQuorum."""
        check_retention(retention)
        entry = await self._topics.ask(name)
        answer = await self._change(lambda turn: AlterTopic(turn, entry.id, retention))
        if not isinstance(answer, TopicAltered):
            raise unexpected("AlterTopic", answer)

    async def delete_topic(self, name: str) -> None:
        """Delete a topic and all its records. Raises TopicNotFound, NoQuorum."""
        entry = await self._topics.ask(name)
        self._topics.forget(name)
        answer = await self._change(lambda turn: DeleteTopic(turn, entry.id))
        if not isinstance(answer, TopicDeleted):
            raise unexpected("DeleteTopic", answer)

    async def list_topics(self) -> tuple[TopicEntry, ...]:
        """All topics, by name."""
        return tuple(sorted(await self._topics.list(), key=lambda entry: entry.name))

    async def describe_topic(self, name: str) -> TopicDetails:
        """A topic with the first offset, the end and the bytes of each partition. What was acknowledged before is in it.

        Raises TopicNotFound.
        """
        (details,) = await self.describe_topics((name,))
        return details

    async def describe_topics(self, names: Sequence[str]) -> tuple[TopicDetails, ...]:
        """Several topics at once, in the order of their names here. Raises TopicNotFound."""
        entries = [await self._topics.ask(name) for name in names]
        found: list[TopicDetails] = []
        now = await self._cluster.current()
        for some in chunks(entries):
            answer = await self._cluster.ask(DescribeTopics(tuple(entry.id for entry in some)), now)
            if not isinstance(answer, TopicsDescribed) or len(answer.topics) != len(some):
                raise unexpected("DescribeTopics", answer)
            for entry, details in zip(some, answer.topics, strict=True):
                if details is None:
                    raise TopicNotFound(f"topic {entry.name!r} was deleted")
                found.append(details)
        return tuple(found)

    # -- records ------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def producer(self, *, acks: Acks = "quorum", buffer_bytes: int = BUFFER_BYTES) -> AsyncIterator[Producer]:
        """A producer with an id of its own: what it sends is in the log once, in order. Leaving the block drains it.

        `acks` is how safe a record is before it is acknowledged; this version knows "quorum" only. At most `buffer_bytes` are taken
        and not yet acknowledged. Raises NoQuorum; and when the block is left, the failure of a record nobody waited for.
        """
        if acks not in ("none", "leader", "quorum", "all"):
            raise BadRequest(f'acks={acks!r}: must be "none", "leader", "quorum" or "all"')
        if acks != "quorum":
            raise NotAllowed(f'acks="{acks}" is not offered yet', hint='acks="quorum" is fsync on a quorum')
        session, scope = await open_session(self._nursery, self._cluster, self._timeout)
        try:
            async with open_producer(self._nursery, session, self._topics, Level.QUORUM, buffer_bytes) as producer:
                yield producer
        finally:
            scope.cancel()

    @asynccontextmanager
    async def consumer(
        self,
        topics: str | Sequence[str],
        *,
        start: Start | None = None,
        stop: Stop | None = None,
        partition: int | None = None,
        node: int | None = None,
        read: ReadLevel | None = None,
        at_least: Zxid = ZERO,
    ) -> AsyncIterator[Consumer]:
        """Read topics from `start` on: "earliest", "latest", an offset, a datetime, a Zxid, or offsets by (topic, partition).

        With `stop` ("end": where each partition ends now) the iteration ends there; otherwise it waits for more for ever. `node`
        reads that node's own copy; otherwise the leader is asked. Records of a partition come in order; several partitions come in
        no particular order among each other.

        `read` is how fresh the node must be that says where things begin and end: "linearizable" sees everything that was acknowledged to
        anybody before this call (the default, unless a `node` is named), "session" everything this client was told or has read, "local"
        (the default with `node`) is what the node has. `at_least`: and everything through this `Receipt.token`. What is not there yet is
        waited for; TimedOut if the node makes no progress, WriteLost if the history with `at_least` was given up.

        Raises NoStartPosition, OffsetOutOfRange, TopicNotFound, PartitionNotFound, NodeNotFound, NoQuorum.
        """
        consumer = Consumer(self._cluster, node, await self._floor(read or await self._level_of(node), at_least))
        try:
            await consumer.open(self._topics, [topics] if isinstance(topics, str) else topics, partition, start, stop)
            yield consumer
        finally:
            consumer.close()

    async def _level_of(self, node: int | None) -> ReadLevel:
        """Where none is asked for. A leader of an earlier version serves as it always did."""
        return "local" if node or (await self._cluster.leader()).version < READS_VERSION else "linearizable"

    async def _floor(self, level: ReadLevel, at_least: Zxid) -> Zxid:
        """What a node must have applied for a read of this level."""
        if level not in ("local", "session", "linearizable"):
            raise BadRequest(f'read={level!r}: must be "local", "session" or "linearizable"')
        if level == "linearizable":
            at_least = max(at_least, await self._cluster.read_index())
        return max(at_least, self._cluster.seen) if level == "session" else at_least

    async def read(
        self, topic: str, partition: int, offset: int, level: ReadLevel = "local", *, node: int | None = None, at_least: Zxid = ZERO
    ) -> Record:
        """One record, of the leader's copy or of `node`'s. The levels are those of `consumer`.

        Raises OffsetOutOfRange, TopicNotFound, PartitionNotFound, NodeNotFound, NoQuorum.
        """
        wanted = {(topic, partition): offset}
        async with self.consumer(topic, start=wanted, stop="end", partition=partition, node=node, read=level, at_least=at_least) as inbox:
            async for record in inbox:
                return record
        details = (await self.describe_topic(topic)).partitions[partition]
        raise OffsetOutOfRange(
            f"{topic}/{partition} has no record at {offset} yet", details.first, details.end, hint="a consumer waits for it"
        )

    # -- the cluster --------------------------------------------------------------------------------------------------------

    async def nodes(self) -> tuple[NodeAddress, ...]:
        """The members of the cluster, as any one of them says."""
        return (await self._cluster.metadata()).nodes

    async def node_status(self, node: int) -> NodeStatus:
        """One node's own word. Raises NodeNotFound, ConnectionLost."""
        answer = await (await self._cluster.node(node)).call(Status())
        if not isinstance(answer, NodeStatus):
            raise unexpected("Status", answer)
        return answer

    async def status(self) -> ClusterStatus:
        """Every node's own word; the nodes that cannot be reached are listed with the reason. Raises NoCluster if none can be."""
        metadata = await self._cluster.metadata()
        found: dict[int, NodeStatus] = {}
        silent: dict[int, Attempt] = {}

        async def ask(member: NodeAddress) -> None:
            silent[member.id] = Attempt(member.address, f"no answer within {STATUS_SECONDS:g} s")
            try:
                connection = await self._cluster.connect(member.address)
                answer = await connection.call(Status())
            except ConnectionLost as error:
                silent[member.id] = Attempt(member.address, error.cause)
                return
            if isinstance(answer, NodeStatus):
                found[member.id] = answer
                del silent[member.id]

        with trio.move_on_after(STATUS_SECONDS):
            async with trio.open_nursery() as nursery:
                for member in metadata.nodes:
                    nursery.start_soon(ask, member)
        nodes = tuple(found[id] for id in sorted(found))
        leading = [status for status in nodes if status.role == "leading" and status.phase == "broadcast"]
        leader = max(leading, key=lambda status: status.epoch, default=None)
        return ClusterStatus(
            metadata.cluster,
            leader.id if leader else None,
            leader.epoch if leader else None,
            nodes,
            tuple(silent[id] for id in sorted(silent)),
        )

    async def limits(self) -> Limits:
        """The cluster's limits, as its leader has them. Raises NoQuorum."""
        await self._topics.list(())
        return self._topics.limits

    async def set_limits(self, **values: int) -> Limits:
        """Change some of the cluster's limits, by name: `set_limits(topics=20_000)`. What is there already stays, above them or not.

        Returns all of them. Raises BadRequest for a name or value that is not allowed, NoQuorum.
        """
        limits = (await self.limits()).changed(values) if values else "no limit was named"
        if isinstance(limits, str):
            raise BadRequest(limits, hint="`zablog limits` shows what may be set")
        answer = await self._change(lambda turn: SetLimits(turn, tuple(values.items())))
        if not isinstance(answer, LimitsSet):
            raise unexpected("SetLimits", answer)
        return await self.limits()

    # -- changes ------------------------------------------------------------------------------------------------------------

    async def _change(self, build: Build) -> Response:
        """A change that takes effect once. Raises what it is refused with."""
        async with self._opening:
            if self._session is None or self._session.lost is not None:
                self._session, _ = await open_session(self._nursery, self._cluster, self._timeout)
            session = self._session
        try:
            answer = await session.call(build)
        except ProducerLost as error:
            error.hint = "look whether it was done, and try again"
            raise
        if isinstance(answer, Failed):
            raise error_of(answer.code, answer.text, hint=answer.hint or None, maybe_written=answer.maybe_written)
        return answer


def connect(addresses: str, *, timeout: float = TIMEOUT_SECONDS, cluster: str | None = None) -> AbstractAsyncContextManager[Client]:
    """A client of the cluster that has nodes at `addresses`: HOST:PORT, several separated by commas.

    `cluster` is the id that these nodes must have (`zablog cluster status` shows it): whoever else listens there is not spoken to. Without
    it the first node that answers says which cluster is meant.

    `timeout` is how many seconds a call may be without progress (not how long it may take): then it raises NoQuorum, or NoCluster
    if not even one node answers, having written nothing, or OutcomeUnknown. Opening connects to nobody yet. Raises ConfigError for
    what is no address.
    """
    return _connect(parse_addresses(addresses), timeout, cluster)


@asynccontextmanager
async def _connect(addresses: Sequence[str], timeout: float, cluster: str | None) -> AsyncIterator[Client]:
    async with quiet_nursery() as nursery:
        yield Client(nursery, Cluster(nursery, addresses, timeout, random.Random(), cluster), timeout)


def parse_addresses(text: str) -> list[str]:
    """HOST:PORT,HOST:PORT. Raises ConfigError."""
    addresses: list[str] = []
    for each in text.split(","):
        address = each.strip()
        host, _, port = address.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigError(f"{address!r} is no address: HOST:PORT is needed, such as 127.0.0.1:7401; several separated by commas")
        addresses.append(address)
    return addresses


def check_retention(retention: Retention) -> Retention:
    """Raises BadRequest."""
    for what, number, most in zip(Retention._fields, retention, (TIME_MAX, SEQUENCE_MAX, SEQUENCE_MAX), strict=True):
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= most:
            raise BadRequest(f"retention {what}={number!r}: a number from 0 (for ever) to {most:,} is allowed")
    return retention
