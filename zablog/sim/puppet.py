"""A node on strings: the shipped core and gate, whose every step is one call, and whose whole self can be copied and compared.

The twin of `zablog.sim.node` for the explorer. Its disk is a tuple of entries, one durable operation is one step, and its time stands
still: no wait of the protocol ever ends by itself, since a role may be given up at any moment. Elections are the explorer's: a puppet is
told to lead or to follow, and its votes are heard by nobody. What checkers are to look at is noted, and shown to them later.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from types import SimpleNamespace
from typing import ClassVar, Final, NamedTuple

from zablog.core import discovery
from zablog.core.effects import (
    Append,
    Deliver,
    DropLink,
    DurableEffect,
    Effect,
    FetchSnapshot,
    Halt,
    Install,
    ReadDigest,
    ReadReady,
    RoleChanged,
    SaveEpochs,
    Send,
    Stream,
    Truncate,
)
from zablog.core.events import (
    Checkpointed,
    DigestRead,
    Durable,
    Event,
    Link,
    LinkDown,
    LinkUp,
    Proposals,
    ReadAsked,
    Received,
    Staged,
    Streamed,
    Tick,
)
from zablog.core.gate import Gate
from zablog.core.messages import Message, Notification, Propose
from zablog.core.peer import Peer
from zablog.core.quorum import Configuration
from zablog.core.state import Leading, Timing
from zablog.core.trail import Entries, Mark
from zablog.core.zxid import ZERO, PeerId, Zxid
from zablog.sim.freezing import frozen
from zablog.sim.guarantees import CwSane, PromiseMono
from zablog.sim.happenings import (
    Ask,
    Broadcast,
    Checkpoint,
    Connect,
    Die,
    Disconnect,
    Fetch,
    Follow,
    Happening,
    Hear,
    Heartbeat,
    Lead,
    Quit,
    Read,
    Start,
    Sync,
)
from zablog.sim.image import Image
from zablog.sim.platter import Content, Log, Platter, above, cut, extended, image_of, trail_of
from zablog.sim.trace import words

NEVER: Final = 1 << 60
STILL: Final = Timing(*(NEVER for _ in Timing.__slots__))


def calm(bound: int) -> int:
    """No jitter."""
    return 0


class Said(NamedTuple):
    """It sent a message on an open link; None: it closed that."""

    peer: PeerId
    message: Message | None


class Notice(NamedTuple):
    """What a checker is to be shown: its name, its arguments behind the node, and how much that had delivered by then."""

    checker: str
    words: tuple[object, ...]
    delivered: int


class Puppet:
    """One process over its lives, with its disk. `happen` changes it; whoever wants to keep it copies it before."""

    __slots__ = (
        "candidacy", "configuration", "delivered", "disk", "end", "gate", "held", "id", "links", "log", "noted", "number", "offer", "peer",
        "queue", "reading", "reads", "role", "said", "staged", "tell",
    )  # fmt: skip
    life: ClassVar = 0
    just_cut: ClassVar = False
    storage: ClassVar = SimpleNamespace(suspect=None)
    """Of these three the checkers know. A life's ghosts are forgotten with it, and nothing rots here."""

    def __init__(self, id: PeerId, configuration: Configuration, disk: Platter) -> None:
        self.id = id
        self.configuration = configuration
        self.disk = disk
        self.end = ZERO
        """For checkers: where the log ended before."""
        self.said: list[Said] = []
        self.noted: list[Notice] = []
        self.tell: list[str] | None = None
        self.dead()

    def dead(self) -> None:
        """No process: what is not on disk is gone."""
        self.peer: Peer | None = None
        self.gate = Gate()
        self.held: list[Send] = []
        """What this role has waiting in the gate."""
        self.queue: list[DurableEffect] = []
        self.log: Log = ()
        """The history with all that the core has emitted so far."""
        self.reads: list[Stream | ReadDigest] = []
        self.offer: FetchSnapshot | None = None
        self.staged: Content = ()
        self.links: dict[PeerId, Link] = {}
        """Its open ends."""
        self.reading = False
        """Is a linearizable read under way?"""
        self.number = 0
        self.delivered: list[tuple[Zxid, bytes]] = []
        self.candidacy = 0
        """The naming that made it lead, 0 if it does not."""
        self.role = 0
        """The generation of its role."""

    # -- what checkers look at ----------------------------------------------------------------------------------------------

    @property
    def image(self) -> Image:
        return image_of(self.disk)

    @property
    def running(self) -> bool:
        return self.peer is not None

    @property
    def generation(self) -> int:
        return self.candidacy

    @property
    def value(self) -> Hashable:
        """Equal for two of which nobody could ever tell which is which."""
        if self.peer is None:
            return self.disk
        state = self.peer.state
        durable = state.durable.token
        waiting = tuple(
            (send.after - durable, send.link.peer, self.current(send.link), send.message, any(send is held for held in self.held))
            for send in self.gate.waiting
        )
        queue = tuple((type(effect), *(getattr(effect, name) for name in effect.__slots__[1:])) for effect in self.queue)
        reads = tuple((type(read), read.link.peer, *(getattr(read, name) for name in read.__slots__[1:])) for read in self.reads)
        pending = tuple((token - durable, *rest) for token, *rest in state.pending)
        counts = (self.peer.out.token - durable, self.gate.durable - durable, self.peer.out.halted, self.candidacy, self.reading)
        offer = self.offer and (self.offer.link.peer, self.offer.mark)
        fetched = self.staged if any(isinstance(effect, Install) for effect in self.queue) else ()
        whole = (self.disk, frozen(state, self.current), pending, counts, waiting, queue, self.log, reads, offer, fetched)
        return *whole, tuple(self.delivered)

    @property
    def view(self) -> Hashable:
        """All that checkers look at when they look from another node: its disk, and the history that it leads with."""
        leading = self.peer.state.role if self.peer is not None else None
        leads = (leading.epoch, self.log) if isinstance(leading, Leading) else None
        return self.running, self.disk, leads

    def current(self, link: Link) -> bool:
        return self.links.get(link.peer) == link

    # -- steps --------------------------------------------------------------------------------------------------------------

    def happen(self, what: Happening, tell: list[str] | None = None) -> tuple[list[Said], list[Notice]]:
        """Let it happen: what is said for it, and what is to be checked for it. `tell` takes the lines of the trace."""
        self.said, self.noted, self.tell = [], [], tell
        match what:
            case Start():
                self.start()
            case Die(written):
                self.die(written)
            case Sync(written):
                self.sync(written)
            case Read(peer):
                self.read(peer)
            case Checkpoint():
                self.checkpoint()
            case Fetch(content):
                self.fetch(content)
            case Lead(candidacy):
                self.say(f"{self.id} is named to itself")
                self.candidacy = candidacy
                discovery.lead(self.living.state, self.configuration.voters, self.living.out)
                self.settle()
            case Follow(leader):
                self.say(f"{leader} is named to {self.id}")
                discovery.follow(self.living.state, leader, self.living.out)
                self.settle()
            case Quit():
                self.living.out.abandon("a wait is over")
                self.settle()
            case Heartbeat():
                self.step(Tick())
            case Broadcast(payload):
                self.say(f"{self.id}       is handed 1 to broadcast, after {self.living.last}")
                self.step(Proposals((payload,)))
            case Ask():
                self.say(f"{self.id}       is asked for a linearizable read, its watermark is {self.living.watermark}")
                self.reading = True
                self.note("read_begun")
                self.step(ReadAsked())
            case Connect(peer):
                self.say(f"{self.id} is connected to {peer}")
                self.number += 1
                self.forget(peer)
                self.links[peer] = Link(peer, self.number)
                self.step(LinkUp(self.links[peer]))
            case Disconnect(peer):
                self.say(f"{self.id} notices that its link to {peer} is gone")
                link = self.links[peer]
                self.forget(peer)
                self.step(LinkDown(link))
            case Hear(peer, message):
                self.say(f"{peer} -> {self.id}  {words(message)}")
                self.step(Received(self.links[peer], (message,)))
        return self.said, self.noted

    @property
    def living(self) -> Peer:
        assert self.peer is not None, "the law that nothing but a start happens to the dead"
        return self.peer

    def start(self) -> None:
        disk = self.disk
        trail = trail_of(disk.base, disk.log)
        self.peer = Peer(self.id, self.configuration, disk.accepted, disk.current, None, trail, disk.hint, STILL, calm, None, disk.snapshot)
        self.log = disk.log
        self.delivered = [*disk.content]
        if disk.content:
            self.note("restored", disk.base)
        self.say(f"{self.id} starts with acceptedEpoch {disk.accepted}, currentEpoch {disk.current}, last {self.peer.last}")
        self.deliver(disk.hint)
        self.step(Tick())

    def die(self, written: int) -> None:
        watermark = self.living.watermark
        for effect in self.queue[:written]:
            self.wrote(effect, watermark)
        for peer in sorted(self.links):
            self.said.append(Said(peer, None))
        self.give_up_reading()
        self.dead()
        self.say(f"{self.id} is killed; {written} of what it was writing is on its disk")

    def sync(self, written: int) -> None:
        effects, self.queue = self.queue[:written], self.queue[written:]
        for effect in effects:
            self.wrote(effect, self.living.watermark)
        token = effects[-1].token
        for send in self.gate.open_to(token):
            if not any(send is held for held in self.held):
                self.note("outlived", send)
            self.send(send)
        self.held = [send for send in self.held if any(send is waiting for waiting in self.gate.waiting)]
        self.step(Durable(token))

    def wrote(self, effect: DurableEffect, watermark: Zxid) -> None:
        before = self.image
        self.disk = self.disk.after(effect, watermark, self.staged)
        image = self.image
        self.say(f"{self.id}       disk: acceptedEpoch {image.accepted}, currentEpoch {image.current}, last {image.trail.last}")
        if image.accepted < before.accepted or image.current < before.current or image.current > image.accepted:
            raise PromiseMono(f"the disk of node {self.id} goes from {before} to {image}")
        self.note("wrote")

    def read(self, peer: PeerId) -> None:
        read = next(read for read in self.reads if read.link.peer == peer)
        self.reads.remove(read)
        if isinstance(read, ReadDigest):
            return self.step(DigestRead(read.link, read.zxid, self.digest_at(read.zxid)))
        at = next(at for at, entry in enumerate(self.log) if entry.zxid > read.after)
        zxid, payload, digest = self.log[at]
        prev = self.log[at - 1].zxid if at else self.living.state.trail.base.zxid
        self.send(Send(read.link, Propose(read.epoch, Entries(zxid, prev, (payload,), digest), ZERO), 0))
        return self.step(Streamed(read.link, zxid))

    def digest_at(self, zxid: Zxid) -> int:
        base = self.living.state.trail.base
        return base.digest if zxid == base.zxid else next(entry.digest for entry in self.log if entry.zxid == zxid)

    @property
    def may_checkpoint(self) -> bool:
        """Is the state that of a durable place of our log, and a newer one than the snapshot's (W11)?"""
        return any(entry.zxid == self.living.watermark for entry in self.disk.log)

    def checkpoint(self) -> None:
        mark = Mark(self.living.watermark, self.digest_at(self.living.watermark))
        self.disk = self.disk.checkpointed(mark, tuple(self.delivered))
        self.log = above(self.log, mark)
        self.note("wrote")
        self.say(f"{self.id} has a checkpoint at {mark.zxid}")
        self.step(Checkpointed(mark, mark))

    def fetch(self, content: Content) -> None:
        assert self.offer is not None, "the law that nobody is sent a snapshot who has not asked for it"
        offer, self.offer = self.offer, None
        self.staged = content
        self.step(Staged(offer.link, offer.mark))

    def step(self, event: Event) -> None:
        self.finish(self.living.step(event))

    def settle(self) -> None:
        """Behind what only `Peer.step` does otherwise."""
        self.living.settle_role()
        self.finish(self.living.out.take())

    def finish(self, effects: Sequence[Effect]) -> None:
        state = self.living.state
        state.now = 1  # time stands still
        state.check()
        if not isinstance(state.role, Leading):
            self.candidacy = 0
        self.perform(effects)
        applied = self.delivered[-1][0] if self.delivered else ZERO
        if state.watermark != applied:
            raise CwSane(f"node {self.id} has a watermark {state.watermark} and has delivered through {applied}")

    def perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(_, Notification()):
                    pass
                case Send():
                    if self.gate.passes(effect):
                        self.send(effect)
                    else:
                        self.held.append(effect)
                case Append(_, entries):
                    self.note("appended", entries)
                    self.queue.append(effect)
                    self.log = extended(self.log, entries)
                case Truncate(_, mark):
                    self.note("truncated", mark)
                    self.queue.append(effect)
                    self.log = cut(self.log, mark)
                case SaveEpochs():
                    self.queue.append(effect)
                case Deliver(upto):
                    self.deliver(upto)
                case Stream() | ReadDigest():
                    self.reads.append(effect)
                case DropLink(link, reason):
                    self.note("dropped", reason)
                    if self.current(link):
                        self.forget(link.peer)
                        self.said.append(Said(link.peer, None))
                        self.say(f"{self.id} drops its link to {link.peer}: {reason}")
                case RoleChanged():
                    if effect.generation != self.role:
                        self.role = effect.generation
                        self.gate.void()
                        self.held.clear()
                        self.give_up_reading()
                    self.note("role_changed", effect)
                    self.say(f"{self.id} is {effect.role} in {effect.phase}, epoch {effect.epoch}: {effect.reason}")
                case ReadReady(upto):
                    self.reading = False
                    self.say(f"{self.id} answers the read with what was committed through {upto}")
                    self.note("read_answered", upto)
                case Halt(reason):
                    self.note("halted", reason)
                case FetchSnapshot():
                    self.offer = effect
                case Install(_, mark):
                    self.queue.append(effect)
                    self.log = ()
                    self.delivered = [*self.staged]
                    self.note("installed", mark)
                    self.note("watermark_moved", mark.zxid, False)
                    self.say(f"{self.id} takes the snapshot at {mark.zxid}")

    def give_up_reading(self) -> None:
        if self.reading:
            self.reading = False
            self.note("read_given_up")

    def forget(self, peer: PeerId) -> None:
        """An end is closed."""
        if self.links.pop(peer, None) is not None:
            self.reads = [read for read in self.reads if read.link.peer != peer]
            if self.offer is not None and self.offer.link.peer == peer:
                self.offer = None

    def send(self, send: Send) -> None:
        self.note("sending", send)
        if self.current(send.link):
            self.said.append(Said(send.link.peer, send.message))

    def deliver(self, upto: Zxid) -> None:
        after = self.delivered[-1][0] if self.delivered else ZERO
        begin = len(self.delivered)
        self.delivered += [(entry.zxid, entry.payload) for entry in self.log if after < entry.zxid <= upto]
        self.note("deliveries", begin, upto)
        if len(self.delivered) > begin:
            self.say(f"{self.id} delivers through {upto}")

    def note(self, checker: str, *words: object) -> None:
        self.noted.append(Notice(checker, words, len(self.delivered)))

    def say(self, line: str) -> None:
        if self.tell is not None:
            self.tell.append(line)
