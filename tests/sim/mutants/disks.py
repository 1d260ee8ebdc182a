"""Broken storage: what was durable is not there any more, or what was not is taken for it (W3, W4, W7, W13, section 9)."""

import pytest

from tests.sim.mutants.mutant import decay, mutant
from zablog.sim.disk import SimDisk
from zablog.storage.errors import MetadataLost
from zablog.storage.storage import Storage
from zablog.storage.wal import Wal


@mutant("§9 fsync", "RestartFidelity")
def sync_does_nothing(patch: pytest.MonkeyPatch) -> None:
    """a disk acknowledges a flush without doing it"""
    patch.setattr(SimDisk, "sync", lambda self, name: self.step("sync"))


@mutant("§9 fsync", "RestartFidelity")
def log_is_not_synced(patch: pytest.MonkeyPatch) -> None:
    """the writer reports before it has synced"""
    patch.setattr(Wal, "sync", lambda self: None)


@mutant("§1 durable", "RestartFidelity")
def names_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    """the directory is not synced after a file was created or renamed"""
    original = SimDisk.sync_names

    def sync_names(self: SimDisk) -> None:
        if len(self.durable_names) == 0:  # birth is not at issue
            original(self)
        else:
            self.step("sync_names")

    patch.setattr(SimDisk, "sync_names", sync_names)


@mutant("W3", "RestartFidelity", arena=decay)
def recovered_log_is_not_synced(patch: pytest.MonkeyPatch) -> None:
    """what is readable after a crash is taken for durable"""
    patch.setattr(Wal, "make_durable", lambda self, file, raw, begin, end: None)


@mutant("W13", "RestartFidelity", arena=decay)
def failed_sync_is_tried_again(patch: pytest.MonkeyPatch) -> None:
    """a sync that failed is repeated, and the second one believed"""

    def sync(self: Wal) -> None:
        name = self.files[-1].name
        try:
            self.disk.sync(name)
        except OSError:
            self.disk.sync(name)

    patch.setattr(Wal, "sync", sync)


@mutant("W7", "RestartFidelity", slow=True, arena=decay)
def log_above_the_epoch_is_refused(patch: pytest.MonkeyPatch) -> None:
    """a crash between history and currentEpoch leaves a node that does not start (ZOOKEEPER-1653, 2354, 4269)"""
    original = Storage.open.__func__  # type: ignore[attr-defined]  # a classmethod's function

    def open(cls, *words) -> Storage:
        storage = original(cls, *words)
        if storage.trail.last.epoch > storage.current:
            raise MetadataLost(f"the log ends at {storage.trail.last}, above epoch {storage.current}")
        return storage

    patch.setattr(Storage, "open", classmethod(open))


@mutant("§9 suspect tail", "CommittedKept", arena=decay)
def damaged_tail_is_dropped_in_silence(patch: pytest.MonkeyPatch) -> None:
    """a damaged last batch is taken for one that was never acknowledged"""
    patch.setattr(Storage, "suspect", property(lambda self: None))
