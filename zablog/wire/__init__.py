"""Bytes and back, for peers and clients alike. Pure: no socket, clock or disk is imported here.

- `frames`: the one frame layer: `pieces(Frame(...))` out, `FrameReader` in. Kinds 0 to 63 belong to peers and the handshake,
  64 to 127 to the client protocol.
- `cbor`: strict CBOR for what is not hot.
- `handshake`: `Hello`, `Welcome`, `Refused`, the first words on every connection.
- `codec`: the messages of `zablog.core` as frames.

What comes in is anybody's bytes: every fault of theirs is a `WireError` in words, never another exception, and every length is
compared with a limit before memory is taken for it.
"""

from zablog.wire.errors import FrameError, MessageError, WireError

__all__ = ["FrameError", "MessageError", "WireError"]
