"""Sockets of the simulated kernel: wires on which the shipped code makes its own system calls.

`zablog.transport.ends` reads and writes descriptors of sockets by itself, which costs less than trio's way. So most wires pose as trio's
`SocketStream`, with a descriptor that only the kernel below knows: it takes a part of what is written, has nothing yet to be read, and
says that a connection was reset, as Linux does. The other wires are plain streams, which the same code serves as well.
"""

import errno
from collections.abc import Sequence
from itertools import count
from socket import AF_INET

import trio

from tests.shell.disks import ShellDisk
from tests.shell.wires import UNREAD_BYTES_MAX, Wire, Wires, who


class Socket(Wire):
    """Stands in for `trio.SocketStream`, and for the socket within."""

    family = AF_INET
    kernel: "Kernel"
    descriptor: int

    @property
    def socket(self) -> "Socket":
        return self

    def fileno(self) -> int:
        return -1 if self.closed else self.descriptor

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if self.broken:
            raise OSError(errno.EINVAL, "Invalid argument")

    def getpeername(self) -> tuple[str, int]:
        if self.broken:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return "127.0.0.1", 40_000 + self.descriptor


class Kernel:
    """What stands in for `os` where sockets are read and written, and for trio's waiting until one can be read."""

    def __init__(self, wires: Wires) -> None:
        self.wires = wires
        self.numbers = count(3)
        self.open: dict[int, Socket] = {}
        self.disks: dict[int, ShellDisk] = {}
        """By the descriptor at which a node waits for the syncs that it has begun."""

    def pair(self, owner: str) -> tuple[Wire, Wire]:
        """Both ends of a connection to `owner`: sockets, or now and then plain streams."""
        if self.wires.random.random() < 0.2:
            return self.wires.plain_pair(owner)
        ends = Socket(self.wires, who.get(), owner), Socket(self.wires, owner, who.get())
        for end in ends:
            end.kernel, end.descriptor = self, next(self.numbers)
            self.open[end.descriptor] = end
        return ends

    def _socket(self, descriptor: int) -> Socket:
        socket = self.open.get(descriptor)
        if socket is None or socket.closed:
            raise OSError(errno.EBADF, "Bad file descriptor")
        if socket.broken:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        return socket

    def readv(self, descriptor: int, spaces: Sequence[memoryview]) -> int:
        socket, (space,) = self._socket(descriptor), spaces
        if not socket.here:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        piece = socket.read(len(space))
        space[: len(piece)] = piece
        return len(piece)

    def writev(self, descriptor: int, pieces: Sequence[bytes]) -> int:
        socket = self._socket(descriptor)
        if socket.other.closed:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        room = UNREAD_BYTES_MAX - socket.other.arriving_bytes
        if room <= 0:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        raw = b"".join(pieces)[:room]
        if self.wires.random.random() < 0.1:
            raw = raw[: self.wires.random.randrange(len(raw)) + 1]
        socket.other.take(raw)
        return len(raw)

    async def wait_readable(self, socket: Socket | int) -> None:
        await trio.lowlevel.checkpoint()
        if isinstance(socket, int):
            await self.disks[socket].sync_over()
            return
        while not socket.broken and not socket.here:
            if socket.closed:
                raise trio.ClosedResourceError("another task closed this socket")
            await socket.arrival()

    async def wait_writable(self, socket: Socket) -> None:
        await trio.lowlevel.checkpoint()
        while not socket.broken and not socket.other.closed and socket.other.arriving_bytes >= UNREAD_BYTES_MAX:
            if socket.closed:
                raise trio.ClosedResourceError("another task closed this socket")
            await socket.changed.park()
