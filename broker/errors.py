"""What can go wrong, as the caller sees it: one class for each thing a caller can do about it.

Every error has a `code` (the same word in Python, on the wire and in `--json`), a `hint` (what to do now), the `attempts` that were
made (each address with its own cause) and `maybe_written`: may what was asked for have happened? The exit codes of the command
line stand beside the classes, so that there is one table of them. Nothing but names is imported here.
"""

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import ClassVar, NamedTuple, Self


class Exit(IntEnum):
    """What the command line tells the shell."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    NO_CLUSTER = 3
    NOT_FOUND = 4
    EXISTS = 5
    TIMEOUT = 6
    """Nothing was written."""
    UNKNOWN = 7
    """Outcome unknown, partly written, or below the level asked for."""
    VERIFICATION = 8
    NOT_ALLOWED = 9
    WOULD_LOSE = 10
    """Refused because it would lose data or promises."""
    INTERRUPTED = 130


class Code(StrEnum):
    """The word of an error. A word keeps its meaning for ever: it stands in replicated answers, on the wire and in scripts."""

    INTERNAL = "internal"
    DISK_FULL = "disk_full"
    BAD_CONFIG = "bad_config"
    BAD_REQUEST = "bad_request"
    BAD_NAME = "bad_name"
    RECORD_TOO_LARGE = "record_too_large"
    NO_START_POSITION = "no_start_position"
    OFFSET_OUT_OF_RANGE = "offset_out_of_range"
    NO_CLUSTER = "no_cluster"
    NO_QUORUM = "no_quorum"
    NOT_LEADING = "not_leading"
    CONNECTION_LOST = "connection_lost"
    TOPIC_NOT_FOUND = "topic_not_found"
    PARTITION_NOT_FOUND = "partition_not_found"
    NODE_NOT_FOUND = "node_not_found"
    CUT_GONE = "cut_gone"
    TOPIC_EXISTS = "topic_exists"
    ADDRESS_IN_USE = "address_in_use"
    DIRECTORY_IN_USE = "directory_in_use"
    TIMED_OUT = "timed_out"
    OVERLOADED = "overloaded"
    OUTCOME_UNKNOWN = "outcome_unknown"
    LEVEL_NOT_REACHED = "level_not_reached"
    WRITE_LOST = "write_lost"
    UNKNOWN_PRODUCER = "unknown_producer"
    STALE_PRODUCER = "stale_producer"
    OUT_OF_SEQUENCE = "out_of_sequence"
    STALE_OWNER = "stale_owner"
    CORRUPT = "corrupt"
    LIMIT_REACHED = "limit_reached"
    NOT_ALLOWED = "not_allowed"
    WOULD_LOSE_DATA = "would_lose_data"


class Attempt(NamedTuple):
    """One try at one address."""

    address: str
    cause: str


class BrokerError(Exception):
    """Anything that the broker, its client or its command line refuses or fails to do."""

    code: str = Code.INTERNAL
    exit_code: ClassVar[Exit] = Exit.INTERNAL
    default_hint: ClassVar[str] = ""
    default_maybe_written: ClassVar[bool] = False

    def __init__(
        self, message: str, *, hint: str | None = None, attempts: Sequence[Attempt] = (), maybe_written: bool | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        """What the caller can do now; may be empty."""
        self.attempts: tuple[Attempt, ...] = tuple(attempts)
        self.maybe_written = self.default_maybe_written if maybe_written is None else maybe_written
        """May what was asked for have happened, or happen still?"""

    def __str__(self) -> str:
        tried = "".join(f"; {address}: {cause}" for address, cause in self.attempts)
        return f"{self.message}{tried}"

    def again(self) -> Self:
        """The same error as a fresh object, for one more caller who must raise it: an exception collects tracebacks and notes."""
        twin = type(self).__new__(type(self), *self.args)
        twin.args = self.args
        twin.__dict__.update(self.__dict__)
        twin.__dict__.pop("__notes__", None)
        return twin


class InternalError(BrokerError):
    """Our own fault, or a later build's refusal that this one has no class for."""


class DiskFull(BrokerError):
    """A node stopped because its disk had no room."""

    code = Code.DISK_FULL
    default_hint = "make room on the node's disk and start it again"


class ConfigError(BrokerError):
    """A configuration that cannot be used: which file, which key, what would be allowed."""

    code = Code.BAD_CONFIG
    exit_code = Exit.USAGE


class BadRequest(BrokerError):
    """What was asked for makes no sense to the broker. Asking again will not help."""

    code = Code.BAD_REQUEST
    exit_code = Exit.USAGE


class BadName(BadRequest):
    """Not a name for a topic."""

    code = Code.BAD_NAME
    default_hint = "a topic's name is 1 to 249 letters, digits, dots, underscores and hyphens, and not . or .."


class RecordTooLarge(BadRequest):
    """A record, batch or transaction above its limit. Nothing of it was written."""

    code = Code.RECORD_TOO_LARGE


class NoStartPosition(BadRequest):
    """A consumer was not told where to start, and nothing is guessed."""

    code = Code.NO_START_POSITION
    default_hint = 'choose "earliest", "latest", an offset, a time or a zxid'


class OffsetOutOfRange(BadRequest):
    """The offset is not there: before `first`, or beyond `last`, the end."""

    code = Code.OFFSET_OUT_OF_RANGE

    def __init__(
        self,
        message: str,
        first: int = 0,
        last: int = 0,
        *,
        hint: str | None = None,
        attempts: Sequence[Attempt] = (),
        maybe_written: bool | None = None,
    ) -> None:
        super().__init__(message, hint=hint, attempts=attempts, maybe_written=maybe_written)
        self.first = first
        """The first offset that can be read."""
        self.last = last
        """The offset that the next record will get."""


class NoCluster(BrokerError):
    """No node could be reached. Nothing was sent."""

    code = Code.NO_CLUSTER
    exit_code = Exit.NO_CLUSTER
    default_hint = "start one with `zablog cluster up`, or say where it is with --cluster"


class NoQuorum(BrokerError):
    """Nodes answer, but no leader with a quorum behind it does. Nothing was written by this call."""

    code = Code.NO_QUORUM
    exit_code = Exit.NO_CLUSTER
    default_hint = "start the missing nodes; `zablog cluster status` shows who is there"


class NotLeading(BrokerError):
    """This node is not the leader, so it cannot write. The client looks for the leader and asks there."""

    code = Code.NOT_LEADING
    exit_code = Exit.NO_CLUSTER


class ConnectionLost(BrokerError):
    """The connection to one node broke or never came to be. What was under way may have been written."""

    code = Code.CONNECTION_LOST
    exit_code = Exit.NO_CLUSTER
    default_maybe_written = True

    def __init__(self, address: str, cause: str) -> None:
        super().__init__(f"{address}: {cause}")
        self.address = address
        self.cause = cause


class NotFound(BrokerError):
    """What was named does not exist."""

    exit_code = Exit.NOT_FOUND


class TopicNotFound(NotFound):
    """There is no such topic, or it was deleted (a recreated one is another topic)."""

    code = Code.TOPIC_NOT_FOUND
    default_hint = "create it with `zablog topic create NAME`"


class PartitionNotFound(NotFound):
    """The topic has fewer partitions."""

    code = Code.PARTITION_NOT_FOUND


class NodeNotFound(NotFound):
    """The cluster has no node of this number."""

    code = Code.NODE_NOT_FOUND


class CutGone(NotFound):
    """The history at this zxid is no longer kept."""

    code = Code.CUT_GONE


class AlreadyExists(BrokerError):
    """What was to be made, or taken, is there already or in use."""

    exit_code = Exit.EXISTS


class TopicExists(AlreadyExists):
    """A topic of this name exists."""

    code = Code.TOPIC_EXISTS
    default_hint = "use another name (or, in Python, exist_ok=True)"


class AddressInUse(AlreadyExists):
    """Another process listens on this port."""

    code = Code.ADDRESS_IN_USE


class DirectoryInUse(AlreadyExists):
    """Another process works in this directory."""

    code = Code.DIRECTORY_IN_USE


class TimedOut(BrokerError):
    """No progress for as long as the caller allowed. Nothing was written."""

    code = Code.TIMED_OUT
    exit_code = Exit.TIMEOUT


class Overloaded(BrokerError):
    """The node had no room for this request and has not looked at it. Nothing was written; try again later."""

    code = Code.OVERLOADED
    exit_code = Exit.TIMEOUT
    default_hint = "wait and try again"


class OutcomeUnknown(BrokerError):
    """The request was sent and no answer came: it may or may not have happened."""

    code = Code.OUTCOME_UNKNOWN
    exit_code = Exit.UNKNOWN
    default_maybe_written = True
    default_hint = "read the topic to find out, or send again with the same producer"


class LevelNotReached(OutcomeUnknown):
    """Committed, but not at the level asked for within the time allowed. It must not be sent again."""

    code = Code.LEVEL_NOT_REACHED
    default_hint = "the record is committed; do not send it again"

    receipt: object = None
    """The committed `Receipt`, at the level that was reached. (Its class lives above this room.)"""


class WriteLost(OutcomeUnknown):
    """The history that held this write was given up by a change of leader."""

    code = Code.WRITE_LOST


class ProducerLost(OutcomeUnknown):
    """The cluster no longer knows this producer: what it still had under way may or may not have been written."""

    code = Code.UNKNOWN_PRODUCER
    default_hint = "open a new producer"


class StaleProducer(ProducerLost):
    """A newer producer took this one's place."""

    code = Code.STALE_PRODUCER


class OutOfSequence(BrokerError):
    """A request of this producer arrived before an earlier one, or long after its answer was thrown away. It was not carried out."""

    code = Code.OUT_OF_SEQUENCE
    exit_code = Exit.UNKNOWN


class Corrupt(BrokerError):
    """Bytes that fail their checksum or do not have their form. Nothing of them was used."""

    code = Code.CORRUPT
    exit_code = Exit.VERIFICATION


class NotAllowed(BrokerError):
    """The broker understands and will not do it."""

    code = Code.NOT_ALLOWED
    exit_code = Exit.NOT_ALLOWED


class StaleOwner(NotAllowed):
    """This consumer no longer owns the partition, so it cannot commit for it."""

    code = Code.STALE_OWNER


class LimitReached(NotAllowed):
    """A limit of the cluster: how many topics or partitions there may be."""

    code = Code.LIMIT_REACHED
    default_hint = "`zablog limits` shows all limits, and what each may be set to"


class WouldLoseData(BrokerError):
    """Refused because it would lose data or promises."""

    code = Code.WOULD_LOSE_DATA
    exit_code = Exit.WOULD_LOSE


def _tree(root: type[BrokerError]) -> list[type[BrokerError]]:
    return [root, *(each for child in root.__subclasses__() for each in _tree(child))]


_CLASSES = {each.code: each for each in _tree(BrokerError) if "code" in each.__dict__}


def error_of(
    code: str, message: str, *, hint: str | None = None, maybe_written: bool | None = None, attempts: Sequence[Attempt] = ()
) -> BrokerError:
    """The error that a code from the wire or a replicated answer stands for; an InternalError with that code if it is news to us."""
    if code == Code.CONNECTION_LOST:
        return ConnectionLost("", message)
    kind = _CLASSES.get(code, InternalError)
    if kind is BrokerError:
        kind = InternalError
    error = kind(message, hint=hint, attempts=attempts, maybe_written=maybe_written)
    error.code = code
    return error
