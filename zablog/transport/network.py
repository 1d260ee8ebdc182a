"""The mesh: one live link to each other member, as far as they can be reached.

    async with open_network("127.0.0.1:7101", me, contacts) as network:     # listens
        network.start(Callbacks(...), clients)                              # accepts and dials

The peer with the higher number dials the lower one, all at once, with a capped and jittered backoff. One port serves peers and
clients; the Hello decides. A newer link to a peer replaces the older one: whoever dials again has given the old one up.

Callbacks are called from the links' tasks, with no queue in between: they must not block. What they raise ends the network. Each
`on_link_up` is followed by one `on_link_down`, unless the network itself is closed first. `send` and `drop` never call back.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final

import structlog
import trio

from zablog.core.events import Link
from zablog.core.messages import Message
from zablog.core.zxid import PeerId
from zablog.transport import greeting, unix
from zablog.transport.ends import BROKEN, Ends, address_of, broken, ends_of, tune
from zablog.transport.errors import HandshakeFailed
from zablog.transport.greeting import Contact, Self
from zablog.transport.link import Encoded, PeerLink, encoded
from zablog.transport.listening import join_address, open_listeners, split_address
from zablog.transport.news import News
from zablog.wire import FrameError, MessageError, WireError
from zablog.wire.frames import FrameReader
from zablog.wire.handshake import Hello, Purpose, Refusal, Refused, Versions, decode_handshake

HANDSHAKES_MAX: Final = 256
"""Strangers that are listened to at once; one more is sent away."""

log = structlog.get_logger("zablog.transport")

ClientHandler = Callable[[trio.abc.Stream, Hello], Awaitable[None]]
"""Serves one client after its Welcome, until it returns; the stream is closed then. It may let a broken stream's errors out."""
SnapshotHandler = Callable[[PeerId, Ends, FrameReader], Awaitable[None]]
"""Serves one member that fetches a snapshot, until it returns; the connection is closed then. Broken connections' errors may come out."""
Connect = Callable[[str], Awaitable[trio.abc.Stream]]
"""Dials HOST:PORT. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What the node wants to hear."""

    on_link_up: Callable[[Link], object]
    on_received: Callable[[Link, list[Message]], object]
    on_link_down: Callable[[Link, str], object]
    hold: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint_if_cancelled
    """Awaited after each burst: a link is read no faster than the disk can follow."""
    on_refused: Callable[[PeerId | None, str, str], object] = lambda peer, address, reason: None
    """A handshake failed, at either end: which peer (if it said so), its address, and the reason. Called at every try."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the network is."""

    connect_seconds: float = 1.0
    handshake_seconds: float = 2.0
    retry_min_seconds: float = 0.01
    retry_max_seconds: float = 0.5
    retry_growth: float = 1.5
    """Each pause is about half of the time tried so far: a peer that starts a little later than we do is met a little later."""


async def dial(address: str) -> trio.abc.Stream:
    try:
        return await unix.dial(*split_address(address))
    except ValueError as error:
        raise OSError(f"{address!r} is no address: {error}") from error


class Network:
    """Use `open_network`."""

    def __init__(
        self,
        listeners: Sequence[trio.SocketListener],
        beside: Sequence[trio.SocketListener],
        me: Self,
        contacts: Iterable[Contact],
        nursery: trio.Nursery,
        pace: Pace,
        connect: Connect,
        random: Random,
    ) -> None:
        self.me = me
        self.contacts = {contact.node: contact for contact in contacts if contact.node != me.node}
        self.addresses = tuple(join_address(*listener.socket.getsockname()[:2]) for listener in listeners)
        """Where this network listens: the port is real even if 0 was asked for."""
        self._listeners = [*listeners, *beside]
        self._nursery = nursery
        self._pace = pace
        self._connect = connect
        self._random = random
        self._news = News()
        self._links: dict[PeerId, PeerLink] = {}
        self._levels: dict[PeerId, Versions] = {}
        self._generation = 0
        self._handshakes = 0
        self._callbacks: Callbacks | None = None
        self._clients: ClientHandler | None = None
        self._snapshots: SnapshotHandler | None = None
        self._last_sent: tuple[Message, Encoded] | None = None

    def start(self, callbacks: Callbacks, clients: ClientHandler | None = None, snapshots: SnapshotHandler | None = None) -> None:
        """Accept and dial. Until now whoever connects has been waiting in the kernel."""
        assert self._callbacks is None, "a network is started once"
        self._callbacks, self._clients, self._snapshots = callbacks, clients, snapshots
        for contact in self.contacts.values():
            if contact.node < self.me.node:
                self._nursery.start_soon(self._keep_dialling, contact)
        if self._listeners:
            self._nursery.start_soon(trio.serve_listeners, self.accept, self._listeners)

    # -- what the driver says -----------------------------------------------------------------------------------------------

    def send(self, link: Link, message: Message) -> bool:
        """Queue a message; nothing happens on a link that is gone. False if the outbox is now fuller than it should be."""
        connection = self._links.get(link.peer)
        if connection is None or connection.identity != link:
            return True
        # What goes to several followers is encoded once: they are sent the very same object.
        if self._last_sent is None or self._last_sent[0] is not message:
            self._last_sent = (message, encoded(message))
        connection.post(self._last_sent[1])
        return not connection.congested

    async def room(self, link: Link) -> None:
        """Wait until the link's outbox has room again, or the link is gone."""
        connection = self._links.get(link.peer)
        if connection is not None and connection.identity == link:
            await connection.room()
        else:
            await trio.lowlevel.checkpoint()

    def drop(self, link: Link, reason: str) -> None:
        """End a link from now on: nothing more is received on it or sent. `on_link_down` follows."""
        connection = self._links.get(link.peer)
        if connection is not None and connection.identity == link:
            connection.end(reason)

    def links(self) -> list[Link]:
        """The links that are up, by peer."""
        return [self._links[peer].identity for peer in sorted(self._links) if self._links[peer].reason is None]

    def levels(self) -> dict[PeerId, Versions]:
        """The feature levels of each peer whose link is up, as it said when it came up."""
        return {link.peer: self._levels[link.peer] for link in self.links()}

    @asynccontextmanager
    async def fetching(self, peer: PeerId) -> AsyncIterator[tuple[Ends, FrameReader]]:
        """A connection of its own to a member, for a snapshot. Raises HandshakeFailed, WireError, and whatever ends a connection."""
        async with fetching(self.me, self.contacts[peer], self._pace, self._connect) as connection:
            yield connection

    # -- links --------------------------------------------------------------------------------------------------------------

    async def _serve(self, peer: PeerId, ends: Ends, reader: FrameReader, levels: Versions) -> None:
        """A handshake succeeded: the link lives here, from its first callback to its last."""
        callbacks = self._started()
        if (older := self._links.get(peer)) is not None:
            older.end("a newer link to this peer replaces it")
            self._down(older)
        self._generation += 1
        link = PeerLink(Link(peer, self._generation), ends, reader)
        self._links[peer], self._levels[peer] = link, levels
        self._news.settled(peer)
        log.info("link up", node=self.me.node, peer=peer, link=self._generation)
        callbacks.on_link_up(link.identity)
        await link.run(callbacks.on_received, callbacks.hold)
        self._down(link)

    def _down(self, link: PeerLink) -> None:
        """Say once that a link is gone. One that was replaced has been reported by its successor."""
        if self._links.get(link.identity.peer) is not link:
            return
        del self._links[link.identity.peer]
        assert link.reason is not None, "the law that a link goes down for a reason"
        log.info("link down", node=self.me.node, peer=link.identity.peer, link=link.identity.generation, reason=link.reason)
        self._started().on_link_down(link.identity, link.reason)

    # -- the dialling side --------------------------------------------------------------------------------------------------

    async def _keep_dialling(self, contact: Contact) -> None:
        delay, tries = self._pace.retry_min_seconds, 0
        while True:
            address = contact.addresses[tries % len(contact.addresses)]
            tries += 1
            began = trio.current_time()
            await self._dial(contact, address)
            if trio.current_time() - began > 2 * self._pace.retry_max_seconds:
                delay = self._pace.retry_min_seconds
            # Jitter keeps the nodes of an ensemble that started together from knocking in step.
            await trio.sleep(delay * self._random.uniform(0.5, 1.0))
            delay = min(self._pace.retry_growth * delay, self._pace.retry_max_seconds)

    async def _dial(self, contact: Contact, address: str) -> None:
        """One try, and the life of the link if it succeeds."""
        try:
            with trio.fail_after(self._pace.connect_seconds):
                stream = await self._connect(address)
        except (OSError, trio.TooSlowError) as error:
            self._unreachable(contact.node, address, f"it cannot be connected to: {error.__cause__ or str(error) or 'no answer in time'}")
            return
        tune(stream)
        ends = ends_of(stream)
        try:
            introduced = await self._introduce(ends, contact, address)
            if introduced is not None:
                await self._serve(contact.node, ends, *introduced)
        finally:
            await _close(ends)

    async def _introduce(self, ends: Ends, contact: Contact, address: str) -> tuple[FrameReader, Versions] | None:
        """The handshake of one who dialled; None if it failed."""
        try:
            with trio.fail_after(self._pace.handshake_seconds):
                return await greeting.call(ends, self.me, contact)
        except HandshakeFailed as failure:
            self._refused(contact.node, address, failure.reason)
        except WireError as error:
            self._refused(contact.node, address, f"what listens there does not speak our protocol: {error}")
        except trio.TooSlowError:
            self._unreachable(contact.node, address, f"it did not answer our Hello within {self._pace.handshake_seconds:g} s")
        except BROKEN as error:
            self._unreachable(contact.node, address, broken(error))
        return None

    def _unreachable(self, peer: PeerId, address: str, reason: str) -> None:
        if self._news.is_news(peer, reason):
            log.info("peer cannot be reached", node=self.me.node, peer=peer, address=address, reason=reason)

    # -- the accepting side -------------------------------------------------------------------------------------------------

    async def accept(self, stream: trio.abc.Stream) -> None:
        """Serve one connection that somebody made to us, whoever it is and whatever it says."""
        tune(stream)
        ends, address = ends_of(stream), address_of(stream)
        try:
            heard = await self._receive(ends, address)
            if heard is None:
                return
            hello, reader = heard
            if hello.purpose is Purpose.PEER:
                assert hello.node is not None, "the law that a peer names its node"
                await self._serve(hello.node, ends, reader, hello.levels)
                return
            if hello.purpose is Purpose.SNAPSHOT:
                assert hello.node is not None and self._snapshots is not None, "the law that they are refused where there are none"
                with contextlib.suppress(WireError, *BROKEN):  # it will ask again
                    await self._snapshots(hello.node, ends, reader)
                return
            assert self._clients is not None, "the law that clients are refused where nobody serves them"
            try:
                await self._clients(stream, hello)
            except (WireError, ConnectionError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                log.debug("client connection broke", node=self.me.node, address=address, reason=str(error) or type(error).__name__)
        finally:
            await _close(ends)

    async def _receive(self, ends: Ends, address: str) -> tuple[Hello, FrameReader] | None:
        """The handshake of one who was called; None if it failed."""
        if self._handshakes >= HANDSHAKES_MAX:
            self._turned_away(address, f"{HANDSHAKES_MAX} other strangers are being listened to")
            return None
        self._handshakes += 1
        try:
            with trio.fail_after(self._pace.handshake_seconds):
                return await self._hear(ends, address)
        except trio.TooSlowError:
            self._turned_away(address, f"the caller did not finish its Hello within {self._pace.handshake_seconds:g} s")
        except FrameError as error:
            log.warning("caller turned away", node=self.me.node, address=address, reason=str(error))
        except (MessageError, HandshakeFailed) as error:
            self._turned_away(address, str(error))
        except BROKEN as error:
            log.debug("caller went away", node=self.me.node, address=address, reason=broken(error))
        finally:
            self._handshakes -= 1
        return None

    def _turned_away(self, address: str, reason: str) -> None:
        # The port of a caller is another one at each try.
        if self._news.is_news((_host(address), reason), reason):
            log.warning("caller turned away", node=self.me.node, address=address, reason=reason)

    async def _hear(self, ends: Ends, address: str) -> tuple[Hello, FrameReader]:
        """The caller's Hello, answered. Raises what ends the connection."""
        reader = FrameReader()
        frame = await greeting.first_frame(ends, reader)
        if frame is None:
            raise trio.BrokenResourceError("the caller went away before it said who it is")
        hello: Hello | None = None
        try:
            word = decode_handshake(frame)
            if not isinstance(word, Hello):
                raise HandshakeFailed(Refusal.PROTOCOL, f"a connection begins with a Hello, not with a {type(word).__name__}")
            hello = word
            if reader.waiting:
                raise HandshakeFailed(Refusal.PROTOCOL, "the caller did not wait for the answer to its Hello")
            version = greeting.judge(hello, self.me, self.contacts)
            if hello.purpose is Purpose.CLIENT and self._clients is None:
                raise HandshakeFailed(Refusal.NOT_HERE, f"node {self.me.node} serves no clients")
            if hello.purpose is Purpose.SNAPSHOT and self._snapshots is None:
                raise HandshakeFailed(Refusal.NOT_HERE, f"node {self.me.node} has no snapshots")
        except (HandshakeFailed, MessageError) as failure:
            code, words = (failure.code, failure.reason) if isinstance(failure, HandshakeFailed) else (Refusal.PROTOCOL, str(failure))
            if hello is None or hello.purpose is Purpose.PEER:
                self._started().on_refused(hello.node if hello else None, address, words)
            await greeting.say(ends, Refused(code, words))
            raise
        await greeting.say(ends, greeting.welcome(self.me, version))
        reader.admit()
        return hello, reader

    def _refused(self, peer: PeerId, address: str, reason: str) -> None:
        if self._news.is_news(peer, reason):
            log.warning("handshake refused", node=self.me.node, peer=peer, address=address, reason=reason)
        self._started().on_refused(peer, address, reason)

    def _started(self) -> Callbacks:
        assert self._callbacks is not None, "a network that was not started has no connections"
        return self._callbacks


@asynccontextmanager
async def open_network(
    listen: str | None,
    me: Self,
    contacts: Iterable[Contact],
    *,
    insecure: bool = False,
    unix_sockets: bool = True,
    pace: Pace | None = None,
    connect: Connect = dial,
    random: Random | None = None,
) -> AsyncIterator[Network]:
    """A network that listens on `listen` (HOST:PORT; None: nowhere) and, once started, accepts and dials `contacts`.

    `unix_sockets`: whoever is on this machine may come by a Unix socket instead of loopback; see `zablog.transport.unix`.

    Closes every connection at the end. Raises InsecureAddress, AddressInUse, CannotListen.
    """
    listeners = await open_listeners(listen, insecure) if listen is not None else []
    beside: list[trio.SocketListener] = []
    try:
        for listener in listeners if unix_sockets else ():
            beside += _beside(listener, me)
        async with trio.open_nursery() as nursery:
            yield Network(listeners, beside, me, contacts, nursery, pace or Pace(), connect, random or Random())
            nursery.cancel_scope.cancel()
    finally:
        for listener in (*listeners, *beside):
            listener.socket.close()


def _beside(listener: trio.SocketListener, me: Self) -> list[trio.SocketListener]:
    try:
        beside = unix.listen_beside(listener)
        return [] if beside is None else [beside]
    except OSError as error:
        address = join_address(*listener.socket.getsockname()[:2])
        log.warning("no Unix socket, TCP alone", node=me.node, address=address, reason=error.strerror)
        return []


@asynccontextmanager
async def fetching(
    me: Self, contact: Contact, pace: Pace | None = None, connect: Connect = dial
) -> AsyncIterator[tuple[Ends, FrameReader]]:
    """A connection to a member for what it keeps, beside the mesh. Raises HandshakeFailed, WireError and what ends a connection."""
    pace = pace or Pace()
    with trio.fail_after(pace.connect_seconds):
        stream = await connect(contact.addresses[0])
    tune(stream)
    ends = ends_of(stream)
    try:
        with trio.fail_after(pace.handshake_seconds):
            reader, _ = await greeting.call(ends, me, contact, Purpose.SNAPSHOT)
        yield ends, reader
    finally:
        await _close(ends)


async def _close(ends: Ends) -> None:
    with trio.CancelScope(shield=True):
        await ends.close()


def _host(address: str) -> str:
    return address.rpartition(":")[0]
