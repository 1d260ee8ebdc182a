"""A broker's data directories looked at from outside: the log, the snapshot, the segments, alone and against replicas.

Nothing is written. What is only derived (indexes, what is behind the last checkpoint's lengths in a segment) is made anew at a start, so
damage there is harmless, and said to be.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google_crc32c import value as crc32c

from broker.errors import Corrupt
from broker.log.index import Index
from broker.log.kept import INDEX_SUFFIX, SEGMENT_SUFFIX, SegmentRow, segment_name, stem_of
from broker.log.stored import PREFIX_BYTES, StoredBatch, check_batch, place_at, split
from broker.snapshot import Snapshot, decode
from zablog.core.zxid import Zxid
from zablog.storage import inspection
from zablog.storage.disk import Disk
from zablog.storage.files import FileDisk
from zablog.storage.inspection import Finding, Inspection, first_difference

SEGMENTS_FOLDER = "topics"


@dataclass
class Directory:
    """One node's data directory."""

    path: Path
    log: Inspection
    segments: Disk | None
    snapshot: Snapshot | None = None
    findings: list[Finding] = field(default_factory=list)
    checked_bytes: int = 0
    """Of segments."""


def data_directory(path: Path) -> Path:
    """The directory itself, or the one within a node's folder as `cluster init` makes it."""
    return path / "data" if not (path / "manifest.a").exists() and (path / "data").is_dir() else path


def look(path: Path, replicas: Sequence[Directory] = ()) -> Directory:
    """Everything about one directory, with what replicas can add. Raises zablog's StorageError where there is nothing to look at."""
    path = data_directory(path)
    log = inspection.inspect(FileDisk(path), [replica.log for replica in replicas])
    folder = path / SEGMENTS_FOLDER
    found = Directory(path, log, FileDisk(folder) if folder.is_dir() else None)
    found.findings += log.findings
    read_snapshot(found)
    if found.segments is not None and found.snapshot is not None:
        others = [replica.segments for replica in replicas if replica.segments is not None]
        found.findings += damaged_segments(found, found.segments, found.snapshot, others)
        found.findings += damaged_indexes(found.segments)
    for replica in replicas:
        difference = inspection.divergence(log, replica.log)
        if difference is not None:
            found.findings.append(difference)
    return found


def read_snapshot(found: Directory) -> None:
    """A damaged one has been found already; here it is said where."""
    named = found.log.manifest.contents.snapshot
    if named is None or not found.log.overlay.exists(named.name):
        return
    try:
        found.snapshot = decode(found.log.overlay.read(named.name, 0, named.length))
    except Corrupt as error:
        at = next((int(word.replace(",", "")) for word in error.message.replace(":", " ").split() if word.replace(",", "").isdigit()), None)
        found.findings = [each._replace(offset=at) if each.file == named.name else each for each in found.findings]


def damaged_segments(found: Directory, disk: Disk, snapshot: Snapshot, others: Sequence[Disk]) -> Iterator[Finding]:
    """Each segment against the length and checksum that the snapshot gives."""
    tails = {tail.name: tail for tail in snapshot.tails}
    for partition in snapshot.partitions:
        stem = stem_of(partition.topic, partition.partition)
        for row in partition.segments:
            name = segment_name(stem, row.base_offset)
            if not disk.exists(name):
                if name not in tails or tails[name].begin:
                    yield Finding(f"{SEGMENTS_FOLDER}/{name}", None, row.base_zxid, "a segment is missing")
                continue
            data = disk.read(name, 0, row.size)
            found.checked_bytes += len(data)
            if name in tails:
                whole = data[: tails[name].begin] + tails[name].data
                if whole != data and crc32c(whole) == row.crc:
                    at = first_difference(data, whole)
                    yield Finding(f"{SEGMENTS_FOLDER}/{name}", at, None, "the end differs from the snapshot, which holds it, too", True)
                data = whole
            if crc32c(data) != row.crc:
                yield damaged_segment(name, row, data, others)


def damaged_segment(name: str, row: SegmentRow, data: bytes, others: Sequence[Disk]) -> Finding:
    """Where it is damaged: to the byte if a replica has it whole, to the batch if not."""
    file = f"{SEGMENTS_FOLDER}/{name}"
    for other in others:
        theirs = other.read(name, 0, row.size) if other.exists(name) else b""
        if crc32c(theirs) == row.crc:
            at = first_difference(data, theirs)
            if at == len(data):
                return Finding(file, at, zxid_in(theirs, at), f"a segment ends here, and {row.size:,} bytes of it were durable")
            return Finding(file, at, zxid_in(theirs, at), "a segment is damaged: this byte is another than the replica's, which is whole")
    at, zxid, reason = first_bad_batch(data)
    return Finding(file, at, zxid or row.base_zxid, f"a segment is damaged: {reason}")


def zxid_in(whole: bytes, offset: int) -> Zxid | None:
    """The zxid of the batch in which a byte lies."""
    at = 0
    while at < len(whole):
        place = place_at(whole, at)
        at += PREFIX_BYTES + place.length
        if offset < at:
            return place.zxid
    return None


def first_bad_batch(data: bytes) -> tuple[int, Zxid | None, str]:
    """Where the first batch begins that is not whole, its zxid or that of the one before it, and what is wrong."""
    at, zxid = 0, None
    while at < len(data):
        try:
            place = place_at(data, at)
            zxid = place.zxid
            end = at + PREFIX_BYTES + place.length
            if end > len(data):
                return at, zxid, "a batch is cut off"
            check_batch(StoredBatch(place.base_offset, place.zxid, place.position, place.time, data[at + PREFIX_BYTES : end]))
        except Corrupt as error:
            return at, zxid, error.message
        at = end
    return at, zxid, "every batch in it is whole, but they are not the ones that were there"


def damaged_indexes(disk: Disk) -> Iterator[Finding]:
    """Indexes are a help: what is damaged is made again from the segment."""
    for name in disk.names():
        if name.endswith(INDEX_SUFFIX):
            raw = disk.read(name, 0, disk.size(name))
            base = int(name.removesuffix(INDEX_SUFFIX).rpartition("-")[2])
            whole = Index(base, 0).take_chunks(raw, 1 << 62)
            if whole < len(raw):
                yield Finding(f"{SEGMENTS_FOLDER}/{name}", whole, None, "the chunk of rows that begins here is damaged", harmless=True)


def segment_files(disk: Disk | None) -> list[str]:
    return [name for name in disk.names() if name.endswith(SEGMENT_SUFFIX)] if disk is not None else []


def stored_batches(disk: Disk, name: str) -> Iterator[tuple[int, StoredBatch]]:
    """Every batch of a segment with the place where it begins, up to the first that is not whole. Raises Corrupt there."""
    at, size = 0, disk.size(name)
    while at < size:
        length = PREFIX_BYTES + place_at(disk.read(name, at, 1 << 10)).length
        (batch,) = split(disk.read(name, at, length))
        yield at, batch
        at += length
