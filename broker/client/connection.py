"""One connection to one node: requests go out with an id, answers find their caller by it.

Requests are pipelined and answered in any order. A call that is cancelled forgets its id, so a late answer is thrown away and
never handed to the next caller. When the connection breaks, whoever still waits is told once. A node that says nothing while
something is asked of it (stopped, or cut off without a word) is first asked whether it is there; while it does not answer, the
cluster is asked whether somebody else leads by now; after two silences it is taken for gone.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from broker.errors import ConnectionLost
from broker.pipe import Pipe
from broker.protocol import Failed, Ping, Request, Response, decode_response, encode_request
from zablog.core.zxid import ZERO, PeerId
from zablog.transport.unix import dial
from zablog.wire import WireError
from zablog.wire.frames import FrameReader
from zablog.wire.handshake import CLIENT_VERSIONS, Hello, Purpose, Refused, Welcome, decode_handshake, encode_handshake

SILENCE_SECONDS: Final = 1.5
"""How long a node may say nothing, while it owes an answer, before it is asked whether it is there; and then again."""
OVERDUE_SECONDS: Final = 0.25
"""The same for answers that do not wait for data to come: to ask is cheap, and a slow node that answers loses nothing by it. A node that
was there each time it was asked is asked more and more rarely: it is busy, and a thousand clients that ask would make it busier."""
TRUST_LOST: Final = 0.95
"""By so much that wears off with each look at a node that was not silent."""

Answered = Callable[[Response | ConnectionLost], None]
"""Called once, from the connection's reader: it must not block and must not raise."""


class Connection:
    """Use `open_connection`. `lost` is set once and for all."""

    __slots__ = (
        "_next",
        "_patient",
        "_pipe",
        "_scope",
        "_stirred",
        "_waiting",
        "address",
        "cause",
        "cluster",
        "covers",
        "doubted",
        "lost",
        "node",
        "version",
    )

    def __init__(self, address: str, node: PeerId, cluster: str, pipe: Pipe, version: int = CLIENT_VERSIONS.highest) -> None:
        self.address = address
        self.version = version
        """Of the protocol, as agreed upon."""
        self.node = node
        self.cluster = cluster
        self.covers = ZERO
        """What the node was last asked to have applied, and has: all that is read here sees it, since it ends with its connection."""
        self.lost = trio.Event()
        self.cause = ""
        """Why it was lost."""
        self._pipe = pipe
        self._next = 0
        self._waiting: dict[int, Answered] = {}
        self._patient: set[int] = set()
        """Requests whose answers wait for data to come; they may have been answered meanwhile."""
        self.doubted: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        """Called again and again while the node owes a sign of life."""
        self._scope = trio.CancelScope()
        self._stirred: trio.Event | None = None
        """The watch rests, until something is asked."""

    @property
    def heard_at(self) -> float:
        """When the node last said something."""
        return self._pipe.received_at

    def post(self, request: Request, answered: Answered, patient: bool = False) -> int:
        """Send a request; `answered` is called with the answer, or with ConnectionLost, unless `forget` comes first.

        `patient`: the answer may take long, for it waits for data to come.
        """
        self._next += 1
        if self.lost.is_set():
            # Told later, not from within `post`: the caller is not ready for an answer yet.
            trio.lowlevel.current_trio_token().run_sync_soon(answered, ConnectionLost(self.address, self.cause))
            return self._next
        self._waiting[self._next] = answered
        if patient:
            self._patient.add(self._next)
        if self._stirred is not None:
            self._stirred.set()
        self._pipe.post(encode_request(self._next, request))
        return self._next

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self._waiting.pop(number, None)

    async def call(self, request: Request) -> Response:
        """Send a request and wait for its answer, refusals included. Raises ConnectionLost. May be cancelled at any point."""
        answer: list[Response | ConnectionLost] = []
        arrived = trio.Event()

        def answered(response: Response | ConnectionLost) -> None:
            answer.append(response)
            arrived.set()

        number = self.post(request, answered)
        try:
            await arrived.wait()
        finally:
            self.forget(number)
        if isinstance(answer[0], ConnectionLost):
            raise answer[0]
        return answer[0]

    def close(self, cause: str) -> None:
        """Give the connection up."""
        self.cause = self.cause or cause
        self._scope.cancel()

    async def run(self) -> None:
        """Serve the connection until it is lost; then tell everyone who waits."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_broken, self._pipe.write)
                    nursery.start_soon(self._until_broken, self._watch)
                    await self._until_broken(self._read)
        finally:
            self.lost.set()
            waiting, self._waiting = self._waiting, {}
            for answered in waiting.values():
                answered(ConnectionLost(self.address, self.cause or "closed"))
            with trio.CancelScope(shield=True):
                await self._pipe.aclose()

    async def _until_broken(self, serve: Callable[[], Awaitable[None]]) -> None:
        try:
            await serve()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.close(cause_of(error))
        except WireError as error:
            self.close(f"it does not speak our protocol: {error}")

    async def _read(self) -> None:
        while frames := await self._pipe.burst():
            for frame in frames:
                number, response = decode_response(frame)
                if number == 0 and isinstance(response, Failed):
                    self.close(f"the node sent this client away: {response.text}")
                answered = self._waiting.pop(number, None)
                if answered is not None:
                    answered(response)
        self.close("the node closed the connection")

    async def _watch(self) -> None:
        """Ask a silent node that owes an answer whether it is there."""
        overdue = OVERDUE_SECONDS
        idle_until = self.heard_at
        while True:
            asked = self._next
            await trio.sleep(OVERDUE_SECONDS)
            self._patient &= self._waiting.keys()
            if not self._waiting:
                if asked == self._next:
                    self._stirred = trio.Event()
                    await self._stirred.wait()
                    self._stirred = None
                idle_until = trio.current_time()
                continue
            silent = trio.current_time() - self.heard_at
            urgent = len(self._waiting) > len(self._patient)
            if silent < (overdue if urgent else SILENCE_SECONDS):
                overdue = max(OVERDUE_SECONDS, TRUST_LOST * overdue)
            else:
                overdue = min(2 * overdue, SILENCE_SECONDS)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ask_around)
                    # It is asked soon, but given up for what it owed alone: while nobody asks, a node has nothing to say.
                    owing = trio.current_time() - max(self.heard_at, idle_until)
                    with trio.move_on_after(max(2 * SILENCE_SECONDS - owing, SILENCE_SECONDS)) as patience:
                        await self.call(Ping())
                    nursery.cancel_scope.cancel()
                if patience.cancelled_caught:
                    self.close(f"the node has said nothing for {2 * SILENCE_SECONDS:g} s")

    async def _ask_around(self) -> None:
        while True:
            await trio.sleep(OVERDUE_SECONDS)
            await self.doubted()


async def open_connection(nursery: trio.Nursery, address: str, cluster: str | None = None) -> Connection:
    """Connect and shake hands; the connection's task lives in `nursery`. Raises ConnectionLost with the cause.

    A node of another cluster than `cluster` refuses: an address may have been given to somebody else since we learned it.
    """
    host, _, port = address.rpartition(":")
    try:
        stream = await dial(host.strip("[]"), int(port))
    except OSError as error:
        raise ConnectionLost(address, cause_of(error)) from error
    try:
        welcome, reader = await _shake_hands(stream, cluster)
    except (OSError, trio.BrokenResourceError) as error:
        await trio.aclose_forcefully(stream)
        raise ConnectionLost(address, cause_of(error)) from error
    except WireError as error:
        await trio.aclose_forcefully(stream)
        raise ConnectionLost(address, f"it does not speak our protocol: {error}") from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    if isinstance(welcome, Refused):
        await trio.aclose_forcefully(stream)
        raise ConnectionLost(address, f"refused: {welcome.text}")
    connection = Connection(address, welcome.node, welcome.cluster, Pipe(stream, reader=reader), welcome.version)
    nursery.start_soon(connection.run, name=f"connection to {address}")
    return connection


async def _shake_hands(stream: trio.abc.Stream, cluster: str | None) -> tuple[Welcome | Refused, FrameReader]:
    """The answer to our Hello, and the reader, which may hold what came right behind it."""
    for piece in encode_handshake(Hello(CLIENT_VERSIONS, Purpose.CLIENT, cluster)):
        await stream.send_all(piece)
    reader = FrameReader()
    while True:
        arrived = await stream.receive_some(len(reader.space()))
        if not arrived:
            raise OSError("it closed the connection during the handshake")
        space = reader.space()
        space[: len(arrived)] = arrived
        reader.received(len(arrived))
        for frame in reader.frames(at_most=1):
            word = decode_handshake(frame)
            if isinstance(word, Hello):
                raise OSError("it calls instead of answering")
            reader.admit()
            return word, reader


def cause_of(error: BaseException) -> str:
    """What went wrong with a stream, in the system's words: trio wraps them in its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return os.strerror(cause.errno).lower()
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__
    return str(error) or type(error).__name__
