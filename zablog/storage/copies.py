"""A small record in two full, checksummed copies with a version.

Both are written and fsynced in turn before a save returns. Not alternating slots: losing the newest slot would silently
fall back to an older promise. At load the higher valid version wins, and both copies are rewritten before anyone acts on it:
readable is not durable, and a sync that failed in an earlier process may have left clean pages that no later sync writes.
"""

import struct
from collections.abc import Callable

import google_crc32c

from zablog.storage.disk import Disk
from zablog.storage.errors import MetadataLost, NewerFormat, NotBorn

MAGIC = b"ZABLCOPY"
FORMAT = 1
HEADER = struct.Struct(">8sHQI")  # magic, format, version, length; a CRC-32C over header and body follows
CRC = struct.Struct(">I")
OURS = ("manifest.", "epochs.", "wal-")
"""What the names of a data directory's files begin with."""
BODY_BYTES_MAX = 16 << 20


class Copies:
    """The record NAME in the files NAME.a and NAME.b.

    `ours` tells the record's bytes from another record's: a copy of that, whole and in the wrong place, may have the higher version.
    """

    def __init__(self, disk: Disk, name: str, ours: Callable[[bytes], bool]) -> None:
        self.disk = disk
        self.ours = ours
        self.files = (f"{name}.a", f"{name}.b")
        self.version = 0

    def give_birth(self, body: bytes) -> None:
        for file in self.files:
            self.disk.create(file)
        self.save(body)

    def save(self, body: bytes) -> None:
        """Durable in both copies when it returns."""
        self.version += 1
        for file in self.files:
            self.write(file, self.version, body)

    def write(self, file: str, version: int, body: bytes) -> None:
        header = HEADER.pack(MAGIC, FORMAT, version, len(body))
        record = header + CRC.pack(google_crc32c.value(header + body)) + body
        self.disk.write(file, 0, [record])
        if self.disk.size(file) > len(record):
            self.disk.truncate(file, len(record))
        self.disk.sync(file)

    def load(self) -> bytes:
        """The newer valid copy, durable in both files. NotBorn where nothing of ours is, MetadataLost if neither copy is valid."""
        if not any(self.disk.exists(file) for file in self.files):
            left = [name for name in self.disk.names() if name.startswith(OURS)]
            if not left:
                raise NotBorn(
                    f"{self.files[0]} and {self.files[1]} are missing: this is no data directory. `zablog cluster init` makes one."
                )
            raise MetadataLost(
                f"both copies, {self.files[0]} and {self.files[1]}, are missing beside {left[0]}: what this node promised is lost, and it "
                "must not vote again under its identity. Keep the directory; the other nodes go on without this one. (Only if "
                "`zablog cluster init` was interrupted here, and no server ever started, delete all it made and run it again.)"
            )
        copies = [self.parse(file) for file in self.files]
        whole = [copy for copy in copies if copy is not None]
        if not whole:
            raise MetadataLost(
                f"both copies, {self.files[0]} and {self.files[1]}, are damaged: what this node promised is lost, and it must not vote "
                "again under its identity. Keep the directory; the other nodes go on without this one."
            )
        self.version, body = max(whole)
        # The older or damaged copy first: while it is being written, the better one stands untouched.
        for file, copy in sorted(zip(self.files, copies, strict=True), key=lambda pair: pair[1] == (self.version, body)):
            if copy is None and not self.disk.exists(file):
                self.disk.create(file)
                self.disk.sync_names()
            self.write(file, self.version, body)
        return body

    def parse(self, file: str) -> tuple[int, bytes] | None:
        if not self.disk.exists(file):
            return None
        length = min(self.disk.size(file), HEADER.size + CRC.size + BODY_BYTES_MAX)
        record = self.disk.read(file, 0, length)
        if len(record) < HEADER.size + CRC.size:
            return None
        magic, format, version, body_length = HEADER.unpack_from(record)
        body = record[HEADER.size + CRC.size :]
        (crc,) = CRC.unpack_from(record, HEADER.size)
        if magic != MAGIC or body_length != len(body) or google_crc32c.value(record[: HEADER.size] + body) != crc:
            return None
        if format > FORMAT:
            raise NewerFormat(f"{file} has format {format}, this version reads up to {FORMAT}: use the version that wrote it.")
        return (version, body) if self.ours(body) else None
