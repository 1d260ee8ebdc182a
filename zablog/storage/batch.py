"""The bytes of the write-ahead log: file headers and batches. Pure.

A *batch* is one group commit: one header, the lengths of its payloads, the payloads. A CRC-32C covers the header, another the lengths;
the payloads are what the running digests in the header say of them. The core has worked those out anyway, and to sum a megabyte once more,
and to copy it for that, costs as much as to write it. (In format 1 the second checksum covered the payloads, too; such files are read.)
It carries the identifier of the batch before it: found in the next batch, an identifier says "this one was synced" (sealed).

A batch header's checksum starts from that of its file (`salt`), which names the node: the bytes of some other log, sent as a payload, are
never taken for a batch of this one.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import google_crc32c

from zablog.core.trail import Mark, Payload, extend_digest
from zablog.core.zxid import Zxid

FORMAT_MIN: Final = 1
FILLED: Final = 2
"""The format of a file that is full of zeros ahead of use: behind the last batch there is nothing else."""
REUSED: Final = 3
"""The format of one that was another file of the log before: behind the last batch stands an end mark, and behind that what the earlier use
has left."""
FILE_MAGIC: Final = b"ZABLWAL\n"
BATCH_MAGIC: Final = b"\xabZB\x01"
END_MAGIC: Final = b"\xabZE\x01"
BODY_BYTES_MAX: Final = 1 << 30
JOIN_BYTES_MAX: Final = 16 << 10
"""Payloads up to this size on average are copied together: cheaper than a checksum call and a write vector each."""
NOTHING: Final = 0
"""The identifier before the first batch of all."""

FILE = struct.Struct(">8sHQ16sQQIQQQ")
BATCH = struct.Struct(">4sQQIQIIQQQIQQII")
END = struct.Struct(">4sIQQIQ")
CRC = struct.Struct(">I")
FILE_BYTES: Final = FILE.size + CRC.size
BATCH_BYTES: Final = BATCH.size + CRC.size
END_BYTES: Final = END.size + CRC.size


class FileHeader(NamedTuple):
    """Where a file of the log takes over. What older files hold above `start` is void: so a truncation is the making of one file."""

    generation: int
    owner: bytes
    """The node's incarnation."""
    capacity: int
    """The size of the file."""
    sequence: int
    """The number of its first batch."""
    start: Mark
    """The last entry before this file, and the running digest there."""
    previous: int
    """The identifier of the batch before this file."""
    format: int = FILLED

    def encode(self) -> bytes:
        head = FILE.pack(
            FILE_MAGIC,
            self.format,
            self.generation,
            self.owner,
            self.capacity,
            self.sequence,
            *self.start.zxid,
            self.start.digest,
            self.previous,
        )
        return head + CRC.pack(google_crc32c.value(head))

    @property
    def salt(self) -> int:
        """What the checksums of batch headers in this file start from."""
        checksum: int = CRC.unpack(self.encode()[-CRC.size :])[0]
        return checksum


class NotAHeader(Exception):
    """These bytes are no header; `format` is set if they are one of a later format."""

    def __init__(self, reason: str, format: int | None = None) -> None:
        super().__init__(reason)
        self.format = format


def decode_file_header(raw: bytes) -> FileHeader:
    """Raises NotAHeader."""
    if len(raw) < FILE_BYTES:
        raise NotAHeader("too short for a file header")
    magic, format, generation, owner, capacity, sequence, epoch, counter, digest, previous = FILE.unpack_from(raw)
    if magic != FILE_MAGIC:
        raise NotAHeader("no file of the log")
    if not FORMAT_MIN <= format <= REUSED and CRC.unpack_from(raw, FILE.size)[0] == google_crc32c.value(raw[: FILE.size]):
        raise NotAHeader(f"format {format}", format)
    if CRC.unpack_from(raw, FILE.size)[0] != google_crc32c.value(raw[: FILE.size]):
        raise NotAHeader("the checksum of the file header is wrong")
    return FileHeader(generation, owner, capacity, sequence, Mark(Zxid(epoch, counter), digest), previous, format)


class BatchHeader(NamedTuple):
    """What a batch says of itself. An empty batch only seals the one before it."""

    sequence: int
    generation: int
    first: Zxid
    entries: int
    prev: Mark
    """The entry before `first`, and the running digest there."""
    digest: int
    """The running digest after the batch."""
    hint: Zxid
    """Everything through here was known to be committed when the batch was written."""
    previous: int
    """The identifier of the batch before it."""
    body_bytes: int
    body_check: int
    """See `encode_body`."""

    @property
    def last(self) -> Zxid:
        return Zxid(self.first.epoch, self.first.counter + self.entries - 1) if self.entries else self.prev.zxid

    def identifier(self, salt: int) -> int:
        """Distinguishes this batch from any other that could stand in its place: its two checksums."""
        head: int = google_crc32c.extend(salt, self.pack())
        return (self.body_check << 32) | head

    def encode(self, salt: int) -> bytes:
        head = self.pack()
        return head + CRC.pack(google_crc32c.extend(salt, head))

    def pack(self) -> bytes:
        return BATCH.pack(
            BATCH_MAGIC,
            self.sequence,
            self.generation,
            *self.first,
            self.entries,
            *self.prev.zxid,
            self.prev.digest,
            self.digest,
            *self.hint,
            self.previous,
            self.body_bytes,
            self.body_check,
        )


def identifier_at(raw: bytes, offset: int = 0) -> int:
    """`BatchHeader.identifier` of a header that stands here, encoded: its last eight bytes are the two checksums."""
    return int.from_bytes(raw[offset + BATCH_BYTES - 8 : offset + BATCH_BYTES], "big")


def decode_batch_header(raw: bytes, salt: int, offset: int = 0) -> BatchHeader:
    """Raises NotAHeader. Every length is within its bound."""
    if len(raw) - offset < BATCH_BYTES:
        raise NotAHeader("too short for a batch header")
    if not raw.startswith(BATCH_MAGIC, offset):
        raise NotAHeader("no batch begins here")
    if CRC.unpack_from(raw, offset + BATCH.size)[0] != google_crc32c.extend(salt, raw[offset : offset + BATCH.size]):
        raise NotAHeader("the checksum of the batch header is wrong")
    (
        _,
        sequence,
        generation,
        first_epoch,
        first_counter,
        count,
        prev_epoch,
        prev_counter,
        prev_digest,
        digest,
        hint_epoch,
        hint_counter,
        previous,
        body_bytes,
        body_check,
    ) = BATCH.unpack_from(raw, offset)
    if body_bytes > BODY_BYTES_MAX or body_bytes < 4 * count:
        raise NotAHeader("the lengths of the batch header cannot be")
    made = tuple.__new__  # as the classes' own constructors do in the end, for half the price: a start decodes all headers of a log
    first, hint = made(Zxid, (first_epoch, first_counter)), made(Zxid, (hint_epoch, hint_counter))
    prev = made(Mark, (made(Zxid, (prev_epoch, prev_counter)), prev_digest))
    return made(BatchHeader, (sequence, generation, first, count, prev, digest, hint, previous, body_bytes, body_check))


class EndMark(NamedTuple):
    """Stands in a reused file where the next batch will: nothing was written there yet."""

    sequence: int
    """The number of that batch."""
    previous: int
    """The identifier of the one before it."""
    last: Zxid
    """The last entry before it."""

    def encode(self, salt: int) -> bytes:
        mark = END.pack(END_MAGIC, salt, self.sequence, self.previous, *self.last)
        return mark + CRC.pack(google_crc32c.value(mark))


def end_marks(raw: bytes, salt: int, offset: int) -> Iterator[EndMark]:
    """Those of this file that stand behind `offset`. No client knows the salt, so its payloads do not make this slow."""
    begin = END.pack(END_MAGIC, salt, 0, 0, 0, 0)[: len(END_MAGIC) + CRC.size]
    while (offset := raw.find(begin, offset + 1)) >= 0:
        mark = raw[offset : offset + END_BYTES]
        if len(mark) == END_BYTES and CRC.unpack_from(mark, END.size)[0] == google_crc32c.value(mark[: END.size]):
            _, _, sequence, previous, epoch, counter = END.unpack_from(mark)
            yield EndMark(sequence, previous, Zxid(epoch, counter))


def batch_headers(raw: bytes, salt: int, generation: int, offset: int) -> Iterator[tuple[int, BatchHeader]]:
    """The whole headers of the file of this generation that stand behind `offset`, and where."""
    begin = re.escape(BATCH_MAGIC) + b"(?=.{8}" + re.escape(generation.to_bytes(8, "big")) + b")"
    for found in re.compile(begin, re.DOTALL).finditer(raw, offset + 1):
        with suppress(NotAHeader):
            yield found.start(), decode_batch_header(raw, salt, found.start())


def encode_body(payloads: Sequence[Payload], digest: int, format: int = REUSED) -> tuple[list[Payload], int, int]:
    """(pieces, bytes, check) of a body: the table of lengths, then the payloads. `digest` is the running digest after them.

    The check is a CRC-32C of the table that starts from the lower half of the digest: so the identifier of a batch depends on its payloads.
    """
    lengths = list(map(len, payloads))
    table = struct.pack(f">{len(lengths)}I", *lengths)
    total = len(table) + sum(lengths)
    joined = total <= JOIN_BYTES_MAX * len(lengths)
    pieces: list[Payload] = [b"".join([table, *payloads])] if joined else [table, *payloads]
    return pieces, total, check_of(table, digest) if format > 1 else google_crc32c.value(b"".join(pieces))


def check_of(table: bytes, digest: int) -> int:
    check: int = google_crc32c.extend(digest & 0xFFFFFFFF, table)
    return check


def decode_body(header: BatchHeader, body: bytes, format: int = REUSED) -> list[memoryview]:
    """The payloads, as views of `body`. Raises NotAHeader if it is not the body that the header was written with."""
    table_bytes = 4 * header.entries
    if len(body) != header.body_bytes or table_bytes > len(body):
        raise NotAHeader("the body is cut short")
    check = check_of(body[:table_bytes], header.digest) if format > 1 else google_crc32c.value(body)
    if check != header.body_check:
        raise NotAHeader("the checksum of the body is wrong")
    lengths = struct.unpack_from(f">{header.entries}I", body)
    if table_bytes + sum(lengths) != len(body):
        raise NotAHeader("the lengths of the payloads do not add up to the body")
    view, position = memoryview(body), table_bytes
    payloads = []
    for length in lengths:
        payloads.append(view[position : position + length])
        position += length
    if format > 1 and extend_digest(header.prev.digest, header.prev.zxid, header.first, payloads) != header.digest:
        raise NotAHeader("the digest of the body is wrong")
    return payloads
