"""Checkpoints of the broker, made without anyone waiting: the steps of `broker.checkpoint`, a slice at a time, the disk in threads."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from broker.checkpoint import Checkpoint, Steps, collected, made_durable, to_sync
from broker.log.log import Dirt, Log
from zablog import NodeStopped
from zablog.storage.disk import Disk

if TYPE_CHECKING:
    from broker.server.application import BrokerApplication

Result = TypeVar("Result")

SLICE_SECONDS: Final = 0.002
"""After so much work others have their turn."""
REST_SECONDS_MAX: Final = 0.02
CAPTURED_AHEAD: Final = 500
"""Partitions captured ahead of time at each look of the flusher: about 2 ms of work."""
LONG_BYTES: Final = 1 << 20
"""What is not durable of a segment is made so when it is so much: a little often, since commits of the log wait for the same disk."""
DIRTY_BYTES_MAX: Final = 8 << 20
"""Nor may so much be left of all segments together. Then the longest ends go first."""
LOOK_SECONDS: Final = 0.05


class BrokerCapture:
    """`zablog.node.application.Capture`."""

    def __init__(self, application: "BrokerApplication") -> None:
        self._application = application
        self._checkpoint = Checkpoint(application.files, application.log, application.state)

    async def encode(self) -> Sequence[bytes]:
        async with self._application.syncing:
            return await at_leisure(self._checkpoint.encoded())

    async def durable(self) -> None:
        self._application.capturing = False
        await trio.to_thread.run_sync(self._checkpoint.over)


async def at_leisure(steps: Steps[Result]) -> Result:
    """All steps, the work of the disk in threads, with rests between: a checkpoint is in no hurry, and everybody else is."""
    began = time.monotonic()
    while True:
        try:
            work = next(steps)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        if work is not None:
            await trio.to_thread.run_sync(work)
        elif time.monotonic() - began > SLICE_SECONDS:
            await rest_after(began)
            began = time.monotonic()


async def rest_after(began: float) -> None:
    """Leave others twice the time that this slice took. A thread that runs Python takes it from the event loop as well."""
    await trio.sleep(min(REST_SECONDS_MAX, 2 * (time.monotonic() - began)))


async def sync(disk: Disk, log: Log, dirt: Sequence[Dirt]) -> None:
    """Make these durable. Raises OSError."""
    await at_leisure(made_durable(disk, log, dirt))


async def keep_flushing(application: "BrokerApplication") -> None:
    """For ever: what was appended becomes durable in time, so that no checkpoint has much to do. Raises NodeStopped."""
    left = 0  # bytes that the last look has let be
    while True:
        await trio.sleep(LOOK_SECONDS)
        if application.failed is not None:
            raise NodeStopped(f"the disk failed while segments were written: {application.failed}") from application.failed
        if not application.restored or application.capturing:
            continue
        log = application.log
        log.capture_some(CAPTURED_AHEAD)
        left = min(left, log.dirty_bytes)
        if log.dirty_bytes - left > LONG_BYTES:
            most = DIRTY_BYTES_MAX if log.dirty_bytes <= DIRTY_BYTES_MAX else DIRTY_BYTES_MAX // 2
            try:
                async with application.syncing:
                    if application.log is not log:  # another one was restored while we waited
                        continue
                    due, rest = to_sync(await at_leisure(collected(log.dirt())), LONG_BYTES, most)
                    left = sum(each.bytes for each in rest)
                    await sync(application.files, log, due)
            except OSError as error:
                raise NodeStopped(f"the disk failed while segments were flushed: {error}") from error
