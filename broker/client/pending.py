"""What became of a record: the receipt, and the promise of one.

Records that travel in one batch share one fate, so the batch holds it once, and each record's `Pending` is a finger pointing
at its row. A promise that was broken and never looked at is not forgotten: the producer raises it when its block is left.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

import trio

from broker.errors import BrokerError
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
        return self._fate.settled

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

    def receipt(self) -> Receipt:
        """The receipt of a promise that is `done`. Raises what the record failed with."""
        self.see()
        fate = self._fate
        if fate.error is not None:
            # A fresh object for each caller: exceptions collect tracebacks and notes of where they were raised.
            raise fate.error.again()
        assert fate.first is not None, "receipt() is asked of a promise that is done"
        first = fate.first
        if not self._row:
            return first
        return Receipt(first.topic, first.partition, first.offset + self._row, first.zxid, first.level)

    def __await__(self) -> Generator[object, object, Receipt]:
        return self.wait().__await__()
