"""Everything one node keeps on disk: who it is, what it promised, its log. The one place where durable effects become true.

`perform` is for one writer thread. Whatever fails there is final: nothing is retried, nothing of it was acknowledged.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import google_crc32c

from zablog.core.effects import Append, DurableEffect, Install, SaveEpochs, Truncate
from zablog.core.trail import Entries, Mark, Payload, Trail
from zablog.core.zxid import ZERO, Epoch, Zxid
from zablog.storage.disk import Disk, Overlapping
from zablog.storage.epochs import BIRTH, Epochs, EpochsFile
from zablog.storage.errors import Corrupt, Diverged, MetadataLost, StorageFailed, Trimmed
from zablog.storage.manifest import Contents, Identity, Manifest, Snapshot
from zablog.storage.wal import Wal

FILE_BYTES = 16 << 20
BATCH_BYTES_MAX = 8 << 20
"""A group commit takes no more payload than this, unless a single run is larger."""


class Storage:
    """An open data directory. Reading is safe beside the writer, in other threads."""

    def __init__(self, disk: Disk, manifest: Manifest, identity: Identity, epochs_file: EpochsFile, epochs: Epochs, wal: Wal) -> None:
        self.disk = disk
        self.overlapping = disk if isinstance(disk, Overlapping) and disk.sync_end is not None else None
        """The same disk, if one need not wait for its syncs."""
        self.manifest = manifest
        self.identity = identity
        self.epochs_file = epochs_file
        self.epochs = epochs
        self.wal = wal
        self.failure: BaseException | None = None
        snapshot = manifest.contents.snapshot
        self.watermark = max(wal.hint, snapshot.mark.zxid) if snapshot else wal.hint
        """The highest zxid known here to be committed; after `open` a place of the trail."""
        self.hinted = wal.hint
        """The last commit hint written."""
        self.staged: Snapshot | None = None
        """A snapshot that came from the leader: here, verified and synced, and named by no manifest yet."""
        self.batches = 0
        self.syncs = 0

    @classmethod
    def open(cls, disk: Disk, file_bytes: int = FILE_BYTES) -> "Storage":
        """Recover. What it finds is durable when it returns.

        Raises NotBorn, NewerFormat, MetadataLost, Corrupt; OSError where the disk itself fails.
        """
        storage = cls.recovered(disk, file_bytes)
        manifest, wal, snapshot = storage.manifest, storage.wal, storage.snapshot
        storage.leave_suspect(snapshot.mark.zxid if snapshot else ZERO)
        if snapshot is not None and wal.trail.last < snapshot.mark.zxid and wal.suspect is not None:
            # The last batch is damaged, and the snapshot stands within it. Whole, it is all that the log was through there.
            verified(disk, snapshot)
            manifest.switch(Contents(snapshot.mark, wal.generation + 1, wal.generation, snapshot))
            wal.restart(snapshot.mark, wal.generation + 1)
        if snapshot is not None and wal.trail.last < snapshot.mark.zxid:
            raise Corrupt(
                f"the log ends at {wal.trail.last}, and the snapshot {snapshot.name} stands at {snapshot.mark.zxid}: the log was durable "
                "through there when the snapshot was taken. Keep the directory; the other nodes go on without this one."
            )
        wal.begin()
        return storage

    @classmethod
    def open_beyond(cls, disk: Disk, file_bytes: int = FILE_BYTES) -> "Storage":
        """A directory whose log is Faulty, for `put_back` or `begin_at`: its log begins behind the last damage. Raises as `open` does."""
        return cls.recovered(disk, file_bytes, beyond=True)

    @classmethod
    def recovered(cls, disk: Disk, file_bytes: int, beyond: bool = False) -> "Storage":
        """Read and verified; nothing that is damaged was touched."""
        manifest = Manifest(disk)
        identity = manifest.load()
        epochs_file = EpochsFile(disk)
        epochs = epochs_file.load()
        contents = manifest.contents

        def rolled(generation: int) -> None:
            manifest.switch(manifest.contents._replace(newest=generation))

        wal = Wal(disk, bytes.fromhex(identity.incarnation), file_bytes, contents, rolled)
        wal.recover(beyond)
        if wal.files and wal.generation > contents.newest:  # the process died before it could say that the file is in use
            rolled(wal.generation)
            contents = manifest.contents
        emptied = contents.newest < contents.first and contents.snapshot is not None
        """A snapshot was installed, and the power failed before the log that goes on from it had its first file."""
        if not wal.files and not emptied and (epochs != BIRTH or contents.newest > 0):
            raise MetadataLost(
                f"the log is gone: no wal-*.log is here, though epoch {epochs.accepted} was promised. A node that has lost its "
                "history must not vote again under its old identity. Put the files back, or go on without this node."
            )
        if wal.trail.last.epoch > epochs.accepted:
            raise MetadataLost(
                f"the log ends at {wal.trail.last}, but the epochs record knows of no promise above epoch {epochs.accepted}: "
                "it is an old copy. A voter whose promises are lost must not vote again under its old identity. Go on without this node."
            )
        return cls(disk, manifest, identity, epochs_file, epochs, wal)

    @property
    def accepted(self) -> Epoch:
        return self.epochs.accepted

    @property
    def current(self) -> Epoch:
        return self.epochs.current

    @property
    def suspect(self) -> Zxid | None:
        """The end of a range above the log that a damaged batch may have held."""
        return self.epochs.suspect

    @property
    def trail(self) -> Trail:
        """A copy: where the log has been."""
        return self.wal.trail.copy()

    # -- the writer ---------------------------------------------------------------------------------------------------------

    def perform(self, effects: Sequence[DurableEffect], watermark: Zxid) -> None:
        """Make these true, in order; successive appends are one group commit. All of it is durable when it returns.

        `watermark` is stored as a hint: a zxid known to be committed. Raises Diverged or StorageFailed, after which nothing works.
        """
        with self.final():
            self.watermark = max(self.watermark, watermark)
            at = 0
            while at < len(effects):
                match effects[at]:
                    case Append():
                        at = self.commit(effects, at)
                        continue
                    case Truncate(_, mark):
                        self.truncate(mark)
                    case Install(_, mark):
                        assert self.staged is not None and self.staged.mark == mark, "the law that what is installed was staged"
                        self.install(self.staged)
                    case SaveEpochs(_, accepted, current, suspect):
                        self.save(Epochs(accepted, current, suspect))
                at += 1

    def commit(self, effects: Sequence[DurableEffect], at: int) -> int:
        """The appends from `at` on, of one epoch and within the limit: one batch, one sync. Returns where it stopped."""
        at = self.write(effects, at)
        self.wal.sync()
        self.synced()
        return at

    def begin(self, effects: Sequence[DurableEffect], watermark: Zxid) -> bool:
        """Appends that are one batch: write them and begin to sync. False if the disk did not let it be begun: then they are synced.

        One at a time, where the disk is `overlapping`; nothing else may be done here before `finish`. Raises StorageFailed.
        """
        assert self.overlapping is not None, "whoever begins has looked whether that is possible"
        with self.final():
            self.watermark = max(self.watermark, watermark)
            end = self.write(effects, 0)
            assert end == len(effects), "whoever begins has looked that they are one batch"
            try:
                self.overlapping.begin_sync(self.wal.files[-1].name)
            except OSError:  # not every file system can, nor is every process allowed to
                self.wal.sync()
                self.synced()
                return False
            return True

    def finish(self, wait: bool = True) -> bool:
        """Is what was begun durable by now, if need be after waiting? False if nothing is under way. Raises StorageFailed."""
        assert self.overlapping is not None, "whoever finishes has looked whether that is possible"
        with self.final():
            over = self.overlapping.finish_sync(wait)
            if over:
                self.synced()
            return over

    def synced(self) -> None:
        self.batches += 1
        self.syncs += 1

    def write(self, effects: Sequence[DurableEffect], at: int) -> int:
        """The appends from `at` on, as far as they make one batch. Not durable. Returns where it stopped."""
        payloads: list[Payload] = []
        runs: list[Entries] = []
        size = 0
        while at < len(effects) and isinstance(effect := effects[at], Append):
            entries = effect.entries
            size += sum(map(len, entries.payloads))
            if runs and (size > BATCH_BYTES_MAX or entries.first[0] != runs[0].first[0]):
                break
            runs.append(entries)
            payloads += entries.payloads
            at += 1
        if len(runs) == 1:
            batch = runs[0]
        else:
            first, last = runs[0], runs[-1]
            batch = Entries(first.first, first.prev, payloads, last.digest)
            assert batch.last == last.last, "the law that successive appends of an epoch are contiguous"
        self.wal.append(batch, self.hint(batch.last))
        return at

    def save(self, epochs: Epochs) -> None:
        assert epochs.accepted >= self.epochs.accepted, "the law that acceptedEpoch never decreases"
        assert epochs.current >= self.epochs.current, "the law that currentEpoch never decreases"
        self.epochs_file.save(epochs)
        self.epochs = epochs

    @contextmanager
    def final(self) -> Iterator[None]:
        """Whatever fails within is final: it is not known what is on disk, so nothing may be written or acknowledged any more."""
        if self.failure is not None:
            raise StorageFailed(f"an earlier write failed ({self.failure}): this process must not write again.") from self.failure
        try:
            yield
        except OSError as error:
            self.failure = error
            raise StorageFailed(f"writing failed: {error}. Nothing of it was acknowledged; the node stops.") from error
        except BaseException as error:
            self.failure = error
            raise

    def truncate(self, mark: Mark) -> None:
        """Verify before anything is cut (see W4: each step is synced, any error is fatal)."""
        digest = self.wal.digest_at(mark.zxid)
        if digest is None:
            raise Corrupt(f"the log is to be cut at {mark.zxid}, which is not there. Nothing was cut.")
        if digest != mark.digest:
            raise Diverged(
                f"histories diverge: at {mark.zxid} our running digest is {digest:016x}, the leader's {mark.digest:016x}. Nothing was cut. "
                "Keep this directory and compare the logs."
            )
        self.wal.cut(mark)

    def seal_idle(self, watermark: Zxid = ZERO) -> None:
        """An idle writer names its last batch in an empty one, so that damage there is known for corruption, not taken for a torn tail."""
        if not self.wal.sealed and self.failure is None:
            with self.final():
                self.watermark = max(self.watermark, watermark)
                self.wal.seal(self.hint(self.wal.trail.last))
                self.wal.sync()

    def hint(self, last: Zxid) -> Zxid:
        """What a batch that ends with `last` may say to be committed: at most what is known, and never more.

        A watermark above the batch speaks for all of its own epoch. Of a later epoch it does not: the tail here may be what that epoch
        gave up, and the snapshot that says so on its way.
        """
        if self.watermark <= last:
            self.hinted = self.watermark
        elif self.watermark.epoch == last.epoch:
            self.hinted = last
        return min(self.hinted, last)

    # -- snapshots ----------------------------------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot | None:
        """The one that the manifest names."""
        return self.manifest.contents.snapshot

    def checkpoint(self, snapshot: Snapshot, keep_bytes: int = 0, keep_above: Zxid | None = None) -> None:
        """The writer: `snapshot` is on disk, synced. Let the manifest name it, then let go of log that it covers.

        Kept are `keep_bytes` of it, and what is above `keep_above`, which somebody may want to be read to.

        The log must be durable through the snapshot: a snapshot ahead of its log would survive a crash that the log does not (W11).
        Raises StorageFailed.
        """
        with self.final():
            mark, last = snapshot.mark, self.snapshot
            if last is not None and mark.zxid < last.mark.zxid:  # a leader's snapshot has come between
                self.disk.unlink(snapshot.name)
                return
            assert self.digest_at(mark.zxid) == mark.digest, "the law that a snapshot is that of a durable place of our own log"
            assert mark.zxid <= self.watermark, "the law that a snapshot holds nothing uncommitted"
            first = self.wal.trimmed(mark.zxid if keep_above is None else min(mark.zxid, keep_above), keep_bytes)
            contents = self.manifest.contents._replace(base=first.header.start, first=first.header.generation, snapshot=snapshot)
            self.manifest.switch(contents)
            self.wal.trim(first)
            self.forget(last)

    def install(self, snapshot: Snapshot) -> None:
        """The writer: `snapshot` came from the leader and is on disk, verified and synced. One switch replaces snapshot, base and log (W5).

        Nothing of the old log survives: what it held above the snapshot is not the leader's word. Raises StorageFailed.
        """
        with self.final():
            last = self.snapshot
            assert snapshot.mark.zxid > self.wal.trail.base.zxid, "the law that snapshots go forward"
            first = self.wal.generation + 1
            contents = Contents(snapshot.mark, first, self.wal.generation, snapshot)
            self.manifest.switch(contents)
            self.wal.restart(snapshot.mark, first)
            self.watermark = max(self.watermark, snapshot.mark.zxid)
            self.forget(last)

    def put_back(self, before: Mark, runs: Sequence[Entries]) -> None:
        """Into a log opened beyond damage: what a peer has from the last place before it to where ours is whole again.

        The running digests say whether it is what stood here. Open the directory anew then. Raises Diverged, StorageFailed.
        """
        trail = Trail(before)
        for run in runs:
            if not trail.follows(run):
                raise Diverged(f"what a peer has above {trail.last} does not continue our log")
            trail.append(run)
        if (trail.last, trail.digest) != self.wal.trail.base:
            raise Diverged(f"what a peer has through {trail.last} is not what stood here through {self.wal.trail.base.zxid}")
        with self.final():
            self.leave_suspect(before.zxid)
            self.wal.carry(before, runs, self.hint)
            self.manifest.switch(self.manifest.contents._replace(newest=self.wal.generation))

    def begin_at(self, snapshot: Snapshot) -> None:
        """Let a log opened beyond damage begin at a snapshot that is not below it. What we have above stays. Open the directory anew then.

        The snapshot is on our disk, verified and synced, our own or a peer's. Its place is committed. So it holds every entry up to there
        that was ever committed, and what else the damaged log held up to there never can be: nothing that we acknowledged is given
        up, and nobody's word is needed. A promise of its epoch only binds us more.

        Raises Corrupt where it is of no use, Diverged, StorageFailed.
        """
        mark, wal, own = snapshot.mark, self.wal, self.snapshot
        with self.final():
            if mark.zxid < self.least:
                raise Corrupt(f"a snapshot at {mark.zxid} does not cover the damage: the log is whole above {wal.trail.base.zxid} only")
            if mark.zxid <= wal.trail.last and (mark.zxid not in wal.trail or wal.digest_at(mark.zxid) != mark.digest):
                raise Diverged(f"the snapshot at {mark.zxid} is of another history than our log. Keep this directory and compare the logs.")
            if mark.zxid.epoch > self.accepted:
                self.save(self.epochs._replace(accepted=Epoch(mark.zxid.epoch)))
            self.leave_suspect(mark.zxid)
            self.watermark = max(self.watermark, mark.zxid)
            wal.carry(mark, [], self.hint)
            self.manifest.switch(Contents(mark, wal.generation, wal.generation, snapshot))
            self.forget(own)

    @property
    def least(self) -> Zxid:
        """Of a log opened beyond damage: a snapshot below this is no help."""
        base = self.wal.trail.base.zxid
        return max(base, self.snapshot.mark.zxid) if self.snapshot else base

    def leave_suspect(self, covered: Zxid) -> None:
        """The damaged end of the log is about to be left behind, and not covered: its mark is made durable first.

        A damaged batch that held nothing (it was to seal the one before it) leaves nothing to be suspect of.
        """
        suspect = self.wal.suspect
        if suspect is not None and suspect > max(covered, self.wal.trail.last):
            self.save(self.epochs._replace(suspect=max(suspect, self.suspect or suspect)))

    def forget(self, old: Snapshot | None) -> None:
        """No durable manifest names it any longer."""
        snapshot = self.snapshot
        if old is not None and snapshot is not None and old.name != snapshot.name and self.disk.exists(old.name):
            self.disk.unlink(old.name)

    def read_snapshot(self) -> bytes:
        """The file that the manifest names, verified. Raises Corrupt."""
        assert self.snapshot is not None, "whoever asks has looked whether there is one"
        return verified(self.disk, self.snapshot)

    def prepare(self) -> None:
        """Make the next file of the log ready ahead of use; may run beside the writer. An error here costs nothing yet."""
        self.wal.spare.prepare()

    # -- readers ------------------------------------------------------------------------------------------------------------

    def read(self, after: Zxid, upto: Zxid, bytes_max: int) -> Entries | None:
        """The next entries above `after`: of one epoch, at least one, about `bytes_max` bytes. None if there are none.

        Raises Corrupt where the disk has rotted since.
        """
        return self.wal.read(after, upto, bytes_max)

    def read_above(self, place: Mark, upto: Zxid, bytes_max: int) -> Entries:
        """`read` for another node, if `place` is one of our history, too. Raises Corrupt, Trimmed, OSError where we have nothing for it."""
        if place.zxid not in self.wal.trail or self.digest_at(place.zxid) != place.digest:
            raise Corrupt(f"our log does not have {place.zxid}, or not after the same history")
        entries = self.read(place.zxid, upto, bytes_max)
        if entries is None:
            raise Corrupt(f"our log has nothing above {place.zxid}")
        return entries

    def digest_at(self, zxid: Zxid) -> int:
        """The running digest at `zxid`, a place of the log. Raises Trimmed, also if that happens meanwhile, in another thread; Corrupt."""
        try:
            digest = self.wal.digest_at(zxid)
        except FileNotFoundError as error:
            raise Trimmed(f"the log does not hold {zxid} any longer") from error
        if digest is None:
            if zxid < self.wal.trail.base.zxid:
                raise Trimmed(f"the log begins at {self.wal.trail.base.zxid}: {zxid} is in the snapshot")
            raise Corrupt(f"the log has no entry {zxid}")
        return digest


def begin_at_own(disk: Disk, file_bytes: int = FILE_BYTES) -> bool:
    """If our own snapshot is whole and not below what is damaged of the log, let the log begin there. False if that is no help."""
    storage = Storage.open_beyond(disk, file_bytes)
    snapshot = storage.snapshot
    if snapshot is None or snapshot.mark.zxid < storage.trail.base.zxid:
        return False
    try:
        verified(disk, snapshot)
        storage.begin_at(snapshot)
    except (Corrupt, Diverged):
        return False
    return True


def verified(disk: Disk, snapshot: Snapshot) -> bytes:
    """The file of a snapshot. Raises Corrupt."""
    raw = disk.read(snapshot.name, 0, snapshot.length + 1) if disk.exists(snapshot.name) else b""
    if len(raw) != snapshot.length or google_crc32c.value(raw) != snapshot.crc:
        raise Corrupt(
            f"{snapshot.name} has {len(raw)} bytes with another checksum than the {snapshot.length} that the manifest names. "
            "Keep the directory; the other nodes go on without this one."
        )
    return raw
