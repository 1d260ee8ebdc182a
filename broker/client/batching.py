"""Records on their way into batches: one lane a partition, batches close when they are full or when their turn comes.

A lane sends what it has gathered as soon as nothing of it is under way, so a lone record leaves at once and a busy lane's batches
grow while a request is in flight; full batches need not wait. Pure but for the fates that senders wait for.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from broker.client.pending import Fate, Pending
from broker.records import RECORDS_MAX, BatchBuilder, Headers
from zablog.core.zxid import Zxid

FULL_BYTES: Final = 256 << 10
"""A batch of so many bytes is not added to any more; one record may make it larger."""
FULL_RECORDS: Final = 16 << 10
assert FULL_RECORDS < RECORDS_MAX, "a full batch is a batch"


class OpenBatch:
    """Records that will share one batch and one fate."""

    __slots__ = ("builder", "fate", "partition")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.builder = BatchBuilder()
        self.fate = Fate()

    @property
    def size(self) -> int:
        return self.builder.size

    @property
    def full(self) -> bool:
        return self.builder.size >= FULL_BYTES or self.builder.count >= FULL_RECORDS


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
        batch.builder.add(value, timestamp, key, headers)
        return batch.fate.join(), batch.size - before

    def add_values(self, values: Sequence[bytes], timestamp: int) -> tuple[list[Pending], int]:
        """As many of these plain records as fit into the open batch, at least one: their promises, and their bytes."""
        batch = self._open()
        size, end, room = 0, 0, min(len(values), FULL_RECORDS - batch.builder.count)
        while end < room and size < FULL_BYTES - batch.size:
            size += len(values[end]) + _RECORD_OVERHEAD
            end += 1
        before = batch.size
        batch.builder.add_values(values[: max(end, 1)], timestamp)
        join = batch.fate.join
        return [join() for _ in range(max(end, 1))], batch.size - before

    def _open(self) -> OpenBatch:
        if not self.batches or self.batches[-1].full:
            self.batches.append(OpenBatch(self.partition))
        return self.batches[-1]


_RECORD_OVERHEAD: Final = 10
"""About what a plain record takes beside its value."""
