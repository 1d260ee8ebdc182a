"""What became of a record: the receipt, and the promise of one.

Records that travel in one batch share one fate, so the batch holds it once, and each record's `Pending` is a finger pointing
at its row; many records that were given at once share one finger, and their receipts are made when they are looked at. A promise
that was broken and never looked at is not forgotten: the producer raises it when its block is left.
"""

from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal, overload

import trio

from broker.errors import BrokerError
from broker.records import quickly
from zablog.core.zxid import Zxid

Acks = Literal["none", "leader", "quorum", "all"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a record is in the log, and how safe it is there."""

    topic: str
    partition: int
    offset: int
    zxid: Zxid
    """Of the proposal that carried it: its place in the one order over all topics."""
    level: Acks
    """The level that was reached."""

    @property
    def token(self) -> Zxid:
        """For `at_least`: a read with it sees this record, on whichever node."""
        return self.zxid

    def row(self, row: int) -> "Receipt":
        """The receipt of the record that stands so many rows behind this one in the same batch."""
        if not row:
            return self
        return quickly(_Fresh(self.topic, self.partition, self.offset + row, self.zxid, self.level), Receipt)


@dataclass(slots=True)
class _Fresh:
    """A Receipt before it is frozen; see `quickly`."""

    topic: str
    partition: int
    offset: int
    zxid: Zxid
    level: Acks


class Receipts(Sequence[Receipt]):
    """The receipts of many records, in the order in which they were given. Each is made when it is looked at."""

    __slots__ = ("_ends", "_runs")

    def __init__(self, runs: Iterable[tuple[Receipt, int]]) -> None:
        """The first receipt of each run of neighbours, and how many there are."""
        self._runs: Final = tuple(runs)
        self._ends: Final = tuple(accumulate(count for _, count in self._runs))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Receipt]:
        for first, count in self._runs:
            yield from map(first.row, range(count))

    @overload
    def __getitem__(self, at: int) -> Receipt: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Receipt]: ...
    def __getitem__(self, at: int | slice) -> Receipt | Sequence[Receipt]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(f"receipt {at} of {len(self)}")
        run = bisect_right(self._ends, place)
        first, count = self._runs[run]
        return first.row(place - self._ends[run] + count)


class Fate:
    """What became of one batch of records of one partition. Settled once, with the first record's receipt or an error."""

    __slots__ = ("_settled", "error", "first", "records", "unseen")

    def __init__(self) -> None:
        self.first: Receipt | None = None
        self.error: BrokerError | None = None
        self.records = 0
        """How many records share it."""
        self.unseen = 0
        """How many of their promises nobody has waited for yet."""
        self._settled: trio.Event | None = None

    @property
    def settled(self) -> bool:
        return self.first is not None or self.error is not None

    def join(self) -> "Pending":
        """One more record shares this fate."""
        pending = Pending(self, self.records)
        self.records += 1
        self.unseen += 1
        return pending

    def join_many(self, count: int) -> "Run":
        """So many more records share this fate, and somebody looks after all their promises."""
        run = Run(self, self.records, count)
        self.records += count
        return run

    def keep(self, first: Receipt) -> None:
        assert not self.settled, "a batch is answered once"
        self.first = first
        self._wake()

    def fail(self, error: BrokerError) -> None:
        assert not self.settled, "a batch is answered once"
        self.error = error
        self._wake()

    async def wait(self) -> None:
        if self.settled:
            await trio.lowlevel.checkpoint()
            return
        if self._settled is None:
            self._settled = trio.Event()
        await self._settled.wait()

    def _wake(self) -> None:
        if self._settled is not None:
            self._settled.set()


class Pending:
    """The promise of a receipt. `await pending` and `await pending.wait()` are the same."""

    __slots__ = ("_fate", "_row", "_seen")

    def __init__(self, fate: Fate, row: int) -> None:
        self._fate = fate
        self._row = row
        self._seen = False

    @property
    def done(self) -> bool:
        fate = self._fate
        return fate.first is not None or fate.error is not None

    async def wait(self) -> Receipt:
        """The record's receipt, once it has reached the producer's level. Raises what the record failed with.

        Cancelling this wait gives the wait up, not the record.
        """
        self.see()
        await self._fate.wait()
        return self.receipt()

    def see(self) -> None:
        """Somebody looks after this promise: the producer need not report its failure."""
        if not self._seen:
            self._seen = True
            self._fate.unseen -= 1

    def run(self) -> "Run":
        """The same promise, of somebody who looks after it among many."""
        self.see()
        return Run(self._fate, self._row, 1)

    def receipt(self) -> Receipt:
        """The receipt of a promise that is `done`. Raises what the record failed with."""
        fate = self._fate
        if not self._seen:  # as `see`, once for each of a million records
            self._seen = True
            fate.unseen -= 1
        if fate.error is not None:
            # A fresh object for each caller: exceptions collect tracebacks and notes of where they were raised.
            raise fate.error.again()
        assert fate.first is not None, "receipt() is asked of a promise that is done"
        return fate.first.row(self._row)

    def __await__(self) -> Generator[object, object, Receipt]:
        return self.wait().__await__()


@dataclass(frozen=True, slots=True)
class Run:
    """The promise of the receipts of neighbours in one batch."""

    fate: Fate
    row: int
    """Of the first."""
    count: int

    async def wait(self) -> tuple[Receipt, int]:
        """The first receipt and how many follow each other, once they are known. Raises what they failed with."""
        if not self.fate.settled:
            await self.fate.wait()
        if self.fate.error is not None:
            raise self.fate.error.again()
        assert self.fate.first is not None, "a fate that is settled is good or bad"
        return self.fate.first.row(self.row), self.count
