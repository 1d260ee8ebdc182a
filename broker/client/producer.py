"""The producer: records in, receipts out, in order and once.

`send` awaits the receipt; `submit`, `send_nowait` and `send_many` keep many records under way. All wait for room in one bounded
buffer, nothing is dropped. One task forms requests: whenever the session has room, each topic's ready batches leave together, as
one proposal, and where they are little, those of several topics. What is refused together is sent again topic by topic, because
a refusal concerns the whole request and must not hit another topic's records.
Only a record that travels alone does not wait for the task: its `send` forms the request.
"""

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from typing import Final, cast

import trio

from broker.client.batching import Lane, Lanes, OpenBatch
from broker.client.given import HeadersGiven, check, check_size, headers_of
from broker.client.pending import Acks, Fate, Pending, Receipt, Receipts, Run
from broker.client.session import IN_FLIGHT_FEW, Session
from broker.client.topics import Topics
from broker.errors import BrokerError, Code, InternalError, RecordTooLarge, error_of
from broker.protocol import Failed, Level, Produce, Produced, Response, TopicEntry
from broker.records import Headers, Record
from broker.state.commands import Part, Turn

IN_FLIGHT_BYTES: Final = 1 << 20
"""With so many bytes under way a few requests are enough."""
CHECKPOINT_RECORDS: Final = 64
"""A full checkpoint costs more than the rest of `submit`, so only every so many records make one; the others look for cancellation."""
SLICE_RECORDS: Final = 4096
"""How many plain values `send_many` looks at before it hands them on."""
UNSEEN_MAX: Final = 64
"""How many failed batches that nobody has asked about are kept for the end of the block."""


class Producer:
    """Made by `Client.producer`. Its methods may be called from any number of tasks."""

    __slots__ = (
        "_alone",
        "_awake",
        "_bytes",
        "_bytes_max",
        "_in_flight_bytes",
        "_lanes",
        "_learning",
        "_level",
        "_nursery",
        "_room",
        "_session",
        "_submitted",
        "_topics",
        "_unlearned",
        "_unseen",
        "_woken",
    )

    def __init__(self, session: Session, topics: Topics, level: Level, buffer_bytes: int) -> None:
        self._session = session
        self._topics = topics
        self._level = level
        self._bytes_max = buffer_bytes
        self._bytes = 0
        self._lanes = Lanes()
        self._in_flight_bytes = 0
        """Of what requests have taken and nobody has answered: the rest of `_bytes` waits in its lanes."""
        self._alone = False
        """Did the last request hold one record? Its answer has woken one task then, not many whose next records make one batch."""
        self._submitted = 0
        self._woken = trio.Event()
        self._awake = False
        """Is it set? A flag is cheaper to look at for each record."""
        self._room = trio.lowlevel.ParkingLot()
        self._unseen: list[Fate] = []
        """Failures whose promises nobody has waited for; the first ones."""
        self._nursery: trio.Nursery | None = None
        """For questions about topics, while `run` runs."""
        self._learning: set[str] = set()
        self._unlearned: dict[str, BrokerError] = {}
        """What became of such questions, if it was not good."""
        session.changed = self._session_changed

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: HeadersGiven = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> Receipt:
        """Put one record into the log and return its receipt. `timestamp` is in milliseconds since 1970; default now.

        Raises RecordTooLarge, TopicNotFound, PartitionNotFound, NoQuorum (nothing was written) or OutcomeUnknown. If it is
        cancelled, the record is in the log once or not at all.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        pending = await self._accept(topic, value, key, headers, partition, timestamp)
        if self._alone and not self._in_flight_bytes:  # nothing is under way, and nobody was woken with us
            self._send_ready()
        else:
            self._wake()
        return await pending.wait()

    async def submit(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: HeadersGiven = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> Pending:
        """Wait for room, take the record and return the promise of its receipt."""
        self._submitted += 1
        if self._submitted % CHECKPOINT_RECORDS:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        pending = None
        if key is None and headers is None and partition is None and timestamp is None and type(value) is bytes:
            pending = self._take_plain(topic, value)
        if pending is None:
            pending = await self._accept(topic, value, key, headers, partition, timestamp)
        if not self._awake:
            self._wake()
        return pending

    async def _accept(
        self, topic: str, value: bytes | None, key: bytes | None, headers: HeadersGiven, partition: int | None, timestamp: int | None
    ) -> Pending:
        """Wait for room and take the record. The next request is the caller's to see to."""
        entry = self._topics.known(topic) or await self._topics.find(topic)
        while self._bytes >= self._bytes_max:
            await self._room.park()
        given = headers_of(headers) if headers else ()
        try:
            return self._take(entry, value, key, given, partition, timestamp)
        except RecordTooLarge:  # or no longer: the limit may have been raised
            return self._take(await self._topics.ask(topic), value, key, given, partition, timestamp)

    def send_nowait(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: HeadersGiven = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> Pending:
        """Take the record at once and return the promise of its receipt.

        Raises trio.WouldBlock if the buffer is full, or for a moment when a topic is used for the first time: the leader is being
        asked about it then (`prepare` does that beforehand), and a TopicNotFound is raised by the next call.
        """
        entry = self._topics.known(topic)
        if entry is None:
            self._learn_soon(topic)
            raise trio.WouldBlock
        if self._bytes >= self._bytes_max:
            raise trio.WouldBlock
        try:
            pending = self._take(entry, value, key, headers_of(headers), partition, timestamp)
        except RecordTooLarge:
            self._topics.forget(topic)  # the next call asks for the limit, too
            raise
        self._wake()
        return pending

    async def prepare(self, topic: str) -> None:
        """Learn what `send_nowait` must know of a topic. Raises TopicNotFound."""
        await self._topics.find(topic)

    def _learn_soon(self, topic: str) -> None:
        if (failure := self._unlearned.pop(topic, None)) is not None:
            raise failure
        if topic not in self._learning and self._nursery is not None:
            self._learning.add(topic)
            self._nursery.start_soon(self._learn, topic)

    async def _learn(self, topic: str) -> None:
        try:
            await self._topics.find(topic)
        except BrokerError as error:  # it is raised where the topic is used
            self._unlearned[topic] = error
        finally:
            self._learning.discard(topic)

    async def send_many(
        self, topic: str, values: Iterable[bytes | Record], *, key: bytes | None = None, partition: int | None = None
    ) -> Sequence[Receipt]:
        """Send many records in order and return their receipts once all have them. Large inputs wait for room on the way.

        Records may be given as values, or as `Record` with key and headers of their own. Raises what the first failed record
        failed with; others may have been written (`maybe_written` says so).
        """
        runs: list[Run] = []
        try:
            rest = iter(values)
            while some := list(islice(rest, SLICE_RECORDS)):
                await self._submit_some(topic, some, key, partition, runs)
        except BrokerError as error:
            error.maybe_written = error.maybe_written or bool(runs)
            raise
        known: list[tuple[Receipt, int]] = []
        failure: BrokerError | None = None
        for run in runs:
            try:
                known.append(await run.wait())
            except BrokerError as error:
                failure = failure or error
        if failure is not None:
            failure.maybe_written = failure.maybe_written or bool(known)
            raise failure
        return Receipts(known)

    async def drain(self) -> None:
        """Wait until every record taken so far has its receipt or its error."""
        self._wake()  # Ctrl-C may have come when a record was taken, and before this
        while self._bytes:
            await self._room.park()

    async def _submit_some(
        self, topic: str, values: list[bytes | Record], key: bytes | None, partition: int | None, runs: list[Run]
    ) -> None:
        """A slice of what `send_many` was given: plain values a batch at a time, others one by one."""
        if key is None and set(map(type, values)) == {bytes}:
            await self._submit_values(topic, cast(list[bytes], values), partition, runs)
            return
        for each in values:
            record = each if isinstance(each, Record) else Record(each, key)
            own, time = key if record.key is None else record.key, record.timestamp or None
            pending = await self.submit(topic, record.value, key=own, headers=record.headers, partition=partition, timestamp=time)
            runs.append(pending.run())

    async def _submit_values(self, topic: str, values: list[bytes], partition: int | None, runs: list[Run]) -> None:
        entry = await self._topics.find(topic)
        if (largest := max(map(len, values))) > self._topics.limits.record_bytes:
            entry = await self._topics.ask(topic)
            check_size(topic, largest, self._topics.limits)
        done = 0
        while done < len(values):
            await trio.lowlevel.checkpoint()
            while self._bytes >= self._bytes_max:
                await self._room.park()
            if self._session.lost is not None:
                raise self._session.lost.again()
            run = self._take_values(entry, values[done:], partition)
            self._wake()
            runs.append(run)
            done += run.count

    def _wake(self) -> None:
        """There is something for the task that forms requests."""
        self._woken.set()
        self._awake = True  # last: if Ctrl-C comes between the two, the next record wakes it once more

    @trio.lowlevel.enable_ki_protection  # as below
    def _take_plain(self, topic: str, value: bytes) -> Pending | None:
        """What nearly every record is, in the fewest steps: `_take` for a value alone. None if anything stands in its way."""
        entry = self._topics.known(topic)
        if (
            entry is None
            or self._bytes >= self._bytes_max
            or self._session.lost is not None
            or len(value) > self._topics.limits.record_bytes
        ):
            return None
        batch = self._lanes.gathering.get(entry.id)
        if batch is None or batch.full:
            batch = self._lanes.open(entry, None, None)
        before = batch.size
        pending = batch.add_plain(value, time.time_ns() // 1_000_000)
        self._bytes += batch.size - before
        return pending

    @trio.lowlevel.enable_ki_protection  # Ctrl-C must leave no record in a batch that the account of the buffer knows nothing of
    def _take(
        self, entry: TopicEntry, value: bytes | None, key: bytes | None, headers: Headers, partition: int | None, timestamp: int | None
    ) -> Pending:
        check(entry.name, value, key, headers, timestamp, self._topics.limits)
        if self._session.lost is not None:
            raise self._session.lost.again()
        batch = self._lanes.open(entry, key, partition)
        before = batch.size
        pending = batch.add(value, time.time_ns() // 1_000_000 if timestamp is None else timestamp, key, headers)
        self._bytes += batch.size - before
        return pending

    @trio.lowlevel.enable_ki_protection  # as above
    def _take_values(self, entry: TopicEntry, values: Sequence[bytes], partition: int | None) -> Run:
        run, size = self._lanes.lane(entry, None, partition).add_values(values, time.time_ns() // 1_000_000)
        self._bytes += size
        return run

    async def run(self) -> None:
        """Form requests, for ever."""
        async with trio.open_nursery() as self._nursery:
            await self._form_requests()

    async def _form_requests(self) -> None:
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            self._awake = False
            # One turn for whoever was woken together with us: their records travel in the same batch.
            await trio.lowlevel.checkpoint()
            self._send_ready()

    @trio.lowlevel.enable_ki_protection  # Ctrl-C must leave no record between its lane and its request: it would be waited for for ever
    def _send_ready(self) -> None:
        """Submit requests as long as records wait, there is room, and something is ready."""
        while self._bytes > self._in_flight_bytes and self._may_send and (batches := self._lanes.take_ready()):
            self._submit(batches)

    @property
    def _may_send(self) -> bool:
        """Is there room for another request? Many may be under way if they are small."""
        under_way = self._session.under_way
        return under_way < self._session.window and (under_way < IN_FLIGHT_FEW or self._in_flight_bytes < IN_FLIGHT_BYTES)

    def _submit(self, batches: list[tuple[Lane, OpenBatch]]) -> None:
        parts = [Part(lane.topic, lane.partition, batch.seal()) for lane, batch in batches]
        self._in_flight_bytes += sum([batch.size for _, batch in batches])
        self._alone = len(batches) == 1 and batches[0][1].fate.records == 1
        level = self._level

        def build(turn: Turn) -> Produce:
            return Produce(turn, level, parts)

        self._session.submit(build, partial(self._answered, batches))

    def _answered(self, batches: list[tuple[Lane, OpenBatch]], response: Response | BrokerError) -> None:
        error: BrokerError | None = None
        self._in_flight_bytes -= sum([batch.size for _, batch in batches])
        match response:
            case Produced(level, zxid, offsets) if len(offsets) == len(batches):
                self._session.cluster.saw(zxid)
                for (lane, batch), offset in zip(batches, offsets, strict=True):
                    batch.fate.keep(Receipt(lane.name, lane.partition, offset, zxid, _LEVEL_NAMES[level]))
            case Failed(maybe_written=False) if batches[0][0].shared:
                self._lanes.answered(batches)
                self._lanes.put_back(batches)
                return
            case Failed(code, text, hint, maybe_written):
                if code in (Code.TOPIC_NOT_FOUND, Code.PARTITION_NOT_FOUND, Code.RECORD_TOO_LARGE):
                    self._topics.forget(batches[0][0].name)
                error = error_of(code, text, hint=hint or None, maybe_written=maybe_written)
            case BrokerError():
                error = response
            case _:
                error = InternalError(f"Produce was answered with {type(response).__name__}", maybe_written=True)
        self._lanes.answered(batches)
        for _, batch in batches:
            if error is not None:
                self._fail(batch, error)
            self._release(batch)

    def _session_changed(self, error: BrokerError | None) -> None:
        """Requests were answered, or given up: there may be room in the session and in the buffer."""
        if error is not None:
            self._fail_waiting(error)
        if self._room:
            self._room.unpark_all()
        if self._bytes > self._in_flight_bytes:
            self._wake()

    def _fail_waiting(self, error: BrokerError) -> None:
        """What no request has taken yet fails too, and is surely not written."""
        for batch in self._lanes.take_waiting():
            unwritten = error.again()
            unwritten.maybe_written = False
            self._fail(batch, unwritten)
            self._release(batch)

    def _fail(self, batch: OpenBatch, error: BrokerError) -> None:
        batch.fate.fail(error)
        if batch.fate.unseen:
            self._unseen = [fate for fate in self._unseen if fate.unseen][: UNSEEN_MAX - 1]
            self._unseen.append(batch.fate)

    def _release(self, batch: OpenBatch) -> None:
        self._bytes -= batch.size
        assert self._bytes >= 0, "no more bytes are released than were taken"

    def raise_unseen(self) -> None:
        """Raise the failure of a record whose promise nobody waited for: no record disappears in silence."""
        failures = [fate for fate in self._unseen if fate.unseen]
        self._unseen = []
        if failures:
            error = failures[0].error
            assert error is not None, "what is in the list has failed"
            error = error.again()
            error.add_note(f"{sum(fate.unseen for fate in failures):,} records failed whose promises were not waited for")
            raise error


_LEVEL_NAMES: Final[Mapping[Level, Acks]] = {Level.NONE: "none", Level.LEADER: "leader", Level.QUORUM: "quorum", Level.ALL: "all"}


@asynccontextmanager
async def open_producer(
    nursery: trio.Nursery, session: Session, topics: Topics, level: Level, buffer_bytes: int
) -> AsyncIterator[Producer]:
    """The producer's task lives in `nursery` for as long as the block. Leaving the block drains, unless it is cancelled."""
    producer = Producer(session, topics, level, buffer_bytes)
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await producer.run()

    nursery.start_soon(run, name=f"producer {session.producer}")
    try:
        try:
            yield producer
        except BaseException:
            await producer.drain()
            raise
        await producer.drain()
        producer.raise_unseen()
    finally:
        scope.cancel()
