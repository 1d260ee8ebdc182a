"""Frames over one socket: the half of a client connection that is the same on both ends.

One reader takes bursts of frames, one writer empties the outbox; whoever posts to the outbox never waits. The side that could
make it grow asks `queued_bytes` first, or waits for `room`. Requests and answers are the business of who holds the pipe.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

import trio

from zablog.core.trail import Payload
from zablog.wire.frames import FRAME_BYTES_MAX, JOIN_BYTES_MAX, Frame, FrameReader

PIECES_MAX: Final = 256
"""How many pieces one `sendmsg` is given; the kernel takes at most 1024."""


class Pipe:
    """One established connection, after its handshake. `write` must run in a task of its own for as long as the pipe is used."""

    __slots__ = ("_nonempty", "_outbox", "_reader", "_room", "_socket", "_stream", "queued_bytes", "received_at")

    def __init__(self, stream: trio.SocketStream, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._stream = stream
        self._socket = stream.socket
        self._reader = FrameReader(limit=frame_bytes_max)
        self._outbox: deque[Payload] = deque()
        self._nonempty = trio.Event()
        self._room = trio.Event()
        self.queued_bytes = 0
        """Bytes posted and not yet taken by the kernel."""
        self.received_at = trio.current_time()
        """When bytes last arrived."""

    async def burst(self) -> list[Frame]:
        """The next complete frames, at least one; none at the end of the stream. Raises FrameError, OSError or trio's errors."""
        while True:
            count = await self._socket.recv_into(self._reader.space())
            if not count:
                return []
            self.received_at = trio.current_time()
            self._reader.received(count)
            if frames := self._reader.frames():
                return frames

    def post(self, pieces: Sequence[Payload]) -> None:
        """Queue one frame for the writer."""
        self._outbox.extend(pieces)
        self.queued_bytes += sum(map(len, pieces))
        self._nonempty.set()

    async def room(self, bytes_max: int) -> None:
        """Wait until less than `bytes_max` is queued."""
        while self.queued_bytes >= bytes_max:
            self._room = trio.Event()
            await self._room.wait()

    async def write(self) -> None:
        """Send what is posted, for ever. Raises OSError or trio's errors when the connection is gone."""
        while True:
            if not self._outbox:
                self._nonempty = trio.Event()
                await self._nonempty.wait()
            await self._send_some()

    async def flush(self) -> None:
        """Send what is queued, then return: for a last word after `write` has been cancelled."""
        while self._outbox:
            await self._send_some()

    async def _send_some(self) -> None:
        """One `sendmsg` of the outbox's front. What the kernel did not take goes back to the front."""
        outbox = self._outbox
        if self.queued_bytes <= JOIN_BYTES_MAX:
            pieces: list[Payload] = [b"".join(outbox)] if len(outbox) > 1 else list(outbox)
            outbox.clear()
            outbox.extend(pieces)
        else:
            pieces = list(islice(outbox, PIECES_MAX))
        sent = await self._socket.sendmsg(pieces)
        self.queued_bytes -= sent
        while sent:
            piece = outbox[0]
            if sent < len(piece):
                outbox[0] = memoryview(piece)[sent:]
                break
            sent -= len(piece)
            outbox.popleft()
        self._room.set()

    async def aclose(self) -> None:
        await self._stream.aclose()
