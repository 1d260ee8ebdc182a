"""What bytes from elsewhere can be guilty of. Whoever catches one closes the connection it came from, and nothing else."""


class WireError(Exception):
    """These bytes are not our protocol. Nothing that followed them on the connection can be trusted."""


class FrameError(WireError):
    """The byte stream cannot be cut into frames any more."""


class MessageError(WireError):
    """A whole frame arrived, and its content is not a message of its kind."""
