"""Between processes of one machine: a Unix socket beside each loopback address.

The same bytes through TCP cost both ends about twice the processor. So a node that listens on 127.0.0.1:7401 listens on a Unix socket of
that name, too, and peers and clients that dial 127.0.0.1:7401 try the name first. Nobody has to say anything; with `unix_sockets = false` a
server is not to be had that way.

The name is in Linux's abstract namespace: it is no file, it is gone with its process, and it is seen from where that loopback address is
seen, which is one network namespace. It belongs to whoever takes it first, as ports do; but whoever has the port need not have the name.
So a caller believes it only of a listener that runs as the caller's own user, or as root, and takes TCP otherwise; and a node whose name is
held by somebody whom callers would believe does not come up.
"""

import os
import socket
import struct
import sys
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from typing import Final, NamedTuple

import trio

from zablog.transport.errors import AddressInUse
from zablog.transport.listening import join_address

CREDENTIALS: Final = struct.Struct("iII")
"""Linux's `struct ucred`."""
ROOT: Final = 0
NOBODY: Final = 65534
"""Also what the kernel says within a user namespace of users that have no number there: it may be anybody."""


class Credentials(NamedTuple):
    process: int
    user: int
    group: int


def name_of(host: str, port: int) -> str | None:
    """The name beside this address; None if it is no number, not loopback, or there are no such names on this system."""
    with suppress(ValueError):
        place = ip_address(host)
        if place.is_loopback and sys.platform == "linux":
            return f"\0zablog/{join_address(str(place), port)}"
    return None


def credentials(ours: socket.socket | trio.socket.SocketType) -> Credentials:
    """Of whoever made the other end: who connected, or who began to listen. Raises OSError."""
    return Credentials(*CREDENTIALS.unpack(ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)))


def listen_beside(listener: trio.SocketListener) -> trio.SocketListener | None:
    """A listener on the name beside that one's address, if there is such a name.

    Raises AddressInUse if somebody has it whom callers would take for us; OSError if it cannot be had, which harms nobody.
    """
    host, port = listener.socket.getsockname()[:2]
    if (name := name_of(host, port)) is None:
        return None
    if (other := _connect(name)) is not None:
        with other:
            who = f"process {credentials(other).process}"
        raise AddressInUse(f"{join_address(host, port)}: {who} listens on the Unix socket of that name. Stop it, or choose another port.")
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        ours.setblocking(False)
        ours.bind(name)
        ours.listen(socket.SOMAXCONN)
    except OSError:
        ours.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(ours))


async def dial(host: str, port: int) -> trio.abc.Stream:
    """Connect to whoever listens there: by the name beside the address, else by TCP. Raises OSError."""
    if (name := name_of(host, port)) is not None:
        await trio.lowlevel.checkpoint()
        if (found := _connect(name)) is not None:
            return trio.SocketStream(trio.socket.from_stdlib_socket(found))
    return await trio.open_tcp_stream(host, port)


def _connect(name: str) -> socket.socket | None:
    """This never waits: the kernel makes the connection, or refuses it, or has no room for it at the listener's."""
    with suppress(OSError), ExitStack() as stack:
        ours = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        ours.setblocking(False)
        ours.connect(name)
        user = credentials(ours).user
        if user == ROOT or (user == os.geteuid() and user != NOBODY):
            stack.pop_all()
            return ours
    return None
