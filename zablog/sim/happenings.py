"""What may happen to a puppet: one of these is one step of it."""

from __future__ import annotations

from typing import NamedTuple

from zablog.core.messages import Message
from zablog.core.zxid import PeerId
from zablog.sim.platter import Content


class Start(NamedTuple):
    """The process recovers from its disk."""


class Die(NamedTuple):
    """The process dies; of the durable operations under way, the first so many have happened."""

    written: int


class Sync(NamedTuple):
    """So many durable operations, the oldest under way, are done: one group commit."""

    written: int


class Read(NamedTuple):
    """The next piece of what is to be read from the log for a learner has been read: one entry."""

    peer: PeerId


class Checkpoint(NamedTuple):
    """The state as it is goes to the disk, and the log below it goes from there."""


class Fetch(NamedTuple):
    """The snapshot that the leader offered has come over, and is on the disk."""

    content: Content


class Lead(NamedTuple):
    """The oracle names it. `candidacy` counts such namings, of all nodes."""

    candidacy: int


class Follow(NamedTuple):
    """The oracle names another to it."""

    leader: PeerId


class Quit(NamedTuple):
    """It gives its role up: some wait is over."""


class Heartbeat(NamedTuple):
    """A leader tells the watermark to those that have not heard of it."""


class Broadcast(NamedTuple):
    """A client wants this payload in the log."""

    payload: bytes


class Ask(NamedTuple):
    """A client asks for a linearizable read."""


class Connect(NamedTuple):
    """A new link is up."""

    peer: PeerId


class Disconnect(NamedTuple):
    """It notices that a link is gone."""

    peer: PeerId


class Hear(NamedTuple):
    """A message has arrived."""

    peer: PeerId
    message: Message


Happening = (
    Start | Die | Sync | Read | Checkpoint | Fetch | Lead | Follow | Quit | Heartbeat | Broadcast | Ask | Connect | Disconnect | Hear
)
