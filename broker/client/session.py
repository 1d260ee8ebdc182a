"""A line of mutating requests that each take effect once, whatever happens to connections and leaders.

Every request carries the producer's id, the next sequence and the lowest sequence that is not answered yet; apply accepts only
the next one and answers a repeated one with its stored answer. So the session's whole art is to keep what is unanswered, in
order, and to send all of it again, in order, to whoever leads next. An attempt is one spell on one connection: what an
earlier attempt still answers is thrown away, because its requests have been sent again.

A request whose caller went away is sent again like the others: a sequence that was left out would stop all that follow. Only
the last ones can be withdrawn, if they were never sent or surely not proposed.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from broker.client.cluster import PASSING, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN, Cluster, unexpected
from broker.client.connection import Connection
from broker.errors import Attempt, BrokerError, Code, ConnectionLost, NoCluster, NoQuorum, OutcomeUnknown, ProducerLost, error_of
from broker.protocol import AllocateProducer, ClusterMetadata, Failed, Metadata, ProducerAllocated, Request, Response
from broker.state.commands import Turn
from broker.state.limits import limits_of
from zablog.core.zxid import Zxid

IN_FLIGHT_MAX: Final = 512
"""How many requests of one session may be unanswered, if the cluster keeps the answers to so many: a thousand topics that get a record
each are a thousand requests."""
IN_FLIGHT_FEW: Final = 8
"""So many are enough to fill a disk's pauses; and every cluster keeps the answers to as many."""
_LOST: Final = frozenset({Code.UNKNOWN_PRODUCER, Code.STALE_PRODUCER, Code.OUT_OF_SEQUENCE})
_NOT_PROPOSED: Final = frozenset({Code.NOT_LEADING, Code.OVERLOADED})

Build = Callable[[Turn], Request]
"""Makes the request, each time it is sent."""
Done = Callable[[Response | BrokerError], None]
"""Called once, from a connection's reader or the session's task: it must not block and must not raise."""


@dataclass(slots=True, eq=False)
class _Unanswered:
    sequence: int
    build: Build
    done: Done | None
    """None: its caller has been told already, or went away."""
    doubts: int = 0
    """How many times it was sent without word that it surely was not proposed."""


class Session:
    """One producer id. `run` must run in a task of its own; `submit` never waits and asks for `room` first."""

    __slots__ = (
        "_attempt",
        "_connection",
        "_detached",
        "_moved",
        "_next",
        "_progress",
        "_timeout",
        "_unanswered",
        "_wanted",
        "changed",
        "cluster",
        "lost",
        "producer",
        "window",
    )

    def __init__(self, cluster: Cluster, producer: Zxid, timeout: float, window: int = IN_FLIGHT_FEW) -> None:
        self.producer = producer
        self.window = window
        """How many requests may be unanswered."""
        self.lost: BrokerError | None = None
        """The cluster does not know this producer any more: nothing more can be submitted."""
        self.changed: Callable[[BrokerError | None], None] = lambda error: None
        """Called when there may be room again, after each `Done`; with an error when nothing moved for as long as is allowed."""
        self.cluster = cluster
        self._timeout = timeout
        self._next = 1
        self._unanswered: deque[_Unanswered] = deque()
        self._connection: Connection | None = None
        self._attempt = 0
        self._detached = trio.Event()
        """The attempt is over."""
        self._wanted = trio.Event()
        self._moved = trio.lowlevel.ParkingLot()
        """Those who wait for room or for the drain."""
        self._progress = trio.current_time()

    @property
    def room(self) -> int:
        """How many requests may be submitted now."""
        return self.window - self.under_way

    @property
    def under_way(self) -> int:
        """How many sequences are taken, from the lowest that is not answered on: the cluster keeps answers to all of them."""
        return self._next - self._unanswered[0].sequence if self._unanswered else 0

    @property
    def _lowest(self) -> int:
        return self._unanswered[0].sequence if self._unanswered else self._next

    def submit(self, build: Build, done: Done) -> None:
        """Take the next sequence and send the request as soon as there is a leader to send it to."""
        assert self.under_way < self.window, "whoever submits has looked for room"
        assert self.lost is None, "nothing is submitted to a lost session"
        if not self._unanswered:
            self._progress = trio.current_time()
        unanswered = _Unanswered(self._next, build, done)
        self._next += 1
        self._unanswered.append(unanswered)
        if self._connection is not None and not self._connection.lost.is_set():
            self._post(self._connection, unanswered)
        else:
            self._detach()
            self._wanted.set()

    async def call(self, build: Build) -> Response:
        """Submit and wait for the answer. Cancelling gives up the wait; the request is still carried out once, or never was sent."""
        with trio.move_on_after(2 * self._timeout):
            while self.room <= 0:
                await self._moved.park()
        if self.room <= 0:
            raise NoQuorum(f"no earlier request of this client was answered within {2 * self._timeout:g} s")
        if self.lost is not None:
            raise self.lost.again()
        answer: list[Response | BrokerError] = []
        arrived = trio.Event()

        def done(response: Response | BrokerError) -> None:
            answer.append(response)
            arrived.set()

        self.submit(build, done)
        await arrived.wait()
        if isinstance(answer[0], BrokerError):
            raise answer[0]
        return answer[0]

    async def drained(self) -> None:
        """Wait until nothing is unanswered that somebody still waits for."""
        while any(each.done is not None for each in self._unanswered):
            await self._moved.park()

    async def run(self) -> None:
        """Find the leader whenever something is unanswered, send it all again there, and watch that it is answered."""
        pause = PAUSE_SECONDS_MIN
        while True:
            while not self._unanswered:
                self._wanted = trio.Event()
                await self._wanted.wait()
            try:
                connection = await self.cluster.leader()
            except (NoQuorum, NoCluster) as error:
                self._give_up(error)
                continue
            before = self._lowest
            self._attach(connection)
            await self._until_detached(connection)
            pause = PAUSE_SECONDS_MIN if self._lowest > before else min(2 * pause, PAUSE_SECONDS_MAX)
            await trio.sleep(pause)

    def _attach(self, connection: Connection) -> None:
        self._attempt += 1
        self._connection = connection
        self._detached = trio.Event()
        for unanswered in tuple(self._unanswered):
            if self._connection is not connection:
                break
            self._post(connection, unanswered)

    async def _until_detached(self, connection: Connection) -> None:
        """The attempt's life. Ends when an answer or the connection says so, and on no answer at all for as long as is allowed."""
        # A leader that was found late has a little time of its own to show that it can write.
        grace = trio.current_time() + self._timeout / 4
        while self._connection is connection:
            # An answer wakes nobody here: it puts off what is due, and that is seen soon enough when the earlier time has come.
            due = self._progress + self._timeout if self._unanswered else trio.current_time() + self._timeout
            with trio.move_on_at(max(due, grace)):
                await self._detached.wait()
            now = trio.current_time()
            if self._unanswered and now >= self._progress + self._timeout and (self._connection is not connection or now >= grace):
                attempt = Attempt(connection.address, f"no answer to a write for {self._timeout:g} s")
                self._give_up(NoQuorum(f"no write was acknowledged within {self._timeout:g} s", attempts=[attempt]))
                self._detach()

    def _detach(self) -> None:
        self._connection = None
        self._detached.set()
        self._moved.unpark_all()

    def _post(self, connection: Connection, unanswered: _Unanswered) -> None:
        turn = Turn(self.producer, 0, unanswered.sequence, self._lowest)
        unanswered.doubts += 1
        connection.post(unanswered.build(turn), partial(self._answered, self._attempt, unanswered))

    def _answered(self, attempt: int, unanswered: _Unanswered, response: Response | ConnectionLost) -> None:
        failed = response if isinstance(response, Failed) else None
        if failed and failed.code in _NOT_PROPOSED:
            unanswered.doubts -= 1
        connection = self._connection
        if attempt != self._attempt or connection is None:
            return
        if isinstance(response, ConnectionLost):
            self._detach()
        elif failed and failed.code in PASSING:
            self.cluster.passing(connection, failed)
            self._detach()
        elif failed and failed.code in _LOST:
            self._lose(error_of(failed.code, failed.text))
        else:
            self._progress = connection.heard_at
            self._unanswered.remove(unanswered)
            done, unanswered.done = unanswered.done, None
            if done is not None:
                done(response)
            if self._moved:
                self._moved.unpark_all()
            self.changed(None)

    def _give_up(self, error: BrokerError) -> None:
        """No progress: tell the callers. What may have been proposed stays in line, with all before it, so that no gap remains.

        What comes last and surely was not proposed is withdrawn.
        """
        while self._unanswered and not self._unanswered[-1].doubts:
            withdrawn = self._unanswered.pop()
            self._next = withdrawn.sequence
            if withdrawn.done is not None:
                withdrawn.done(error.again())
        self._progress = trio.current_time()
        for unanswered in self._unanswered:
            done, unanswered.done = unanswered.done, None
            if done is not None:
                done(OutcomeUnknown(f"sent, and then: {error.message}", attempts=error.attempts))
        self._moved.unpark_all()
        self.changed(error)

    def _lose(self, cause: BrokerError) -> None:
        """The line is broken for good: what is unanswered may have been written, or not."""
        self.lost = cause if isinstance(cause, ProducerLost) else ProducerLost(cause.message)
        unanswered, self._unanswered = self._unanswered, deque()
        self._next = 1
        for each in unanswered:
            if each.done is not None:
                each.done(self.lost.again())
        self._detach()
        self.changed(self.lost)


async def _window(cluster: Cluster) -> int:
    """How many requests a producer that is allocated now may have under way."""
    answer = await cluster.ask(Metadata(()))
    if not isinstance(answer, ClusterMetadata):
        raise unexpected("Metadata", answer)
    return min(IN_FLIGHT_MAX, limits_of(answer.limits).producer_window)


async def open_session(nursery: trio.Nursery, cluster: Cluster, timeout: float) -> tuple[Session, trio.CancelScope]:
    """Allocate a producer id and start the session's task; it ends with the scope or the nursery.

    An allocation whose answer is lost has made an id that nobody uses; apply forgets it in time.
    """
    before = await _window(cluster)
    allocated = await cluster.ask(AllocateProducer())
    if not isinstance(allocated, ProducerAllocated):
        raise unexpected("AllocateProducer", allocated)
    # The limit of the moment of its allocation is this producer's for good: whichever of the two it was, the smaller one is safe.
    session = Session(cluster, allocated.producer, timeout, min(before, await _window(cluster)))
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await session.run()

    nursery.start_soon(run, name=f"producer session {allocated.producer}")
    return session, scope
