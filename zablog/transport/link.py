"""An established connection to one peer: one reader, one writer, and an outbox between the core, which never waits, and the wire.

The outbox has two lanes. Ping, Pong and Notification may overtake, so that no heartbeat stands behind a megabyte; everything else
keeps its order, because a COMMIT or NEWLEADER that overtook its proposals would speak of entries the follower does not have. The
kernel's own queue is kept short for the same reason.

A link ends once, for one reason. A send that failed or was cancelled has broken it: what came half through cannot be repeated.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import trio

from zablog.core import events
from zablog.core.messages import Message, Notification, Ping, Pong
from zablog.core.trail import Payload
from zablog.transport.ends import BROKEN, REST_SECONDS, Ends, behind, broken
from zablog.wire import WireError
from zablog.wire.codec import decode, encode
from zablog.wire.frames import FrameReader

CONGESTED_BYTES: Final = 8 << 20
"""An outbox this full is congested: the core sends bulk no more, until a stream from disk has gone through."""
ROOM_BYTES: Final = CONGESTED_BYTES // 2
"""An outbox with less than this has room again."""
BROKEN_BYTES: Final = 64 << 20
"""An outbox this full takes nothing more: the link is broken."""
BATCH_BYTES: Final = 256 << 10
"""What is handed to the kernel between two looks at the lane that overtakes."""

Received = Callable[[events.Link, list[Message]], object]
Hold = Callable[[], Awaitable[None]]

_OVERTAKING: Final = frozenset((Ping, Pong, Notification))


class Encoded(NamedTuple):
    """A message ready for the wire, whatever link it goes to."""

    pieces: Sequence[Payload]
    size: int
    overtakes: bool


def encoded(message: Message) -> Encoded:
    pieces = encode(message)
    return Encoded(pieces, sum(map(len, pieces)), type(message) in _OVERTAKING)


class PeerLink:
    """The connection behind an `events.Link`. Only `run` awaits; everything else may be called from within callbacks."""

    __slots__ = (
        "_ends",
        "_lanes",
        "_nonempty",
        "_now",
        "_reader",
        "_rest",
        "_room",
        "_scope",
        "_sent_at",
        "identity",
        "outbox_bytes",
        "reason",
    )

    def __init__(self, identity: events.Link, ends: Ends, reader: FrameReader) -> None:
        self.identity = identity
        self.reason: str | None = None
        """Why the link ended; None while it lives."""
        self.outbox_bytes = 0
        self._ends = ends
        self._reader = reader
        self._lanes: tuple[deque[Encoded], deque[Encoded]] = (deque(), deque())
        """What keeps its order, and what may overtake it."""
        self._rest: list[Payload] = []
        """What the kernel did not take of a message that was sent at once: nothing may overtake it."""
        self._sent_at = -math.inf
        self._now = trio.lowlevel.current_clock().current_time
        self._nonempty = trio.Event()
        self._room = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def congested(self) -> bool:
        return self.reason is None and self.outbox_bytes > CONGESTED_BYTES

    def post(self, message: Encoded) -> None:
        """Send a message at once if the link is at rest, else queue it. A link that has ended swallows it."""
        if self.reason is not None:
            return
        if self.outbox_bytes >= BROKEN_BYTES:
            self.end(f"its outbox of {self.outbox_bytes:,} bytes is full: the peer does not keep up")
            return
        sent = 0
        if not self.outbox_bytes and (now := self._now()) - self._sent_at >= REST_SECONDS:
            self._sent_at = now
            sent = self._ends.send_now(message.pieces)
            if sent == message.size:
                return
        if sent:
            self._rest = behind(message.pieces, sent)
        else:
            self._lanes[message.overtakes].append(message)
        self.outbox_bytes += message.size - sent
        self._nonempty.set()

    async def room(self) -> None:
        """Wait until the outbox has room again, or the link has ended."""
        while self.reason is None and self.outbox_bytes >= ROOM_BYTES:
            self._room = trio.Event() if self._room.is_set() else self._room
            await self._room.wait()
        await trio.lowlevel.checkpoint()

    def end(self, reason: str) -> None:
        """End the link, from now on: nothing more is received on it or sent."""
        if self.reason is None:
            self.reason = reason
            for lane in self._lanes:
                lane.clear()
            self._room.set()
            self._scope.cancel()

    async def run(self, received: Received, hold: Hold = trio.lowlevel.checkpoint_if_cancelled) -> str:
        """Serve the link until it ends, and say why it did. `hold` is awaited after each burst, before more is read."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._read, received, hold)
        finally:
            self.end("the network was closed")
            with trio.CancelScope(shield=True):
                await self._ends.close()
        assert self.reason is not None, "the law that a link ends for a reason"
        return self.reason

    async def _read(self, received: Received, hold: Hold) -> None:
        """A wake-up is a burst: all frames that are complete become one call. What the call raises is not ours to catch."""
        while self.reason is None:
            try:
                messages = [decode(frame) for frame in self._reader.frames()]
            except WireError as error:
                self.end(f"the peer sent garbage: {error}")
                return
            if messages:
                received(self.identity, messages)
                await hold()
            try:
                count = await self._ends.receive_into(self._reader.space())
            except BROKEN as error:
                self.end(broken(error))
                return
            if not count:
                self.end("the peer closed the connection")
            self._reader.received(count)

    async def _write(self) -> None:
        while self.reason is None:
            batch, size = self._next_batch()
            if not batch:
                self._nonempty = trio.Event()
                await self._nonempty.wait()
                continue
            try:
                await self._ends.send(batch)
            except BROKEN as error:
                self.end(broken(error))
                return
            self.outbox_bytes -= size
            if self.outbox_bytes < ROOM_BYTES:
                self._room.set()

    def _next_batch(self) -> tuple[list[Payload], int]:
        """Whole frames, what overtakes first. Only between two batches can anything overtake."""
        pieces, self._rest = self._rest, []
        size = sum(map(len, pieces))
        ordered, overtaking = self._lanes
        for lane in (overtaking, ordered):
            while lane and size < BATCH_BYTES:
                message = lane.popleft()
                pieces += message.pieces
                size += message.size
        return pieces, size
