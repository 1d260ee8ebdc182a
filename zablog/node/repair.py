"""A node whose log has a damaged batch between whole ones: its peers are asked for the entries, before it takes part in anything.

Until then it does not listen, vote or count: its history would be shorter than what it has promised to keep.
"""

from collections.abc import Sequence

import structlog
import trio

from zablog.core.trail import Entries, Mark
from zablog.node.transfer import Answers, TransferFailed
from zablog.storage.disk import Disk
from zablog.storage.errors import Diverged, Faulty, StorageFailed
from zablog.storage.repair import Fault, repair
from zablog.storage.storage import Storage
from zablog.transport.ends import BROKEN, broken
from zablog.transport.errors import HandshakeFailed
from zablog.transport.greeting import Contact, Self
from zablog.transport.network import fetching
from zablog.wire.errors import WireError
from zablog.wire.transfer import Read, Run

AGAIN_SECONDS = 1.0
"""Between two rounds of asking everybody."""

log = structlog.get_logger("zablog.node")


async def open_repaired(disk: Disk, file_bytes: int, me: Self, contacts: Sequence[Contact]) -> Storage:
    """Open the storage, with what is faulty in its log repaired from peers, however long that takes.

    Raises what `Storage.open` raises, except Faulty where there are peers; Corrupt if the batch cannot be made again as it was.
    """
    told = ""
    while True:
        try:
            return await trio.to_thread.run_sync(Storage.open, disk, file_bytes)
        except Faulty as error:
            others = [contact for contact in contacts if contact.node != me.node]
            if not others:
                raise
            if told != str(error):
                told = str(error)
                log.error("the log is faulty, and this node waits for a peer to repair it", node=me.node, reason=told)
            if not await repaired(disk, error.fault, me, others):
                await trio.sleep(AGAIN_SECONDS)


async def repaired(disk: Disk, fault: Fault, me: Self, contacts: Sequence[Contact]) -> bool:
    """One round. Raises Corrupt if a peer has the entries, and they are not all that is needed."""
    for contact in contacts:
        try:
            runs = await entries_of(fault, me, contact)
            await put_back(disk, fault, runs)
        except (TransferFailed, HandshakeFailed, WireError, Diverged) as error:
            reason = str(error)
        except trio.TooSlowError:
            reason = "it did not answer in time"
        except BROKEN as error:
            reason = broken(error)
        else:
            log.warning("the log was repaired", node=me.node, peer=contact.node, batch=fault.text)
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
