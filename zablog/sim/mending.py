"""A simulated node whose log is faulty, put right as `zablog.node.repair` does it, before it takes part in anything."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from zablog.sim.applier import reachable, take_parts
from zablog.sim.snapshots import checkpoint
from zablog.storage.errors import Diverged, Faulty, StorageError
from zablog.storage.repair import Fault, Missing
from zablog.storage.snapshots import Unlike, write_snapshot
from zablog.storage.storage import Storage, begin_at_own

if TYPE_CHECKING:
    from zablog.sim.node import Node

READ_BYTES = 1 << 20


def opened(node: Node, file_bytes: int) -> Storage:
    """Raises what `Storage.open` raises: Faulty where nobody in reach can help now."""
    while True:
        try:
            return Storage.open(node.disk, file_bytes)
        except Faulty as error:
            if begin_at_own(node.disk, file_bytes):
                node.invariants.mended["own snapshot"] += 1
                continue
            peers = [peer for peer in node.invariants.nodes if reachable(node, peer)]
            node.random.shuffle(peers)
            if not any(helped(node, peer, error.fault, file_bytes) for peer in peers):
                raise


def helped(node: Node, peer: Node, fault: Fault, file_bytes: int) -> bool:
    """Entries, or else a snapshot, of one peer."""
    storage = node.storage = Storage.open_beyond(node.disk, file_bytes)
    missing = Missing(fault.before, storage.trail.base.zxid)
    try:
        while (place := missing.place) is not None:
            missing.take(peer.storage.read_above(place, missing.upto, READ_BYTES))
    except (StorageError, OSError):
        pass
    else:
        with suppress(Diverged):
            storage.put_back(fault.before, missing.runs)
            node.invariants.mended["entries"] += 1
            return True
    if peer.storage.snapshot is None or peer.storage.snapshot.mark.zxid < storage.least:
        checkpoint(peer)  # it may be further than its last one
    snapshot = peer.storage.snapshot
    if not peer.running or snapshot is None or snapshot.mark.zxid < storage.least:
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
