"""Loads count what was acknowledged, all of it and nothing else."""

from collections.abc import Generator

import pytest
import trio
import trio.testing

from broker.bench import load
from broker.bench.load import MANY, Writer


class Out:
    """A producer that acknowledges after a while, and counts what it was given."""

    def __init__(self, tally: load._Tally, calls: int) -> None:
        self.tally, self.calls, self.given = tally, calls, 0

    async def send_many(self, topic: str, values: list[bytes]) -> list[bytes]:
        self.given += len(values)
        self.calls -= 1
        self.tally.stopped = self.calls <= 0
        await trio.sleep(0.01)
        return values

    async def submit(self, topic: str, value: bytes) -> "Promise":
        self.given += 1
        self.calls -= 1
        self.tally.stopped = self.calls <= 0
        await trio.lowlevel.checkpoint()
        return Promise()


class Promise:
    """Of a record that has been acknowledged."""

    done = True

    def receipt(self) -> None:
        pass

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()

    def __await__(self) -> Generator[object, object, None]:
        return self.wait().__await__()


async def test_calls_under_way_at_once_lose_none_of_each_others_counts(autojump_clock: trio.testing.MockClock) -> None:
    tally = load._Tally()
    out = Out(tally, calls=10)

    await load._send_many(out, "orders", b"x", tally)  # type: ignore[arg-type]  # a producer for all that is asked of it here

    assert out.given == tally.acked >= 10 * MANY


async def test_single_sends_are_counted_when_they_are_acknowledged() -> None:
    tally = load._Tally()
    out = Out(tally, calls=1000)

    await load._submit(out, "orders", b"x", 64, tally)  # type: ignore[arg-type]  # as above

    assert tally.acked == out.given >= 1000


async def test_a_writer_is_waited_for_by_the_number_of_its_acknowledgements(autojump_clock: trio.testing.MockClock) -> None:
    writer = Writer([1.0, 2.0])

    async def write() -> None:
        for ack in range(3, 6):
            await trio.sleep(1)
            writer.acks.append(float(ack))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await writer.until(3)

    assert writer.acks == [1.0, 2.0, 3.0, 4.0, 5.0] and writer.outage(2.5) == pytest.approx(2.5)
