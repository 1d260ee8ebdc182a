"""Frames over one stream: the half of a client connection that is the same on both ends.

One reader takes bursts of frames, one writer empties the outbox; whoever posts to the outbox never waits. The side that could
make it grow asks for `room`. Requests and answers are the business of who holds the pipe.
"""

import math
from collections.abc import Sequence

import trio

from zablog.core.trail import Payload
from zablog.transport.ends import REST_SECONDS, behind, ends_of
from zablog.wire.frames import FRAME_BYTES_MAX, Frame, FrameReader


class Pipe:
    """One established connection, after its handshake. `write` must run in a task of its own for as long as the pipe is used."""

    __slots__ = ("_ends", "_nonempty", "_now", "_outbox", "_reader", "_room", "_sending", "_sent_at", "_waiting_bytes", "received_at")

    def __init__(self, stream: trio.abc.Stream, frame_bytes_max: int = FRAME_BYTES_MAX, reader: FrameReader | None = None) -> None:
        """`reader` has read the handshake, and perhaps more than that."""
        self._ends = ends_of(stream)
        self._reader = reader or FrameReader(limit=frame_bytes_max)
        self._outbox: list[Payload] = []
        self._waiting_bytes = 0
        self._sending = 0
        self._nonempty = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._sent_at = -math.inf
        self._now = trio.lowlevel.current_clock().current_time
        self.received_at = self._now()
        """When bytes last arrived."""

    @property
    def queued_bytes(self) -> int:
        """Bytes posted and not yet taken by the kernel."""
        return self._waiting_bytes + self._sending

    async def burst(self) -> list[Frame]:
        """The next complete frames, at least one; none at the end of the stream. Raises FrameError, OSError or trio's errors."""
        while not (frames := self._reader.frames()):
            count = await self._ends.receive_into(self._reader.space())
            if not count:
                return []
            self.received_at = self._now()
            self._reader.received(count)
        return frames

    def post(self, pieces: Sequence[Payload]) -> None:
        """Send one frame at once if nothing was sent just now, else queue it for the writer."""
        if not self.queued_bytes and (now := self._now()) - self._sent_at >= REST_SECONDS:
            self._sent_at = now
            pieces = behind(pieces, self._ends.send_now(pieces))
            if not pieces:
                return
        self._outbox.extend(pieces)
        self._waiting_bytes += sum(map(len, pieces))
        self._nonempty.set()

    async def room(self, bytes_max: int) -> None:
        """Wait until less than `bytes_max` is queued."""
        while self.queued_bytes >= bytes_max:
            await self._room.park()

    async def write(self) -> None:
        """Send what is posted, for ever. Raises OSError or trio's errors when the connection is gone."""
        while True:
            await self._nonempty.wait()
            await self.flush()

    async def flush(self) -> None:
        """Send what is queued. Never called while `write` runs: one writer."""
        while self._outbox:
            pieces, self._outbox = self._outbox, []
            self._sending, self._waiting_bytes = self._waiting_bytes, 0
            await self._ends.send(pieces)
            self._sending = 0
            self._room.unpark_all()
        self._nonempty = trio.Event()

    async def discard(self) -> None:
        """Read and throw away until the other side closes: closing over unread bytes would reset the connection, and take
        our last words with it."""
        nowhere = memoryview(bytearray(16 << 10))
        while await self._ends.receive_into(nowhere):
            pass

    async def aclose(self) -> None:
        await self._ends.close()
