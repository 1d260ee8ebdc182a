"""The same API for blocking code: one trio thread behind each `connect`, which any number of threads may share.

    with broker.sync.connect("127.0.0.1:7401") as zl:
        zl.create_topic("orders", exist_ok=True)
        with zl.producer() as out:
            receipt = out.send("orders", b"paid")
        with zl.consumer("orders", start="earliest", stop="end") as inbox:
            for record in inbox:
                ...

Ctrl-C in a waiting call cancels that call alone, exactly as cancelling its asynchronous twin would. The thread ends with the block.
"""

import queue
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import trio

from broker import client
from broker.client.client import BUFFER_BYTES, TIMEOUT_SECONDS, ClusterStatus, ReadLevel
from broker.client.given import HeadersGiven
from broker.client.pending import Acks, Receipt
from broker.client.positions import Start, Stop
from broker.errors import BrokerError
from broker.protocol import NodeStatus, TopicDetails, TopicEntry
from broker.records import Record
from broker.state.commands import Retention
from broker.state.limits import Limits
from zablog.core.zxid import ZERO, Zxid

T = TypeVar("T")


@contextmanager
def connect(addresses: str, *, timeout: float = TIMEOUT_SECONDS, cluster: str | None = None) -> Iterator["Client"]:
    """A client, as `broker.connect` makes it."""
    with _open_thread() as thread:
        manager = client.connect(addresses, timeout=timeout, cluster=cluster)
        with thread.hold(manager) as inner:
            yield Client(thread, inner)


class Client:
    """See `broker.Client`."""

    def __init__(self, thread: "_Thread", inner: client.Client) -> None:
        self._thread = thread
        self._inner = inner

    def create_topic(self, name: str, partitions: int = 1, *, exist_ok: bool = False, retention: Retention | None = None) -> TopicEntry:
        return self._thread.call(partial(self._inner.create_topic, name, partitions, exist_ok=exist_ok, retention=retention))

    def alter_topic(self, name: str, retention: Retention) -> None:
        self._thread.call(partial(self._inner.alter_topic, name, retention))

    def delete_topic(self, name: str) -> None:
        self._thread.call(partial(self._inner.delete_topic, name))

    def list_topics(self) -> tuple[TopicEntry, ...]:
        return self._thread.call(self._inner.list_topics)

    def describe_topic(self, name: str) -> TopicDetails:
        return self._thread.call(partial(self._inner.describe_topic, name))

    def status(self) -> ClusterStatus:
        return self._thread.call(self._inner.status)

    def node_status(self, node: int) -> NodeStatus:
        return self._thread.call(partial(self._inner.node_status, node))

    def limits(self) -> Limits:
        return self._thread.call(self._inner.limits)

    def set_limits(self, **values: int) -> Limits:
        return self._thread.call(partial(self._inner.set_limits, **values))

    def read(
        self, topic: str, partition: int, offset: int, level: ReadLevel = "local", *, node: int | None = None, at_least: Zxid = ZERO
    ) -> Record:
        return self._thread.call(partial(self._inner.read, topic, partition, offset, level, node=node, at_least=at_least))

    @contextmanager
    def producer(self, *, acks: Acks = "quorum", buffer_bytes: int = BUFFER_BYTES) -> Iterator["Producer"]:
        with self._thread.hold(self._inner.producer(acks=acks, buffer_bytes=buffer_bytes)) as inner:
            yield Producer(self._thread, inner)

    @contextmanager
    def consumer(
        self,
        topics: str | Sequence[str],
        *,
        start: Start | None = None,
        stop: Stop | None = None,
        partition: int | None = None,
        node: int | None = None,
        read: ReadLevel | None = None,
        at_least: Zxid = ZERO,
    ) -> Iterator["Consumer"]:
        consumer = self._inner.consumer(topics, start=start, stop=stop, partition=partition, node=node, read=read, at_least=at_least)
        with self._thread.hold(consumer) as inner:
            yield Consumer(self._thread, inner)


class Producer:
    """See `broker.Producer`. Threads may share it."""

    def __init__(self, thread: "_Thread", inner: client.Producer) -> None:
        self._thread = thread
        self._inner = inner

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: HeadersGiven = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> Receipt:
        send = partial(self._inner.send, topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp)
        return self._thread.call(send)

    def submit(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: HeadersGiven = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> "Pending":
        submit = partial(self._inner.submit, topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp)
        return Pending(self._thread, self._thread.call(submit))

    def send_many(
        self, topic: str, values: Iterable[bytes | Record], *, key: bytes | None = None, partition: int | None = None
    ) -> Sequence[Receipt]:
        return self._thread.call(partial(self._inner.send_many, topic, values, key=key, partition=partition))

    def drain(self) -> None:
        self._thread.call(self._inner.drain)


class Pending:
    """See `broker.Pending`."""

    def __init__(self, thread: "_Thread", inner: client.Pending) -> None:
        self._thread = thread
        self._inner = inner

    @property
    def done(self) -> bool:
        return self._inner.done

    def wait(self) -> Receipt:
        return self._thread.call(self._inner.wait)


class Consumer:
    """See `broker.Consumer`. One thread iterates; it crosses to the trio thread once a batch."""

    def __init__(self, thread: "_Thread", inner: client.Consumer) -> None:
        self._thread = thread
        self._inner = inner
        self._records: Sequence[Record] = ()
        self._at = 0

    @property
    def positions(self) -> dict[tuple[str, int], int]:
        """The offset behind the last record handed out, by topic and partition."""
        positions = self._inner.positions
        if self._at < len(self._records):
            following = self._records[self._at]
            positions[following.topic, following.partition] = following.offset
        return positions

    def __iter__(self) -> "Consumer":
        return self

    def __next__(self) -> Record:
        if self._at >= len(self._records):
            records = self._next_batch()
            if records is None:
                raise StopIteration
            self._records, self._at = records, 0
        self._at += 1
        return self._records[self._at - 1]

    def batches(self) -> Iterator[Sequence[Record]]:
        """The records of one stored batch at a time, never none."""
        while True:
            rest, self._records = self._records[self._at :], ()
            records = rest or self._next_batch()
            if records is None:
                return
            yield records

    def _next_batch(self) -> Sequence[Record] | None:
        return self._thread.call(self._inner.next_batch)


# -- the thread -----------------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Call(Generic[T]):
    """One call on its way through the trio thread."""

    work: Callable[[], Awaitable[T]]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    answer: "queue.SimpleQueue[tuple[T] | BaseException]" = field(default_factory=queue.SimpleQueue)

    async def run(self) -> None:
        try:
            with self.scope:
                self.answer.put((await self.work(),))
                return
            self.answer.put(_Cancelled())
        except trio.Cancelled:
            self.answer.put(BrokerError("the block of `connect` was left while this call was waiting", maybe_written=True))
        except BaseException as error:  # it is the caller's, in another thread
            self.answer.put(error)


class _Cancelled(BaseException):
    """The caller's own doing: never seen by anybody."""


class _Thread:
    """Runs what it is given in one trio thread, in as many tasks as there are calls."""

    def __init__(self) -> None:
        self.token: trio.lowlevel.TrioToken | None = None
        self.nursery: trio.Nursery | None = None
        self.ready = threading.Event()
        self.failure: BaseException | None = None
        self.stop = trio.Event()

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, awaited in the trio thread. Interrupted, it is cancelled there first."""
        call = _Call(work)
        self.soon(call.run)
        answer = _get(call.answer, self, call)
        if isinstance(answer, BaseException):
            raise answer
        return answer[0]

    def soon(self, work: Callable[[], Awaitable[object]]) -> None:
        """Start a task."""
        assert self.nursery is not None, "the thread is ready before the first call"
        self.at_once(partial(self.nursery.start_soon, work))

    def at_once(self, work: Callable[[], object]) -> None:
        """Run in the trio thread, between two tasks."""
        assert self.token is not None, "the thread is ready before the first call"
        try:
            self.token.run_sync_soon(work)
        except trio.RunFinishedError:
            raise BrokerError("the block of `connect` was left") from None

    def hold(self, manager: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
        """Enter an asynchronous block now, in a task of its own, and leave it when the blocking block is left."""
        return _hold(self, manager)

    def main(self) -> None:
        try:
            trio.run(self.serve)
        except BaseException as error:
            self.failure = error
        finally:
            self.ready.set()

    async def serve(self) -> None:
        self.token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self.nursery:
            self.ready.set()
            await self.stop.wait()
            self.nursery.cancel_scope.cancel()


@contextmanager
def _open_thread() -> Iterator[_Thread]:
    thread = _Thread()
    runner = threading.Thread(target=thread.main, name="broker-sync", daemon=True)
    runner.start()
    thread.ready.wait()
    try:
        yield thread
    finally:
        with suppress(BrokerError):  # it has ended already: then it failed, and says so below
            thread.at_once(thread.stop.set)
        runner.join()
        if thread.failure is not None:
            raise thread.failure


class _Leaving:
    """Word to the task that holds a block: leave it, as if this had happened in it."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.error: BaseException | None = None


@contextmanager
def _hold(thread: _Thread, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """The block lives in one task from beginning to end, for a nursery in it may not change tasks."""
    entered: queue.SimpleQueue[tuple[T] | BaseException] = queue.SimpleQueue()
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    leaving: list[_Leaving] = []

    async def block() -> None:
        async with manager as value:
            leave = _Leaving()
            leaving.append(leave)
            entered.put((value,))
            await leave.event.wait()
            if leave.error is not None:
                raise leave.error

    call = _Call(block)

    async def run() -> None:
        await call.run()
        outcome = call.answer.get()
        error = outcome if isinstance(outcome, BaseException) else None
        if leaving:
            ended.put(error)
        else:
            entered.put(error or BrokerError("the block ended before it began"))

    thread.soon(run)
    answer = _get(entered, thread, call)
    if isinstance(answer, BaseException):
        raise answer
    try:
        yield answer[0]
    except BaseException as error:
        leaving[0].error = error
    thread.at_once(leaving[0].event.set)
    outcome = _get(ended, thread, call)
    if outcome is not None:
        raise outcome


def _get(answers: "queue.SimpleQueue[T]", thread: _Thread, call: "_Call[Any]") -> T:  # Any: whatever the call is about
    """What the trio thread answers. Interrupted, the call is cancelled there and has ended when the interruption goes on."""
    try:
        return answers.get()
    except BaseException:
        thread.at_once(call.scope.cancel)
        answers.get()
        raise
