"""What a data directory holds, as one object: the table of `log inspect` is made from it."""

import json

from broker.inspection import Directory, index_state
from zablog.core.zxid import Zxid
from zablog.storage.inspection import copies_of

COLUMNS = ("file", "kind", "bytes", "holds", "after", "last", "state")


def described(found: Directory) -> dict[str, object]:
    """Zxids are EPOCH.COUNTER, digests 16 hexadecimal digits, sizes bytes."""
    log = found.log
    contents, snapshot = log.manifest.contents, log.manifest.contents.snapshot
    return {
        "directory": str(found.path),
        "cluster": log.identity.cluster,
        "node": log.identity.node,
        "incarnation": log.identity.incarnation,
        "members": [{"id": member.id, "address": member.address} for member in log.identity.members],
        "manifest_format": json.loads(log.manifest.copies.load())["format"],
        "accepted_epoch": log.epochs.accepted,
        "current_epoch": log.epochs.current,
        "suspect": _word(log.epochs.suspect),
        "log_begins": _word(contents.base.zxid),
        "log_begins_digest": f"{contents.base.digest:016x}",
        "log_ends": _word(log.wal.trail.last),
        "log_ends_digest": f"{log.wal.trail.digest:016x}",
        "committed": _word(log.wal.hint),
        "tail": log.tail(),
        "checkpoint": _word(snapshot.mark.zxid) if snapshot is not None else None,
        "files": [*_metadata(found), *_log(found), *_checkpoint(found), *_segments(found)],
        "notes": found.notes,
    }


def _metadata(found: Directory) -> list[dict[str, object]]:
    disk = found.log.overlay.disk
    rows = []
    for file, version, wins in copies_of(disk):
        size = disk.size(file) if disk.exists(file) else None
        state = "damaged" if version is None else "whole, the one that counts" if wins else "whole"
        rows.append(_row(file, "metadata", size, None if version is None else f"version {version}", None, None, state))
    return rows


def _log(found: Directory) -> list[dict[str, object]]:
    log, counts, lasts = found.log, dict[str, int](), dict[str, Zxid]()
    for seen in log.batches():
        counts[seen.file.name] = counts.get(seen.file.name, 0) + 1
        lasts[seen.file.name] = seen.entries.last
    rows = []
    for file in log.wal.files:
        state = log.tail() if file is log.wal.files[-1] else "closed"
        holds = f"{counts.get(file.name, 0)} batches"
        row = _row(file.name, "log", log.overlay.size(file.name), holds, file.header.start.zxid, lasts.get(file.name), state)
        rows.append(row | {"generation": file.header.generation, "used_bytes": file.end})
    return rows


def _checkpoint(found: Directory) -> list[dict[str, object]]:
    snapshot = found.log.manifest.contents.snapshot
    if snapshot is None:
        return []
    holds = None if found.snapshot is None else f"{len(found.snapshot.partitions)} partitions"
    damaged = any(each.file == snapshot.name for each in found.findings)
    return [_row(snapshot.name, "checkpoint", snapshot.length, holds, None, snapshot.mark.zxid, "damaged" if damaged else "whole")]


def _segments(found: Directory) -> list[dict[str, object]]:
    rows = []
    for name, segment in found.files.items():
        disk, topic = found.segments, found.state.topics.get(segment.topic)
        assert disk is not None, "segments were found in a folder"
        label = topic.name if topic is not None else f"{segment.topic}, which is deleted"
        size = disk.size(name) if disk.exists(name) else None
        holds = f"{label}/{segment.partition}: {segment.base_offset}..{segment.end_offset}"
        row = _row(name, "segment", size, holds, segment.base_zxid, None, f"index: {index_state(disk, name)}")
        place = {"topic": label, "partition": segment.partition, "first_offset": segment.base_offset, "end_offset": segment.end_offset}
        rows.append(row | place | {"checkpointed_bytes": segment.durable})
    return rows


def _row(file: str, kind: str, size: int | None, holds: str | None, after: Zxid | None, last: Zxid | None, state: str) -> dict[str, object]:
    return {"file": file, "kind": kind, "bytes": size, "holds": holds, "after": _word(after), "last": _word(last), "state": state}


def _word(zxid: Zxid | None) -> str | None:
    return None if zxid is None else str(zxid)
