"""A simulated node: the shipped core, gate, storage, history and codec; only the disk's platters and the wires are not real.

The twin of `zablog.node.driver` and of its applier, in virtual time; the log writer is `zablog.sim.writer`, what a disk does to
its node `zablog.sim.troubles`, and what becomes of it between two lives `zablog.sim.damage`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from random import Random

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
    DigestRead,
    Event,
    Link,
    LinkDown,
    LinkUp,
    Proposals,
    ReadAsked,
    Received,
    Streamed,
    Tick,
)
from zablog.core.gate import Gate
from zablog.core.messages import Message, Propose
from zablog.core.peer import Peer
from zablog.core.state import Leading, Limits, Timing
from zablog.core.trail import Trail
from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid
from zablog.sim import mending
from zablog.sim.application import Application
from zablog.sim.applier import FILES, Applier
from zablog.sim.disk import PowerLost, SimDisk
from zablog.sim.image import Image
from zablog.sim.invariants import Invariants
from zablog.sim.network import Network
from zablog.sim.schedule import Schedule
from zablog.sim.snapshots import PIECE_BYTES, Transfer, application_of, state_of
from zablog.sim.trace import words
from zablog.sim.troubles import Troubles
from zablog.sim.writer import Writer
from zablog.storage.errors import Faulty, StorageError, StorageFailed, Trimmed
from zablog.storage.history import History

TICK = 10_000
TICKED = Tick()
MISSED_TICKS_MAX = 100
FILE_BYTES = 4096
MEMORY_BYTES = 400
STREAM_BYTES = 120


class Node:
    """One process, over all its lives. `life` counts them."""

    def __init__(self, id: PeerId, disk: SimDisk, schedule: Schedule, invariants: Invariants, network: Network) -> None:
        self.id = id
        self.disk = disk
        self.schedule = schedule
        self.invariants = invariants
        self.network = network
        self.random: Random = schedule.random
        self.life = 0
        self.running = False
        self.paused: list[tuple[int, Event]] | None = None
        """While the process is stopped (SIGSTOP): what reaches it meanwhile, with the life it was meant for."""
        self.missed_ticks = 0
        self.tick_micros = self.usual_micros = TICK
        self.troubles = Troubles(id, disk, schedule)
        self.image = Image(Epoch(0), Epoch(0), Trail())
        self.power_losses = 0
        self.read_errors = 0
        """How often it stopped because it could not read."""
        self.stalls = 0
        """How often its disk hung while it led."""
        self.delivered: list[tuple[Zxid, bytes]] = []
        self.transfer: Transfer | None = None
        """The last try to fetch a snapshot, unless all of it came."""
        self.reading: Zxid | None = None
        """What the linearizable read that was asked here must see."""
        self.make: Callable[[SimDisk], Application] | None = None
        """Makes the application of a life over files that outlive it, if there is to be one."""
        self.application: Application | None = None
        self.applier: Applier | None = None
        self.memory_bytes, self.stream_bytes, self.piece_bytes = MEMORY_BYTES, STREAM_BYTES, PIECE_BYTES
        self.on_read: Callable[[], None] | None = None
        """Called when the linearizable read that was asked here may be answered."""
        self.replaced = ZERO
        """Through here a peer's snapshot took the place of a damaged log, before this life."""

    # -- lives --------------------------------------------------------------------------------------------------------------

    def start(self, timing: Timing, limits: Limits) -> None:
        """Recover, and begin another life."""
        self.application = self.make(self.disk.child(FILES)) if self.make is not None else None
        try:
            self.storage = mending.opened(self, FILE_BYTES)
        except PowerLost:
            self.schedule.say(f"{self.id} dies while it recovers")
            return self.die(self.troubles.power_fails)
        except (OSError, StorageFailed) as error:
            return self.schedule.say(f"{self.id} does not start: {error}")
        except Faulty as error:
            return self.schedule.say(f"{self.id} waits for who can mend its log: {error}")
        except StorageError as error:
            self.invariants.unrecoverable(self, error)
        self.invariants.recovered(self, self.storage)
        self.remember()
        storage = self.storage
        self.peer = Peer(
            self.id,
            storage.identity.configuration,
            storage.accepted,
            storage.current,
            storage.suspect,
            storage.trail,
            storage.watermark,
            timing,
            self.random.randrange,
            limits,
            storage.snapshot.mark if storage.snapshot else None,
        )
        self.history = History(storage, self.memory_bytes)
        self.gate = Gate()
        self.held: dict[int, Send] = {}
        """What this role has waiting in the gate, by identity."""
        self.end = storage.trail.last
        """Where the log ends with all that the core has emitted so far."""
        self.staged = b""
        """The snapshot that was fetched last."""
        self.just_cut = False
        """Did the last group commit hold a truncation?"""
        self.generation = 0
        self.events: deque[Event] = deque()
        self.stepping = False
        self.delivered = []
        self.reading = None
        self.on_read = None
        self.life += 1
        self.writer = Writer(self)
        self.applier = Applier(self, self.application) if self.application is not None else None
        try:
            raw = storage.read_snapshot() if (own := storage.snapshot) is not None else None
            if raw is not None and own is not None:
                self.delivered = list(state_of(raw))
                self.invariants.restored(self, own.mark)
            if self.applier is not None:
                self.applier.begin(raw)
        except PowerLost:
            return self.die(self.troubles.power_fails)
        except OSError as error:
            return self.schedule.say(f"{self.id} does not start: {error}")
        self.running = True
        self.paused = None
        try:
            self.deliver(storage.watermark)
        except PowerLost:
            return self.die(self.troubles.power_fails)
        except OSError as error:
            return self.stop(error)
        self.missed_ticks = 0
        self.schedule.say(
            f"{self.id} starts with acceptedEpoch {storage.accepted}, currentEpoch {storage.current}, last {storage.trail.last}"
            + (f", suspect through {storage.suspect}" if storage.suspect else "")
        )
        self.schedule.at(self.random.randint(0, TICK), self.tick, self.life)
        self.network.connect_all()
        return None

    def die(self, power_loss: bool) -> None:
        """The process is gone; its disk keeps what it must, and of the rest what chance leaves."""
        self.running = False
        self.paused = None
        self.troubles.died()
        self.network.isolate(self.id)
        if power_loss:
            self.disk.power_loss(self.random)
            self.power_losses += 1
        self.schedule.say(f"{self.id} {'loses its power' if power_loss else 'is killed'}")

    def remember(self) -> None:
        """The disk's image, as far as it is synced."""
        before = self.image
        self.image = Image(self.storage.accepted, self.storage.current, self.storage.trail)
        self.invariants.remembered(self, before)

    # -- events -------------------------------------------------------------------------------------------------------------

    def tick(self, life: int) -> None:
        if life == self.life and self.running:
            self.schedule.at(self.tick_micros, self.tick, life)
            if self.paused is None:
                self.step(TICKED)
            else:
                self.missed_ticks += 1

    def link_up(self, link: Link) -> None:
        self.meet(LinkUp(link))

    def link_down(self, link: Link) -> None:
        self.meet(LinkDown(link))

    def received(self, link: Link, messages: list[Message]) -> None:
        self.meet(Received(link, messages))

    def meet(self, event: Event) -> None:
        """Something reaches the process, now or when it goes on."""
        if not self.running:
            return
        if self.paused is not None:
            self.paused.append((self.life, event))
            return
        if isinstance(event, Received):
            for message in event.messages:
                self.schedule.count(self.id, type(message).__name__)
                if self.schedule.witness is not None:
                    self.schedule.witness(self.id, (event.link.peer, message))
                if self.schedule.tell is not None:
                    self.schedule.say(f"{event.link.peer} -> {self.id}  {words(message)}")
        self.step(event)

    def resume(self) -> None:
        """SIGCONT. The clock shows at once how long it was; what arrived meanwhile is read after that."""
        waiting, self.paused = self.paused or [], None
        for _ in range(min(self.missed_ticks, MISSED_TICKS_MAX)):
            self.step(TICKED)
        self.missed_ticks = 0
        for life, event in waiting:
            if life == self.life and self.running:
                self.meet(event)

    def step(self, event: Event) -> None:
        self.events.append(event)
        if self.stepping:
            return
        self.stepping = True
        try:
            while self.events and self.running:
                event = self.events.popleft()
                effects = self.peer.step(event)
                if event is TICKED and not effects and not isinstance(self.peer.state.role, Leading):
                    continue  # nothing has changed of which a law or a guarantee speaks: see tests/sim/test_ticks.py
                self.peer.state.check()
                if effects:
                    self.perform(effects)
                if self.writer.queue:
                    self.writer.begin()
                self.invariants.after_step(self)
        except PowerLost:
            self.die(self.troubles.power_fails)
        except OSError as error:
            self.stop(error)
        finally:
            self.stepping = False

    def stop(self, error: OSError) -> None:
        """The log cannot be read: the process ends with the error, as on any other that it cannot mend."""
        self.schedule.say(f"{self.id} stops: {error}")
        self.read_errors += 1
        self.die(power_loss=False)

    # -- effects ------------------------------------------------------------------------------------------------------------

    def perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    if self.gate.passes(effect):
                        self.send(effect)
                    else:
                        self.held[id(effect)] = effect
                case Deliver(upto):
                    self.deliver(upto)
                case Append(_, entries):
                    self.invariants.appended(self, entries)
                    self.writer.queue.append(effect)
                    self.history.append(entries)
                case Truncate(_, mark):
                    self.invariants.truncated(self, mark)
                    self.writer.queue.append(effect)
                    self.history.truncate(mark)
                case SaveEpochs():
                    self.writer.queue.append(effect)
                case FetchSnapshot(link, _, mark):
                    Transfer(self, link, mark).begin()
                case Install(token, mark):
                    self.writer.queue.append(effect)
                    self.history.install(mark)
                    self.delivered = list(state_of(self.staged))
                    if self.applier is not None:
                        self.applier.install(token, application_of(self.staged))
                    self.invariants.installed(self, mark)
                    self.invariants.watermark_moved(self, mark.zxid, news=False)
                    self.schedule.say(f"{self.id} takes the snapshot at {mark.zxid}")
                case ReadDigest(link, zxid):
                    self.schedule.at(self.random.randint(10, 5_000), self.read_digest, self.life, link, zxid)
                case Stream():
                    self.stream(effect)
                case DropLink(link, reason):
                    self.invariants.dropped(self, reason)
                    self.network.drop(self.id, link)
                case RoleChanged():
                    if effect.generation != self.generation:
                        self.generation = effect.generation
                        self.void_gate()
                        self.reading = self.on_read = None
                    self.invariants.role_changed(self, effect)
                    if self.schedule.witness is not None:
                        self.schedule.witness(self.id, effect)
                    self.schedule.say(f"{self.id} is {effect.role} in {effect.phase}, epoch {effect.epoch}: {effect.reason}")
                case ReadReady(upto):
                    assert self.reading is not None, "the law that what is ready was asked for"
                    owed, self.reading = self.reading, None
                    self.invariants.read_ready(self, owed, upto)
                    if (answer := self.on_read) is not None:
                        self.on_read = None
                        answer()
                case Halt(reason):
                    self.invariants.halted(self, reason)

    def open_gate(self, token: int) -> None:
        """Everything through `token` is durable: what waited for that is said."""
        for send in self.gate.open_to(token):
            if self.held.pop(id(send), None) is None:
                self.invariants.outlived(self, send)
            self.send(send)
        if not self.gate.waiting:
            self.held.clear()  # acks that a later one made superfluous

    def void_gate(self) -> None:
        """What the old role still had to say is nobody's to hear."""
        self.gate.void()
        self.held.clear()

    def send(self, send: Send) -> None:
        self.invariants.sending(self, send)
        self.network.send(self.id, send.link, send.message)

    def deliver(self, upto: Zxid) -> None:
        """To the application, if there is one; else it is only remembered."""
        after = self.delivered[-1][0] if self.delivered else ZERO
        known = len(self.invariants.committed)
        while after < upto:
            entries = self.history.read(after, upto, 10_000)
            assert entries is not None, "the law that what is committed is in our log"
            begin = len(self.delivered)
            epoch, counter = entries.first
            self.delivered += [(Zxid(epoch, counter + steps), bytes(payload)) for steps, payload in enumerate(entries.payloads)]
            self.invariants.delivered(self, begin)
            if self.applier is not None:
                self.applier.catch_up()
            if self.schedule.witness is not None:
                for delivery in self.delivered[begin:]:
                    self.schedule.witness(self.id, delivery)
            after = self.delivered[-1][0]
        self.invariants.watermark_moved(self, upto, len(self.delivered) > known)

    def on_disk(self, work: Callable[[], None], effects: Sequence[DurableEffect] = ()) -> bool:
        """Do something to the disk. Whatever fails there is the end of this life: True if nothing did."""
        try:
            work()
        except PowerLost:
            self.invariants.interrupted(self, effects)
            self.die(self.troubles.power_fails)
            return False
        except (StorageFailed, OSError) as error:
            self.schedule.say(f"{self.id} stops: {error}")
            self.invariants.interrupted(self, effects)
            self.die(power_loss=False)
            return False
        self.remember()
        self.invariants.wrote(self)
        return True

    # -- reading to learners ------------------------------------------------------------------------------------------------

    def read_digest(self, life: int, link: Link, zxid: Zxid) -> None:
        if life == self.life and self.running and zxid in self.peer.state.trail:
            try:
                digest = self.history.digest_at(zxid)
            except OSError as error:
                return self.stop(error)
            self.meet(DigestRead(link, zxid, digest))
        return None

    def stream(self, effect: Stream) -> None:
        if not self.history.in_memory(effect.after):
            self.schedule.at(self.random.randint(10, 5_000), self.stream_piece, self.life, self.generation, effect, effect.after)
            return
        after = effect.after
        while after < effect.upto:
            after = self.stream_once(effect, after)
        self.events.append(Streamed(effect.link, after))

    def stream_piece(self, life: int, generation: int, effect: Stream, after: Zxid) -> None:
        if life != self.life or generation != self.generation or not self.running:
            return None
        if self.paused is None:
            try:
                after = self.stream_once(effect, after)
            except Trimmed:  # the core has dropped that learner
                return None
            except OSError as error:
                return self.stop(error)
        if after < effect.upto and self.random.random() < 0.8:
            self.schedule.at(self.random.randint(10, 5_000), self.stream_piece, life, generation, effect, after)
        else:
            self.meet(Streamed(effect.link, after))
        return None

    def stream_once(self, effect: Stream, after: Zxid) -> Zxid:
        entries = self.history.read(after, effect.upto, self.stream_bytes)
        assert entries is not None, "the law that a stream reads our own log"
        self.network.send(self.id, effect.link, Propose(effect.epoch, entries, ZERO))
        return entries.last

    def congest(self) -> None:
        """One of our outboxes is full."""
        for _, link in sorted(self.peer.state.links.items()):
            if self.random.random() < 0.5:
                self.meet(Congested(link))

    def read(self) -> None:
        """A client asks for a linearizable read, if no other is under way."""
        if self.reading is None:
            self.reading = self.invariants.read_asked()
            self.step(ReadAsked())

    def propose(self, payloads: list[bytes]) -> None:
        self.schedule.count(self.id, "propose")
        if self.schedule.tell is not None:
            self.schedule.say(f"{self.id}       is handed {len(payloads)} to broadcast, after {self.peer.last}")
        self.step(Proposals(payloads))
