"""The shell round the core: events in, effects performed. Everything here runs on the event loop and never waits, but where a
follower writes a little where it stands (`Writer.put`).

`step` is called from link readers, the ticker, the writer's completions and proposals. Whatever an effect causes at once is another
event in the same queue, so the core is never entered twice. Once the node has ended, for whatever reason, nothing is stepped or sent.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar

import structlog
import trio

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
    Congested,
    Durable,
    Event,
    Fetched,
    Link,
    LinkDown,
    LinkUp,
    Proposals,
    ReadAsked,
    Received,
    Stalled,
    Tick,
)
from zablog.core.gate import Gate
from zablog.core.messages import Commit, Message, Propose
from zablog.core.peer import Peer
from zablog.core.state import Following, Leading, Phase
from zablog.core.trail import Mark, Payload
from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid
from zablog.node.awake import Awake
from zablog.node.errors import LeadershipLost, NodeStopped
from zablog.node.outbound import Outbound
from zablog.node.reads import ReadRounds
from zablog.node.streams import Streams
from zablog.node.writer import Writer
from zablog.storage.history import History

HOLD_BYTES = 32 << 20
"""With so much waiting for the disk, nothing is proposed here and a leader is read slowly, until some of it is written."""
HOLD_BYTES_MAX = 96 << 20
"""With so much waiting for the disk, a leader is read no further."""
HOLD_SECONDS = 0.05
"""Between two bursts of a leader that is read slowly: it must still be heard in time."""

log = structlog.get_logger("zablog.node")

Read = TypeVar("Read")


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
        self.ended: str | None = None
        """Why nothing more is done here."""
        self.failing = False
        self.gate = Gate()
        self.writer: Writer | None = None
        self.events: deque[Event] = deque()
        self.stepping = False
        self.generation = 0
        self.live_links: set[Link] = set()
        self.role = RoleChanged(0, "draining", "election", peer.state.current, None, "starting")
        self.deliver: Callable[[Zxid], None] = lambda upto: None
        self.apply: Callable[[bool], None] = lambda at_once: None
        """Between two steps: apply what was delivered, here or soon."""
        self.outbound = Outbound(self.send_now, self.quick)
        self.fetch_snapshot: Callable[[Link, Mark], None] | None = None
        """Start fetching it; None: the application cannot restore one."""
        self.give_up_fetching: Callable[[], None] = lambda: None
        self.installing: int | None = None
        """The token of the snapshot that is being put in the place of our history."""
        self.role_changed: Callable[[], None] = lambda: None
        self.role_news = False
        self.stirred = trio.Event()
        """Set when the rest is over: from then on each tick counts."""
        self.telling = False
        self.advanced = trio.lowlevel.ParkingLot()
        """Those who wait for room, for a commit or for another role."""
        self.proposed = ZERO
        self.awake = Awake()
        self.streams = Streams(self)
        self.reads = ReadRounds(lambda: self.step(ReadAsked()))

    # -- events -------------------------------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        self.live_links.add(link)
        self.step(LinkUp(link))

    def link_down(self, link: Link, reason: str) -> None:
        self.live_links.discard(link)
        self.outbound.tell()  # it may be those that were not told yet who make the quorum now
        self.step(LinkDown(link))

    def fetched(self, peer: PeerId) -> None:
        """A peer has taken another piece of our snapshot."""
        for link in self.live_links:
            if link.peer == peer:
                self.step(Fetched(link))
                break

    def received(self, link: Link, messages: Sequence[Message]) -> None:
        self.step(Received(link, messages))

    def durable(self, token: int) -> None:
        """The writer: everything through `token` is on disk."""
        self.step(Durable(token))

    def failed(self, error: BaseException) -> None:
        """The writer: what it had is not durable, and nothing will be any more."""
        self.stop(f"the disk failed: {error}", error)

    def tick(self) -> None:
        self.step(Tick())

    def watch_disk(self, stall_seconds: float) -> None:
        """A leader whose disk hangs makes room: its followers would go on until its memory is full, and then nobody would."""
        assert self.writer is not None, "the law that the writer lives before the first event"
        if self.writer.beside:
            self.writer.look()  # it may have been done while we stood still, and nobody have told us yet
        seconds = self.writer.commit_seconds
        if self.writer.begun_at is not None and seconds > stall_seconds and isinstance(self.peer.state.role, Leading):
            log.warning("the disk hangs", node=self.peer.state.id, seconds=round(seconds, 3))
            self.step(Stalled())

    def propose(self, payloads: Sequence[Payload]) -> Zxid:
        """The zxid of the first. The caller has looked whether there is room."""
        assert not self.stepping, "the law that nobody proposes from within a step"
        self.step(Proposals(payloads))
        if self.outbound.is_alone(self.proposed):
            self.awake.proposed()
        self.insist()
        return self.proposed

    def step(self, event: Event) -> None:
        """One event, and all that it causes at once."""
        self.events.append(event)
        if self.stepping:
            return
        asked = isinstance(event, Proposals | ReadAsked)
        self.stepping = True
        try:
            while self.events and self.ended is None:
                event = self.events.popleft()
                if isinstance(event, Durable):
                    for send in self.gate.open_to(event.token):
                        self.send(send)
                self.perform(self.peer.step(event))
                if isinstance(event, Durable):
                    self.history.durable(self.peer.state.durable.last)
                    if self.installing is not None and event.token >= self.installing:
                        self.installing = None
        except Exception as error:
            # A law is broken and the step half performed: no other may follow it. To raise here is no way to say so, for the caller
            # may be the writer's completion, where an exception is the end of trio itself and of every other node in the process.
            self.broke_a_law(error)
        finally:
            self.stepping = False
        self.tell_role()
        if self.ended is None:
            self.go_on(asked)
        self.wake()

    def go_on(self, asked: bool) -> None:
        """Behind a step: have applied what it has delivered, then tell the followers.

        `asked`: it may be the application that stands above us in the stack, in the middle of something. It is not called back from there.
        """
        try:
            self.apply(not asked)
            self.outbound.applied()
        except Exception as error:  # as above
            self.broke_a_law(error)

    def broke_a_law(self, error: Exception) -> None:
        self.stop(f"this node broke a law of its own: {error!r}. Nothing is acknowledged after that; please report it.", error)

    @property
    def at_rest(self) -> bool:
        """An epoch is under way, and nobody waits for a timer but that of the heartbeat."""
        return self.role.phase == "broadcast"

    def tell_role(self) -> None:
        """The application hears of a role between two steps, so that it may propose at once."""
        if self.telling:
            return
        self.telling = True
        try:
            while self.role_news and self.ended is None:
                self.role_news = False
                self.role_changed()
        except Exception as error:
            self.stop(f"the application failed when it was told of its role: {error!r}", error)
        finally:
            self.telling = False

    def wake(self) -> None:
        """Something has happened: whoever waits may look."""
        if self.advanced:
            self.advanced.unpark_all()

    async def hold(self) -> None:
        """Whoever reads a link waits here while the disk is far behind: what it has not written yet is in memory.

        Only a leader sends much, or a follower whose history a prospective leader takes. It is read slowly rather than not at all, since
        a leader's pings stand in the same stream, and a follower that does not hear them looks for another one. What other peers send is
        short, and an election may hang on it.
        """
        assert self.writer is not None, "the law that the writer lives before the first event"
        role = self.peer.state.role
        if self.behind and (isinstance(role, Following) or (isinstance(role, Leading) and role.phase is Phase.DISCOVERY)):
            with trio.move_on_after(HOLD_SECONDS if self.writer.queued_bytes < HOLD_BYTES_MAX else math.inf):
                await self.writer.relief()

    @property
    def behind(self) -> bool:
        """Is so much waiting for the disk that no more should be taken in?"""
        return self.writer is not None and self.writer.queued_bytes > HOLD_BYTES

    # -- the end ------------------------------------------------------------------------------------------------------------

    def stop(self, reason: str, cause: BaseException | None = None) -> None:
        """End the node in the face of whoever opened it."""
        self.close(reason)
        if self.failing:
            return
        self.failing = True

        async def end() -> None:
            if isinstance(cause, NodeStopped):  # it may be a kind of its own
                raise cause
            raise NodeStopped(reason) from cause

        self.nursery.start_soon(end)

    def close(self, reason: str) -> None:
        """From now on nothing is stepped, sent or promised. The first reason counts."""
        if self.ended is None:
            self.ended = reason
            self.events.clear()
            self.outbound.forget()
            self.gate.void()
            self.reads.give_up()
        self.wake()

    def insist(self) -> None:
        """Raise NodeStopped if the node has ended."""
        if self.ended is not None:
            raise NodeStopped(self.ended)

    # -- effects ------------------------------------------------------------------------------------------------------------

    def perform(self, effects: Sequence[Effect]) -> None:
        assert self.writer is not None, "the law that the writer lives before the first event"
        durable: list[DurableEffect] = []
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
                    if upto >= self.proposed:
                        self.awake.committed()
                    self.deliver(upto)
                case Truncate(_, mark):
                    durable.append(effect)
                    self.history.truncate(mark)
                case SaveEpochs():
                    durable.append(effect)
                case FetchSnapshot(link, _, mark):
                    if self.fetch_snapshot is None:
                        self.drop(link, f"the leader's log begins above ours, and our application restores no snapshot ({mark.zxid})")
                    else:
                        self.fetch_snapshot(link, mark)
                case Install(token, mark):
                    durable.append(effect)
                    self.history.install(mark)
                    self.installing = token
                case Stream():
                    self.outbound.tell()
                    self.streams.stream(effect)
                case ReadDigest(link, zxid):
                    self.nursery.start_soon(self.streams.digest, link, zxid, self.generation)
                case DropLink(link, reason):
                    self.drop(link, reason)
                case RoleChanged():
                    self.change_role(effect)
                case ReadReady(upto):
                    self.reads.ready(upto)
                case Halt(reason):
                    self.stop(reason)
                    return  # what the same step wanted written is not: nobody is ever told that it was
        if durable:
            # A leader has its followers to wait for, and to be heard by, while its disk syncs; a follower has only its answer to give.
            self.writer.put(durable, at_once=isinstance(self.peer.state.role, Following))

    def drop(self, link: Link, reason: str) -> None:
        """End a link; its end is heard of later, like any other's."""
        log.info("link dropped", node=self.peer.state.id, peer=link.peer, reason=reason)
        self.live_links.discard(link)
        self.links.drop(link, reason)
        self.outbound.tell()

    def send(self, send: Send) -> None:
        """On each link in the order in which the core emitted them. COMMITs and proposals may leave later, and COMMITs not at all."""
        kind = type(send.message)
        if kind is Commit:
            self.outbound.commit(send)
            return
        if kind is Propose:
            self.outbound.propose(send)
            return
        self.outbound.tell()
        self.send_now(send)

    def send_now(self, send: Send) -> None:
        """Of an outbox that is full by a proposal that waited, the core hears with the next event."""
        if send.link in self.live_links and not self.links.send(send.link, send.message) and isinstance(send.message, Propose):
            self.events.append(Congested(send.link))

    def quick(self) -> Collection[Link]:
        """Followers that make a quorum with us, of those that have acknowledged everything. None if our own disk came behind them: it is
        not to be waited for either, then."""
        state, role = self.peer.state, self.peer.state.role
        if state.durable.last < state.trail.last:
            return ()
        peers, links = [state.id], list[Link]()
        for peer, learner in role.learners.items() if isinstance(role, Leading) else ():
            if learner.acked is not None and learner.acked >= state.trail.last:
                peers.append(peer)
                links.append(learner.link)
                if state.configuration.is_quorum(peers):
                    return links
        return ()

    def change_role(self, role: RoleChanged) -> None:
        if role.generation != self.generation:
            self.generation = role.generation
            self.gate.void()
            self.outbound.forget()
            self.awake.forget()
            self.give_up_fetching()
            self.reads.give_up()
        self.role = role
        self.role_news = True
        if not self.at_rest:
            self.stirred.set()
        elif self.stirred.is_set():
            self.stirred = trio.Event()
        log.info(
            "role",
            node=self.peer.state.id,
            role=role.role,
            phase=role.phase,
            epoch=role.epoch,
            leader=role.leader,
            reason=role.reason,
        )

    def wanted(self, link: Link, generation: int) -> bool:
        """Does anybody wait still for what is being read? The next role may already have cut it away."""
        return self.ended is None and generation == self.generation and link in self.live_links

    # -- waiting ------------------------------------------------------------------------------------------------------------

    async def committed(self, zxid: Zxid) -> None:
        """Wait until `zxid`, proposed here, is committed. Raises LeadershipLost.

        A watermark above it is not enough: the log may have gone on, in a later epoch, without it.
        """
        state = self.peer.state
        while zxid > state.watermark:
            if self.ended is not None or not self.reigns_in(Epoch(zxid.epoch)):
                raise LeadershipLost(f"this node stopped leading before {zxid} was known to be committed: it may be, or not.")
            await self.advanced.park()
        if zxid not in state.trail:
            raise LeadershipLost(f"{zxid} is not in the log, which is committed beyond it: it was given up with the reign it belonged to.")
        await trio.lowlevel.checkpoint()

    @property
    def leads(self) -> bool:
        """Does this node lead an established epoch?"""
        role = self.peer.state.role
        return isinstance(role, Leading) and role.phase is Phase.BROADCAST

    def reigns_in(self, epoch: Epoch) -> bool:
        """Is this node the leader of that epoch?"""
        role = self.peer.state.role
        return isinstance(role, Leading) and role.epoch == epoch
