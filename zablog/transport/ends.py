"""Bytes in and out of a stream with as few copies as it allows: sockets are received into and sent from in pieces.

Any other pair of trio streams (memory streams in tests) is served too, with copies.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

import trio

from zablog.core.trail import Payload
from zablog.transport.listening import join_address
from zablog.transport.unix import credentials
from zablog.wire.frames import JOIN_BYTES_MAX

PIECES_MAX: Final = 1024
"""IOV_MAX: the kernel takes no more pieces at once."""
UNSENT_BYTES: Final = 1 << 20
"""What the kernel may hold back unsent: a ping stands behind no more than this, which is as much as behind one large frame. Less (trio
asks for 16 KiB) breaks a proposal of large records into eight calls, each with a turn of the event loop, at either end."""
SILENCE_SECONDS: Final = 5.0
"""What was sent and not acknowledged by the peer's kernel for so long has broken the link, and so has a peer that takes nothing."""
LOOK_SECONDS: Final = 1.0
"""Whoever waits for room tries again after so long."""
REST_SECONDS: Final = 0.0002
"""Whoever has sent without waiting sends the next in a turn of its own, with all that has gathered: a call costs more than its bytes."""
BROKEN: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What a connection raises when it is of no more use."""


def broken(error: BaseException) -> str:
    return f"the connection broke: {error.__cause__ or str(error) or type(error).__name__}"


class Ends(Protocol):
    """Both directions of one connection. Raises OSError or trio's BrokenResourceError and ClosedResourceError."""

    async def receive_into(self, space: memoryview) -> int:
        """How many bytes were received; 0 at the end of the stream. `space` is not empty."""
        ...

    async def send(self, pieces: Sequence[Payload]) -> None:
        """Send all of it. When cancelled or failed, nobody knows how much was sent: the connection is of no more use."""
        ...

    def send_now(self, pieces: Sequence[Payload]) -> int:
        """How many bytes of them could be sent without waiting; what is wrong with the connection, `send` will find."""
        ...

    async def close(self) -> None: ...


def ends_of(stream: trio.abc.Stream) -> Ends:
    return SocketEnds(stream) if isinstance(stream, trio.SocketStream) else StreamEnds(stream)


def behind(pieces: Sequence[Payload], sent: int) -> list[Payload]:
    """What is left of them once so many bytes were sent."""
    rest: list[Payload] = []
    for piece in pieces:
        if sent >= len(piece):
            sent -= len(piece)
        else:
            rest.append(memoryview(piece)[sent:] if sent else piece)
            sent = 0
    return rest


class SocketEnds:
    __slots__ = ("_emptied", "_local", "_socket", "_stream")

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._socket = stream.socket
        self._emptied = False
        """Did the kernel have less than there was room for? Then the next call waits at once, instead of asking first."""
        self._local = stream.socket.family == socket.AF_UNIX
        with suppress(OSError):
            if self._local:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT_BYTES)
            elif (option := getattr(socket, "TCP_NOTSENT_LOWAT", None)) is not None:
                stream.setsockopt(socket.IPPROTO_TCP, option, UNSENT_BYTES)

    async def receive_into(self, space: memoryview) -> int:
        if not self._emptied:
            await trio.lowlevel.checkpoint()
        while True:
            if self._emptied:
                await trio.lowlevel.wait_readable(self._socket)
            try:
                count = os.readv(self._socket.fileno(), (space,))
            except BlockingIOError:
                self._emptied = True
            else:
                self._emptied = count < len(space)
                return count

    async def send(self, pieces: Sequence[Payload]) -> None:
        await trio.lowlevel.checkpoint()
        if len(pieces) > 1 and sum(map(len, pieces)) <= JOIN_BYTES_MAX:
            pieces = (b"".join(pieces),)
        for first in range(0, len(pieces), PIECES_MAX):
            await self._send_batch(pieces[first : first + PIECES_MAX])

    def send_now(self, pieces: Sequence[Payload]) -> int:
        try:
            return os.writev(self._socket.fileno(), pieces[:PIECES_MAX])
        except OSError:
            return 0

    async def _send_batch(self, batch: Sequence[Payload]) -> None:
        """One `writev` for all, more for what the kernel did not take."""
        since = trio.current_time()
        while batch:
            try:
                batch = behind(batch, os.writev(self._socket.fileno(), batch))
            except BlockingIOError:
                silence = trio.current_time() - since
                if self._local and silence >= SILENCE_SECONDS:  # with TCP the kernel says so
                    raise trio.BrokenResourceError(f"the other side has taken nothing for {silence:.1f} s") from None
                with trio.move_on_after(LOOK_SECONDS):  # a Unix socket says that there is room only when most of it is free
                    await trio.lowlevel.wait_writable(self._socket)
            else:
                since = trio.current_time()

    async def close(self) -> None:
        await self._stream.aclose()


class StreamEnds:
    __slots__ = ("_stream",)

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive_into(self, space: memoryview) -> int:
        received = await self._stream.receive_some(len(space))
        space[: len(received)] = received
        return len(received)

    async def send(self, pieces: Sequence[Payload]) -> None:
        await self._stream.send_all(b"".join(pieces))

    def send_now(self, pieces: Sequence[Payload]) -> int:
        return 0

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


def tune(stream: trio.abc.Stream) -> None:
    """No delay, and no hour-long patience with a peer that vanished without a word."""
    if not isinstance(stream, trio.SocketStream) or stream.socket.family == socket.AF_UNIX:
        return
    options = (
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", round(SILENCE_SECONDS * 1000)),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 2),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    )
    for level, name, value in options:
        if (option := getattr(socket, name, None)) is not None:
            with suppress(OSError):
                stream.setsockopt(level, option, value)


def address_of(stream: trio.abc.Stream) -> str:
    """The other side's HOST:PORT, or local:PID, for the log."""
    if isinstance(stream, trio.SocketStream):
        with suppress(OSError):
            if stream.socket.family == socket.AF_UNIX:
                return f"local:{credentials(stream.socket).process}"
            return join_address(*stream.socket.getpeername()[:2])
    return "unknown"
