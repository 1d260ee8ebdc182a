"""Segments that rot or are replaced while somebody asks: what a hostile reading of the disk found."""

import errno
from collections.abc import Sequence
from typing import cast

import pytest
import trio

from broker.checkpoint import remove
from broker.log import Log
from broker.log.log import Dirt
from broker.protocol import Fetch, FetchFrom, FetchStatus, OffsetQuery, Offsets, OffsetsFound, Where
from broker.server.application import BrokerApplication
from broker.server.checkpoint import keep_flushing, sync
from broker.server.config import Limits
from broker.server.reads import Reads
from broker.server.scrubbing import scrub
from broker.state import Retention
from tests.broker.log.test_log import fill
from tests.broker.server.test_retention import TOPIC, Feed
from zablog import Node, NodeStopped
from zablog.core.trail import Payload
from zablog.core.zxid import ZERO, Zxid
from zablog.sim.disk import SimDisk

APPLIED = Zxid(1, 12)


async def restarted(disk: SimDisk) -> tuple[BrokerApplication, bytes]:
    """An application of two segments, none of which has been read since the start, and the snapshot that it began with."""
    first = BrokerApplication(lambda: disk, segment_bytes_max=700)
    await first.restore(ZERO, None)
    feed = Feed(first)
    feed.create(Retention())
    for time in range(10):
        feed.produce(time)
    capture = first.capture()
    raw = b"".join(await capture.encode())
    await capture.durable()
    again = BrokerApplication(lambda: disk, segment_bytes_max=700)
    await again.restore(APPLIED, raw)
    segments = again.log.partition(TOPIC, 0).files
    assert len(segments) == 2
    for name in segments:  # what the snapshot has of them is written once more
        again.files.sync(name)
    return again, raw


async def test_an_offset_sought_in_a_rotten_segment_is_answered_and_the_damage_reported() -> None:
    application, _ = await restarted(disk := SimDisk())
    segment = application.log.partition(TOPIC, 0).files[0]
    disk.flip(segment, 5, 3)
    # Offsets are answered from the application alone.
    reads = Reads(cast(Node, None), application, Limits())

    found = [await reads.offsets(Offsets((OffsetQuery(TOPIC, 0, where, 1, ZERO),))) for where in Where]

    by_where = dict(zip(Where, found, strict=True))
    for where in (Where.TIME, Where.ZXID):
        assert isinstance(answer := by_where[where], OffsetsFound)
        assert [each.status for each in answer.offsets] == [FetchStatus.CORRUPT]
    assert application.damaged is not None and segment in application.damaged


async def test_an_offset_sought_in_a_segment_that_cannot_be_read_is_answered_and_the_damage_reported() -> None:
    application, _ = await restarted(disk := SimDisk())

    def broken(name: str) -> None:
        raise OSError(errno.EIO, "Input/output error", name)

    disk.reading = broken
    reads = Reads(cast(Node, None), application, Limits())

    found = await reads.offsets(Offsets((OffsetQuery(TOPIC, 0, Where.TIME, 1, ZERO),)))

    assert [each.status for each in found.offsets] == [FetchStatus.CORRUPT]
    assert application.damaged is not None and "cannot be read" in application.damaged


async def test_a_node_whose_segments_cannot_be_written_stops_whoever_had_them_written(autojump_clock: trio.testing.MockClock) -> None:
    application = BrokerApplication(lambda: disk)
    disk = SimDisk()
    await application.restore(ZERO, None)
    feed = Feed(application)
    feed.create(Retention())
    feed.produce(1)
    disk.fail_after(0, OSError(errno.ENOSPC, "No space left on device"))
    reads = Reads(cast(Node, None), application, Limits())

    fetched = reads.fetch_now(Fetch((FetchFrom(TOPIC, 0, 0, 1 << 20),), 1 << 20))

    assert fetched is not None and [each.status for each in fetched.partitions] == [FetchStatus.CORRUPT]
    with pytest.raises(NodeStopped, match="segments were written"):
        await keep_flushing(application)


async def test_scrubbing_says_nothing_of_segments_that_were_replaced_while_they_were_read(autojump_clock: trio.testing.MockClock) -> None:
    application, raw = await restarted(disk := SimDisk())
    segment = application.log.partition(TOPIC, 0).files[0]
    disk.flip(segment, 5, 3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrub, application, 1)
        await trio.sleep(1)  # it has read the segment, and rests for minutes
        disk.flip(segment, 5, 3)
        await application.restore(APPLIED, raw)

    assert application.damaged is None


async def test_scrubbing_tells_of_a_segment_that_rots() -> None:
    application, _ = await restarted(disk := SimDisk())
    segment = application.log.partition(TOPIC, 0).files[0]
    disk.flip(segment, 5, 3)

    await scrub(application, 1 << 30)

    assert application.damaged is not None and segment in application.damaged


class Removing(SimDisk):
    """Index files are removed right after they were written to: a checkpoint became durable that names their segments no longer."""

    def write(self, name: str, offset: int, pieces: Sequence[Payload]) -> None:
        super().write(name, offset, pieces)
        if name.endswith(".index"):
            self.unlink(name)


def a_log_with_rows_to_write(disk: SimDisk, monkeypatch: pytest.MonkeyPatch) -> tuple[Log, list[Dirt]]:
    monkeypatch.setattr("broker.log.log.INDEX_BYTES_MIN", 1)
    log = Log(disk)
    fill(log, 10, topic=TOPIC)
    log.capture()
    return log, list(log.dirt())


async def test_rows_of_a_segment_that_goes_meanwhile_do_not_end_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    log, dirt = a_log_with_rows_to_write(disk := Removing(), monkeypatch)

    await sync(disk, log, dirt)

    assert log.dirty_bytes == 0


async def test_rows_of_a_segment_that_has_gone_leave_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    log, dirt = a_log_with_rows_to_write(disk := SimDisk(), monkeypatch)
    log.delete_topic(TOPIC)
    remove(disk, log.doomed())

    await sync(disk, log, dirt)

    assert disk.names() == []
