"""A data directory looked at from outside: nothing in it is written, locked or mended, whatever state it is in.

The same code that recovers a node reads it here, over a disk that keeps all changes in memory; so what is said to be whole is what a
node would take for whole. A damaged place is put right in memory where that can be told (one byte of a header by the checksum, a batch by
a replica), and the reading goes on behind it; where it cannot, the log is read up to there.

A directory of a running node may be looked at, too: what is being written then looks damaged for a moment. Damage stays: look again.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from zablog.core.trail import Entries, Mark, extend_digest
from zablog.core.zxid import BEYOND, ZERO, Zxid
from zablog.storage.batch import (
    BATCH_BYTES,
    BATCH_MAGIC,
    FILE_BYTES,
    REUSED,
    BatchHeader,
    EndMark,
    FileHeader,
    NotAHeader,
    decode_batch_header,
    decode_file_header,
    encode_body,
)
from zablog.storage.disk import Disk
from zablog.storage.epochs import Epochs, EpochsFile
from zablog.storage.errors import Corrupt, Diverged, Faulty, NewerFormat, StorageError
from zablog.storage.manifest import Contents, Identity, Manifest
from zablog.storage.overlay import Overlay
from zablog.storage.reading import File, file_name
from zablog.storage.repair import Fault, rebuilt
from zablog.storage.storage import verified
from zablog.storage.wal import Wal

WAL_PLACE: Final = re.compile(r"(wal-[0-9a-f]{16}\.log)(?:, offset (\d+))?")
"""How recovery begins what it says of a place in the log."""


LOOKS: Final = 5
"""So often a directory is looked at anew whose files go meanwhile."""


class Finding(NamedTuple):
    """Something that is not as it should be."""

    file: str
    offset: int | None
    """The byte, if another copy tells it; else where the damaged record begins. None: the file as a whole."""
    zxid: Zxid | None
    """The first that is touched, where that can be said."""
    what: str
    harmless: bool = False
    """It is mended by itself at the next start, and nothing is lost."""


class Seen(NamedTuple):
    """One batch of the log."""

    file: File
    offset: int
    header: BatchHeader
    entries: Entries


@dataclass
class Inspection:
    """What a data directory holds. `findings` are in the order in which a start would meet them."""

    overlay: Overlay
    identity: Identity
    manifest: Manifest
    epochs: Epochs
    wal: Wal
    """The log, or what of it can be read."""
    unread: str = ""
    """Why the log cannot be read to its end; empty if it can."""
    findings: list[Finding] = field(default_factory=list)

    def tail(self) -> str:
        """What the log's end looks like, in words."""
        if self.unread:
            return "corrupt"
        if self.wal.suspect is not None:
            return "suspect"
        return "clean" if self.wal.sealed else "clean, the last batch not sealed"

    def batches(self, after: Zxid = ZERO) -> Iterator[Seen]:
        """The log above `after`, in order; memory stays flat. Raises Corrupt."""
        for file, limit, offset, header in self.wal.batches(max(after, self.wal.trail.base.zxid)):
            yield Seen(file, offset, header, self.wal.entries_at(file, limit, offset, header))


def inspect(disk: Disk, others: Sequence["Inspection"] = ()) -> Inspection:
    """Look at a directory; `others` are replicas, which may tell what a damaged batch held.

    Raises NotBorn, NewerFormat, and MetadataLost where nothing can be said at all.
    """
    for _ in range(LOOKS - 1):
        with suppress(FileNotFoundError):  # a running node has let go of a file since we saw its name
            return inspected(disk, others)
    return inspected(disk, others)


def inspected(disk: Disk, others: Sequence["Inspection"]) -> Inspection:
    """`inspect`, once."""
    overlay, findings = Overlay(disk), list[Finding]()
    for name in ("manifest", "epochs"):
        findings += damaged_copies(disk, name)
    manifest = Manifest(overlay)
    identity = manifest.load()
    epochs = EpochsFile(overlay).load()
    wal, unread = read_log(overlay, identity, manifest, others, findings)
    found = Inspection(overlay, identity, manifest, epochs, wal, unread, findings)
    findings += promises_broken(found)
    snapshot = manifest.contents.snapshot
    if snapshot is not None:
        try:
            verified(overlay, snapshot)
        except Corrupt as error:
            findings.append(Finding(snapshot.name, None, snapshot.mark.zxid, str(error)))
    return found


def promises_broken(found: Inspection) -> Iterator[Finding]:
    """Where manifest, epochs and log, each whole, do not belong together."""
    wal, contents = found.wal, found.manifest.contents
    last, snapshot = wal.trail.last, contents.snapshot
    if last.epoch > found.epochs.accepted:
        what = f"both copies are old: the log ends at {last}, and no promise above epoch {found.epochs.accepted} is known"
        yield Finding("epochs.a", None, last, what)
    if found.unread:
        return
    emptied = contents.newest < contents.first and snapshot is not None
    if not wal.files and not emptied and contents.newest > 0:
        yield Finding(file_name(contents.newest), None, None, "the log is gone: there is no wal-*.log")
    if snapshot is None:
        return
    mark = snapshot.mark
    if mark.zxid > last and wal.suspect is None:
        yield Finding(snapshot.name, None, mark.zxid, f"the log ends at {last}, below the checkpoint at {mark.zxid}")
    elif mark.zxid in wal.trail and wal.digest_at(mark.zxid) != mark.digest:
        yield Finding(snapshot.name, None, mark.zxid, f"the running digest at {mark.zxid} is another in the log than in the manifest")


class Copy(NamedTuple):
    """One of the two copies of a record."""

    file: str
    version: int | None
    """None: it is not whole."""
    wins: bool
    """A start goes by this one."""


def copies_of(disk: Disk) -> list[Copy]:
    """Those of the manifest and of the epochs."""
    found = []
    for copies in (Manifest(disk).copies, EpochsFile(disk).copies):
        versions = [(whole[0] if (whole := copies.parse(file)) is not None else None) for file in copies.files]
        newest = max((version for version in versions if version is not None), default=None)
        wins = versions.index(newest)
        found += [Copy(file, version, at == wins) for at, (file, version) in enumerate(zip(copies.files, versions, strict=True))]
    return found


def damaged_copies(disk: Disk, name: str) -> list[Finding]:
    """Of a record in two copies: which is not whole, and where, if the other one tells."""
    copies = Manifest(disk).copies if name == "manifest" else EpochsFile(disk).copies
    whole = {file: copies.parse(file) for file in copies.files}
    raws = {file: disk.read(file, 0, disk.size(file)) if disk.exists(file) else b"" for file in copies.files}
    found = []
    for file, other in (copies.files, copies.files[::-1]):
        if whole[file] is None and whole[other] is not None:
            found.append(Finding(file, first_difference(raws[file], raws[other]), None, f"not whole; {other} is", harmless=True))
    return found


def read_log(
    overlay: Overlay, identity: Identity, manifest: Manifest, others: Sequence[Inspection], findings: list[Finding]
) -> tuple[Wal, str]:
    """Recover the log in memory, past damage that can be put right. (the log, why it ends before its end; empty if it does not)"""
    owner, contents, unread = bytes.fromhex(identity.incarnation), manifest.contents, ""
    mend_headers(overlay, owner, findings)
    while True:
        wal = Wal(overlay, owner, contents=contents)
        try:
            wal.recover()
            if wal.suspect is not None and mend_last(overlay, wal, findings):
                continue
            if wal.suspect is not None and not unread:
                findings.append(suspect(overlay, wal, others))
        except NewerFormat:
            raise
        except Faulty as error:
            found, whole = explained(overlay, error, others)
            findings.append(found)
            if whole is not None:
                overlay.write(error.fault.name, error.fault.offset, [whole])
                continue
            unread = found.what
            contents = end_before(overlay, error.fault.name, error.fault.offset, contents)
        except StorageError as error:
            place = WAL_PLACE.match(str(error))
            findings.append(Finding(place[1] if place else "wal", int(place[2] or 0) if place else None, None, str(error)))
            if unread or place is None:
                return Wal(overlay, owner, contents=contents), unread or str(error)
            unread = str(error)
            contents = end_before(overlay, place[1], int(place[2] or 0), contents)
        else:
            return wal, unread


def end_before(overlay: Overlay, name: str, offset: int, contents: Contents) -> Contents:
    """Let the log in memory end before a place that cannot be read, so that what is before it can be. The contents that go with that."""
    later = [each for each in overlay.names() if each.startswith("wal-") and each > name]
    for each in later if offset > 0 else [name, *later]:
        overlay.unlink(each)
    if offset > 0:
        overlay.write(name, offset, [bytes(overlay.size(name) - offset)])
    left = [each for each in overlay.names() if each.startswith("wal-")]
    return contents._replace(newest=int(left[-1][4:20], 16) if left else 0)


def mend_headers(overlay: Overlay, owner: bytes, findings: list[Finding]) -> None:
    """The header of a file is this node's alone, and no replica tells it: but one wrong byte in it shows by the checksum."""
    for name in [each for each in overlay.names() if each.startswith("wal-")]:
        raw, size = overlay.read(name, 0, FILE_BYTES), overlay.size(name)
        try:
            decode_file_header(raw)
        except NotAHeader as error:
            if error.format is not None:
                continue

            def right(header: FileHeader, name: str = name, size: int = size) -> bool:
                return (file_name(header.generation), header.owner, header.capacity) == (name, owner, size)

            mended = one_byte_mended(raw, lambda raw: right(decode_file_header(raw)))
            if mended is not None:
                at, whole = mended
                header = decode_file_header(whole)
                findings.append(Finding(name, at, header.start.zxid, f"the header of a file of the log is damaged: {error}"))
                overlay.write(name, 0, [whole])


def mend_last(overlay: Overlay, wal: Wal, findings: list[Finding]) -> bool:
    """Of a damaged last batch: put its header right, if one byte of that is wrong and the rest is whole."""
    file = wal.files[-1]
    raw = overlay.read(file.name, file.end, BATCH_BYTES)
    mark = Mark(wal.trail.last, wal.trail.digest)
    if sum(ours == theirs for ours, theirs in zip(raw, BATCH_MAGIC, strict=False)) < len(BATCH_MAGIC) - 1:
        return False  # more than one byte is wrong: this was no header, or no byte of it tells

    def whole(raw: bytes) -> bool:
        header = decode_batch_header(raw, file.salt)
        return (header.sequence, header.prev, header.previous) == (wal.sequence, mark, wal.previous)

    try:
        decode_batch_header(raw, file.salt)
    except NotAHeader as error:
        mended = one_byte_mended(raw, whole)
        if mended is not None:
            at, header = mended
            findings.append(Finding(file.name, file.end + at, decode_batch_header(header, file.salt).first, f"the last batch: {error}"))
            overlay.write(file.name, file.end, [header])
            return True
    return False


def one_byte_mended(raw: bytes, whole: Callable[[bytes], bool]) -> tuple[int, bytes] | None:
    """(where, the bytes as they were) if one byte of a header is another than it was. `whole` may raise NotAHeader, too.

    Tries them all: of 80 or 120 bytes there are few, and a checksum of 32 bits over so little lets no two of them pass.
    """
    tried = bytearray(raw)
    for at, was in enumerate(raw):
        for byte in range(256):
            tried[at] = byte
            try:
                if byte != was and whole(bytes(tried)):
                    return at, bytes(tried)
            except NotAHeader:
                continue
        tried[at] = was
    return None


def suspect(overlay: Overlay, wal: Wal, others: Sequence[Inspection]) -> Finding:
    """What can be said of the damaged end of a log."""
    file, mark = wal.files[-1], Mark(wal.trail.last, wal.trail.digest)
    raw = overlay.read(file.name, file.end, file.header.capacity)
    what = f"the last batch is damaged, and may never have been acknowledged: its range is suspect through {wal.suspect}"
    try:
        header = decode_batch_header(raw, file.salt)
    except NotAHeader:
        end = EndMark(wal.sequence, wal.previous, mark.zxid).encode(file.salt)
        right = end if file.header.format == REUSED else bytes(len(raw))
        wrong = [at for at, (ours, theirs) in enumerate(zip(raw, right, strict=False)) if ours != theirs]
        reach = "everything above is suspect" if wal.suspect == BEYOND else f"what is above is suspect through {wal.suspect}"
        if len(wrong) != 1:
            what = "what stands behind the last whole batch is damaged, or was being written"
            return Finding(file.name, file.end, mark.zxid, f"{what}: {reach}")
        return Finding(file.name, file.end + wrong[0], mark.zxid, f"one byte is wrong behind the end of the log: {reach}")
    for other in others:
        if header.prev.zxid in other.wal.trail and header.last in other.wal.trail:
            runs = runs_between(other, header.prev.zxid, header.last)
            payloads = [payload for run in runs for payload in run.payloads]
            digest = extend_digest(header.prev.digest, header.prev.zxid, header.first, payloads)
            pieces, body_bytes, check = encode_body(payloads, digest, file.header.format)
            if (digest, body_bytes, check) == (header.digest, header.body_bytes, header.body_check):
                whole = header.encode(file.salt) + b"".join(pieces)
                at = first_difference(raw[: len(whole)], whole)
                return Finding(file.name, file.end + at, entry_at(header.first, header.entries, whole, at), what)
    return Finding(file.name, file.end, header.first, what)


def explained(overlay: Overlay, error: Faulty, others: Sequence[Inspection]) -> tuple[Finding, bytes | None]:
    """What can be said of a damaged batch, and its bytes as they were, if a replica has its entries."""
    fault = error.fault
    for other in others:
        try:
            whole = rebuilt(fault, runs_between(other, fault.before.zxid, fault.after.zxid))
        except (Diverged, Corrupt):
            continue
        at = first_difference(overlay.read(fault.name, fault.offset, len(whole)), whole)
        return Finding(fault.name, fault.offset + at, zxid_at(fault, whole, at), f"a batch of the log is damaged ({fault.text})"), whole
    return Finding(fault.name, fault.offset, fault.before.zxid, str(error)), None


def runs_between(other: Inspection, after: Zxid, last: Zxid) -> list[Entries]:
    """What a replica has above `after` through `last`. Raises Corrupt where it does not."""
    runs: list[Entries] = []
    while after < last:
        entries = other.wal.read(after, last, 1 << 24) if after in other.wal.trail else None
        if entries is None:
            raise Corrupt(f"the replica has nothing above {after}")
        runs.append(entries)
        after = entries.last
    return runs


def zxid_at(fault: Fault, whole: bytes, at: int) -> Zxid:
    """The entry in which a byte of a batch lies; the batch's first for its header."""
    before, after = fault.before.zxid, fault.after.zxid
    count = after.counter - before.counter if after.epoch == before.epoch else after.counter
    return entry_at(after.after(1 - count), count, whole, at)


def entry_at(first: Zxid, count: int, whole: bytes, at: int) -> Zxid:
    """The entry of a batch, header included, in which a byte lies; `first` for its header."""
    for number in range(count):
        if at < payload_begin(whole, count, number + 1):
            return first.after(number)
    return first.after(max(count - 1, 0))


def payload_begin(whole: bytes, count: int, number: int) -> int:
    """Where the payload of that number, from 0, begins in a batch of `count`."""
    table = whole[BATCH_BYTES : BATCH_BYTES + 4 * number]
    return BATCH_BYTES + 4 * count + sum(int.from_bytes(table[at : at + 4], "big") for at in range(0, 4 * number, 4))


def first_difference(ours: bytes, theirs: bytes) -> int:
    """The first byte in which they differ; the shorter length if one begins with the other."""
    length = min(len(ours), len(theirs))
    low = 0
    while low < length:
        step = min(1 << 16, length - low)
        if ours[low : low + step] != theirs[low : low + step]:
            return next(low + at for at in range(step) if ours[low + at] != theirs[low + at])
        low += step
    return length


def divergence(ours: Inspection, theirs: Inspection) -> Finding | None:
    """The first committed entry that two logs hold differently, by their running digests; None if there is none.

    A running digest speaks for everything before it: where those at the end of the common range are equal, all is. Otherwise the batches
    are walked to the first difference.
    """
    low = max(ours.wal.trail.base.zxid, theirs.wal.trail.base.zxid)
    high = min(ours.wal.hint, theirs.wal.hint)
    nodes = f"nodes {ours.identity.node} and {theirs.identity.node}"
    if high < low or digests_equal(ours, theirs, high):
        return None
    if not digests_equal(ours, theirs, low):
        file = ours.wal.files[0].name if ours.wal.files else "wal"
        return Finding(file, None, low, f"the logs of {nodes} differ already at {low}, below which one of them does not reach")
    agreed = low
    for seen in ours.batches(low):
        last = min(seen.entries.last, high)
        if not digests_equal(ours, theirs, last):
            entries = (seen.entries.first.after(step) for step in range(len(seen.entries.payloads)))
            entry = next(entry for entry in entries if not digests_equal(ours, theirs, entry))
            what = f"the logs of {nodes} hold other entries above {entry.after(-1)}, both with whole checksums"
            return Finding(seen.file.name, difference_in(ours, theirs, seen, entry), entry, what)
        agreed = last
    return Finding(
        ours.wal.files[-1].name, None, agreed, f"of {nodes}, one knows entries to be committed above {agreed} that the other lacks"
    )


def digests_equal(ours: Inspection, theirs: Inspection, zxid: Zxid) -> bool:
    digest = ours.wal.digest_at(zxid)
    return digest is not None and digest == theirs.wal.digest_at(zxid)


def difference_in(ours: Inspection, theirs: Inspection, seen: Seen, entry: Zxid) -> int:
    """The first byte of our file in which an entry's payload differs from theirs."""
    whole = ours.overlay.read(seen.file.name, seen.offset, BATCH_BYTES + seen.header.body_bytes)
    number = entry.counter - seen.header.first.counter
    begin = payload_begin(whole, seen.header.entries, number)
    run = theirs.wal.read(entry.after(-1), entry, 1 << 24) if entry.counter > 0 and entry in theirs.wal.trail else None
    other = bytes(run.payloads[0]) if run is not None else b""
    return seen.offset + begin + first_difference(bytes(seen.entries.payloads[entry.counter - seen.entries.first.counter]), other)
