"""Everything a peer can ask of the world, and the accumulator that keeps the order in which it must become true.

Append, Truncate, Install and SaveEpochs are *durable*: one FIFO domain, numbered by `token`. The driver hands them to the one log writer
and reports `Durable(token)`. A Send with `after` above 0 waits until that token is durable, in the same role generation
(`core/gate.py`); any other Send leaves at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zablog.core.events import Link
from zablog.core.messages import Message
from zablog.core.trail import Entries, Mark
from zablog.core.zxid import Epoch, Zxid


@dataclass(frozen=True, slots=True)
class Append:
    """Write these entries at the end of the log."""

    token: int
    entries: Entries


@dataclass(frozen=True, slots=True)
class Truncate:
    """Cut the log above `mark`, after verifying that the running digest there is `mark.digest`; a mismatch stops the node."""

    token: int
    mark: Mark


@dataclass(frozen=True, slots=True)
class Install:
    """Put the staged snapshot at `mark` in the place of snapshot and log, by one switch; the application goes on from it."""

    token: int
    mark: Mark


@dataclass(frozen=True, slots=True)
class SaveEpochs:
    """Save acceptedEpoch, currentEpoch and the end of the suspect range (None: there is none), together."""

    token: int
    accepted: Epoch
    current: Epoch
    suspect: Zxid | None


DurableEffect = Append | Truncate | Install | SaveEpochs


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message, once the durable effects through `after` are durable (0: at once)."""

    link: Link
    message: Message
    after: int


@dataclass(frozen=True, slots=True)
class DropLink:
    """Close this link: what came on it, or did not come, was wrong."""

    link: Link
    reason: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """Everything through `upto` is committed: hand it to the application, in order."""

    upto: Zxid


@dataclass(frozen=True, slots=True)
class ReadDigest:
    """Find our running digest at `zxid`, a place in our log, and answer with DigestRead."""

    link: Link
    zxid: Zxid


@dataclass(frozen=True, slots=True)
class FetchSnapshot:
    """Fetch the leader's snapshot at `mark` beside the messages of this link, stage it, verify and sync it; then answer Staged.

    Ends without an answer when the link or the role does. What was staged stays for the next try.
    """

    link: Link
    epoch: Epoch
    mark: Mark


@dataclass(frozen=True, slots=True)
class Stream:
    """Send the entries in (after, upto] to this link as Propose messages of `epoch`, read from the log at the link's own pace.

    Their watermark is ZERO: no news. Then answer Streamed, at once or piece by piece: `upto` of the answer may be short of what was
    asked, and the core asks again. If the history still has them in memory and the outbox has room, all at once: so a learner
    that has nearly caught up does catch up. Ends without an answer when the link or the role does.
    """

    link: Link
    epoch: Epoch
    after: Zxid
    upto: Zxid


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """A role or a phase began, for the log and for those who wait. A new `generation` voids sends that are still gated."""

    generation: int
    role: str
    phase: str
    epoch: Epoch
    leader: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class ReadReady:
    """What was asked for by ReadAsked: a read that has seen everything through `upto` is linearizable."""

    upto: Zxid


@dataclass(frozen=True, slots=True)
class Halt:
    """This node must not go on: going on would lose data or promises. The reason says what to do."""

    reason: str


Effect = (
    Append
    | Truncate
    | Install
    | SaveEpochs
    | Send
    | DropLink
    | Deliver
    | ReadDigest
    | FetchSnapshot
    | Stream
    | RoleChanged
    | ReadReady
    | Halt
)


class Effects:
    """An accumulator: effects are emitted in the order in which they must become true."""

    __slots__ = ("abandoned", "halted", "list", "token")

    def __init__(self, token: int = 0) -> None:
        self.list: list[Effect] = []
        self.token = token
        """The number of the last durable effect emitted, ever."""
        self.halted = False
        self.abandoned: str | None = None
        """A phase gave up, and why: `peer` changes the role before anything else happens."""

    def abandon(self, reason: str) -> None:
        if self.abandoned is None:
            self.abandoned = reason

    def halt(self, reason: str) -> None:
        self.halted = True
        self.list.append(Halt(reason))

    def append(self, entries: Entries) -> None:
        self.token += 1
        self.list.append(Append(self.token, entries))

    def truncate(self, mark: Mark) -> None:
        self.token += 1
        self.list.append(Truncate(self.token, mark))

    def install(self, mark: Mark) -> None:
        self.token += 1
        self.list.append(Install(self.token, mark))

    def save_epochs(self, accepted: Epoch, current: Epoch, suspect: Zxid | None) -> None:
        self.token += 1
        self.list.append(SaveEpochs(self.token, accepted, current, suspect))

    def vote(self, link: Link, message: Message) -> None:
        """Send once everything emitted so far is durable: any message that describes our epochs or our log."""
        self.list.append(Send(link, message, self.token))

    def send(self, link: Link, message: Message) -> None:
        """Send at once."""
        self.list.append(Send(link, message, 0))

    def emit(self, *effects: Effect) -> None:
        self.list.extend(effects)

    def take(self) -> Sequence[Effect]:
        if not self.list:
            return ()
        taken, self.list = self.list, []
        return taken
