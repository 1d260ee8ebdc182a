"""What became of a command: the answer for whoever waits, and what the log has to do.

Answers are values: a refusal is one of them, never an exception. An answer is stored with its producer until the producer says
that it has it, so all of them are immutable and small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from broker.errors import Code
from zablog.core.trail import Payload
from zablog.core.zxid import Zxid


@dataclass(frozen=True, slots=True)
class ProducerAllocated:
    producer: Zxid


@dataclass(frozen=True, slots=True)
class TopicCreated:
    topic: Zxid


@dataclass(frozen=True, slots=True)
class TopicDeleted:
    topic: Zxid


@dataclass(frozen=True, slots=True)
class TopicAltered:
    topic: Zxid


@dataclass(frozen=True, slots=True)
class LimitsSet:
    """They hold from the next command on."""


@dataclass(frozen=True, slots=True)
class LevelRaised:
    """Nobody asked for it, and nobody is told. Who does not know the level must not go on."""


@dataclass(frozen=True, slots=True)
class BoundsMoved:
    """Nobody asked for it, and nobody is told."""


class Appended(NamedTuple):
    """All parts of a Produce are in the log."""

    zxid: Zxid
    offsets: tuple[int, ...]
    """The base offset of each part, in the order of the parts."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was changed, except that the sequence may be used up (see `State`)."""

    code: Code
    text: str
    maybe_written: bool = False
    """May this command, under the same sequence, have been carried out earlier?"""


Answer = ProducerAllocated | TopicCreated | TopicAltered | TopicDeleted | LimitsSet | LevelRaised | BoundsMoved | Appended | Refused


class Append(NamedTuple):
    """A batch that the log must hold from now on."""

    topic: Zxid
    partition: int
    base_offset: int
    position: int
    """Which part of its command, from 0."""
    records: int
    batch: Payload


class Moved(NamedTuple):
    """Records below `first` are let go of."""

    topic: Zxid
    partition: int
    first: int


class Outcome(NamedTuple):
    """What apply made of one command. `appends` and `deleted` are for the log, `answer` is for the client."""

    answer: Answer
    appends: Sequence[Append] = ()
    deleted: Zxid | None = None
    """The topic whose segments must go."""
    moved: Sequence[Moved] = ()
    duplicate: bool = False
    """Carried out before: the answer is the stored one, and nothing changes now."""
