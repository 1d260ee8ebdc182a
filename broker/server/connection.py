"""One client's connection: requests in, answers out in whatever order they become known.

One task reads, one writes. Writes of a burst are proposed together and answered by a callback when they have been applied; reads
are answered on the spot; only a read that must wait, for data or for the disk, has a task of its own. A client that asks faster
than it reads its answers, or has too much under way, is read no further; nobody else notices. What no client of ours would send
ends the connection with an error frame (request number 0) and one line in the log.
"""

from contextlib import suppress
from functools import partial

import structlog
import trio

from broker.errors import Code
from broker.log.cold import Cold
from broker.pipe import Pipe
from broker.protocol import (
    AllocateProducer,
    AlterTopic,
    CreateTopic,
    DeleteTopic,
    DescribeTopics,
    Failed,
    Fetch,
    Metadata,
    Offsets,
    Ping,
    Ponged,
    Produce,
    ReadIndex,
    Request,
    Response,
    SetLimits,
    Status,
    WaitApplied,
    decode_request,
    encode_response,
)
from broker.server.config import Limits
from broker.server.reads import Reads
from broker.server.writes import BadWrite, Proposal, Writes
from broker.state.commands import COMMAND_BYTES_MAX
from zablog import NodeStopped
from zablog.transport.ends import BROKEN
from zablog.wire import WireError

REQUEST_BYTES_MAX = COMMAND_BYTES_MAX + (1 << 16)
LAST_WORD_SECONDS = 1.0

log = structlog.get_logger("broker.server")


class ClientConnection:
    """Use `serve`."""

    def __init__(self, stream: trio.abc.Stream, reads: Reads, writes: Writes, limits: Limits) -> None:
        self._pipe = Pipe(stream, REQUEST_BYTES_MAX)
        self._reads = reads
        self._writes = writes
        self._limits = limits
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._room = trio.lowlevel.ParkingLot()
        self._closed = False

    async def serve(self, peer: str) -> None:
        """Until the client goes away, or must go."""
        last_word: str | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, nursery.cancel_scope)
                try:
                    await self._read(nursery)
                except (WireError, BadWrite) as error:
                    last_word = str(error)
                except BROKEN:
                    pass
                nursery.cancel_scope.cancel()
        except* NodeStopped:
            pass  # whoever ended the node has said why; the client will look for another one
        finally:
            self._closed = True
        if last_word is not None:
            log.warning("client sent away", client=peer, reason=last_word)
            await _say(self._pipe, Failed(Code.BAD_REQUEST, last_word[:900]))

    async def _write(self, scope: trio.CancelScope) -> None:
        try:
            await self._pipe.write()
        except BROKEN:
            scope.cancel()

    async def _read(self, nursery: trio.Nursery) -> None:
        while frames := await self._pipe.burst():
            proposals: list[Proposal] = []
            for frame in frames:
                if self._crowded:
                    await self._writes.propose(proposals)
                    proposals = []
                    await self._until_room()
                number, request = decode_request(frame)
                size = len(frame.payload)
                self._in_flight += 1
                self._in_flight_bytes += size
                proposal = self._handle(number, request, partial(self._reply, number, size), nursery)
                if proposal is not None:
                    proposals.append(proposal)
            await self._writes.propose(proposals)

    @property
    def _crowded(self) -> bool:
        limits = self._limits
        return (
            self._in_flight >= limits.in_flight_requests
            or self._in_flight_bytes >= limits.in_flight_bytes
            or self._pipe.queued_bytes >= limits.outbox_bytes
        )

    async def _until_room(self) -> None:
        while self._crowded:
            if self._pipe.queued_bytes >= self._limits.outbox_bytes:
                await self._pipe.room(self._limits.outbox_bytes)
            else:
                await self._room.park()

    def _handle(self, number: int, request: Request, reply: "partial[None]", nursery: trio.Nursery) -> Proposal | None:
        """Answer now, in a task, or by the proposal that is returned."""
        match request:
            case Produce() | AllocateProducer() | CreateTopic() | AlterTopic() | DeleteTopic() | SetLimits():
                return self._writes.prepare(request, reply)
            case Fetch():
                cold: list[Cold] = []
                fetched = self._reads.fetch_now(request, cold)
                if cold or (fetched is None and request.wait_ms):
                    nursery.start_soon(self._fetch, request, reply)
                else:
                    reply(fetched or self._reads.nothing(request))
            case Ping():
                reply(Ponged())
            case Status():
                reply(self._reads.status())
            case ReadIndex():
                nursery.start_soon(self._read_index, reply)
            case WaitApplied():
                nursery.start_soon(self._wait_applied, request, reply)
            case Metadata() if request.names == ():
                # Who leads is said at once: nobody's topics depend on it.
                reply(self._reads.metadata(request))
            case Metadata() | DescribeTopics() | Offsets():
                nursery.start_soon(self._read_later, request, reply)
        return None

    async def _fetch(self, request: Fetch, reply: "partial[None]") -> None:
        reply(await self._reads.fetch(request))

    async def _read_index(self, reply: "partial[None]") -> None:
        reply(await self._reads.read_index())

    async def _wait_applied(self, request: WaitApplied, reply: "partial[None]") -> None:
        reply(await self._reads.wait_applied(request))

    async def _read_later(self, request: Metadata | DescribeTopics | Offsets, reply: "partial[None]") -> None:
        await self._reads.caught_up()
        match request:
            case Metadata():
                reply(self._reads.metadata(request))
            case DescribeTopics():
                reply(self._reads.describe(request))
            case Offsets():
                reply(await self._reads.offsets(request))

    def _reply(self, number: int, size: int, response: Response) -> None:
        self._in_flight -= 1
        self._in_flight_bytes -= size
        if self._room:
            self._room.unpark_all()
        if not self._closed:
            self._pipe.post(encode_response(number, response))


async def turn_away(stream: trio.abc.Stream, reason: str) -> None:
    """For a client that cannot be served now."""
    await _say(Pipe(stream), Failed(Code.OVERLOADED, reason))


async def _say(pipe: Pipe, last_word: Failed) -> None:
    """The last frame of a connection, if the client takes it soon."""
    with trio.move_on_after(LAST_WORD_SECONDS), suppress(*BROKEN):
        pipe.post(encode_response(0, last_word))
        await pipe.flush()
        await pipe.discard()
