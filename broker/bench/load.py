"""Producers and consumers that keep time. Each is what a program with the client would be; none looks behind it.

A rate is counted over a stretch that begins when everything runs: records that were acknowledged within it, by its length. Latency
is taken for each send, and under a steady load from the moment a record was due, so that a server that stops is not excused by a
client that waits for it.
"""

import gc
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import trio

from broker.bench.figures import NotReached
from broker.client import Client, Pending, Producer, connect
from broker.client.pending import Acks
from broker.errors import BrokerError

MANY: Final = 8192
"""How many values one call of `send_many` is given."""
MANY_CALLS: Final = 2
"""How many such calls are under way: while one is answered the other is sent."""
RECORD_OVERHEAD_BYTES: Final = 64
"""More than the client's buffer ever counts for a record beside its value."""
SLOT_SECONDS: Final = 0.002
"""A steady load is submitted in slots of so long."""
RETRY_SECONDS: Final = 0.002
"""How long a writer whose producer was lost waits before it takes another."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A load of one kind."""

    size: int
    """Bytes of a value; there are no keys and no headers."""
    window: int = 1024
    """Records in flight, of all producers together."""
    producers: int = 1
    """Each with a connection of its own."""
    many: bool = False
    """By `send_many` instead of one `submit` a record; the window is MANY times MANY_CALLS then."""
    acks: Acks = "quorum"


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of time in which records were acknowledged or read."""

    records: int
    seconds: float

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds


@dataclass(slots=True)
class _Tally:
    """What all producers of a load have in common."""

    acked: int = 0
    stopped: bool = False
    stop_at: int | None = None


async def publish(
    addresses: str,
    topic: str,
    shape: Shape,
    *,
    warm_up: float,
    seconds: float,
    records: int | None = None,
    mark: Callable[[], None] = lambda: None,
) -> Stretch:
    """Publish for `warm_up` seconds, then for `seconds` that are counted, or until `records` are acknowledged in them.

    `mark` is called at both ends of what is counted. Raises what a producer raises.
    """
    tally, value = _Tally(), os.urandom(shape.size)
    async with trio.open_nursery() as nursery:
        for _ in range(shape.producers):
            nursery.start_soon(_produce, addresses, topic, shape, value, tally)
        while not tally.acked:
            await trio.sleep(0.001)
        await trio.sleep(warm_up)
        with undisturbed():
            mark()
            begun, before = trio.current_time(), tally.acked
            end = begun + seconds
            while (now := trio.current_time()) < end and (records is None or tally.acked - before < records):
                await trio.sleep(min(0.01, end - now))
            stretch = Stretch(tally.acked - before, trio.current_time() - begun)
            mark()
        tally.stopped = True
    return stretch


async def fill(client: Client, topic: str, size: int, records: int) -> None:
    """Put so many records into a topic, as fast as may be."""
    values = [os.urandom(size)] * min(records, MANY, max(1, (8 << 20) // size))
    async with client.producer() as out, trio.open_nursery() as nursery:
        left = iter(range(0, records, len(values)))

        async def send() -> None:
            for at in left:
                await out.send_many(topic, values[: records - at])

        for _ in range(MANY_CALLS):
            nursery.start_soon(send)


async def read(client: Client, topic: str, *, by_batch: bool, stop: int | None = None, node: int | None = None) -> Stretch:
    """Read a topic of one partition from its beginning, to offset `stop` or to its end; every value is looked at."""
    wanted: dict[tuple[str, int], int] | str = "end" if stop is None else {(topic, 0): stop}
    count = size = 0
    async with client.consumer(topic, start="earliest", stop=wanted, node=node) as inbox:  # type: ignore[arg-type]  # either is a Stop
        with undisturbed():
            begun = trio.current_time()
            if by_batch:
                async for records in inbox.batches():
                    count += len(records)
                    size += sum([len(record.value or b"") for record in records])
            else:
                async for record in inbox:
                    count += 1
                    size += len(record.value or b"")
            return Stretch(count, trio.current_time() - begun)


async def one_in_flight(client: Client, topic: str, size: int, samples: int, warm_up: int) -> list[float]:
    """The seconds that each of `samples` sends took, one after another."""
    value, taken = os.urandom(size), list[float]()
    async with client.producer() as out:
        for _ in range(warm_up):
            await out.send(topic, value)
        with undisturbed():
            for _ in range(samples):
                begun = trio.current_time()
                await out.send(topic, value)
                taken.append(trio.current_time() - begun)
    return taken


async def steady(client: Client, topic: str, size: int, rate: float, seconds: float) -> list[float]:
    """Send `rate` records a second, and for each slot the seconds from when it was due to the receipt of its last record."""
    value, taken = os.urandom(size), list[float]()

    async def wait(pending: Pending, due: float) -> None:
        await pending
        taken.append(trio.current_time() - due)

    async with client.producer() as out, trio.open_nursery() as nursery:
        with undisturbed():
            begun, sent = trio.current_time(), 0
            for slot in range(1, int(seconds / SLOT_SECONDS) + 1):
                due = begun + slot * SLOT_SECONDS
                await trio.sleep_until(due)
                pending: Pending | None = None
                while sent < slot * SLOT_SECONDS * rate:
                    pending = await out.submit(topic, value)
                    sent += 1
                if pending is not None:
                    nursery.start_soon(wait, pending, due)
    return taken


@dataclass(slots=True)
class Writer:
    """One record in flight, for ever, whatever happens to the nodes: `acks` has when each was acknowledged."""

    acks: list[float]

    async def until(self, records: int) -> None:
        """Wait until so many more are acknowledged."""
        goal = len(self.acks) + records
        while len(self.acks) < goal:
            await trio.sleep(0.005)

    def outage(self, since: float) -> float:
        """Seconds from `since` to the end of the longest silence that ended after it."""
        return outage(since, self.acks)


def outage(since: float, acks: list[float]) -> float:
    """Seconds from `since` to the end of the longest silence between acknowledgements after it. Raises NotReached if there is none.

    What was on its way already when something broke may still be acknowledged: that does not end the silence, so it is not the
    first acknowledgement that counts.
    """
    after = [ack for ack in acks if ack > since]
    if not after:
        raise NotReached("nothing was acknowledged after it")
    silences = [(end - begin, end) for begin, end in zip([since, *after], after, strict=False)]
    return max(silences)[1] - since


@asynccontextmanager
async def writing(addresses: str, topic: str, size: int) -> AsyncIterator[Writer]:
    """A writer for as long as the block."""
    writer = Writer([])

    async def write() -> None:
        value = os.urandom(size)
        while True:
            try:
                async with connect(addresses) as client, client.producer() as out:
                    while True:
                        await out.send(topic, value)
                        writer.acks.append(trio.current_time())
            except BrokerError:  # its producer is lost: that is part of the outage
                await trio.sleep(RETRY_SECONDS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        yield writer
        nursery.cancel_scope.cancel()


@contextmanager
def undisturbed() -> Iterator[None]:
    """What lies about from before is collected first, so that no run pays for another."""
    gc.collect()
    yield


async def _produce(addresses: str, topic: str, shape: Shape, value: bytes, tally: _Tally) -> None:
    window = max(1, shape.window // shape.producers)
    in_flight = MANY * MANY_CALLS if shape.many else window
    buffer = max(32 << 20, in_flight * (shape.size + RECORD_OVERHEAD_BYTES))
    async with connect(addresses) as client, client.producer(acks=shape.acks, buffer_bytes=buffer) as out:
        if shape.many:
            await _send_many(out, topic, value, tally)
        else:
            await _submit(out, topic, value, window, tally)


async def _submit(out: Producer, topic: str, value: bytes, window: int, tally: _Tally) -> None:
    """Single sends, the window kept full: wait for the oldest, take every receipt that has come with it."""
    held: deque[Pending] = deque()
    submit = out.submit
    while not tally.stopped:
        while len(held) < window:
            held.append(await submit(topic, value))
        await held[0]
        done = 0
        while held and held[0].done:
            held.popleft().receipt()
            done += 1
        tally.acked += done
    for pending in held:
        await pending


async def _send_many(out: Producer, topic: str, value: bytes, tally: _Tally) -> None:
    values = [value] * max(1, min(MANY, (8 << 20) // len(value)))

    async def send() -> None:
        while not tally.stopped:
            receipts = await out.send_many(topic, values)
            tally.acked += len(receipts)  # not in one line: `+=` would read the count before it waits, and lose the other call's

    async with trio.open_nursery() as nursery:
        for _ in range(MANY_CALLS):
            nursery.start_soon(send)
