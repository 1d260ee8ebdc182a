"""A node asked how it is, over a plain socket: for commands that have nothing else to do meanwhile, and so need not load trio."""

import socket
import time
from collections.abc import Sequence
from types import TracebackType

from broker.protocol import NodeStatus, Response, Status, decode_response, encode_request
from zablog.core.trail import Payload
from zablog.wire import WireError
from zablog.wire.frames import Frame, FrameReader
from zablog.wire.handshake import CLIENT_VERSIONS, Hello, Purpose, Welcome, decode_handshake, encode_handshake


class Asked:
    """One node, where it is looked for. The connection is kept from one question to the next; `with` closes it in the end."""

    def __init__(self, address: str, cluster: str | None = None) -> None:
        """A node of another cluster than the one that is named says nothing to us."""
        self.address = address
        self._cluster = cluster
        self._socket: socket.socket | None = None
        self._reader = FrameReader()
        self._deadline = 0.0

    def __enter__(self) -> "Asked":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection up; the next question makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def status(self, seconds: float) -> NodeStatus | None:
        """What the node says of itself; None if it does not within so many seconds."""
        self._deadline = time.monotonic() + seconds
        try:
            if self._socket is None:
                self._connect()
            self._send(encode_request(1, Status()))
            answer = self._answer()
        except (OSError, WireError):
            self.close()
            return None
        return answer if isinstance(answer, NodeStatus) else None

    def _connect(self) -> None:
        host, _, port = self.address.rpartition(":")
        self._socket = socket.create_connection((host.strip("[]"), int(port)), self._left())
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = FrameReader()
        self._send(encode_handshake(Hello(CLIENT_VERSIONS, Purpose.CLIENT, self._cluster)))
        if not isinstance(decode_handshake(self._frame()), Welcome):
            raise OSError("it refused us")
        self._reader.admit()

    def _answer(self) -> Response:
        number, response = decode_response(self._frame())
        if number != 1:
            raise OSError("it answered what was not asked")
        return response

    def _send(self, pieces: Sequence[Payload]) -> None:
        assert self._socket is not None, "the law that one is asked on a connection"
        self._socket.settimeout(self._left())
        self._socket.sendall(b"".join(pieces))

    def _frame(self) -> Frame:
        assert self._socket is not None, "the law that one is heard on a connection"
        while not (frames := self._reader.frames(at_most=1)):
            self._socket.settimeout(self._left())
            count = self._socket.recv_into(self._reader.space())
            if not count:
                raise OSError("it closed the connection")
            self._reader.received(count)
        return frames[0]

    def _left(self) -> float:
        """Seconds until the time is up; a little where it is, for 0 would mean not to wait at all."""
        return max(self._deadline - time.monotonic(), 0.001)
