"""A damaged batch in the middle of a log, and what its neighbours say of it; how it was to the bit, for those who look for the damage.

What stands behind the batch names it: its two checksums, and the running digest after it. How a node puts its log right is in
`zablog.node.repair` and `Storage.put_back`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zablog.core.trail import Entries, Mark, Payload, Trail, extend_digest
from zablog.core.zxid import Zxid
from zablog.storage.batch import BatchHeader, encode_body
from zablog.storage.errors import Corrupt, Diverged

HINTS_MAX = 1 << 20
"""So many commit hints are tried for a header that cannot be read any more."""


class Fault(NamedTuple):
    """The damaged batch: where it stands, and what its neighbours say of it."""

    name: str
    """The file."""
    salt: int
    generation: int
    format: int
    """Of the file."""
    offset: int
    sequence: int
    before: Mark
    """The last entry before it."""
    previous: int
    """The identifier of the batch before it."""
    hint: Zxid
    """The highest commit hint before it: its own is not lower."""
    after: Mark
    """Its last entry."""
    identifier: int
    """Its own."""
    batches: int = 1
    """How many batches lie between what is whole before and behind: of several nobody knows where one ended and the next began."""

    @property
    def text(self) -> str:
        return f"{self.name}, offset {self.offset}, after {self.before.zxid} through {self.after.zxid}"


class Missing:
    """What stood where the log is damaged, as a peer has it: asked for run by run, until `place` is `upto`."""

    def __init__(self, before: Mark, upto: Zxid) -> None:
        self.trail = Trail(before)
        self.upto = upto
        self.runs: list[Entries] = []
        self.size = 0

    @property
    def place(self) -> Mark | None:
        """What is to be asked for stands above it. None: all of it is here."""
        return self.trail.end if self.trail.last < self.upto else None

    def take(self, entries: Entries) -> None:
        """The answer. Raises Diverged where it does not follow."""
        if not self.trail.follows(entries) or entries.last > self.upto:
            raise Diverged(f"{entries.first} came, and entries that follow {self.trail.last} were asked for")
        self.runs.append(entries)
        self.trail.append(entries)
        self.size += entries.size


def rebuilt(fault: Fault, runs: Sequence[Entries]) -> bytes:
    """The bytes of the batch, from the entries above `before` through `after`.

    Raises Diverged if they are not what stood here, Corrupt if they are and the batch still cannot be made again.
    """
    if fault.batches != 1:
        raise Corrupt(f"{fault.text}: {fault.batches} batches are damaged side by side, and where one ended is not known.")
    payloads: list[Payload] = [payload for run in runs for payload in run.payloads]
    first = runs[0].first if runs else fault.before.zxid
    digest = extend_digest(fault.before.digest, fault.before.zxid, first, payloads) if runs else fault.before.digest
    if digest != fault.after.digest:
        raise Diverged(f"{fault.text}: what a peer has is not what stood here: its running digest is another")
    pieces, body_bytes, check = encode_body(payloads, digest, fault.format)
    for hint in hints(fault):
        header = BatchHeader(
            fault.sequence,
            fault.generation,
            first,
            len(payloads),
            fault.before,
            fault.after.digest,
            hint,
            fault.previous,
            body_bytes,
            check,
        )
        if header.identifier(fault.salt) == fault.identifier:
            return b"".join([header.encode(fault.salt), *pieces])
    raise Corrupt(f"{fault.text}: the batch cannot be made again as it was, though its entries are known. Keep the directory.")


def hints(fault: Fault) -> Iterator[Zxid]:
    """What was known to be committed when the batch was written: at least what was known before, at most the batch itself."""
    low, high = fault.hint, fault.after.zxid
    if low.epoch < high.epoch:  # nothing of the new epoch may have been committed then, and nothing more of the old one
        yield low
        yield fault.before.zxid
    begin = low.counter if low.epoch == high.epoch else 0
    for counter in range(high.counter, max(begin, high.counter - HINTS_MAX) - 1, -1):
        yield Zxid(high.epoch, counter)
