"""What clients of a broker were told, and the anomalies in it: those of Jepsen's workload for Kafka, as far as there are features for them.

Each checker looks at the recorded history alone, so that it can be checked itself by editing a record.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from math import inf
from operator import itemgetter
from typing import NamedTuple


class Sent(NamedTuple):
    """A producer's command: its values by part, when it was called and answered (0: never), and what became of it."""

    producer: int
    sequence: int
    parts: tuple[tuple[int, tuple[int, ...]], ...]
    """(partition, values) of each part."""
    called: int
    answered: int = 0
    offsets: tuple[int, ...] | None = None
    """The base offset of each part, if it was acknowledged."""
    failed: bool = False
    """It was refused for good: nothing of it may ever be read."""
    abandoned: bool = False
    """Its producer is gone: nobody will ever know."""

    @property
    def values(self) -> list[int]:
        return [value for _, values in self.parts for value in values]


class Read(NamedTuple):
    """One poll: the values from `offset` on, in one partition, as one replica has them."""

    reader: int
    partition: int
    offset: int
    values: tuple[int, ...]
    jumped: bool = False
    """The reader was told that what it wanted has been let go of, and went on where the partition begins."""


class End(NamedTuple):
    """A linearizable read of where a partition ends, and what had been acknowledged before it was asked."""

    partition: int
    owed: int
    found: int


@dataclass
class History:
    """What clients saw, in order; and in the end every replica's partitions and the digest of its state."""

    sent: list[Sent] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    final: list[list[list[int]]] = field(default_factory=list)
    """[replica][partition][offset]."""
    digests: list[int] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    segments: list[dict[str, bytes]] = field(default_factory=list)
    """[replica][file]: the bytes of every segment."""
    unreadable: list[str] = field(default_factory=list)
    """What readers were told was damaged where no disk had rotted."""


# -- anomalies ---------------------------------------------------------------------------------------------------------------


def lost_write(history: History) -> Iterator[str]:
    """Acknowledged, and not in the end where it should be read."""
    everything = {value for log in history.final[0] for value in log}
    for sent in history.sent:
        if sent.offsets is not None and not everything.issuperset(sent.values):
            yield f"{sent} was acknowledged and is not there"


def unanswered(history: History) -> Iterator[str]:
    """A producer that goes on asking gets an answer."""
    for sent in history.sent:
        if sent.offsets is None and not sent.failed and not sent.abandoned:
            yield f"{sent} never got an answer"


def duplicate(history: History) -> Iterator[str]:
    """One value at two offsets."""
    seen: set[int] = set()
    for log in history.final[0]:
        for value in log:
            if value in seen:
                yield f"value {value} is there twice"
            seen.add(value)


def inconsistent_offset(history: History) -> Iterator[str]:
    """The acknowledgement, or a poll, names another offset than the value has in the end."""
    for sent in history.sent:
        for (partition, values), offset in zip(sent.parts, sent.offsets or (), strict=False):
            log = history.final[0][partition] if partition < len(history.final[0]) else []
            if tuple(log[offset : offset + len(values)]) != values:
                yield f"{values} were acknowledged at offset {offset} of partition {partition}, where other values are"
    for read in history.reads:
        if tuple(history.final[0][read.partition][read.offset : read.offset + len(read.values)]) != read.values:
            yield f"{read}: other values are there in the end"


def aborted_read(history: History) -> Iterator[str]:
    """A value of a command that was refused for good is there."""
    everything = {value for log in history.final[0] for value in log}
    for sent in history.sent:
        if sent.failed and not everything.isdisjoint(sent.values):
            yield f"{sent} was refused, and some of it is there"


def phantom(history: History) -> Iterator[str]:
    """A value that nobody sent."""
    known = {value for sent in history.sent for value in sent.values}
    for log in history.final[0]:
        for value in log:
            if value not in known:
                yield f"value {value} was never sent"


def torn(history: History) -> Iterator[str]:
    """A part of a command is there, another is not."""
    everything = {value for log in history.final[0] for value in log}
    for sent in history.sent:
        if len({value in everything for value in sent.values}) > 1:
            yield f"{sent} is there in part"


def nonmonotonic_send(history: History) -> Iterator[str]:
    """A producer's later command stands before its earlier one."""
    last: dict[tuple[int, int], tuple[int, int]] = {}
    for sent in sorted(history.sent, key=lambda sent: (sent.producer, sent.sequence)):
        for (partition, _), offset in zip(sent.parts, sent.offsets or (), strict=False):
            before = last.get((sent.producer, partition), (-1, 0))
            if offset < before[0]:
                yield f"sequence {sent.sequence} of producer {sent.producer} stands at {offset}, sequence {before[1]} at {before[0]}"
            last[sent.producer, partition] = (offset, sent.sequence)


def real_time_inversion(history: History) -> Iterator[str]:
    """Acknowledged before another was called, and behind it all the same."""
    rows = sorted(
        (
            (partition, offset, sent)
            for sent in history.sent
            for (partition, _), offset in zip(sent.parts, sent.offsets or (), strict=False)
        ),
        key=itemgetter(0, 1),
        reverse=True,
    )
    for partition, above in groupby(rows, key=itemgetter(0)):
        first: tuple[float, int] = (inf, 0)
        """Of what stands behind: when the first acknowledgement came, and for which offset."""
        for _, offset, sent in above:
            if first[0] < sent.called:
                yield f"partition {partition}: offset {first[1]} was acknowledged before what is at {offset} was called"
            first = min(first, (sent.answered, offset))


def poll_skip(history: History) -> Iterator[str]:
    """Successive polls of one reader leave records out, or go back."""
    position: dict[tuple[int, int], int] = defaultdict(int)
    for read in history.reads:
        if read.offset != position[read.reader, read.partition] and not read.jumped:
            yield f"{read}: the poll before it ended at {position[read.reader, read.partition]}"
        position[read.reader, read.partition] = read.offset + len(read.values)


def replica_divergence(history: History) -> Iterator[str]:
    """Replicas that applied the same commands hold the same."""
    for replica, (partitions, digest) in enumerate(zip(history.final, history.digests, strict=True)):
        if partitions != history.final[0] or digest != history.digests[0]:
            yield f"replica {replica} differs from replica 0"
    for replica, segments in enumerate(history.segments):
        for name in sorted(segments.keys() | history.segments[0].keys()):
            if segments.get(name) != history.segments[0].get(name):
                yield f"segment {name} of replica {replica} is not that of replica 0"


def stale_end(history: History) -> Iterator[str]:
    """A linearizable read does not see what was acknowledged before it was asked."""
    for end in history.ends:
        if end.found < end.owed:
            yield f"{end}: acknowledged before, and not seen"


def damaged_read(history: History) -> Iterator[str]:
    """A reader is told that records are damaged, and no disk has rotted."""
    yield from history.unreadable


CHECKERS: tuple[Callable[[History], Iterator[str]], ...] = (
    replica_divergence,
    duplicate,
    aborted_read,
    phantom,
    torn,
    lost_write,
    inconsistent_offset,
    nonmonotonic_send,
    real_time_inversion,
    poll_skip,
    unanswered,
    stale_end,
    damaged_read,
)


def anomalies(history: History) -> list[str]:
    """`checker: what is wrong`, the first finding of each checker that has one."""
    return [f"{checker.__name__}: {found}" for checker in CHECKERS for found in [next(checker(history), None)] if found is not None]
