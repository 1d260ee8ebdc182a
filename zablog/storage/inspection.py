"""A data directory looked at from outside: nothing in it is written, locked or mended, whatever state it is in.

The same code that recovers a node reads it here, over a disk that keeps all changes in memory; so what is said to be whole is what a
node would take for whole. A directory of a running node may be looked at, too: what is being written then looks like a torn end.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from zablog.core.trail import Entries, Payload
from zablog.core.zxid import Zxid
from zablog.storage.batch import BATCH_BYTES, BatchHeader
from zablog.storage.disk import Disk
from zablog.storage.epochs import Epochs, EpochsFile
from zablog.storage.errors import Corrupt, Diverged, Faulty, StorageError
from zablog.storage.manifest import Identity, Manifest
from zablog.storage.repair import Fault, rebuilt
from zablog.storage.storage import verified
from zablog.storage.wal import File, Wal


class Overlay:
    """A disk over another one, which it only reads: changes stay in memory."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.changed: dict[str, bytearray] = {}
        self.gone: set[str] = set()

    def names(self) -> list[str]:
        return sorted((set(self.disk.names()) | set(self.changed)) - self.gone)

    def exists(self, name: str) -> bool:
        return name in self.changed or (name not in self.gone and self.disk.exists(name))

    def size(self, name: str) -> int:
        return len(self.changed[name]) if name in self.changed else self.disk.size(name)

    def read(self, name: str, offset: int, length: int) -> bytes:
        if name in self.changed:
            return bytes(self.changed[name][offset : offset + length])
        return self.disk.read(name, offset, length)

    def create(self, name: str) -> None:
        self.changed[name] = bytearray()
        self.gone.discard(name)

    def write(self, name: str, offset: int, pieces: Sequence[Payload]) -> None:
        whole = self.mine(name)
        raw = b"".join(pieces)
        whole.extend(bytes(max(0, offset - len(whole))))
        whole[offset : offset + len(raw)] = raw

    def sync(self, name: str) -> None:
        pass

    def truncate(self, name: str, length: int) -> None:
        whole = self.mine(name)
        del whole[length:]
        whole.extend(bytes(length - len(whole)))

    def rename(self, old: str, new: str) -> None:
        self.changed[new] = self.mine(old)
        self.unlink(old)
        self.gone.discard(new)

    def unlink(self, name: str) -> None:
        self.changed.pop(name, None)
        self.gone.add(name)

    def sync_names(self) -> None:
        pass

    def child(self, name: str) -> Disk:
        raise NotImplementedError("an overlay is of one directory")

    def close(self) -> None:
        self.disk.close()

    def mine(self, name: str) -> bytearray:
        if name not in self.changed:
            self.changed[name] = bytearray(self.disk.read(name, 0, self.disk.size(name)))
        return self.changed[name]


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
    wal: Wal | None
    """None if the log cannot be read to its end."""
    findings: list[Finding] = field(default_factory=list)

    def batches(self) -> Iterator[Seen]:
        """The log, in order; memory stays flat. Raises Corrupt."""
        if self.wal is not None:
            for file, limit, offset, header in self.wal.batches(self.wal.trail.base.zxid):
                yield Seen(file, offset, header, self.wal.entries_at(file, limit, offset, header))


def inspect(disk: Disk, others: Sequence["Inspection"] = ()) -> Inspection:
    """Look at a directory; `others` are replicas, which may tell what a damaged batch held.

    Raises NotBorn, NewerFormat, and MetadataLost where nothing can be said at all.
    """
    overlay, findings = Overlay(disk), list[Finding]()
    for name in ("manifest", "epochs"):
        findings += damaged_copies(disk, name)
    manifest = Manifest(overlay)
    identity = manifest.load()
    epochs = EpochsFile(overlay).load()
    wal = read_log(overlay, identity, manifest, others, findings)
    snapshot = manifest.contents.snapshot
    if snapshot is not None:
        try:
            verified(overlay, snapshot)
        except Corrupt as error:
            findings.append(Finding(snapshot.name, None, snapshot.mark.zxid, str(error)))
    return Inspection(overlay, identity, manifest, epochs, wal, findings)


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


def read_log(overlay: Overlay, identity: Identity, manifest: Manifest, others: Sequence[Inspection], findings: list[Finding]) -> Wal | None:
    """Recover the log in memory. A damaged batch that a replica has is put back, so that what is behind it is seen as well."""
    while True:
        wal = Wal(overlay, bytes.fromhex(identity.incarnation), contents=manifest.contents)
        try:
            wal.recover()
        except Faulty as error:
            found, whole = explained(overlay, error, others)
            findings.append(found)
            if whole is None:
                return None
            overlay.write(error.fault.name, error.fault.offset, [whole])
            continue
        except StorageError as error:
            file = str(error).partition(",")[0].split(" ")[0]
            findings.append(Finding(file if overlay.exists(file) else "wal", None, None, str(error)))
            return None
        if wal.suspect is not None:
            what = f"the last batch is damaged, and may never have been acknowledged: its range is suspect through {wal.suspect}"
            findings.append(Finding(wal.files[-1].name, wal.files[-1].end, wal.trail.last, what))
        return wal


def explained(overlay: Overlay, error: Faulty, others: Sequence[Inspection]) -> tuple[Finding, bytes | None]:
    """What can be said of a damaged batch, and its bytes as they were, if a replica has its entries."""
    fault = error.fault
    for other in others:
        try:
            whole = rebuilt(fault, entries_from(other, fault))
        except (Diverged, Corrupt):
            continue
        at = first_difference(overlay.read(fault.name, fault.offset, len(whole)), whole)
        return Finding(fault.name, fault.offset + at, zxid_at(fault, whole, at), f"a batch of the log is damaged ({fault.text})"), whole
    return Finding(fault.name, fault.offset, fault.before.zxid, str(error)), None


def entries_from(other: Inspection, fault: Fault) -> list[Entries]:
    """Raises Corrupt where the replica does not have them, either."""
    runs: list[Entries] = []
    at = fault.before.zxid
    while at < fault.after.zxid:
        entries = other.wal.read(at, fault.after.zxid, 1 << 24) if other.wal is not None and at in other.wal.trail else None
        if entries is None:
            raise Corrupt(f"the replica has nothing above {at}")
        runs.append(entries)
        at = entries.last
    return runs


def zxid_at(fault: Fault, whole: bytes, at: int) -> Zxid:
    """The entry in which a byte of a batch lies; the batch's first for its header."""
    count = (
        fault.after.zxid.counter - fault.before.zxid.counter
        if fault.after.zxid.epoch == fault.before.zxid.epoch
        else fault.after.zxid.counter
    )
    first = fault.after.zxid.counter - count + 1
    end = BATCH_BYTES + 4 * count
    for number in range(count):
        begin = BATCH_BYTES + 4 * number
        end += int.from_bytes(whole[begin : begin + 4], "big")
        if at < end:
            return Zxid(fault.after.zxid.epoch, first + number)
    return fault.after.zxid


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
    """The first committed entry that two whole logs hold differently, by their running digests; None if there is none."""
    if ours.wal is None or theirs.wal is None:
        return None
    low = max(ours.wal.trail.base.zxid, theirs.wal.trail.base.zxid)
    high = min(ours.wal.hint, theirs.wal.hint)
    agreed = low
    for seen in ours.batches():
        last = seen.entries.last
        if last <= low or last > high:
            continue
        digest = theirs.wal.digest_at(last) if last in theirs.wal.trail else None
        if digest != seen.entries.digest:
            nodes = f"{ours.identity.node} and {theirs.identity.node}"
            what = f"the logs of nodes {nodes} hold other entries above {agreed}, both with whole checksums"
            return Finding(seen.file.name, seen.offset, seen.header.first, what)
        agreed = last
    return None
