"""Records on their way into batches: one lane a partition, batches close when they are full or when their turn comes.

A lane sends what it has gathered as soon as nothing of it is under way, so a lone record leaves at once and a busy lane's batches
grow while a request is in flight; full batches need not wait. Pure but for the fates that senders wait for.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from broker.client.pending import Fate, Pending
from broker.records import HEADER_BYTES, RECORDS_MAX, BatchBuilder, Headers
from zablog.core.zxid import Zxid

FULL_BYTES: Final = 256 << 10
"""A batch of so many bytes is not added to any more; one record may make it larger."""
FULL_RECORDS: Final = 16 << 10
assert FULL_RECORDS < RECORDS_MAX, "a full batch is a batch"


class OpenBatch:
    """Records that will share one batch and one fate."""

    __slots__ = ("_builder", "fate", "size")

    def __init__(self) -> None:
        self._builder = BatchBuilder()
        self.fate = Fate()
        self.size = 0
        """Bytes of its records, as they will be stored."""

    @property
    def count(self) -> int:
        return self.fate.records

    @property
    def full(self) -> bool:
        return self.size >= FULL_BYTES or self.count >= FULL_RECORDS

    def add(self, value: bytes | None, timestamp: int, key: bytes | None, headers: Headers) -> Pending:
        self._builder.add(value, timestamp, key, headers)
        self.size = self._builder.size - HEADER_BYTES
        return self.fate.join()

    def add_values(self, values: Sequence[bytes], timestamp: int) -> list[Pending]:
        self._builder.add_values(values, timestamp)
        self.size = self._builder.size - HEADER_BYTES
        join = self.fate.join
        return [join() for _ in values]

    def seal(self) -> bytes:
        """The batch. Nothing can be added any more, and the pieces it was made of are let go."""
        batch = self._builder.build()
        del self._builder
        return batch


class Lane:
    """The batches of one partition that no request has taken yet, and how many requests of it are under way."""

    __slots__ = ("batches", "in_flight", "name", "partition", "topic")

    def __init__(self, name: str, topic: Zxid, partition: int) -> None:
        self.name = name
        self.topic = topic
        self.partition = partition
        self.batches: deque[OpenBatch] = deque()
        """Only the last one takes more records."""
        self.in_flight = 0

    @property
    def ready(self) -> bool:
        """Is there a batch that may leave now?"""
        return bool(self.batches) and (not self.in_flight or len(self.batches) > 1 or self.batches[0].full)

    def add(self, value: bytes | None, timestamp: int, key: bytes | None, headers: Headers) -> tuple[Pending, int]:
        """One more record: its promise, and how many bytes it takes."""
        batch = self._open()
        before = batch.size
        pending = batch.add(value, timestamp, key, headers)
        return pending, batch.size - before

    def add_values(self, values: Sequence[bytes], timestamp: int) -> tuple[list[Pending], int]:
        """As many of these plain records as fit into the open batch, at least one: their promises, and their bytes."""
        batch = self._open()
        size, end, room = 0, 0, min(len(values), FULL_RECORDS - batch.count)
        while end < room and size < FULL_BYTES - batch.size:
            size += len(values[end]) + _RECORD_OVERHEAD
            end += 1
        before = batch.size
        pendings = batch.add_values(values[:end], timestamp)
        return pendings, batch.size - before

    def _open(self) -> OpenBatch:
        if not self.batches or self.batches[-1].full:
            self.batches.append(OpenBatch())
        return self.batches[-1]


_RECORD_OVERHEAD: Final = 10
"""About what a plain record takes beside its value."""
