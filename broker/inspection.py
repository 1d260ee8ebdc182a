"""A broker's data directories looked at from outside: the log, the snapshot, the segments, alone and against replicas.

Nothing is written. A segment is compared with the checksum that the snapshot gives, and behind that, byte for byte, with the log that it
was made from. What is only derived (indexes, segments behind the last checkpoint) is made anew at a start, so damage there is harmless,
and said to be; where a segment merely ends early, as after a crash, that is no damage at all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from google_crc32c import extend
from google_crc32c import value as crc32c

from broker.errors import Corrupt
from broker.log.index import Index
from broker.log.kept import INDEX_SUFFIX, SEGMENT_SUFFIX, SegmentRow, index_name, segment_name, stem_of
from broker.log.stored import HEAD_BYTES, PREFIX_BYTES, StoredBatch, check_batch, place_at, split
from broker.replay import replay
from broker.snapshot import Snapshot, decode
from broker.state import State
from zablog.core.zxid import Zxid
from zablog.storage import inspection
from zablog.storage.disk import Disk
from zablog.storage.errors import StorageError
from zablog.storage.files import FileDisk
from zablog.storage.inspection import Finding, Inspection, first_difference

SEGMENTS_FOLDER = "topics"
LOOKS_MAX: Final = 4
"""So often a directory is looked at before what is found each time counts."""

CHUNK_BYTES: Final = 1 << 20
"""So much of a segment is read at a time."""
ZEROS_BYTES: Final = 4 << 10
"""Zeros behind a batch over so many bytes: nothing was written there."""


@dataclass(slots=True)
class Segment:
    """One segment, as snapshot and log have it."""

    topic: Zxid
    partition: int
    base_offset: int
    end_offset: int
    size: int
    base_zxid: Zxid
    durable: int = 0
    """So many bytes the snapshot vouches for."""
    ended: bool = False
    """The file goes no further, and what follows is made again."""


@dataclass
class Directory:
    """One node's data directory."""

    path: Path
    log: Inspection
    segments: Disk | None
    snapshot: Snapshot | None = None
    state: State = field(default_factory=State)
    """As it is after all of the log."""
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Worth saying, and nothing wrong."""
    checked_bytes: int = 0
    """Of segments."""
    files: dict[str, Segment] = field(default_factory=dict)


def data_directory(path: Path) -> Path:
    """The directory itself, or the one within a node's folder as `cluster init` makes it."""
    return path / "data" if not (path / "manifest.a").exists() and (path / "data").is_dir() else path


def look(path: Path, replicas: Sequence[Directory] = ()) -> Directory:
    """Everything about one directory, with what replicas can add. Raises zablog's StorageError where there is nothing to look at.

    A node may be running on it. What it writes meanwhile looks damaged for a moment, and damage lasts: only what is found in each of
    several looks counts.
    """
    stayed: list[Finding] | None = None
    changed = False
    for turn in range(LOOKS_MAX):
        try:
            found = look_once(path, replicas)
        except (FileNotFoundError, StorageError):
            if turn == LOOKS_MAX - 1:
                raise
            changed = True
            continue
        if stayed is not None:
            places = {(each.file, each.offset) for each in stayed}
            found.findings = [each for each in found.findings if (each.file, each.offset) in places]
            changed = changed or len(found.findings) < len(stayed)
        if not found.findings or (stayed is not None and len(found.findings) == len(stayed)):
            break
        stayed = found.findings
    if changed:
        found.notes.append("the directory changed while it was looked at, so a node runs on it: what was being written then does not count")
    return found


def look_once(path: Path, replicas: Sequence[Directory] = ()) -> Directory:
    path = data_directory(path)
    log = inspection.inspect(FileDisk(path, writable=False), [replica.log for replica in replicas])
    folder = path / SEGMENTS_FOLDER
    found = Directory(path, log, FileDisk(folder, writable=False) if folder.is_dir() else None)
    found.findings += log.findings
    read_snapshot(found)
    if found.segments is not None:
        if found.snapshot is not None:
            others = [replica.segments for replica in replicas if replica.segments is not None]
            found.findings += damaged_segments(found, found.segments, found.snapshot, others)
        found.findings += underived(found, found.segments)
        found.findings += damaged_indexes(found.segments)
    for replica in replicas:
        difference = inspection.divergence(log, replica.log)
        if difference is not None:
            found.findings.append(difference)
    return found


def look_at_log(path: Path) -> Inspection:
    """The log alone, without what was made of it."""
    return inspection.inspect(FileDisk(data_directory(path), writable=False))


def read_snapshot(found: Directory) -> None:
    """A damaged one has been found already; here it is said where."""
    named = found.log.manifest.contents.snapshot
    if named is None or not found.log.overlay.exists(named.name):
        return
    try:
        found.snapshot = decode(found.log.overlay.read(named.name, 0, named.length))
        found.state = found.snapshot.state.capture()
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
            place = (partition.topic, partition.partition, row.base_offset, row.end_offset)
            found.files[name] = Segment(*place, row.size, row.base_zxid, durable=row.size)
            if not disk.exists(name):
                if name not in tails or tails[name].begin:
                    yield Finding(f"{SEGMENTS_FOLDER}/{name}", None, row.base_zxid, "a segment is missing")
                continue
            found.checked_bytes += min(row.size, disk.size(name))
            tail = tails.get(name)
            if checksum(disk, name, row.size) == row.crc:
                continue
            data = disk.read(name, 0, row.size)
            if tail is not None:
                whole = data[: tail.begin] + tail.data
                if crc32c(whole) == row.crc:
                    at = first_difference(data, whole)
                    yield Finding(f"{SEGMENTS_FOLDER}/{name}", at, None, "the end differs from the snapshot, which holds it, too", True)
                    continue
                data = whole
            yield damaged_segment(name, row, data, others)


def checksum(disk: Disk, name: str, size: int) -> int:
    """CRC-32C of the first `size` bytes of a file, of which never more than a part is in memory."""
    crc = 0
    for begin in range(0, size, CHUNK_BYTES):
        crc = extend(crc, disk.read(name, begin, min(CHUNK_BYTES, size - begin)))
    return crc


def damaged_segment(name: str, row: SegmentRow, data: bytes, others: Sequence[Disk]) -> Finding:
    """Where it is damaged: to the byte if a replica has it whole, to the batch if not."""
    file = f"{SEGMENTS_FOLDER}/{name}"
    for other in others:
        if other.exists(name) and checksum(other, name, row.size) == row.crc:
            theirs = other.read(name, 0, row.size)
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


def underived(found: Directory, disk: Disk) -> Iterator[Finding]:
    """Segments behind the checkpoint against the log: what differs from what the log makes of them."""
    mark = found.log.manifest.contents.base.zxid
    if mark > found.state.applied:
        found.notes.append(f"{SEGMENTS_FOLDER}: not compared with the log, which begins at {mark} after a checkpoint that cannot be read")
        return
    last: dict[tuple[Zxid, int], Segment] = {(each.topic, each.partition): each for each in found.files.values()}
    runs = (seen.entries for seen in found.log.batches(found.state.applied))
    told = set[str]()
    for topic, partition, base_offset, end_offset, zxid, stored in replay(found.state, runs):
        name, segment = segment_name(stem_of(topic, partition), base_offset), last.get((topic, partition))
        if disk.exists(name) and (segment is None or segment.base_offset < base_offset):
            segment = last[topic, partition] = found.files[name] = Segment(topic, partition, base_offset, base_offset, 0, zxid)
        if segment is None or segment.ended:
            continue
        name = segment_name(stem_of(topic, partition), segment.base_offset)
        rest = disk.read(name, segment.size, len(stored) + ZEROS_BYTES) if disk.exists(name) else b""
        data = rest[: len(stored)]
        at = first_difference(data, stored)
        if torn(data, stored, rest[at:]):
            segment.ended = True
            if data:
                found.notes.append(f"{SEGMENTS_FOLDER}/{name} ends within the batch of {zxid}, as after a crash: the rest is made again")
            continue
        if data != stored and name not in told:
            told.add(name)
            what = "a segment behind the checkpoint differs from the log, from which it is made again at the next start"
            yield Finding(f"{SEGMENTS_FOLDER}/{name}", segment.size + at, zxid, what, harmless=True)
        segment.size, segment.end_offset = segment.size + len(stored), end_offset
        found.checked_bytes += len(stored)


def torn(data: bytes, stored: bytes, rest: bytes) -> bool:
    """Does a file end, or nothing but zeros follow, where a batch goes on? One byte that became zero is not that."""
    if data == stored or rest.strip(b"\0"):
        return False
    return len(data) < len(stored) or sum(ours != theirs for ours, theirs in zip(data, stored, strict=True)) > 1


def damaged_indexes(disk: Disk) -> Iterator[Finding]:
    """Indexes are a help: what is damaged is made again from the segment."""
    for name in disk.names():
        if name.endswith(INDEX_SUFFIX):
            segment = name.removesuffix(INDEX_SUFFIX) + SEGMENT_SUFFIX
            raw = disk.read(name, 0, disk.size(name))
            index = Index(base_offset_of(name), 0)
            whole = index.take_chunks(raw, 1 << 62)
            if whole < len(raw):
                yield Finding(f"{SEGMENTS_FOLDER}/{name}", whole, None, "the chunk of rows that begins here is damaged", harmless=True)
            elif disk.exists(segment) and (wrong := wrong_row(disk, segment, index)) is not None:
                what = f"row {wrong:,} points to byte {index.row(wrong).begin:,} of its segment, where another batch is"
                yield Finding(f"{SEGMENTS_FOLDER}/{name}", None, None, what, harmless=True)


def wrong_row(disk: Disk, segment: str, index: Index) -> int | None:
    """The first row that points to another batch than it says. Where the segment itself is damaged, that is not the row's fault."""
    for number in range(len(index)):
        row = index.row(number)
        try:
            if place_at(disk.read(segment, row.begin, HEAD_BYTES)).base_offset != row.base_offset:
                return number
        except Corrupt:
            continue
    return None


def index_state(disk: Disk, segment: str) -> str:
    """In words: how far a segment's index stands on disk."""
    name = index_name(segment)
    if not disk.exists(name):
        return "none"
    raw = disk.read(name, 0, disk.size(name))
    index = Index(base_offset_of(name), 0)
    whole = index.take_chunks(raw, 1 << 62)
    return f"{len(index)} rows" if whole == len(raw) else f"{len(index)} rows, damaged at {whole}"


def base_offset_of(name: str) -> int:
    """Of a segment or an index, by its file's name."""
    return int(name.rpartition(".")[0].rpartition("-")[2])


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
