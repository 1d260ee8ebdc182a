"""Five real nodes of which two never reach each other: real sockets on loopback, real files, real fsync."""

from pathlib import Path

import trio

from tests.ports import free_ports
from tests.zablog.node.test_ensemble import Running, write
from zablog import Identity, Member, PeerId, give_birth
from zablog.core.effects import Append
from zablog.core.trail import Entries, extend_digest
from zablog.storage.files import FileDisk
from zablog.storage.storage import Storage

MEMBERS = 5


def bear_apart(path: Path, leaves: tuple[int, int]) -> list[Path]:
    """Data directories in which two members are told addresses of each other at which nobody listens."""
    *ports, nobody = free_ports(MEMBERS + 1)
    directories = []
    for id in range(1, MEMBERS + 1):
        members = tuple(
            Member(PeerId(other), f"{other:032x}", f"127.0.0.1:{nobody if {id, other} == set(leaves) else ports[other - 1]}")
            for other in range(1, MEMBERS + 1)
        )
        directory = path / f"node{id}"
        give_birth(FileDisk(directory, create=True), Identity("ab" * 16, PeerId(id), members[id - 1].incarnation, members))
        directories.append(directory)
    return directories


def lengthen(directory: Path, words: list[bytes]) -> None:
    """The log of a node as it is if its leader died behind it: with entries that nobody else has."""
    disk = FileDisk(directory)
    storage = Storage.open(disk)
    prev = storage.trail.last
    digest = extend_digest(storage.trail.digest, prev, prev.after(1), words)
    storage.perform([Append(1, Entries(prev.after(1), prev, words, digest))], storage.watermark)
    disk.close()


async def test_a_hub_takes_the_history_of_a_leaf_and_leads_with_it(tmp_path: Path) -> None:
    """Nodes 4 and 5 are gone for good. Node 1 has more than 2 and 3, and reaches only 3: of these three it alone must not lead."""
    words, more = [b"%d" % number for number in range(50)], [b"more %d" % number for number in range(500)]
    directories = bear_apart(tmp_path, leaves=(1, 2))
    async with trio.open_nursery() as nursery:
        running = Running(nursery, directories)
        for id in range(1, MEMBERS + 1):
            await running.start(id)
        await write(running, words)
        await running.until(lambda: all(len(recorder.entries) == len(words) for recorder in running.recorders.values()))
        for id in range(1, MEMBERS + 1):
            await running.stop(id)
        await trio.to_thread.run_sync(lengthen, directories[0], more)

        for id in (1, 2, 3):
            await running.start(id)
        leader = await running.leading()
        await write(running, [b"last"])
        await running.until(lambda: all([word for _, word in running.recorders[id].entries[-1:]] == [b"last"] for id in (1, 2, 3)))

        assert leader is running.nodes[3]
        assert [word for _, word in running.recorders[3].entries] == [*words, *more, b"last"]
        nursery.cancel_scope.cancel()
