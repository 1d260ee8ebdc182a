"""A simulated node's checkpoints, and snapshots on their way from a leader to a follower. The state is what was delivered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import google_crc32c

from zablog.core.effects import Install
from zablog.core.events import Checkpointed, Fetched, Link, Staged
from zablog.core.trail import Mark
from zablog.core.zxid import Zxid
from zablog.storage.manifest import Snapshot

if TYPE_CHECKING:
    from zablog.sim.node import Node

AGAIN = 10_000
END = b"\0"
"""No JSON holds it."""


def bytes_of(state: list[tuple[Zxid, bytes]], application: bytes = b"") -> bytes:
    """What was delivered, and what the application made of it."""
    return json.dumps([[*zxid, payload.decode("latin-1")] for zxid, payload in state]).encode() + (
        END + application if application else b""
    )


def application_of(raw: bytes) -> bytes:
    return raw.partition(END)[2]


def state_of(raw: bytes) -> list[tuple[Zxid, bytes]]:
    return [(Zxid(epoch, counter), payload.encode("latin-1")) for epoch, counter, payload in json.loads(raw.partition(END)[0])]


def checkpoint(node: Node) -> bool:
    """Put the state at some place since the last checkpoint on the disk, and let go of the log below it, or of some of that."""
    if not node.running or node.paused is not None or any(isinstance(effect, Install) for effect in node.queue):
        return False
    last, trail = node.storage.snapshot, node.storage.trail
    places = [
        at
        for at in range(max(0, len(node.delivered) - 30), len(node.delivered))
        if node.delivered[at][0] in trail and (last is None or node.delivered[at][0] > last.mark.zxid)
    ]
    if node.application is not None:
        # It is captured now, and the capture may be a while on its way to the disk: this checkpoint may be of the one before.
        node.captures = dict([*node.captures.items(), (len(node.delivered) - 1, node.application.capture())][-2:])
        places = [at for at in places if at in node.captures]
    if not places:
        return False
    at = node.random.choice(places)
    zxid = node.delivered[at][0]
    raw = bytes_of(node.delivered[: at + 1], node.captures.get(at, b""))
    keep_bytes = node.random.choice((0, 0, 500, 100_000))

    def work() -> None:
        mark = Mark(zxid, node.storage.digest_at(zxid))
        node.storage.watermark = max(node.storage.watermark, zxid)
        node.storage.checkpoint(put(node, mark, raw), keep_bytes)

    if node.on_disk(work):
        node.invariants.checkpoints += 1
        node.schedule.say(f"{node.id} has a checkpoint at {zxid}, its log begins at {node.storage.trail.base.zxid}")
        snapshot = node.storage.snapshot
        assert snapshot is not None, "it has just been made"
        node.step(Checkpointed(snapshot.mark, node.storage.trail.base))
    return True


def put(node: Node, mark: Mark, raw: bytes) -> Snapshot:
    """A snapshot's file, on the disk for certain."""
    name = f"snapshot-{mark.zxid}"
    for stale in node.disk.names():
        if stale.startswith("snapshot-") and (node.storage.snapshot is None or stale != node.storage.snapshot.name):
            node.disk.unlink(stale)
    node.disk.create(name)
    node.disk.write(name, 0, [raw])
    node.disk.sync(name)
    node.disk.sync_names()
    return Snapshot(mark, name, len(raw), google_crc32c.value(raw))


def fetch(node: Node, life: int, generation: int, link: Link, mark: Mark) -> None:
    """The leader's snapshot has come over, if both are there still, and the leader has it still."""
    if life != node.life or not node.running or generation != node.generation or node.peer.state.links.get(link.peer) != link:
        return
    if node.paused is not None:
        node.schedule.at(AGAIN, fetch, node, life, generation, link, mark)
        return
    leader = node.invariants.nodes[link.peer - 1]
    pair = (min(node.id, link.peer), max(node.id, link.peer))
    if not leader.running or leader.paused is not None or leader.storage.snapshot is None or leader.storage.snapshot.mark != mark:
        node.network.cut(*pair)
        return
    leader.meet(Fetched(Link(node.id, link.generation)))
    node.staged = leader.storage.read_snapshot()

    def work() -> None:
        node.storage.staged = put(node, mark, node.staged)

    if node.running and node.on_disk(work):
        node.step(Staged(link, mark))
