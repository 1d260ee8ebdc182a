"""The write-ahead log as readers see it, in whatever thread: the files that make it, and the next entries above a place.

A reader meets a writer that cuts, trims and goes on in new files. It keeps the list of files that it began with; what is gone under it
belonged to a role that has ended, or is in the snapshot.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from zablog.core.trail import Entries, Trail
from zablog.core.zxid import BEYOND, Zxid
from zablog.storage.batch import (
    BATCH_BYTES,
    END_BYTES,
    FILE_BYTES,
    REUSED,
    BatchHeader,
    FileHeader,
    NotAHeader,
    decode_batch_header,
    decode_body,
)
from zablog.storage.disk import Disk
from zablog.storage.errors import Corrupt, Trimmed
from zablog.storage.runs import part, slice_run

CURSORS_MAX: Final = 64
START = attrgetter("header.start.zxid")
"""Where a file takes over."""
HELP = "Nothing was cut: what stands here may have been acknowledged. Keep the directory; the other nodes go on without this one."


def file_name(generation: int) -> str:
    return f"wal-{generation:016x}.log"


@dataclass(slots=True)
class File:
    """One file of the log. `rows` are (the zxid before a batch, its offset), ascending; `end` is where the next batch goes."""

    name: str
    header: FileHeader
    end: int = FILE_BYTES
    rows: list[tuple[Zxid, int]] = field(default_factory=list)
    salt: int = field(init=False)

    def __post_init__(self) -> None:
        self.salt = self.header.salt

    @property
    def written(self) -> int:
        """Where what belongs to the last batch ends: of a reused file, with the mark."""
        return self.end + END_BYTES if self.header.format == REUSED else self.end


class LogReader:
    """The log of `disk`. Safe in several threads, beside one that writes."""

    def __init__(self, disk: Disk, trail: Trail) -> None:
        self.disk = disk
        self.trail = trail
        self.files: list[File] = []
        """Replaced as a whole, never changed: a reader may keep what it has."""
        self.lock = threading.Lock()
        """Over `files` and `cursors`; never held during a write."""
        self.cursors: OrderedDict[Zxid, tuple[int, int]] = OrderedDict()
        """Where readers go on: the generation of the file, and the offset."""

    def batches(self, after: Zxid) -> Iterator[tuple[File, Zxid, int, BatchHeader]]:
        """The batches that hold entries above `after`: (file, the last place of it that is not void, offset, header)."""
        with self.lock:
            files = self.files
            cursor = self.cursors.get(after)
        position = max(bisect_right(files, after, key=START) - 1, 0)
        for at in range(position, len(files)):
            file = files[at]
            limit = files[at + 1].header.start.zxid if at + 1 < len(files) else BEYOND
            if cursor is not None and cursor[0] == file.header.generation:
                offset = cursor[1]
            else:
                row = bisect_right(file.rows, (after, 1 << 62)) - 1
                offset = file.rows[row][1] if row >= 0 else FILE_BYTES
            while offset < file.end:
                header = self.header_at(file, offset)
                if header.entries and header.first > limit:
                    break
                if header.entries and (header.prev.zxid >= after or header.last > after):
                    yield file, limit, offset, header
                offset += BATCH_BYTES + header.body_bytes

    def header_at(self, file: File, offset: int) -> BatchHeader:
        try:
            return decode_batch_header(self.disk.read(file.name, offset, BATCH_BYTES), file.salt)
        except NotAHeader as error:
            raise self.rotten(file, offset, str(error)) from error

    def rotten(self, file: File, offset: int, words: str) -> Exception:
        """Not what was written. A file that was let go of meanwhile is only being made anew."""
        with self.lock:
            if not any(each is file for each in self.files):
                return FileNotFoundError(f"{file.name} was trimmed under this reader")
        return Corrupt(f"{file.name}, offset {offset}: {words}, though it was whole when written. {HELP}")

    def entries_at(self, file: File, limit: Zxid, offset: int, header: BatchHeader) -> Entries:
        """The entries of a batch that are not void."""
        body = self.disk.read(file.name, offset + BATCH_BYTES, header.body_bytes)
        try:
            payloads = decode_body(header, body, file.header.format)
        except NotAHeader as error:
            raise self.rotten(file, offset, str(error)) from error
        entries = Entries(header.first, header.prev.zxid, payloads, header.digest)
        return entries if limit is BEYOND or entries.last <= limit else part(entries, header.prev, limit)

    def read(self, after: Zxid, upto: Zxid, bytes_max: int) -> Entries | None:
        """The next entries above `after`, up to `upto`: of one batch, at least one, about `bytes_max` bytes. None if there are none.

        Raises Trimmed where the log begins above `after`.
        """
        if after < self.trail.base.zxid:
            raise Trimmed(f"the log begins at {self.trail.base.zxid}: what stood between {after} and that is in the snapshot")
        try:
            return self.read_next(after, upto, bytes_max)
        except FileNotFoundError:  # cut from under a reader of another thread, whose role has ended with that
            return None

    def read_next(self, after: Zxid, upto: Zxid, bytes_max: int) -> Entries | None:
        for file, limit, offset, header in self.batches(after):
            if header.prev.zxid > after:
                raise Trimmed(f"the log begins above {after} now: it was trimmed under this reader")
            if header.first > upto:
                return None
            whole = self.entries_at(file, limit, offset, header)
            entries = slice_run(whole, header.prev, after, upto, bytes_max)
            last = entries.last
            all_read = entries is whole or last == whole.last
            self.remember(last, file, offset + BATCH_BYTES + header.body_bytes if all_read else offset)
            return entries
        return None

    def remember(self, zxid: Zxid, file: File, offset: int) -> None:
        """Where a reader goes on."""
        with self.lock:
            self.cursors[zxid] = (file.header.generation, offset)
            if len(self.cursors) > CURSORS_MAX:
                self.cursors.popitem(last=False)

    def digest_at(self, zxid: Zxid) -> int | None:
        """The running digest at an entry; None if the log has no such entry."""
        known = self.trail.digest_at(zxid)
        if known is not None or zxid not in self.trail:
            return known
        for file, limit, offset, header in self.batches(Zxid(zxid.epoch, zxid.counter - 1)):
            whole = self.entries_at(file, limit, offset, header)
            return part(whole, header.prev, zxid).digest if whole.first <= zxid <= whole.last else None
        return None

    def bytes_above(self, zxid: Zxid) -> int:
        """About how many bytes of the log hold what is above `zxid`."""
        size = 0
        for file in reversed(self.files):
            if file.header.start.zxid <= zxid:
                rows = file.rows
                row = bisect_right(rows, (zxid, 1 << 62)) - 1
                return size + file.end - (rows[row][1] if row >= 0 else FILE_BYTES)
            size += file.end - FILE_BYTES
        return size

    def trimmed(self, upto: Zxid, keep_bytes: int) -> File:
        """The file that the log may begin with if nothing through `upto` is needed but the last `keep_bytes` bytes of it."""
        kept = 0
        for at in range(len(self.files) - 1, 0, -1):
            if self.files[at].header.start.zxid <= upto and kept >= keep_bytes:
                return self.files[at]
            kept += self.files[at].end
        return self.files[0]
