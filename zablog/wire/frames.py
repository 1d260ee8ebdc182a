"""The one frame layer, for peers and clients.

    check    u32   CRC-32C of everything up to the end of the header
    length   u32   bytes of header and payload together
    kind     u8    0 to 63: handshake and peers; 64 to 127: clients
    zero     u8
    header   u16   bytes of the header, at most 16 KiB
    header   ...   short: a `struct` where it is hot, CBOR elsewhere
    payload  ...   raw bytes; the frame does not check them, what they contain does

All numbers are big-endian. The check covers the lengths, and it is verified before memory is taken for a payload, so neither noise
nor a flipped bit can make a reader wait for bytes that will never come.

`FrameReader` is sans-IO: receive into `space()`, say how much with `received(n)`, take `frames()`. One wake-up gives all frames
that are complete. A big payload is received straight into a buffer of its own.
"""

import struct
import sys
from typing import Final, NamedTuple

from google_crc32c import value as crc32c

from zablog.core.trail import Payload
from zablog.wire.errors import FrameError

HANDSHAKE_BYTES_MAX: Final = 4096
"""The largest frame a stranger may send."""
FRAME_BYTES_MAX: Final = 128 << 20
"""The largest frame of an established link, unless the connection is set lower: twice the window of proposals."""
HEADER_BYTES_MAX: Final = 16 << 10
BUFFER_BYTES: Final = 256 << 10
"""What a busy connection is received into; see BUFFER_BYTES_MIN."""
BUFFER_BYTES_MIN: Final = 32 << 10
"""What a connection begins with. It doubles whenever a burst has filled it: most connections of a thousand are idle."""
AHEAD_BYTES: Final = 4 << 10
"""Where a big payload is expected, no more than its beginning is received into the buffer: the rest would have to be copied from there."""
JOIN_BYTES_MAX: Final = 64 << 10
"""Below this a memory copy costs less than handing the kernel one more piece."""

_PREFIX: Final = struct.Struct(">IIBBH")
_CHECKED: Final = struct.Struct(">IBBH")
_CHECK: Final = struct.Struct(">I")
PREFIX_BYTES: Final = _PREFIX.size


class Frame(NamedTuple):
    """`payload` is safe to keep: it shares memory with no receive buffer. A big one is a bytearray of its own."""

    kind: int
    header: bytes
    payload: Payload = b""


def head(kind: int, header: bytes, payload_bytes: int) -> bytes:
    """Everything of a frame that goes before its payload."""
    assert 0 <= kind <= 127, f"a frame's kind is a number from 0 to 127, not {kind}"
    assert len(header) <= HEADER_BYTES_MAX, f"a header is short: at most {HEADER_BYTES_MAX} bytes, not {len(header)}"
    checked = _CHECKED.pack(len(header) + payload_bytes, kind, 0, len(header)) + header
    return _CHECK.pack(crc32c(checked)) + checked


def pieces(frame: Frame) -> list[Payload]:
    """The frame as pieces for `sendmsg`: one when it is small; a big payload is not copied."""
    first = head(frame.kind, frame.header, len(frame.payload))
    if not frame.payload:
        return [first]
    if len(frame.payload) <= JOIN_BYTES_MAX:
        return [b"".join((first, frame.payload))]
    return [first, frame.payload]


class FrameReader:
    """Cuts a byte stream into frames. Begins distrustful; `admit` raises the limit once the handshake is done.

    After a FrameError the stream has no frame boundaries any more: the connection must be closed.
    """

    __slots__ = (
        "_begin",
        "_big",
        "_body",
        "_body_have",
        "_body_header",
        "_body_kind",
        "_buffer",
        "_direct_bytes",
        "_end",
        "_most",
        "_view",
        "limit",
    )

    def __init__(self, limit: int = HANDSHAKE_BYTES_MAX, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.limit = limit
        """The largest frame accepted, in bytes of header and payload."""
        self._most = max(buffer_bytes, BUFFER_BYTES_MIN)
        self._allocate(2 * HANDSHAKE_BYTES_MAX if limit <= HANDSHAKE_BYTES_MAX else BUFFER_BYTES_MIN)
        self._begin = 0
        self._end = 0
        self._big = False
        """The last frame had a big payload. If the next one has, too, all of that but its beginning is received where it belongs."""
        self._body: bytearray | None = None
        """The big payload that is being received, with its kind and header, and how much of it has arrived."""
        self._body_kind = 0
        self._body_header = b""
        self._body_have = 0

    def admit(self, limit: int = FRAME_BYTES_MAX, buffer_bytes: int = BUFFER_BYTES) -> None:
        """The other side is known now: accept frames of up to `limit` bytes, and receive up to `buffer_bytes` at a time."""
        self.limit = limit
        self._most = max(buffer_bytes, BUFFER_BYTES_MIN)
        self._move(BUFFER_BYTES_MIN)

    def space(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._body is not None:
            return memoryview(self._body)[self._body_have :]
        if self._end == len(self._buffer) < self._most and self.limit > HANDSHAKE_BYTES_MAX:
            self._move(2 * len(self._buffer))
        elif self._begin == self._end:
            self._begin = self._end = 0
        elif len(self._buffer) - self._end < len(self._buffer) // 4:
            rest = self._end - self._begin
            self._view[:rest] = self._view[self._begin : self._end]
            self._begin, self._end = 0, rest
        return self._view[self._end : self._end + AHEAD_BYTES] if self._big else self._view[self._end :]

    def received(self, count: int) -> None:
        """`count` bytes were written to the beginning of `space()`."""
        if self._body is not None:
            self._body_have += count
        else:
            self._end += count

    def frames(self, at_most: int = sys.maxsize) -> list[Frame]:
        """All complete frames, in order. Raises FrameError."""
        out: list[Frame] = []
        if self._body is not None:
            if self._body_have < len(self._body):
                return out
            out.append(Frame(self._body_kind, self._body_header, self._body))
            self._body = None
        buffer, view, begin, end = self._buffer, self._view, self._begin, self._end
        while end - begin >= PREFIX_BYTES and len(out) < at_most:
            check, length, kind, zero, header_bytes = _PREFIX.unpack_from(buffer, begin)
            if length > self.limit or header_bytes > length or header_bytes > HEADER_BYTES_MAX or zero or kind > 127:
                raise FrameError(self._complaint(length, kind, zero, header_bytes))
            header_begin = begin + PREFIX_BYTES
            header_end = header_begin + header_bytes
            if header_end > end:
                break
            frame_end = header_begin + length
            if frame_end > end and length - header_bytes <= self._direct_bytes:
                self._big = False
                break
            if crc32c(bytes(view[begin + 4 : header_end])) != check:
                raise FrameError(f"a frame (kind {kind}, {length} bytes) failed its header checksum")
            header = bytes(view[header_begin:header_end])
            if frame_end > end:
                body = bytearray(length - header_bytes)
                have = end - header_end
                body[:have] = view[header_end:end]
                self._body, self._body_kind, self._body_header, self._body_have = body, kind, header, have
                self._big = len(body) > JOIN_BYTES_MAX
                begin = end
                break
            self._big = False
            out.append(Frame(kind, header, bytes(view[header_end:frame_end])))
            begin = frame_end
        self._begin = begin
        return out

    @property
    def waiting(self) -> int:
        """Bytes received that no frame has been made of yet."""
        return self._body_have if self._body is not None else self._end - self._begin

    def feed(self, stream: bytes) -> list[Frame]:
        """`stream` arrived: for tests, simulators and others who have the bytes already."""
        if self._begin == self._end and self._body is None and len(stream) < len(self._buffer):  # nearly always, in a simulator
            self._begin, self._end = 0, len(stream)
            self._view[: self._end] = stream
            return self.frames()
        out: list[Frame] = []
        rest = memoryview(stream)
        while rest:
            self._big = False  # the bytes are copied in any case
            space = self.space()
            count = min(len(space), len(rest))
            space[:count] = rest[:count]
            rest = rest[count:]
            self.received(count)
            out += self.frames()
        return out

    def _move(self, size: int) -> None:
        """What no frame has been made of yet, into a buffer of another size."""
        rest = bytes(self._view[self._begin : self._end])
        self._allocate(size)
        self._view[: len(rest)] = rest
        self._begin, self._end = 0, len(rest)

    def _allocate(self, size: int) -> None:
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        # A frame that is still waited for in the buffer must fit in it: prefix, the largest header, this much payload.
        self._direct_bytes = size // 4 if size >= BUFFER_BYTES_MIN else HANDSHAKE_BYTES_MAX

    def _complaint(self, length: int, kind: int, zero: int, header_bytes: int) -> str:
        if length > self.limit:
            return f"a frame of {length:,} bytes, and at most {self.limit:,} are taken on this connection (or this is not our protocol)"
        return f"not a frame: kind {kind}, zero byte {zero}, header of {header_bytes:,} bytes in {length:,}"
