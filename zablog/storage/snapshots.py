"""A snapshot on a disk: its own file, and the parts of it that an application keeps in files of its own. Blocking, on the `Disk` port.

A part is the first so many bytes of a file that only ever grows and is the same on every node. So of a part that is here in part only
the rest is to come; what is here in the end is verified as a whole, whatever it is made of, and fetched anew, once, if it is not
what the snapshot says. Whose transfer that is, and over which wire, is not said here.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import google_crc32c

from zablog.core.trail import Mark, Payload
from zablog.storage.disk import Disk
from zablog.storage.manifest import Snapshot

ANEW: Final = "anew-"
"""How the name of a part begins that is fetched beside ours, until it is known to be whole."""
READ_BYTES: Final = 1 << 20


class Part(NamedTuple):
    """A file of the application that belongs to a snapshot: its first `length` bytes, whose CRC-32C is `crc`."""

    name: str
    length: int
    crc: int


class Unlike(Exception):
    """What came of a part is not what the snapshot says of it: another peer, or another try, may help."""


class Want(NamedTuple):
    """A part is to be fetched from `begin` to its end, into the same places of the file `file`."""

    file: str
    begin: int


def gathered(disk: Disk, part: Part) -> Iterator[Want]:
    """Have a part on our disk, verified and durable; the name of a new one is durable after the next `sync_names`.

    What is yielded must have been written when the iteration goes on. Raises Unlike, OSError.
    """
    have = existing(disk, part)
    yield Want(part.name, have)
    if checksum(disk, part.name, part.length) == part.crc:
        disk.sync(part.name)
        return
    if not have:
        raise Unlike(f"{part.name} is not what the snapshot says: its checksum is another")
    anew = ANEW + part.name  # beside what we have: it may be theirs that is rotten
    empty(disk, anew)
    yield Want(anew, 0)
    if checksum(disk, anew, part.length) != part.crc:
        disk.unlink(anew)
        raise Unlike(f"{part.name} is not what the snapshot says: its checksum is another")
    disk.sync(anew)
    disk.rename(anew, part.name)
    disk.sync_names()  # at once: the transfer may break off, and a power cut would bring the rotten one back


def put_piece(disk: Disk, name: str, offset: int, data: Payload) -> None:
    """The next piece of a part that comes, durable when this returns. The sync of a whole part would be waited for by every commit.

    Where the sync fails nothing of it stays: it could be read, and would be taken for what the disk has, in the next life. Raises OSError.
    """
    try:
        disk.write(name, offset, [data])
        disk.sync(name)
    except OSError:
        with suppress(OSError):
            disk.truncate(name, offset)
        raise


def existing(disk: Disk, part: Part) -> int:
    """How much of a part is here; its file is made if it is not."""
    if disk.exists(part.name):
        return min(disk.size(part.name), part.length)
    disk.create(part.name)
    return 0


def empty(disk: Disk, name: str) -> None:
    """An empty file of that name."""
    if disk.exists(name):
        disk.unlink(name)
    disk.create(name)


def checksum(disk: Disk, name: str, length: int) -> int:
    """The CRC-32C of the first `length` bytes of a file."""
    crc = 0
    for offset in range(0, length, READ_BYTES):
        crc = google_crc32c.extend(crc, disk.read(name, offset, min(READ_BYTES, length - offset)))
    return crc


def write_snapshot(disk: Disk, mark: Mark, pieces: Sequence[bytes], named: Snapshot | None) -> Snapshot:
    """Put a snapshot's own file on the disk, durably. What no manifest names is removed first."""
    name = f"snapshot-{mark.zxid}"
    if named is not None and named.name == name:  # it is damaged, and this one takes its place
        name += "-again"
    for stale in disk.names():
        if stale.startswith("snapshot-") and (named is None or stale != named.name):
            disk.unlink(stale)
    disk.create(name)
    disk.write(name, 0, pieces)
    disk.sync(name)
    disk.sync_names()
    crc, length = 0, 0
    for piece in pieces:
        crc, length = google_crc32c.extend(crc, piece), length + len(piece)
    return Snapshot(mark, name, length, crc)
