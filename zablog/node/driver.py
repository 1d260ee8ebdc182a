"""The shell round the core: events in, effects performed. Everything here runs on the event loop and never waits.

`step` is called from link readers, the ticker, the writer's completions and proposals. Whatever an effect causes at once is another
event in the same queue, so the core is never entered twice.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
import trio

from zablog.core.effects import (
    Append,
    Deliver,
    DropLink,
    Effect,
    Halt,
    ReadDigest,
    RoleChanged,
    SaveEpochs,
    Send,
    Stream,
    Truncate,
)
from zablog.core.events import Congested, DigestRead, Durable, Event, Link, LinkDown, LinkUp, Proposals, Received, Streamed, Tick
from zablog.core.gate import Gate
from zablog.core.messages import Message, Propose
from zablog.core.peer import Peer
from zablog.core.trail import Payload
from zablog.core.zxid import ZERO, Zxid
from zablog.node.errors import LeadershipLost, NodeStopped
from zablog.node.writer import Writer
from zablog.storage.errors import StorageError
from zablog.storage.history import History

STREAM_BYTES = 1 << 20
"""One Propose of a stream."""
HOLD_BYTES = 32 << 20
"""With so much waiting for the disk, links are read no further until some of it is written."""
STREAM_ROUND_BYTES = 16 << 20
"""After so much the core is told how far a stream has come: it counts as progress."""

log = structlog.get_logger("zablog.node")


class Links(Protocol):
    """What the driver needs of the network."""

    def send(self, link: Link, message: Message) -> bool:
        """Queue a message; False if the outbox is now fuller than it should be."""
        ...

    def drop(self, link: Link, reason: str) -> None: ...

    async def room(self, link: Link) -> None:
        """Wait until the outbox has room, or the link is gone."""
        ...


class Driver:
    """One node's core and all that performs its effects."""

    def __init__(self, peer: Peer, history: History, links: Links, nursery: trio.Nursery) -> None:
        self.peer = peer
        self.history = history
        self.links = links
        self.nursery = nursery
        self.gate = Gate()
        self.writer: Writer | None = None
        self.events: deque[Event] = deque()
        self.stepping = False
        self.generation = 0
        self.live_links: set[Link] = set()
        self.role = RoleChanged(0, "draining", "election", peer.state.current, None, "starting")
        self.deliver: Callable[[Zxid], None] = lambda upto: None
        self.role_changed: Callable[[RoleChanged], None] = lambda role: None
        self.advanced = trio.lowlevel.ParkingLot()
        """Those who wait for room, for a commit or for another role."""
        self.proposed = ZERO

    # -- events -------------------------------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        self.live_links.add(link)
        self.step(LinkUp(link))

    def link_down(self, link: Link, reason: str) -> None:
        self.live_links.discard(link)
        self.step(LinkDown(link))

    def received(self, link: Link, messages: Sequence[Message]) -> None:
        self.step(Received(link, messages))

    def durable(self, token: int) -> None:
        """The writer: everything through `token` is on disk."""
        for send in self.gate.open_to(token):
            self.send(send)
        self.step(Durable(token))
        self.history.durable(self.peer.state.durable.last)

    def failed(self, error: BaseException) -> None:
        """The writer: what it had is not durable, and nothing will be any more."""
        self.stop(f"the disk failed: {error}", error)

    def tick(self) -> None:
        self.step(Tick())

    def propose(self, payloads: Sequence[Payload]) -> Zxid:
        """The zxid of the first. The caller has looked whether there is room."""
        self.step(Proposals(payloads))
        return self.proposed

    def stop(self, reason: str, cause: BaseException | None = None) -> None:
        """End the node in the face of whoever opened it."""

        async def end() -> None:
            raise NodeStopped(reason) from cause

        self.nursery.start_soon(end)

    def step(self, event: Event) -> None:
        """One event, and all that it causes at once."""
        self.events.append(event)
        if self.stepping:
            return
        self.stepping = True
        try:
            while self.events:
                self.perform(self.peer.step(self.events.popleft()))
        finally:
            self.stepping = False
        if self.advanced:
            self.advanced.unpark_all()

    async def hold(self) -> None:
        """Whoever reads a link waits here while the disk is far behind: what it has not written yet is in memory."""
        assert self.writer is not None, "the law that the writer lives before the first event"
        if self.writer.queued_bytes > HOLD_BYTES:
            await self.writer.relief()

    # -- effects ------------------------------------------------------------------------------------------------------------

    def perform(self, effects: Sequence[Effect]) -> None:
        assert self.writer is not None, "the law that the writer lives before the first event"
        durable: list[Append | Truncate | SaveEpochs] = []
        for effect in effects:
            match effect:
                case Send():
                    if self.gate.passes(effect):
                        self.send(effect)
                case Append(_, entries):
                    durable.append(effect)
                    self.history.append(entries)
                    self.proposed = entries.first
                case Deliver(upto):
                    self.writer.watermark = upto
                    self.deliver(upto)
                case Truncate(_, mark):
                    durable.append(effect)
                    self.history.truncate(mark)
                case SaveEpochs():
                    durable.append(effect)
                case Stream():
                    self.stream(effect)
                case ReadDigest(link, zxid):
                    self.nursery.start_soon(self.read_digest, link, zxid)
                case DropLink(link, reason):
                    log.info("link dropped", node=self.peer.state.id, peer=link.peer, reason=reason)
                    self.live_links.discard(link)
                    self.links.drop(link, reason)
                case RoleChanged():
                    self.change_role(effect)
                case Halt(reason):
                    self.stop(reason)
        if durable:
            self.writer.put(durable)

    def send(self, send: Send) -> None:
        if send.link in self.live_links and not self.links.send(send.link, send.message) and isinstance(send.message, Propose):
            self.events.append(Congested(send.link))

    def change_role(self, role: RoleChanged) -> None:
        if role.generation != self.generation:
            self.generation = role.generation
            self.gate.void()
        self.role = role
        log.info(
            "role",
            node=self.peer.state.id,
            role=role.role,
            phase=role.phase,
            epoch=role.epoch,
            leader=role.leader,
            reason=role.reason,
        )
        self.role_changed(role)

    # -- reading to learners ------------------------------------------------------------------------------------------------

    def stream(self, effect: Stream) -> None:
        """What is in memory goes at once, so that a learner that has nearly caught up does; the rest at the link's own pace."""
        after = effect.after
        if self.history.in_memory(after):
            while after < effect.upto:
                entries = self.history.read(after, effect.upto, STREAM_BYTES)
                assert entries is not None, "the law that a stream reads our own log"
                after = entries.last
                if not self.links.send(effect.link, Propose(effect.epoch, entries, ZERO)):
                    break
            if after == effect.upto:
                self.events.append(Streamed(effect.link, after))
                return
        self.nursery.start_soon(self.stream_slowly, effect, after)

    async def stream_slowly(self, effect: Stream, after: Zxid) -> None:
        """One round of a stream: it ends with word of how far it came, or with its link."""
        generation, sent = self.generation, 0
        while after < effect.upto and sent < STREAM_ROUND_BYTES:
            await self.links.room(effect.link)
            if effect.link not in self.live_links or generation != self.generation:
                return
            if self.history.in_memory(after):
                entries = self.history.read(after, effect.upto, STREAM_BYTES)
            else:
                try:
                    entries = await trio.to_thread.run_sync(self.history.read, after, effect.upto, STREAM_BYTES)
                except (StorageError, OSError) as error:
                    self.stop(f"the log cannot be read: {error}", error)
                    return
            if entries is None or effect.link not in self.live_links or generation != self.generation:
                break
            self.links.send(effect.link, Propose(effect.epoch, entries, ZERO))
            after, sent = entries.last, sent + entries.size
        if effect.link in self.live_links and generation == self.generation:
            self.step(Streamed(effect.link, after))

    async def read_digest(self, link: Link, zxid: Zxid) -> None:
        if self.history.in_memory(zxid):
            self.step(DigestRead(link, zxid, self.history.digest_at(zxid)))
            return
        try:
            digest = await trio.to_thread.run_sync(self.history.digest_at, zxid)
        except (StorageError, OSError) as error:
            self.stop(f"the log cannot be read: {error}", error)
            return
        self.step(DigestRead(link, zxid, digest))

    # -- waiting ------------------------------------------------------------------------------------------------------------

    async def committed(self, zxid: Zxid, generation: int) -> None:
        """Wait until `zxid`, proposed in role `generation`, is committed. Raises LeadershipLost."""
        while True:
            if self.generation != generation:
                raise LeadershipLost(f"this node lost its leadership before {zxid} was known to be committed: it may be, or not.")
            if self.peer.watermark >= zxid:
                await trio.lowlevel.checkpoint()
                return
            await self.advanced.park()
