"""Segments are read again and again, slowly, to see whether they are still what was written: rot is found before somebody needs the bytes.

A node that finds some takes what it lost from a peer (see `zablog.node.restoration`). Until then nobody is served what is damaged: who
reads verifies both checksums of each batch.
"""

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import google_crc32c
import structlog
import trio

if TYPE_CHECKING:
    from broker.server.application import BrokerApplication

PIECE_BYTES: Final = 256 << 10
REST_SECONDS: Final = 1.0
"""Between two rounds."""

log = structlog.get_logger("broker.server")


async def keep_scrubbing(application: "BrokerApplication", rate: int) -> None:
    """For ever, at `rate` bytes a second."""
    while True:
        await trio.sleep(REST_SECONDS)
        if application.restored and application.damaged is None:
            with suppress(OSError):  # what the disk refuses to give is met by whoever needs it, with its own words
                await scrub(application, rate)


async def scrub(application: "BrokerApplication", rate: int) -> None:
    """One round. Raises OSError."""
    scrubbed = application.log
    for name, size, crc in scrubbed.segments():
        found = 0
        for offset in range(0, size, PIECE_BYTES):
            try:
                work = partial(application.files.read, name, offset, min(PIECE_BYTES, size - offset))
                piece = await trio.to_thread.run_sync(work, abandon_on_cancel=True)  # a node that is to stop waits for no disk that hangs
            except FileNotFoundError:
                piece = b""
            found = google_crc32c.extend(found, piece)
            await trio.sleep(len(piece) / rate)
        if found == crc:
            continue
        if application.log is not scrubbed:  # restored meanwhile: pieces of two files may have been read
            return
        if any(row[0] == name for row in scrubbed.segments()):  # it was not deleted meanwhile
            log.error("a segment is damaged", segment=name, bytes=size)
            application.report_damage(f"segment {name}: what it holds is not what was written")
            return
