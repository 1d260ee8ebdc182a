"""A node whose log is damaged with whole data behind: it is put right before the node takes part in anything.

Until then it does not listen, vote or count: its history would be shorter than what it has promised to keep. Its own snapshot helps if
it is not below the damage; else a peer that still has the entries; else, where they have been trimmed everywhere, a peer's snapshot.
"""

from collections.abc import Sequence

import structlog
import trio

from zablog.core.trail import Entries, Mark
from zablog.core.zxid import Zxid
from zablog.node.application import Restorable
from zablog.node.transfer import Answers, DiskFailed, Fetcher, TransferFailed, on_disk
from zablog.storage.disk import Disk
from zablog.storage.errors import Corrupt, Diverged, Faulty, StorageFailed
from zablog.storage.repair import Fault, repair
from zablog.storage.storage import Storage, verified
from zablog.transport.ends import BROKEN, broken
from zablog.transport.errors import HandshakeFailed
from zablog.transport.greeting import Contact, Self
from zablog.transport.network import fetching
from zablog.wire.errors import WireError
from zablog.wire.transfer import Read, Run

AGAIN_SECONDS = 1.0
"""Between two rounds of asking everybody."""

log = structlog.get_logger("zablog.node")


async def open_repaired(
    disk: Disk, file_bytes: int, me: Self, contacts: Sequence[Contact], application: Restorable | None = None
) -> Storage:
    """Open the storage, with what is faulty in its log put right, however long that takes.

    `application`: whose parts a peer's snapshot may bring. Raises what `Storage.open` raises, except Faulty where there are peers.
    """
    told = ""
    while True:
        try:
            return await trio.to_thread.run_sync(Storage.open, disk, file_bytes)
        except Faulty as error:
            if await trio.to_thread.run_sync(covered, disk, file_bytes):
                log.warning("the log begins at our snapshot now: it was damaged below", node=me.node, reason=str(error))
                continue
            others = [contact for contact in contacts if contact.node != me.node]
            if not others:
                raise
            if told != str(error):
                told = str(error)
                log.error("the log is faulty, and this node waits for a peer to repair it", node=me.node, reason=told)
            for contact in others:
                if await helped(disk, file_bytes, error.fault, me, contact, application):
                    break
            else:
                await trio.sleep(AGAIN_SECONDS)


def covered(disk: Disk, file_bytes: int) -> bool:
    """Blocking: if our own snapshot is not below the damage, let the log begin there."""
    storage = Storage.open_beyond(disk, file_bytes)
    snapshot = storage.snapshot
    if snapshot is None or snapshot.mark.zxid < storage.trail.base.zxid:
        return False
    try:
        verified(disk, snapshot)
        storage.begin_at(snapshot)
    except (Corrupt, Diverged) as error:
        log.error("our own snapshot does not help", node=storage.identity.node, reason=str(error))
        return False
    return True


async def helped(disk: Disk, file_bytes: int, fault: Fault, me: Self, contact: Contact, application: Restorable | None) -> bool:
    """Ask one peer: for the entries, and if that is no help, for its snapshot. Raises StorageFailed for our own disk."""
    try:
        try:
            await put_back(disk, fault, await entries_of(fault, me, contact))
            log.warning("the log was repaired", node=me.node, peer=contact.node, batch=fault.text)
        except (TransferFailed, Corrupt) as error:
            if application is None:
                raise
            log.info("no entries from a peer", node=me.node, peer=contact.node, reason=str(error))
            zxid = await begin_at_theirs(disk, file_bytes, me, contact, application)
            log.warning("the log begins at a peer's snapshot now", node=me.node, peer=contact.node, zxid=str(zxid), batch=fault.text)
    except (TransferFailed, HandshakeFailed, WireError, Corrupt, Diverged) as error:
        reason = str(error)
    except DiskFailed as error:
        raise StorageFailed(f"the log could not be repaired: {error}") from error
    except trio.TooSlowError:
        reason = "it did not answer in time"
    except BROKEN as error:
        reason = broken(error)
    else:
        return True
    log.info("no help from a peer", node=me.node, peer=contact.node, reason=reason)
    return False


async def put_back(disk: Disk, fault: Fault, runs: Sequence[Entries]) -> None:
    """Raises Diverged, Corrupt; StorageFailed for our own disk."""
    try:
        await trio.to_thread.run_sync(repair, disk, fault, runs)
    except OSError as error:
        raise StorageFailed(f"the log could not be repaired: {error}") from error


async def entries_of(fault: Fault, me: Self, contact: Contact) -> list[Entries]:
    """What the batch held, from a peer. Raises what a transfer raises."""
    runs: list[Entries] = []
    if fault.before.zxid == fault.after.zxid:
        return runs  # it held nothing, and only sealed the one before it
    async with fetching(me, contact) as (ends, reader):
        answers = Answers(ends, reader)
        at = fault.before
        while at.zxid < fault.after.zxid:
            word = await answers.ask(Read(at, fault.after.zxid))
            if not isinstance(word, Run) or word.entries.prev != at.zxid or word.entries.last > fault.after.zxid:
                raise TransferFailed(f"{type(word).__name__} came, and entries above {at.zxid} were asked for")
            runs.append(word.entries)
            at = Mark(word.entries.last, word.entries.digest)
    return runs


async def begin_at_theirs(disk: Disk, file_bytes: int, me: Self, contact: Contact, application: Restorable) -> Zxid:
    """Fetch a peer's snapshot that is not below the damage, and let our log begin there; returns where.

    Raises what a transfer raises, Corrupt, Diverged, DiskFailed.
    """
    storage = await on_disk(Storage.open_beyond, disk, file_bytes)
    least = max(storage.trail.base.zxid, storage.snapshot.mark.zxid) if storage.snapshot else storage.trail.base.zxid
    async with fetching(me, contact) as (ends, reader):
        snapshot, _ = await Fetcher(storage, application, None, lambda mark: mark.zxid >= least).run(ends, reader)
    await trio.to_thread.run_sync(storage.begin_at, snapshot)
    return snapshot.mark.zxid
