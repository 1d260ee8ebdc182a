"""A simulated node whose log is faulty, put right as `zablog.node.repair` does it, before it takes part in anything."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from zablog.core.trail import Entries, Mark
from zablog.core.zxid import Zxid
from zablog.sim.applier import take_parts
from zablog.storage.errors import Corrupt, Diverged, Faulty, StorageError
from zablog.storage.repair import Fault
from zablog.storage.snapshots import Unlike, write_snapshot
from zablog.storage.storage import Storage, begin_at_own

if TYPE_CHECKING:
    from zablog.sim.node import Node


def opened(node: Node, file_bytes: int) -> Storage:
    """Raises what `Storage.open` raises: Faulty where nobody in reach can help now."""
    while True:
        try:
            return Storage.open(node.disk, file_bytes)
        except Faulty as error:
            if begin_at_own(node.disk, file_bytes):
                node.invariants.mended["own snapshot"] += 1
                continue
            peers = [
                peer for peer in node.invariants.nodes if peer.running and peer.paused is None and node.network.passes(node.id, peer.id)
            ]
            node.random.shuffle(peers)
            if not any(helped(node, peer, error.fault, file_bytes) for peer in peers):
                raise


def helped(node: Node, peer: Node, fault: Fault, file_bytes: int) -> bool:
    """Entries, or else a snapshot, of one peer."""
    storage = node.storage = Storage.open_beyond(node.disk, file_bytes)
    try:
        runs = entries_between(peer, fault.before, storage.trail.base.zxid)
    except (StorageError, OSError):
        runs = None
    if runs is not None:
        with suppress(Diverged):
            storage.put_back(fault.before, runs)
            node.invariants.mended["entries"] += 1
            return True
    snapshot = peer.storage.snapshot
    if snapshot is None or snapshot.mark.zxid < storage.least:
        return False
    try:
        raw = peer.storage.read_snapshot()
    except (StorageError, OSError):
        return False
    try:
        take_parts(node, peer, raw)
    except Unlike:
        return False
    storage.begin_at(write_snapshot(node.disk, snapshot.mark, [raw], storage.snapshot))
    node.invariants.mended["a peer's snapshot"] += 1
    node.replaced = snapshot.mark.zxid
    return True


def entries_between(peer: Node, before: Mark, upto: Zxid) -> list[Entries]:
    """What stood where the log is damaged, by a peer's log. Raises StorageError, OSError where it cannot say."""
    runs: list[Entries] = []
    at = before
    while at.zxid < upto:
        known = at.zxid in peer.storage.wal.trail and peer.storage.digest_at(at.zxid) == at.digest
        entries = peer.storage.read(at.zxid, upto, 1 << 20) if known else None
        if entries is None:
            raise Corrupt(f"node {peer.id} has nothing above {at.zxid}")
        runs.append(entries)
        at = Mark(entries.last, entries.digest)
    return runs
