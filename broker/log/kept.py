"""What a snapshot says of partitions, and what is found of it on disk. Blocking, on the `Disk` port.

A segment is derived data: a snapshot names its length and checksum, and what is behind that length is made again from the log. A
segment that is shorter than its durable length, or not there, is damage, and its partition cannot be served before it is mended.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from broker.errors import Corrupt
from broker.log.index import Index
from broker.log.stored import HEAD_BYTES, PREFIX_BYTES, place_at
from zablog.core.zxid import Zxid
from zablog.storage.disk import Disk

SEGMENT_SUFFIX: Final = ".segment"
INDEX_SUFFIX: Final = ".index"
INDEX_BYTES_MIN: Final = 256 << 10
"""Rows are written to disk for so many bytes of a segment at a time: it takes longer to open a file than to scan less."""
SCAN_BYTES: Final = 1 << 20


class SegmentRow(NamedTuple):
    """One segment in a snapshot."""

    base_offset: int
    base_time: int
    end_offset: int
    size: int
    crc: int
    base_zxid: Zxid


class PartitionRow(NamedTuple):
    """One partition in a snapshot."""

    topic: Zxid
    partition: int
    first: int
    next: int
    segments: tuple[SegmentRow, ...]


class Tail(NamedTuple):
    """The end of a segment, which was not durable when the snapshot was taken, and therefore stands in it."""

    name: str
    begin: int
    data: bytes


def stem_of(topic: Zxid, partition: int) -> str:
    """How the names of a partition's files begin."""
    return f"{topic}-{partition}"


def segment_name(stem: str, base_offset: int) -> str:
    return f"{stem}-{base_offset:020d}{SEGMENT_SUFFIX}"


def index_name(segment: str) -> str:
    return segment.removesuffix(SEGMENT_SUFFIX) + INDEX_SUFFIX


def segment_of(index: str) -> str:
    return index.removesuffix(INDEX_SUFFIX) + SEGMENT_SUFFIX


def index_of(row: SegmentRow) -> Index:
    """An index whose rows are still on disk."""
    index = Index(row.base_offset, row.base_time)
    index.end_offset, index.size, index.crc, index.base_zxid = row.end_offset, row.size, row.crc, row.base_zxid
    index.captured = index.size
    index.unread = True
    return index


def restore_files(disk: Disk, partitions: Sequence[PartitionRow], tails: Iterable[Tail]) -> None:
    """Make each segment as long as the snapshot says. Raises Corrupt where one is not there or too short, or rows contradict each other.

    Files of no partition here are left alone; see `remove_others`.
    """
    sizes = {name: disk.size(name) for name in disk.names()}
    ends = {tail.name: tail for tail in tails}
    for partition in partitions:
        _check_row(partition, ends)
    for partition in partitions:
        stem = stem_of(partition.topic, partition.partition)
        for row in partition.segments:
            name = segment_name(stem, row.base_offset)
            tail = ends.get(name)
            durable = row.size if tail is None else tail.begin
            size = sizes.get(name)
            if size is None and tail is not None and durable == 0:
                disk.create(name)
                size = 0
            if size is None or size < durable:
                found = "is missing" if size is None else f"has {size:,} bytes"
                raise Corrupt(f"segment {name} {found}, and {durable:,} were durable when the snapshot was taken")
            if tail is not None:
                # Also if it can be read there: behind a sync that failed, memory has what the disk has not, and will never be given.
                disk.write(name, tail.begin, [tail.data])
            if size > row.size:
                disk.truncate(name, row.size)


def _check_row(partition: PartitionRow, tails: Mapping[str, Tail]) -> None:
    """Raises Corrupt."""
    stem = stem_of(partition.topic, partition.partition)
    at = partition.segments[0].base_offset if partition.segments else partition.first
    if at > partition.first:
        raise Corrupt(f"a snapshot in which partition {stem} begins with {partition.first:,}, and its segments with {at:,}")
    for row in partition.segments:
        if not at == row.base_offset < row.end_offset:
            raise Corrupt(f"a snapshot in which partition {stem} goes on with {row.base_offset:,} to {row.end_offset:,} behind {at:,}")
        at = row.end_offset
        tail = tails.get(segment_name(stem, row.base_offset))
        if tail is not None and tail.begin + len(tail.data) != row.size:
            raise Corrupt(f"a snapshot with {len(tail.data):,} bytes from {tail.begin:,} on of {tail.name}, which has {row.size:,}")
    if at != partition.next:
        raise Corrupt(f"a snapshot in which partition {stem} ends with {partition.next:,}, and its segments with {at:,}")


def remove_others(disk: Disk, partitions: Iterable[PartitionRow]) -> None:
    """Remove what belongs to none of these."""
    kept = {segment_name(stem_of(each.topic, each.partition), row.base_offset) for each in partitions for row in each.segments}
    kept |= {index_name(name) for name in kept}
    for name in disk.names():
        if name.endswith((SEGMENT_SUFFIX, INDEX_SUFFIX)) and name not in kept:
            disk.unlink(name)


def rows_of(disk: Disk, segment: str, index: Index) -> Index:
    """What `index` is to adopt: its rows, from its file as far as that is whole, the rest from the segment. Raises Corrupt.

    In any thread, as long as nothing is appended to the segment.
    """
    fresh = Index(index.base_offset, index.base_time)
    name = index_name(segment)
    if disk.exists(name):
        raw = disk.read(name, 0, disk.size(name))
        whole = fresh.take_chunks(raw, index.size)
        if whole and not describes(disk, segment, fresh, index):
            fresh, whole = Index(index.base_offset, index.base_time), 0
        if whole < len(raw):
            disk.truncate(name, whole)
    scan_rows(disk, segment, fresh, index)
    return fresh


def describes(disk: Disk, segment: str, fresh: Index, index: Index) -> bool:
    """Do these rows speak of this segment? They may have been written for another one of the same base offset."""
    if fresh.end_offset > index.end_offset or (fresh.size == index.size) != (fresh.end_offset == index.end_offset):
        return False
    begin = fresh.row(len(fresh) - 1).begin
    try:
        place = place_at(disk.read(segment, begin, HEAD_BYTES))
    except Corrupt:
        return False  # who reads the segment itself says where it is damaged
    return (place.base_offset, place.zxid, place.time) == fresh.last_place() and begin + PREFIX_BYTES + place.length == fresh.size


def scan_rows(disk: Disk, segment: str, fresh: Index, index: Index) -> None:
    """Append a row for each batch behind those that `fresh` has. Raises Corrupt."""
    at = begin = fresh_from = fresh.size
    raw = b""
    before = fresh.last_place() if len(fresh) else None
    while at < index.size:
        if begin + len(raw) < at + HEAD_BYTES:
            begin, raw = at, disk.read(segment, at, min(SCAN_BYTES, index.size - at))
        try:
            place = place_at(raw, at - begin)
        except Corrupt as error:
            raise Corrupt(f"segment {segment} at byte {at:,}: {error.message}") from error
        follows = before is None or (place.base_offset > before[0] and place.zxid >= before[1] and place.time >= before[2])
        follows = follows and (at > fresh_from or place.base_offset == fresh.end_offset)
        fits = place.base_offset < index.end_offset and fresh.fits(index.end_offset, place.time)
        if not follows or not fits or at + PREFIX_BYTES + place.length > index.size:
            raise Corrupt(f"segment {segment} at byte {at:,}: the batch of offset {place.base_offset:,} does not belong here")
        fresh.found(place.base_offset, place.zxid, place.time, PREFIX_BYTES + place.length)
        before = place.base_offset, place.zxid, place.time
        at += PREFIX_BYTES + place.length
    fresh.end_offset = index.end_offset
