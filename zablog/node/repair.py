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
from zablog.node.transfer import Answers, DiskFailed, Fetcher, TransferFailed
from zablog.storage.disk import Disk
from zablog.storage.errors import Corrupt, Diverged, Faulty, StorageFailed
from zablog.storage.repair import Fault, Missing
from zablog.storage.storage import Storage, begin_at_own
from zablog.transport.ends import BROKEN, broken
from zablog.transport.errors import HandshakeFailed
from zablog.transport.greeting import Contact, Self
from zablog.transport.network import fetching
from zablog.wire.errors import WireError
from zablog.wire.transfer import Read, Run, Seek

REPAIR_BYTES_MAX = 256 << 20
"""What is missing is held in memory until all of it is there."""
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
            if await trio.to_thread.run_sync(begin_at_own, disk, file_bytes):
                log.warning("the log begins at our snapshot now: it was damaged below", node=me.node, reason=str(error))
                continue
            others = [contact for contact in contacts if contact.node != me.node]
            if not others:
                raise
            if told != str(error):
                told = str(error)
                log.error("the log is faulty, and this node waits for a peer to repair it", node=me.node, reason=told)
            if not await helped_by_any(disk, file_bytes, error.fault, me, others, application):
                await trio.sleep(AGAIN_SECONDS)


async def helped_by_any(
    disk: Disk, file_bytes: int, fault: Fault, me: Self, contacts: Sequence[Contact], application: Restorable | None
) -> bool:
    """One round: everybody is asked for the entries before anybody is asked for a snapshot. Raises what `helped` raises."""
    for restoring in (None, application) if application is not None else (None,):
        for contact in contacts:
            if await helped(disk, file_bytes, fault, me, contact, restoring):
                return True
    return False


async def helped(disk: Disk, file_bytes: int, fault: Fault, me: Self, contact: Contact, application: Restorable | None) -> bool:
    """Ask one peer: for the entries, and if that is no help and there is an application, for its snapshot.

    Raises StorageFailed for our own disk.
    """
    storage = await trio.to_thread.run_sync(Storage.open_beyond, disk, file_bytes)
    try:
        async with fetching(me, contact) as (ends, reader):
            answers = Answers(ends, reader)
            try:
                runs = await entries_between(fault.before, storage.trail.base.zxid, answers)
                await trio.to_thread.run_sync(storage.put_back, fault.before, runs)
                log.warning("the log was repaired", node=me.node, peer=contact.node, place=fault.text)
            except (TransferFailed, Diverged) as error:
                if application is None:
                    raise
                log.info("no entries from a peer", node=me.node, peer=contact.node, reason=str(error))
                fetcher = Fetcher(storage, application, Seek(storage.least))
                snapshot, _ = await fetcher.run(ends, reader)
                await trio.to_thread.run_sync(storage.begin_at, snapshot)
                log.warning(
                    "the log begins at a peer's snapshot", node=me.node, peer=contact.node, zxid=str(snapshot.mark.zxid), place=fault.text
                )
            return True
    except (TransferFailed, HandshakeFailed, WireError, Corrupt, Diverged) as error:
        reason = str(error)
    except DiskFailed as error:
        raise StorageFailed(f"the log could not be repaired: {error}") from error
    except trio.TooSlowError:
        reason = "it did not answer in time"
    except BROKEN as error:
        reason = broken(error)
    log.info("no help from a peer", node=me.node, peer=contact.node, reason=reason)
    return False


async def entries_between(before: Mark, upto: Zxid, answers: Answers) -> list[Entries]:
    """What stood where the log is damaged, from a peer. Raises what a transfer raises, and Diverged."""
    missing = Missing(before, upto)
    while (place := missing.place) is not None:
        word = await answers.ask(Read(place, upto))
        if not isinstance(word, Run):
            raise TransferFailed(f"{type(word).__name__} came, and entries were asked for")
        missing.take(word.entries)
        if missing.size > REPAIR_BYTES_MAX:
            raise TransferFailed(f"more than {REPAIR_BYTES_MAX:,} bytes are missing: a snapshot is better")
    return missing.runs
