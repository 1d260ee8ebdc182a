"""Broken segments: what a checkpoint names is not there, or goes too soon, or is not what it says. Brokers with segments on their disks."""

from collections.abc import Iterator

import pytest

from broker import checkpoint
from broker.checkpoint import Checkpoint
from broker.log.behind import WriteBehind
from tests.sim.mutants.brokers import brokers
from tests.sim.mutants.mutant import mutant
from zablog.sim import applier, snapshots
from zablog.sim.disk import SimDisk
from zablog.storage.snapshots import Part, Want, existing, gathered


@mutant("W11 segments", "RestartFidelity", arena=brokers)
def segments_not_synced_before_the_manifest_names_them(patch: pytest.MonkeyPatch) -> None:
    """a checkpoint names lengths of segments that are written and not synced"""
    patch.setattr(checkpoint, "sync_segment", lambda disk, name: None)


@mutant("W11 segments", "RestartFidelity", arena=brokers)
def ends_of_segments_left_out_of_the_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """the short ends of segments are neither synced nor copied into the checkpoint that names them"""
    patch.setattr(checkpoint, "read_tails", lambda disk, dirt, tails: None)


@mutant("W11 segments", "RestartFidelity", arena=brokers)
def names_of_segments_not_synced(patch: pytest.MonkeyPatch) -> None:
    """the manifest switches to a checkpoint while the directory of its segments is not durable"""
    original = SimDisk.sync_names
    patch.setattr(SimDisk, "sync_names", lambda self: original(self) if self.children else self.step("sync_names"))


@mutant("W7 segments", "RestartFidelity", arena=brokers)
def segments_not_cut_to_what_the_manifest_says(patch: pytest.MonkeyPatch) -> None:
    """who starts leaves behind the durable length of a segment what a crash has left there"""

    class Uncut:
        def __init__(self, disk: SimDisk) -> None:
            self.disk = disk

        def __getattr__(self, name: str):
            return getattr(self.disk, name)

        def truncate(self, name: str, length: int) -> None:
            pass

    original = checkpoint.restore_files
    patch.setattr(checkpoint, "restore_files", lambda disk, partitions, tails: original(Uncut(disk), partitions, tails))


@mutant("W5 segments", "RestartFidelity", arena=brokers, slow=True)
def segments_removed_before_the_manifest_switches(patch: pytest.MonkeyPatch) -> None:
    """a checkpoint removes files that it does not name any more, and the one before it still does"""
    original = Checkpoint.encoded

    def encoded(self: Checkpoint):
        yield self.over
        return (yield from original(self))

    patch.setattr(Checkpoint, "encoded", encoded)


@mutant("W11 segments", "RestartFidelity", arena=brokers)
def gathered_ends_left_out_of_a_sync(patch: pytest.MonkeyPatch) -> None:
    """a segment is synced without what was gathered of it and has not been written"""
    patch.setattr(WriteBehind, "sync", lambda self, name: self._disk.sync(name))


def gathering(patch: pytest.MonkeyPatch, broken) -> None:
    patch.setattr(applier, "gathered", broken)
    patch.setattr(snapshots, "gathered", broken)


@mutant("§9 checksum", "SnapshotExact", arena=brokers, slow=True)
def prefixes_of_segments_believed(patch: pytest.MonkeyPatch) -> None:
    """what a follower has of a segment is taken for what the snapshot says of it, and not compared"""

    def believing(disk: SimDisk, part: Part) -> Iterator[Want]:
        if not existing(disk, part):
            yield from gathered(disk, part)
            return
        yield Want(part.name, existing(disk, part))
        disk.sync(part.name)

    gathering(patch, believing)


@mutant("W5 segments", "RestartFidelity", arena=brokers)
def fetched_segments_not_synced(patch: pytest.MonkeyPatch) -> None:
    """a snapshot is installed while the segments that came with it are not durable"""

    class Unsynced:
        def __init__(self, disk: SimDisk) -> None:
            self.disk = disk

        def __getattr__(self, name: str):
            return getattr(self.disk, name)

        def sync(self, name: str) -> None:
            pass

    gathering(patch, lambda disk, part: gathered(Unsynced(disk), part))
    patch.setattr(snapshots, "put_piece", lambda disk, name, offset, data: disk.write(name, offset, [data]))
