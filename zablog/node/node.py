"""A node: one member of an ensemble, from its data directory to its application, for the length of an `async with` block."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import SystemRandom

import structlog
import trio

from zablog.core.peer import Peer
from zablog.core.trail import Payload
from zablog.core.zxid import ZERO, PeerId, Zxid
from zablog.node.application import Application, Restorable
from zablog.node.applier import Applier
from zablog.node.checkpoints import Checkpoints
from zablog.node.config import NodeConfig
from zablog.node.driver import Driver
from zablog.node.errors import ConfigError, Full, NodeStopped, NotLeading, PayloadTooLarge, the_one_of
from zablog.node.patience import Patience
from zablog.node.repair import open_repaired
from zablog.node.reserve import Reserve
from zablog.node.restoration import Restoration
from zablog.node.status import Status
from zablog.node.transfer import Pace, Sender
from zablog.node.writer import Writer
from zablog.storage.errors import Foreign
from zablog.storage.files import FileDisk
from zablog.storage.history import History
from zablog.storage.manifest import Identity, Manifest
from zablog.storage.storage import Storage
from zablog.transport.greeting import Contact, Self
from zablog.transport.network import Callbacks, Network, open_network
from zablog.wire.handshake import Hello, Versions

MISSED_TICKS_MAX = 100
"""After a pause of the process so many ticks are made up for: more than any timeout that must be noticed."""
ROUNDING = 1e-6
"""Of a tick: what a sum of floating-point numbers may lack."""
TICKS_AT_ONCE = 5
"""Between so many of them the links are read: a late loop must not suspect a leader whose pings wait in the socket."""

PAYLOAD_BYTES_MAX = 16 << 20
"""One payload, and all payloads of one call together. They travel as one frame, and a frame has its limit."""

log = structlog.get_logger("zablog.node")

Clients = Callable[[trio.abc.Stream, Hello], Awaitable[None]]


class Node:
    """Use `open_node`."""

    def __init__(self, config: NodeConfig, identity: Identity, driver: Driver, applier: Applier, addresses: dict[PeerId, str]) -> None:
        self.config = config
        self.identity = identity
        self.addresses = addresses
        """Where each member is reached, HOST:PORT."""
        self.loop_lag_seconds = 0.0
        """How late the last tick was."""
        self._driver = driver
        self._applier = applier
        self._patience = Patience(config.timing)
        self._missing: Callable[[], str | None] = lambda: None
        self._peer_levels: Callable[[], Mapping[PeerId, Versions]] = dict
        self._turn = trio.StrictFIFOLock()
        """Whoever waits for room; trio wakes those who are parked together in any order."""

    def propose_nowait(self, payloads: Sequence[Payload]) -> Zxid:
        """Put payloads into the log, in this order, if there is room for all; returns the zxid of the first.

        They are neither durable nor committed yet. Raises NotLeading, Full, PayloadTooLarge, NodeStopped: nothing was proposed then.
        The payloads must not change any more.
        """
        driver = self._driver
        driver.insist()
        if not payloads:
            raise ValueError("nothing to propose: give at least one payload, which may be empty")
        self._insist_on_leading()
        room = 0 if driver.behind else driver.peer.room
        if len(payloads) > room:
            raise Full(f"there is room for {room} entries, not for {len(payloads)}. Nothing was proposed.")
        size = sum(map(len, payloads))
        if size > PAYLOAD_BYTES_MAX:
            if len(payloads) == 1:
                raise PayloadTooLarge(f"a payload of {size:,} bytes: at most {PAYLOAD_BYTES_MAX:,} are taken. Nothing was proposed.")
            raise Full(f"one call takes payloads of {PAYLOAD_BYTES_MAX:,} bytes in all, not of {size:,}. Nothing was proposed.")
        return driver.propose(payloads)

    @property
    def leads(self) -> bool:
        """Does this node lead an established epoch, so that it takes proposals?"""
        return self._driver.leads

    def _insist_on_leading(self) -> None:
        if not self.leads:
            leader = self._driver.peer.state.leader
            raise NotLeading(leader, self.addresses.get(leader) if leader is not None else None)

    async def propose(self, payload: Payload) -> Zxid:
        """Put a payload into the log, waiting for room. Returns its zxid; see `committed`. Those who wait have their turn in order.

        Cancelled, it has proposed nothing. Raises NotLeading, PayloadTooLarge, NodeStopped.
        """
        async with self._turn:
            while True:
                try:
                    return self.propose_nowait([payload])
                except Full:
                    await self._driver.advanced.park()

    async def committed(self, zxid: Zxid) -> None:
        """Wait until an entry proposed here is committed. Raises LeadershipLost if this node stops leading before it is known to be."""
        await self._driver.committed(zxid)

    async def read_index(self) -> Zxid:
        """For a linearizable read: once the application has seen everything through the returned zxid, on whichever node, a read there sees
        everything that was acknowledged before this call. Costs a round of pings, shared by all who ask at the same time; no clock.

        Raises NotLeading (only a leader can say), LeadershipLost (ask again), NodeStopped.
        """
        self._driver.insist()
        self._insist_on_leading()
        return await self._driver.reads.wait()

    async def wait_applied(self, zxid: Zxid) -> None:
        """Wait until the application has seen everything through `zxid`. Raises NodeStopped."""
        while self._applier.applied < zxid:
            self._driver.insist()
            await self._applier.moved.park()

    def covers(self, zxid: Zxid) -> bool:
        """Is this an entry of our log, or of what a snapshot has taken the place of? One that was given up with its epoch is not."""
        return self._driver.peer.state.covers(zxid)

    def levels(self) -> dict[PeerId, Versions]:
        """Which feature levels this member and each one that it has a link to can apply, by `NodeConfig.levels` of each."""
        return {self.identity.node: self.config.levels, **self._peer_levels()}

    async def changed(self) -> None:
        """Wait until something has happened: a step, or a burst applied. Raises NodeStopped."""
        self._driver.insist()
        await self._driver.advanced.park()

    @property
    def commit_seconds(self) -> float:
        """How long the disk has been at the group commit under way, or took for the last one."""
        assert self._driver.writer is not None, "the law that the writer lives as long as its node"
        return self._driver.writer.commit_seconds

    def status(self) -> Status:
        """A moment of this node's life."""
        state, role = self._driver.peer.state, self._driver.role
        leader = state.leader
        return Status(
            state.id,
            role.role,
            role.phase,
            role.epoch,
            role.generation,
            leader,
            self.addresses.get(leader) if leader is not None else None,
            state.trail.last,
            state.watermark,
            self._applier.applied,
            state.suspect,
            tuple(sorted(state.links)),
            role.reason,
            state.trail.base.zxid,
            self._missing(),
            state.timing.suspect * self.config.tick_seconds,
        )

    async def tick_forever(self) -> None:
        """Time for the core, from the monotonic clock. At rest a heartbeat's ticks are told at once: to wake costs more than a tick."""
        tick, ticked_at = self.config.tick_seconds, trio.current_time()
        while True:
            at_once = self._driver.peer.state.timing.ping if self._driver.at_rest else 1
            due = ticked_at + at_once * tick
            if at_once == 1:
                await trio.sleep_until(due)
            else:
                with trio.move_on_at(due):
                    await self._driver.stirred.wait()
            passed = trio.current_time() - ticked_at
            ticks = int(passed / tick + ROUNDING)
            self.loop_lag_seconds = max(0.0, passed - at_once * tick)
            if self._patience.observe(int(self.loop_lag_seconds / tick), min(ticks, at_once)):
                self._be_patient()
            for number in range(1, min(ticks, MISSED_TICKS_MAX) + 1):
                self._driver.tick()
                self._driver.watch_disk(self.config.stall_seconds)
                if number % TICKS_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
            ticked_at += ticks * tick

    def _be_patient(self) -> None:
        """The core waits as long as our own lateness asks for."""
        timing = self._driver.peer.state.timing = self._patience.timing
        late, lease = self._patience.late_ticks * self.config.tick_seconds, timing.suspect * self.config.tick_seconds
        log.info("patience", node=self.identity.node, loop_late_seconds=round(late, 3), silence_borne_seconds=round(lease, 3))


@asynccontextmanager
async def open_node(config: NodeConfig, application: Application, clients: Clients | None = None) -> AsyncIterator[Node]:
    """Run a member of an ensemble for the length of the block; every task and thread of it ends with the block.

    `clients` serves connections of clients to the node's port, each in a task of its own.

    Raises NotBorn, Foreign, DirectoryInUse, Corrupt, MetadataLost, NewerFormat (zablog.storage.errors), InsecureAddress, AddressInUse
    (zablog.transport), ConfigError; NodeStopped when the node must not go on, whatever the block is doing.
    """
    if not __debug__:
        raise ConfigError("assertions guard the protocol: a node does not run under `python -O` or PYTHONOPTIMIZE.")
    disk = FileDisk(config.directory)
    try:
        disk.lock()
        identity = await trio.to_thread.run_sync(Manifest(disk).load)
        if config.cluster not in (None, identity.cluster) or config.node not in (None, identity.node):
            raise Foreign(
                f"{config.directory} was born as node {identity.node} of cluster {identity.cluster}, and what is meant is node "
                f"{config.node or identity.node} of cluster {config.cluster or identity.cluster}: it knows nothing of what that node "
                "promised, and must not stand in for it. Put the node's own directory back."
            )
        addresses = {member.id: config.addresses.get(member.id, member.address) for member in identity.members}
        contacts = [Contact(member.id, member.incarnation, (addresses[member.id],)) for member in identity.members]
        me = Self(identity.cluster, identity.node, identity.incarnation, levels=config.levels)
        listen = config.listen or addresses[identity.node]
        reserve = Reserve(disk, config.reserve_bytes)
        await trio.to_thread.run_sync(reserve.begin)
        restorable_one = application if isinstance(application, Restorable) else None
        storage = await open_repaired(disk, config.file_bytes, me, contacts, restorable_one)
        async with (
            open_network(listen, me, contacts, insecure=config.insecure, unix_sockets=config.unix_sockets) as network,
            trio.open_nursery() as nursery,
        ):
            node, writer = assemble(config, storage, application, network, nursery, addresses)
            try:
                driver = node._driver
                sender = Sender(storage, None, Pace(config.transfer_bytes_per_second), driver.fetched)
                if isinstance(application, Restorable):
                    sender.application = application
                    await restorable(node, storage, application, network, sender)
                elif storage.snapshot is not None:
                    raise ConfigError(f"the log begins at {storage.trail.base.zxid}, and this application restores no snapshot.")
                await node._applier.catch_up()
                network.start(Callbacks(driver.link_up, driver.received, driver.link_down, driver.hold), clients, sender.serve)
                nursery.start_soon(node._applier.run)
                nursery.start_soon(node.tick_forever)
                nursery.start_soon(driver.outbound.keep_telling)
                nursery.start_soon(writer.watch)
                nursery.start_soon(driver.awake.run)
                nursery.start_soon(reserve.watch)
                yield node
                nursery.cancel_scope.cancel()
            finally:
                # The links are still up. What comes from now on is nobody's: acknowledging it would be a promise of a node that leaves.
                node._driver.close("the node was closed")
                node._applier.moved.unpark_all()
                reserve.end()
                await writer.drain()
    except BaseExceptionGroup as group:
        error = the_one_of(group)
        raise error from error.__cause__
    finally:
        disk.close()


def assemble(
    config: NodeConfig,
    storage: Storage,
    application: Application,
    network: Network,
    nursery: trio.Nursery,
    addresses: dict[PeerId, str],
) -> tuple[Node, Writer]:
    """Core, driver, writer and applier, each told of the others."""
    peer = Peer(
        storage.identity.node,
        storage.identity.configuration,
        storage.accepted,
        storage.current,
        storage.suspect,
        storage.trail,
        storage.watermark,
        config.timing,
        SystemRandom().randrange,
        config.limits,
        storage.snapshot.mark if storage.snapshot else None,
    )
    history = History(storage, config.memory_bytes)
    driver = Driver(peer, history, network, nursery)
    applier = Applier(application, history, storage.snapshot.mark.zxid if storage.snapshot else ZERO, storage.watermark)
    node = Node(config, storage.identity, driver, applier, addresses)
    node._peer_levels = network.levels

    def role_changed() -> None:
        application.role_changed(node.status())

    def apply(at_once: bool) -> None:
        try:
            applier.go_on(at_once)
        except NodeStopped as error:
            driver.stop(str(error), error)

    applier.burst = driver.wake
    driver.deliver = applier.deliver
    driver.apply = apply
    driver.role_changed = role_changed
    writer = driver.writer = Writer(storage, driver.durable, driver.failed)
    return node, writer


async def restorable(node: Node, storage: Storage, application: Restorable, network: Network, sender: Sender) -> None:
    """Restore the application, and let it have checkpoints and snapshots from now on."""
    driver, applier, config, turn = node._driver, node._applier, node.config, trio.Lock()
    checkpoints = Checkpoints(config, storage, driver, applier, application, sender, turn)
    restoration = Restoration(storage, driver, applier, application, network, turn, checkpoints.name)
    sender.fresh = checkpoints.fresh
    await restoration.restore_own()
    driver.fetch_snapshot, driver.give_up_fetching = restoration.begin, restoration.give_up
    node._missing = lambda: restoration.missing
    driver.nursery.start_soon(checkpoints.run)
    driver.nursery.start_soon(restoration.mend)
