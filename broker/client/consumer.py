"""The consumer: stored batches from one node, in, records of one partition after the other, out.

It has no task of its own. While the caller works on what has arrived, the next fetch is under way already: it was posted when the
last answer was taken up, and waits at the node for data (long polling). What goes wrong with it is met by whoever iterates, which
is also where lost connections are replaced. So at most two answers are in memory, and nothing can die in silence.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from broker.client import positions
from broker.client.cluster import PASSING, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN, Cluster, unexpected
from broker.client.connection import Connection
from broker.client.positions import Start, Stop
from broker.client.topics import Topics, chunks
from broker.errors import BadRequest, ConnectionLost, Corrupt, PartitionNotFound, TopicNotFound, error_of
from broker.log.stored import StoredBatch, split
from broker.protocol import (
    Failed,
    Fetch,
    Fetched,
    FetchedPartition,
    FetchFrom,
    FetchStatus,
    OffsetQuery,
    Offsets,
    OffsetsFound,
    Response,
    Where,
)
from broker.protocol.codec import FETCH_PARTITIONS_MAX
from broker.records import Record, header_of
from zablog.core.zxid import ZERO, Zxid

FETCH_BYTES: Final = 4 << 20
PARTITION_BYTES: Final = 1 << 20
WAIT_MS: Final = 10_000
"""How long a fetch waits at the node for data."""


@dataclass(slots=True)
class _Cursor:
    """How far one partition has been fetched."""

    topic: str
    id: Zxid
    partition: int
    offset: int
    """The next one wanted."""
    stop: int | None
    """The first one not wanted; None: no end."""
    earliest: bool = False
    """Wanted is whatever is there first, and nothing has come yet: what is let go of meanwhile is not missed."""

    @property
    def done(self) -> bool:
        return self.stop is not None and self.offset >= self.stop


class Consumer:
    """Made by `Client.consumer`. An iterator of records; one task iterates."""

    __slots__ = (
        "_answer",
        "_arrived",
        "_at",
        "_batches",
        "_cluster",
        "_connection",
        "_cursors",
        "_floor",
        "_node",
        "_number",
        "_positions",
        "_records",
        "_turn",
    )

    def __init__(self, cluster: Cluster, node: int | None, floor: Zxid = ZERO) -> None:
        """What has not applied everything through `floor` yet is waited for, before it says where anything begins or ends."""
        self._cluster = cluster
        self._node = node
        self._floor = floor
        self._cursors: list[_Cursor] = []
        self._turn = 0
        """Which partition a fetch names first: each in turn, so that none starves."""
        self._connection: Connection | None = None
        self._number: int | None = None
        """The fetch under way on that connection."""
        self._answer: tuple[list[_Cursor], Response | ConnectionLost] | None = None
        self._arrived = trio.Event()
        self._batches: deque[tuple[_Cursor, StoredBatch, int, int | None]] = deque()
        """What has arrived and was not asked for yet: batch, first offset wanted, first one not wanted."""
        self._records: Sequence[Record] = ()
        self._at = 0
        """The batch that is handed out record by record, and which is next."""
        self._positions: dict[tuple[str, int], int] = {}

    @property
    def positions(self) -> dict[tuple[str, int], int]:
        """The offset behind the last record handed out, by topic and partition."""
        positions = dict(self._positions)
        if self._at < len(self._records):
            following = self._records[self._at]
            positions[following.topic, following.partition] = following.offset
        return positions

    def __aiter__(self) -> "Consumer":
        return self

    async def __anext__(self) -> Record:
        """The next record. One checkpoint a batch; between its records only cancellation is looked for."""
        if self._at < len(self._records):
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            records = await self.next_batch()
            if records is None:
                raise StopAsyncIteration
            self._records, self._at = records, 0
        self._at += 1
        return self._records[self._at - 1]

    def batches(self) -> "Batches":
        """The records of one stored batch at a time, never none."""
        return Batches(self)

    async def next_batch(self) -> Sequence[Record] | None:
        """The records of the next stored batch; None when every partition has reached its stop.

        Raises NoQuorum, NoCluster or ConnectionLost when no node could be asked for as long as is allowed, TopicNotFound, Corrupt.
        """
        if self._at < len(self._records):
            await trio.lowlevel.checkpoint()
            rest, self._records = self._records[self._at :], ()
            return rest
        while True:
            while self._batches:
                await trio.lowlevel.checkpoint()
                if records := self._take_batch():
                    return records
            if self._answer is None and self._number is None:
                if all(cursor.done for cursor in self._cursors):
                    await trio.lowlevel.checkpoint()
                    return None
                self._post(await self._connect())
            await self._arrived.wait()
            await self._take_answer()

    def close(self) -> None:
        """Forget the fetch under way."""
        if self._connection is not None and self._number is not None:
            self._connection.forget(self._number)
        self._number = None

    async def open(self, topics: Topics, names: Sequence[str], partition: int | None, start: Start | None, stop: Stop | None) -> None:
        """Find the topics, and the offsets that `start` and `stop` mean. Raises what `Client.consumer` says."""
        places: list[tuple[str, Zxid, int]] = []
        for name in names:
            entry = await topics.ask(name, self._floor)
            if partition is not None and not 0 <= partition < entry.partitions:
                raise PartitionNotFound(f"topic {name!r} has partitions 0 to {entry.partitions - 1}, no partition {partition}")
            wanted = range(entry.partitions) if partition is None else (partition,)
            places += [(name, entry.id, each) for each in wanted]
        positions.check(start, "start", len(places))
        assert start is not None, "checked above"
        if stop is not None:
            positions.check(stop, "stop", len(places))
        if isinstance(start, Mapping):
            if strange := sorted(start.keys() - {(name, number) for name, _, number in places}):
                raise BadRequest(f"the mapping has an offset for {strange[0][0]}/{strange[0][1]}, which is not read here")
            places = [(name, id, number) for name, id, number in places if (name, number) in start]
        starts = await self._resolve(places, start)
        # The stop is asked for after the start, so it cannot lie before it merely because time went by.
        stops = [None] * len(places) if stop is None else await self._resolve(places, stop, is_stop=True)
        for (name, id, number), offset, end in zip(places, starts, stops, strict=True):
            self._cursors.append(_Cursor(name, id, number, offset, end, start == "earliest"))
            self._positions[name, number] = offset

    async def _resolve(self, places: Sequence[tuple[str, Zxid, int]], place: Start | Stop, is_stop: bool = False) -> list[int]:
        queries: list[OffsetQuery] = []
        for _, id, number in places:
            asked = positions.query(place, id, number)
            queries += [asked] if asked else [OffsetQuery(id, number, Where.FIRST), OffsetQuery(id, number, Where.END)]
        found = iter(await self._offsets(queries, places))
        offsets: list[int] = []
        for name, id, number in places:
            if positions.query(place, id, number) is not None:
                offsets.append(next(found))
                continue
            first, end = next(found), next(found)
            wanted = positions.offset(place, name, number)
            if wanted > end and self._node is not None:
                end = max(end, await self._leaders_end(id, number))  # what was read elsewhere was committed: this node will come to it
            if not is_stop:
                positions.check_range(name, number, wanted, first, end)
            offsets.append(wanted)
        return offsets

    async def _leaders_end(self, topic: Zxid, partition: int) -> int:
        answer = await self._cluster.ask(Offsets((OffsetQuery(topic, partition, Where.END),)))
        if not isinstance(answer, OffsetsFound) or len(answer.offsets) != 1:
            raise unexpected("Offsets", answer)
        return answer.offsets[0].offset

    async def _offsets(self, queries: Sequence[OffsetQuery], places: Sequence[tuple[str, Zxid, int]]) -> list[int]:
        return [offset for some in chunks(queries) for offset in await self._some_offsets(some, places)]

    async def _some_offsets(self, queries: Sequence[OffsetQuery], places: Sequence[tuple[str, Zxid, int]]) -> list[int]:
        while True:
            answer = await self._ask(Offsets(tuple(queries)))
            if not isinstance(answer, OffsetsFound):
                raise unexpected("Offsets", answer)
            behind = [
                query
                for query, found in zip(queries, answer.offsets, strict=True)
                if _not_there_yet(found.status, query.topic, answer.applied)
            ]
            if not behind:
                break
            # A node that was started a moment ago has not come as far as the topic's creation.
            await trio.sleep(PAUSE_SECONDS_MAX / 4)
        names = {id: name for name, id, _ in places}
        for query, found in zip(queries, answer.offsets, strict=True):
            _check(found.status, names[query.topic], query.partition)
        return [found.offset for found in answer.offsets]

    async def _ask(self, request: Offsets) -> Response:
        if self._node is None:
            return await self._cluster.ask(request, self._floor)
        while True:
            connection = await self._connect()  # its own loss of patience is the caller's to hear
            try:
                await self._cluster.cover(connection, self._floor)
                answer = await connection.call(request)
            except ConnectionLost:
                continue
            if isinstance(answer, Failed):
                raise error_of(answer.code, answer.text, hint=answer.hint or None)
            return answer

    async def _connect(self) -> Connection:
        if self._node is None:
            return await self._cluster.leader()
        return await self._cluster.node(self._node)

    def _post(self, connection: Connection) -> None:
        """Ask for what follows."""
        wanted = [cursor for cursor in self._cursors if not cursor.done]
        if not wanted:
            return
        self._turn = (self._turn + min(len(wanted) // 2, FETCH_PARTITIONS_MAX) + 1) % len(wanted)
        # If one fetch cannot name all partitions, it must not keep the others waiting for long.
        wait_ms = WAIT_MS if len(wanted) <= FETCH_PARTITIONS_MAX else WAIT_MS // 100
        wanted = (wanted[self._turn :] + wanted[: self._turn])[:FETCH_PARTITIONS_MAX]
        places = [FetchFrom(cursor.id, cursor.partition, cursor.offset, PARTITION_BYTES) for cursor in wanted]
        request = Fetch(places, FETCH_BYTES, wait_ms)
        self._arrived = arrived = trio.Event()

        def answered(response: Response | ConnectionLost) -> None:
            self._answer = (wanted, response)
            self._number = None
            arrived.set()

        self._connection = connection
        self._number = connection.post(request, answered, patient=True)

    async def _take_answer(self) -> None:
        """Take up what has arrived, and ask for what follows."""
        assert self._answer is not None and self._connection is not None, "an answer arrived"
        (cursors, answer), self._answer = self._answer, None
        connection = self._connection
        match answer:
            case Fetched(applied, partitions) if len(partitions) == len(cursors):
                for cursor, fetched in zip(cursors, partitions, strict=True):
                    self._queue(cursor, fetched, applied)
                if self._node is None and not self._batches:
                    # Nothing for a whole wait: is it that nobody writes, or that this node was left behind by its cluster?
                    await self._cluster.confirm(connection)
                if (self._node is not None or self._cluster.known_leader is connection) and not connection.lost.is_set():
                    self._post(connection)
            case ConnectionLost():
                await trio.sleep(PAUSE_SECONDS_MIN)
            case Failed(code, text) if code in PASSING:
                self._cluster.passing(connection, answer)
                await trio.sleep(PAUSE_SECONDS_MIN)
            case Failed(code, text, hint):
                raise error_of(code, text, hint=hint or None)
            case _:
                raise unexpected("Fetch", answer)

    def _queue(self, cursor: _Cursor, fetched: FetchedPartition, applied: Zxid) -> None:
        if _not_there_yet(fetched.status, cursor.id, applied):
            return
        if fetched.status is FetchStatus.OFFSET_OUT_OF_RANGE:
            if cursor.offset > fetched.end:
                return  # what was read elsewhere was committed: this node will come to it
            if cursor.earliest:
                cursor.offset = self._positions[cursor.topic, cursor.partition] = fetched.first
                return
            positions.check_range(cursor.topic, cursor.partition, cursor.offset, fetched.first, fetched.end)
        _check(fetched.status, cursor.topic, cursor.partition)
        for batch in split(fetched.batches):
            following = batch.base_offset + header_of(batch.batch).records
            if following <= cursor.offset:
                continue
            if cursor.done:
                break
            if batch.base_offset > cursor.offset:
                raise Corrupt(f"{cursor.topic}/{cursor.partition}: offset {cursor.offset} is missing before {batch.base_offset}")
            self._batches.append((cursor, batch, cursor.offset, cursor.stop))
            cursor.offset, cursor.earliest = following, False

    def _take_batch(self) -> Sequence[Record]:
        """The wanted records of the next batch that has arrived."""
        cursor, batch, first, stop = self._batches.popleft()
        self._cluster.saw(batch.zxid)
        records = batch.records(cursor.topic, cursor.partition)
        base = batch.base_offset
        if first > base or (stop is not None and stop < base + len(records)):
            records = records[first - base : None if stop is None else stop - base]
        if records:
            self._positions[cursor.topic, cursor.partition] = records[-1].offset + 1
        return records


class Batches:
    """Batch by batch: a class, so that leaving a loop early leaves nothing half-open."""

    __slots__ = ("_consumer",)

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __aiter__(self) -> "Batches":
        return self

    async def __anext__(self) -> Sequence[Record]:
        records = await self._consumer.next_batch()
        if records is None:
            raise StopAsyncIteration
        return records


def _not_there_yet(status: FetchStatus, topic: Zxid, applied: Zxid) -> bool:
    """The node has not come as far as the topic's creation (a topic's id is its zxid)."""
    return status is FetchStatus.TOPIC_NOT_FOUND and applied < topic


def _check(status: FetchStatus, topic: str, partition: int) -> None:
    """Raises what a status stands for."""
    match status:
        case FetchStatus.TOPIC_NOT_FOUND:
            raise TopicNotFound(f"topic {topic!r} was deleted")
        case FetchStatus.PARTITION_NOT_FOUND:
            raise PartitionNotFound(f"topic {topic!r} has no partition {partition}")
        case FetchStatus.CORRUPT:
            raise Corrupt(f"the node's copy of {topic}/{partition} is damaged", hint="read another node's: node=N")
        case _:
            pass
