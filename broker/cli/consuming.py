"""The work of `zablog consume`: batches from the client, bytes to stdout, each batch flushed before the next one is asked for."""

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

import trio

from broker.cli import framing, positions, where
from broker.cli.positions import Count
from broker.cli.terminal import Terminal
from broker.client import Client
from broker.client.client import ReadLevel
from broker.errors import Exit, NoQuorum
from broker.records import Record

STDOUT = 1

End = Mapping[tuple[str, int], int] | Literal["end"] | int | datetime


@dataclass(frozen=True, slots=True)
class Wish:
    """What was typed."""

    topics: tuple[str, ...]
    begin: str | None
    until: str | None
    partition: int | None
    node: int | None
    read: str | None
    out: str


@dataclass(slots=True)
class Tally:
    """What was written. `reading` is cancelled by Ctrl-C; what is being written is finished first."""

    records: int = 0
    stopped: bool = False
    reading: trio.CancelScope | None = None


def run(screen: Terminal, wish: Wish) -> int:
    now = datetime.now(UTC)
    start = positions.start(wish.begin, now) if wish.begin is not None else "latest"
    stop = positions.stop(wish.until, now) if wish.until is not None else None
    write = framing.writer(wish.out)
    if wish.begin is None:
        screen.note("from latest: only what comes from now on; --from earliest shows all there is")
    tally = Tally()
    try:
        trio.run(_consume, screen, wish, start, stop, write, tally)
    finally:
        # Also when `| head` has heard enough: what was written was written.
        if tally.stopped or wish.until is not None or tally.records:
            screen.note(f"{tally.records:,} records")
    return Exit.OK


async def _consume(
    screen: Terminal, wish: Wish, start: positions.Start, stop: positions.Stop | None, write: framing.Writer, tally: Tally
) -> None:
    left = stop.records if isinstance(stop, Count) else None
    async with where.client(screen) as client:
        end: End | None = None if isinstance(stop, Count) else stop
        if wish.node is not None:
            await client.node_status(wish.node)  # raises what is wrong with that node within --timeout
        if stop == "end" and wish.node is not None and wish.read is None:
            end = await _committed_ends(screen, client, wish)
        read = cast("ReadLevel | None", wish.read)  # the client refuses what is none
        consumer = client.consumer(wish.topics, start=start, stop=end, partition=wish.partition, node=wish.node, read=read)
        async with consumer as inbox, trio.open_nursery() as nursery:
            nursery.start_soon(_on_interrupt, tally)
            batches = inbox.batches()
            while not tally.stopped and left != 0:
                with trio.CancelScope() as tally.reading:
                    try:
                        records = await anext(batches)
                    except StopAsyncIteration:
                        break
                if tally.reading.cancelled_caught:
                    break
                records = records if left is None else records[:left]
                await _write(records, write, tally)
                left = None if left is None else left - len(records)
            nursery.cancel_scope.cancel()


async def _committed_ends(screen: Terminal, client: Client, wish: Wish) -> End:
    """The ends that the leader knows: a node that has just come back is read until it has come so far."""
    ends: dict[tuple[str, int], int] = {}
    try:
        for topic in wish.topics:
            described = await client.describe_topic(topic)
            wanted = range(len(described.partitions)) if wish.partition is None else [wish.partition]
            for partition in wanted:
                if partition < len(described.partitions):  # else the consumer says so
                    ends[topic, partition] = described.partitions[partition].end
    except NoQuorum:
        screen.warn(f"nobody leads: the end is what node {wish.node} has")
        return "end"
    return ends


async def _write(records: Sequence[Record], write: framing.Writer, tally: Tally) -> None:
    """In a thread: a reader that has stopped reading must not keep Ctrl-C from being heard."""
    await trio.to_thread.run_sync(_write_all, b"".join([write(record) for record in records]))
    tally.records += len(records)


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(STDOUT, view) :]


async def _on_interrupt(tally: Tally) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if tally.stopped:
                os._exit(Exit.INTERRUPTED)
            tally.stopped = True
            if tally.reading is not None:
                tally.reading.cancel()
