"""A simulated node's checkpoints, and snapshots on their way from a leader to a follower, in pieces. The state is what was delivered.

The twin of `zablog.node.transfer`: a connection of its own beside the link, the shipped words on it, one piece after the other. What came
of an earlier try stays on the follower's disk, whatever became of that try; the rest is asked for, and what is here in the end is verified
as a whole, or fetched anew, once. Anything may happen between two pieces, and between any two operations of either disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import starmap
from typing import TYPE_CHECKING

import google_crc32c

from zablog.core.effects import Install
from zablog.core.events import Checkpointed, Fetched, Link, Staged
from zablog.core.trail import Mark
from zablog.core.zxid import Zxid
from zablog.sim.guarantees import SnapshotExact
from zablog.storage.errors import StorageError
from zablog.storage.manifest import Snapshot
from zablog.storage.snapshots import Part, Unlike, Want, gathered, put_piece, write_snapshot
from zablog.storage.storage import verified
from zablog.wire.frames import BUFFER_BYTES_MIN, FRAME_BYTES_MAX, FrameReader
from zablog.wire.transfer import Ask, Found, Get, Gone, Piece, Word, decode_word, encode_word

if TYPE_CHECKING:
    from zablog.sim.node import Node

AGAIN = 10_000
END = b"\0"
"""No JSON holds it."""
OWN_FILE = ""
"""The name of the snapshot's own file."""
ARRIVING = "arriving"
"""The file into which the pieces go, until it is known to be whole."""
PIECE_BYTES = (60, 600, 6_000)
LINES_MAX = 20_000
STATES_MAX = 6


def bytes_of(state: list[tuple[Zxid, bytes]], application: bytes = b"") -> bytes:
    """A line an entry: a later state begins with an earlier one, so that what came of that is of use for this. Then what the application
    made of it."""
    lines = b"".join(starmap(line_of, state))
    return lines + END + application if application else lines


def application_of(raw: bytes) -> bytes:
    return raw.partition(END)[2]


@lru_cache(STATES_MAX)
def state_of(raw: bytes) -> tuple[tuple[Zxid, bytes], ...]:
    return tuple(map(entry_of, raw.partition(END)[0].splitlines(keepends=True)))


# Each of many checkpoints, and each start from one, holds most of what those before it held.
@lru_cache(LINES_MAX)
def line_of(zxid: Zxid, payload: bytes) -> bytes:
    return json.dumps([*zxid, payload.decode("latin-1")]).encode() + b"\n"


@lru_cache(LINES_MAX)
def entry_of(line: bytes) -> tuple[Zxid, bytes]:
    epoch, counter, payload = json.loads(line)
    return Zxid(epoch, counter), payload.encode("latin-1")


def checkpoint(node: Node) -> bool:
    """Put the state at some place since the last checkpoint on the disk, and let go of the log below it, or of some of that."""
    if not node.running or node.paused is not None or any(isinstance(effect, Install) for effect in node.writer.queue):
        return False
    if node.applier is not None:
        return node.applier.take()
    last, trail = node.storage.snapshot, node.storage.trail
    places = [
        at
        for at in range(max(0, len(node.delivered) - 30), len(node.delivered))
        if node.delivered[at][0] in trail and (last is None or node.delivered[at][0] > last.mark.zxid)
    ]
    if not places:
        return False
    at = node.random.choice(places)
    zxid = node.delivered[at][0]
    raw = bytes_of(node.delivered[: at + 1])
    keep_bytes = node.random.choice((0, 0, 500, 100_000))

    def work() -> None:
        mark = Mark(zxid, node.storage.digest_at(zxid))
        node.storage.watermark = max(node.storage.watermark, zxid)
        node.storage.checkpoint(write_snapshot(node.disk, mark, [raw], node.storage.snapshot), keep_bytes)

    if node.on_disk(work):
        node.invariants.checkpoints += 1
        node.schedule.say(f"{node.id} has a checkpoint at {zxid}, its log begins at {node.storage.trail.base.zxid}")
        snapshot = node.storage.snapshot
        assert snapshot is not None, "it has just been made"
        node.step(Checkpointed(snapshot.mark, node.storage.trail.base))
    return True


def remove_stale(node: Node) -> None:
    """Snapshots that no manifest names."""
    for stale in node.disk.names():
        if stale.startswith("snapshot-") and (node.storage.snapshot is None or stale != node.storage.snapshot.name):
            node.disk.unlink(stale)


class Transfer:
    """One try to fetch the snapshot at `mark`, both ends of it. `begin` starts it; it ends by itself when nobody wants it any longer."""

    def __init__(self, node: Node, link: Link, mark: Mark) -> None:
        self.node, self.link, self.mark = node, link, mark
        self.life, self.generation = node.life, node.generation
        self.leader = node.invariants.nodes[link.peer - 1]
        self.leader_life = self.leader.life
        self.reader = FrameReader(FRAME_BYTES_MAX, BUFFER_BYTES_MIN)
        self.served = b""
        """What the leader has read of its own disk to answer from: a newer snapshot of its own changes nothing about it."""
        self.parts: dict[str, Part] = {}
        """The files of an application that belong to it."""
        self.wants: Iterator[tuple[Part, Want]] = iter(())
        """At the follower: what it lacks of them."""
        self.want: tuple[Part, Want] | None = None
        """Of these, what is on its way."""
        self.begun = False
        self.found: Found | None = None
        self.fetched = b""
        """The snapshot's own file, once it has come."""
        self.have = 0
        """How much of it is on the follower's disk."""
        self.kept = 0
        """How much of that came with earlier tries."""
        self.lost = False

    def begin(self) -> None:
        if (before := self.node.transfer) is not None and before.mark != self.mark:
            self.node.invariants.superseded += 1
        self.node.transfer = self
        self.node.schedule.at(self.node.random.randint(1_000, 20_000), self.open)

    def open(self) -> None:
        """A checkpoint that is under way comes first."""
        if self.node.transfer is self and self.node.applier is not None and self.node.applier.busy:
            self.node.schedule.at(AGAIN, self.open)
            return
        self.begun = True
        self.say(Ask(self.mark))

    @property
    def wanted(self) -> bool:
        """Does the role go on that wants it, on the link on which it was offered?"""
        node = self.node
        same = node.running and (node.life, node.generation) == (self.life, self.generation)
        return same and node.transfer is self and node.peer.state.links.get(self.link.peer) == self.link

    # -- the connection -----------------------------------------------------------------------------------------------------

    def say(self, word: Ask | Get) -> None:
        self.pass_on(self.answer, word)

    def pass_on(self, to: Callable[[Word], None], word: Word) -> None:
        """The word arrives at one of the ends some time later."""
        network = self.node.network
        late = sum(network.late.get(end, 0) for end in (self.node.id, self.link.peer))
        self.node.schedule.at(self.node.random.randint(*network.delay) + late, self.arrive, to, word)

    def arrive(self, to: Callable[[Word], None], word: Word) -> None:
        """While an end is stopped, or nothing passes between them, it waits. A connection that is gone is noticed, and so is its link."""
        if not self.wanted:
            return
        ends = (self.node.id, self.link.peer)
        if self.lost or not self.leader.running or self.leader.life != self.leader_life:
            self.fail("the connection is lost")
        elif self.leader.paused is not None or self.node.paused is not None or not self.node.network.blocked.isdisjoint({ends, ends[::-1]}):
            self.node.schedule.at(AGAIN, self.arrive, to, word)
        else:
            (frame,) = self.reader.feed(b"".join(encode_word(word)))
            heard = decode_word(frame)
            self.node.schedule.count(self.node.id if to == self.take else self.link.peer, type(heard).__name__)
            to(heard)

    def fail(self, reason: str) -> None:
        """The link goes, so that what is there then is offered when it comes back."""
        self.node.schedule.say(f"{self.node.id} gets no snapshot at {self.mark.zxid}: {reason}")
        self.node.network.cut(min(self.node.id, self.link.peer), max(self.node.id, self.link.peer))

    # -- the leader ---------------------------------------------------------------------------------------------------------

    def answer(self, word: Word) -> None:
        leader, storage = self.leader, self.leader.storage
        try:
            if isinstance(word, Get):
                answer: Word = self.piece(word)
            elif storage.snapshot is None or storage.snapshot.mark != self.mark:
                answer = Gone(f"there is no snapshot at {self.mark.zxid} here any longer")
            else:
                self.served = verified(storage.disk, storage.snapshot)
                if leader.application is not None:
                    self.parts = {part.name: part for part in leader.application.parts(application_of(self.served))}
                answer = Found(self.mark, len(self.served), storage.snapshot.crc)
        except (StorageError, OSError) as error:
            leader.invariants.unread += 1
            answer = Gone(f"it cannot be read: {error}")
        leader.meet(Fetched(Link(self.node.id, self.link.generation)))
        self.pass_on(self.take, answer)

    def piece(self, get: Get) -> Word:
        """The parts of a snapshot are read as they are asked for. Raises OSError."""
        begin, end = get.offset, get.offset + get.length
        if get.name == OWN_FILE:
            self.leader.disk.reading("snapshot")
            return Piece(self.served[begin:end])
        assert self.leader.application is not None, "the law that there are no parts without one"
        if get.name not in self.parts or end > self.parts[get.name].length:
            return Gone(f"{get.name} from {begin} to {end} is not part of the snapshot")
        data = self.leader.application.files.read(get.name, begin, get.length)
        return Piece(data) if len(data) == get.length else Gone(f"{get.name} ends before {end}")

    # -- the follower -------------------------------------------------------------------------------------------------------

    def take(self, word: Word) -> None:
        node, disk = self.node, self.node.disk
        match word:
            case Found():
                self.found = word
                if not disk.exists(ARRIVING) and not node.on_disk(lambda: disk.create(ARRIVING)):
                    return None
                self.have = self.kept = min(disk.size(ARRIVING), word.length)
                node.invariants.resumptions += self.kept > 0
                self.piece_bytes = node.random.choice(node.piece_bytes)
            case Piece(data):
                node.invariants.pieces += 1
                piece, offset = bytes(data), self.have
                if not node.on_disk(lambda: self.put(offset, piece)):
                    return None
                self.have += len(piece)
                if self.want is not None:
                    return self.fetch_parts()
            case Gone(text):
                return self.fail(text)
            case _:
                raise AssertionError("the law that a leader answers")
        assert self.found is not None, "the law that pieces are asked for of what was found"
        if self.have < self.found.length:
            self.say(Get(OWN_FILE, self.have, min(self.piece_bytes, self.found.length - self.have)))
        else:
            self.finish(self.found)
        return None

    def put(self, offset: int, piece: bytes) -> None:
        if self.want is None:
            self.node.disk.write(ARRIVING, offset, [piece])
        elif (application := self.node.application) is not None:
            put_piece(application.files, self.want[1].file, offset, piece)

    def whole(self, raw: bytes, found: Found) -> bool:
        """Is it what was offered, whatever it is made of?"""
        return bool(google_crc32c.value(raw) == found.crc)

    def finish(self, found: Found) -> None:
        """All of the snapshot's own file is here: it is verified. Then come its parts."""
        node, disk = self.node, self.node.disk
        raw = b""

        def verify() -> None:
            nonlocal raw
            raw = disk.read(ARRIVING, 0, found.length)

        if not node.on_disk(verify):
            return None
        if not self.whole(raw, found):
            if not self.kept:
                return self.fail("its checksum is another than that of what was offered")
            node.invariants.anew += 1
            self.have = self.kept = 0  # ours may be what is torn: written over from the beginning
            return self.say(Get(OWN_FILE, 0, min(self.piece_bytes, found.length)))
        self.fetched = raw
        self.wants = self.lacking(raw)
        return self.fetch_parts()

    def lacking(self, raw: bytes) -> Iterator[tuple[Part, Want]]:
        """What the follower lacks of the application's files, one after the other. In the end all names are durable."""
        node = self.node
        if node.application is None:
            return
        files = node.application.files
        for part in node.application.parts(application_of(raw)):
            for want in gathered(files, part):
                node.invariants.parts += 1
                node.invariants.parts_kept += want.begin > 0
                node.invariants.parts_anew += want.file != part.name
                yield part, want
            node.invariants.part_taken(node, node.application.disk, part)
        files.sync_names()

    def fetch_parts(self) -> None:
        """Ask for the next piece of a part, or go on to the next part; behind the last, have the snapshot installed."""
        while self.want is None or self.have == self.want[0].length:
            try:
                if not self.node.on_disk(self.next_part):
                    return None
            except Unlike as error:
                return self.fail(str(error))
            if self.want is None:
                return self.stage()
        part, _ = self.want
        return self.say(Get(part.name, self.have, min(self.piece_bytes, part.length - self.have)))

    def next_part(self) -> None:
        self.want = next(self.wants, None)
        self.have = self.want[1].begin if self.want is not None else 0

    def stage(self) -> None:
        """Everything is here: the snapshot's own file gets its name, and the core may have it installed."""
        node, disk, name = self.node, self.node.disk, f"snapshot-{self.mark.zxid}"
        found, raw = self.found, self.fetched
        assert found is not None, "the law that what is staged was found"

        def work() -> None:
            if disk.size(ARRIVING) > found.length:
                disk.truncate(ARRIVING, found.length)
            disk.sync(ARRIVING)
            remove_stale(node)
            disk.rename(ARRIVING, name)
            disk.sync_names()
            node.storage.staged = Snapshot(self.mark, name, found.length, found.crc)

        if node.on_disk(work):
            if raw != self.served:
                raise SnapshotExact(
                    f"node {node.id} takes a snapshot at {self.mark.zxid} that is not the one that {self.leader.id} has sent"
                )
            node.transfer = None
            node.staged = raw
            node.step(Staged(self.link, self.mark))
        return
