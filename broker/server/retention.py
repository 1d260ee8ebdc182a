"""Retention: the leader sees what is too old, too much or too many, and proposes that everybody let go of it at once.

What goes is decided by a command, so that every node's partitions begin at the same offset; the command names the settings it follows
from, and is void once they have changed. Age is judged by leader time, as it would stand in the next command.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from broker.log.log import Log
from broker.log.partition import SEGMENT_BYTES_MAX, Partition, SegmentLimits
from broker.server.clock import LeaderClock
from broker.state import Bound, MoveBounds, Retention, Topic, encode
from broker.state.commands import BOUNDS_MAX, FOR_EVER
from zablog import Full, Node, NotLeading

if TYPE_CHECKING:
    from broker.server.application import BrokerApplication

SEGMENT_BYTES_MIN: Final = 256 << 10
SEGMENT_MS_MIN: Final = 1000
SEGMENTS: Final = 8
"""So many segments make up what is kept, at least: no more than an eighth too much is."""


def limits_of(retention: Retention) -> SegmentLimits | None:
    """When a segment of such a topic ends; None: as usual. Small keeps need small segments, since only whole ones go."""
    if not retention.ms and not retention.bytes:
        return None
    size = min(SEGMENT_BYTES_MAX, max(SEGMENT_BYTES_MIN, retention.bytes // SEGMENTS)) if retention.bytes else SEGMENT_BYTES_MAX
    return SegmentLimits(size, max(SEGMENT_MS_MIN, retention.ms // SEGMENTS)) if retention.ms else SegmentLimits(size)


def first_kept(partition: Partition, retention: Retention, now: int) -> int:
    """The first offset that is still to be kept at leader time `now`."""
    first, segments = partition.first, partition.indexes
    if retention.records:
        first = max(first, partition.end - retention.records)
    if retention.bytes:
        left = partition.size
        for index in segments[:-1]:
            left -= index.size
            if left < retention.bytes:
                break
            first = max(first, index.end_offset)
    if retention.ms and segments:
        # A segment is as old as its last batch, which is not younger than the first of the next one.
        times = [index.base_time for index in segments[1:]] + [partition.last_time or 0]
        for index, time in zip(segments, times, strict=True):
            if now - time <= retention.ms:
                break
            first = max(first, index.end_offset)
    return first


def bounds_of(topic: Topic, log: Log, now: int) -> Iterator[Bound]:
    """The bounds of a topic that are to be moved."""
    for number in range(topic.partitions):
        partition = log.partition(topic.id, number)
        first = first_kept(partition, topic.retention, now)
        if first > partition.first:
            yield Bound(topic.id, topic.settings, number, first)


async def keep_retaining(application: "BrokerApplication", node: Node, clock: LeaderClock, seconds: float) -> None:
    """For ever: a round each so many seconds, while this node leads. What one round finds no room for, the next one looks at again."""
    while True:
        await trio.sleep(seconds)
        status = node.status()
        if application.restored and status.leads and status.applied >= status.watermark:
            with suppress(Full, NotLeading):
                await retain(application, node, clock)


async def retain(application: "BrokerApplication", node: Node, clock: LeaderClock) -> None:
    """One round, in as many commands as it needs. Raises Full, NotLeading, NodeStopped."""
    bounds: list[Bound] = []
    for topic in list(application.state.topics.values()):
        if topic.retention == FOR_EVER:
            continue
        now = clock.now(application.state.time)
        bounds += bounds_of(topic, application.log, now)
        await trio.lowlevel.checkpoint()
    # Whoever has to move much each round must not keep the topics behind it waiting, so all of them get their turn in each.
    for begin in range(0, len(bounds), BOUNDS_MAX):
        time = clock.now(application.state.time)
        node.propose_nowait([encode(MoveBounds(time, tuple(bounds[begin : begin + BOUNDS_MAX])))])
