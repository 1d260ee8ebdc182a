"""Everything one node keeps on disk: who it is, what it promised, its log. The one place where durable effects become true.

`perform` is for one writer thread. Whatever fails there is final: nothing is retried, nothing of it was acknowledged.
"""

from collections.abc import Sequence

from zablog.core.effects import Append, DurableEffect, SaveEpochs, Truncate
from zablog.core.trail import Entries, Mark, Trail
from zablog.core.zxid import Epoch, Zxid
from zablog.storage.batch import ENTRIES_MAX
from zablog.storage.disk import Disk
from zablog.storage.epochs import Epochs, EpochsFile
from zablog.storage.errors import Corrupt, Diverged, StorageError, StorageFailed
from zablog.storage.manifest import Identity, Manifest
from zablog.storage.wal import Wal

FILE_BYTES = 16 << 20
BATCH_BYTES_MAX = 8 << 20
"""A group commit takes no more payload than this, unless a single run is larger."""


class Storage:
    """An open data directory. Reading is safe beside the writer, in other threads."""

    def __init__(self, identity: Identity, epochs_file: EpochsFile, epochs: Epochs, wal: Wal) -> None:
        self.identity = identity
        self.epochs_file = epochs_file
        self.epochs = epochs
        self.wal = wal
        self.failure: Exception | None = None
        self.watermark = wal.hint
        """What was known to be committed when the log was last written; a place of the trail."""
        self.batches = 0
        self.syncs = 0

    @classmethod
    def open(cls, disk: Disk, file_bytes: int = FILE_BYTES) -> "Storage":
        """Recover. What it finds is durable when it returns.

        Raises NotBorn, NewerFormat, MetadataLost, Corrupt; OSError where the disk itself fails.
        """
        identity = Manifest(disk).load()
        epochs_file = EpochsFile(disk)
        epochs = epochs_file.load()
        wal = Wal(disk, bytes.fromhex(identity.cluster), file_bytes)
        wal.recover()
        if wal.suspect is not None:  # the mark is durable before the damaged bytes are left behind
            suspect = max(wal.suspect, epochs.suspect or wal.suspect)
            epochs = epochs._replace(suspect=suspect)
            epochs_file.save(epochs)
        wal.begin()
        return cls(identity, epochs_file, epochs, wal)

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
        if self.failure is not None:
            raise StorageFailed(f"an earlier write failed ({self.failure}): this process must not write again.") from self.failure
        try:
            runs: list[Entries] = []
            size = 0
            for effect in effects:
                match effect:
                    case Append(_, entries):
                        size += entries.size
                        if runs and (runs[0].first.epoch != entries.first.epoch or size > BATCH_BYTES_MAX or len(runs) >= ENTRIES_MAX):
                            self.commit(runs, watermark)
                            runs, size = [], entries.size
                        runs.append(entries)
                    case Truncate(_, mark):
                        self.commit(runs, watermark)
                        runs, size = [], 0
                        self.truncate(mark)
                    case SaveEpochs(_, accepted, current, suspect):
                        self.commit(runs, watermark)
                        runs, size = [], 0
                        self.epochs_file.save(Epochs(accepted, current, suspect))
                        self.epochs = Epochs(accepted, current, suspect)
            self.commit(runs, watermark)
        except (OSError, StorageError) as error:
            self.failure = error
            if isinstance(error, StorageError):
                raise
            raise StorageFailed(f"writing failed: {error}. Nothing of it was acknowledged; the node stops.") from error

    def commit(self, runs: Sequence[Entries], watermark: Zxid) -> None:
        """One batch, one write, one sync."""
        if runs:
            self.wal.append(runs, min(watermark, runs[-1].last))
            self.wal.sync()
            self.batches += 1
            self.syncs += 1

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

    def seal_idle(self) -> None:
        """An idle writer names its last batch in an empty one, so that damage there is known for corruption, not taken for a torn tail."""
        if not self.wal.sealed and self.failure is None:
            try:
                self.wal.seal(self.watermark)
                self.wal.sync()
            except OSError as error:
                self.failure = error
                raise StorageFailed(f"writing failed: {error}. The node stops.") from error

    def prepare(self) -> None:
        """Fill the next file of the log with zeros ahead of use; may run beside the writer. An error here costs nothing yet."""
        self.wal.prepare()

    # -- readers ------------------------------------------------------------------------------------------------------------

    def read(self, after: Zxid, upto: Zxid, bytes_max: int) -> Entries | None:
        """The next entries above `after`: of one epoch, at least one, about `bytes_max` bytes. None if there are none.

        Raises Corrupt where the disk has rotted since.
        """
        return self.wal.read(after, upto, bytes_max)

    def digest_at(self, zxid: Zxid) -> int:
        """The running digest at `zxid`, a place of the log."""
        digest = self.wal.digest_at(zxid)
        if digest is None:
            raise Corrupt(f"the log has no entry {zxid}")
        return digest
