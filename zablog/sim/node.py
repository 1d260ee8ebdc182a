"""A simulated node: the shipped core, gate, storage, history and codec; only the disk's platters and the wires are not real.

The twin of `zablog.node.driver`, in virtual time. It is long because driver, writer and applier stand here together: a node's life and
its death interleave with all of them.
"""

import errno
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
    Durable,
    Event,
    Link,
    LinkDown,
    LinkUp,
    Proposals,
    ReadAsked,
    Received,
    Stalled,
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
from zablog.sim.disk import PowerLost, SimDisk
from zablog.sim.image import Image
from zablog.sim.invariants import Invariants
from zablog.sim.network import Network
from zablog.sim.schedule import Schedule
from zablog.sim.snapshots import PIECE_BYTES, Transfer, application_of, state_of
from zablog.sim.trace import words
from zablog.storage.batch import FILE_BYTES as HEADER_BYTES
from zablog.storage.errors import Faulty, StorageError, StorageFailed, Trimmed
from zablog.storage.history import History

TICK = 10_000
MISSED_TICKS_MAX = 100
FILE_BYTES = 4096
MEMORY_BYTES = 400
STREAM_BYTES = 120
HANG = 500_000
"""A disk that is at one group commit for so long hangs."""
IDLE = 250_000
"""An idle writer seals its last batch after so long."""


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
        self.sync_micros = (50, 3_000)
        self.crash_at: int | None = None
        """The process dies at this many disk operations from now, be it while it recovers."""
        self.fail_at: int | None = None
        """The disk fails once, with the error `failure`, at this many operations from now."""
        self.failure = errno.EIO
        self.read_fail_at: int | None = None
        """A file cannot be read, once, at this many reads from now."""
        self.full = False
        """Nothing can be created or written."""
        self.hang_micros = 0
        """How long the next group commit hangs."""
        self.power_fails = False
        disk.step = self.disk_step
        disk.reading = self.disk_read
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
        self.make: Callable[[], Application] | None = None
        """Makes the application of a life, if it is to have one."""
        self.application: Application | None = None
        self.captures: dict[int, bytes] = {}
        """The application's state after so many deliveries less one, for checkpoints."""
        self.memory_bytes, self.stream_bytes, self.piece_bytes = MEMORY_BYTES, STREAM_BYTES, PIECE_BYTES
        self.on_read: Callable[[], None] | None = None
        """Called when the linearizable read that was asked here may be answered."""
        self.replaced = ZERO
        """Through here a peer's snapshot took the place of a damaged log, before this life."""

    # -- lives --------------------------------------------------------------------------------------------------------------

    def start(self, timing: Timing, limits: Limits) -> None:
        """Recover, and begin another life."""
        try:
            self.storage = mending.opened(self, FILE_BYTES)
        except PowerLost:
            self.schedule.say(f"{self.id} dies while it recovers")
            return self.die(self.power_fails)
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
        self.idle_since = self.schedule.now
        self.idling = False
        self.queue: list[DurableEffect] = []
        self.writing = False
        self.generation = 0
        self.events: deque[Event] = deque()
        self.stepping = False
        self.delivered = []
        self.reading = None
        self.application = self.make() if self.make is not None else None
        self.captures = {}
        self.on_read = None
        self.life += 1
        if storage.snapshot is not None:
            try:
                self.take(storage.read_snapshot())
            except OSError as error:
                return self.schedule.say(f"{self.id} does not start: {error}")
            self.invariants.restored(self, storage.snapshot.mark)
        self.running = True
        self.paused = None
        try:
            self.deliver(storage.watermark)
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
        self.crash_at = self.fail_at = None
        self.hang_micros = 0
        self.network.isolate(self.id)
        if power_loss:
            self.disk.power_loss(self.random)
            self.power_losses += 1
        self.schedule.say(f"{self.id} {'loses its power' if power_loss else 'is killed'}")

    def rot(self, random: Random) -> bool:
        """Lose power, and a bit of the last batch, if that one was synced, holds entries, and nothing names it yet."""
        wal = self.storage.wal
        file = wal.files[-1]
        if wal.sealed or self.storage.suspect is not None or len(self.disk.files[file.name].durable) < file.end:
            return False
        self.die(power_loss=True)
        self.disk.flip(file.name, random.randrange(wal.last_offset, file.end), random.randrange(8))
        self.schedule.say(f"{self.id} has a rotten last batch")
        return True

    def rot_sealed(self, random: Random) -> bool:
        """Lose power, and some bits of the log before its last batch, which is synced: what they were in was synced long ago."""
        wal = self.storage.wal
        file, last = random.choice(wal.files), wal.files[-1]
        end = file.end if file is not last else wal.last_offset
        if len(self.disk.files[last.name].durable) < last.end or end <= HEADER_BYTES:
            return False
        self.die(power_loss=True)
        for _ in range(random.choice((1, 1, 2, 5))):
            self.disk.flip(file.name, random.randrange(HEADER_BYTES, end), random.randrange(8))
        self.schedule.say(f"{self.id} has a rotten log")
        return True

    def rot_copy(self, random: Random) -> bool:
        """Lose power, and a bit of one of two copies that were both whole: the other must do."""
        if (rotten := self.one_copy(random)) is None:
            return False
        self.die(power_loss=True)
        self.disk.flip(rotten, random.randrange(self.disk.size(rotten)), random.randrange(8))
        self.schedule.say(f"{self.id} has a rotten {rotten}")
        return True

    def stale_copy(self, random: Random) -> bool:
        """Lose power, and what was written last to one of two copies that were both whole: the other must do."""
        if (stale := self.one_copy(random)) is None:
            return False
        self.die(power_loss=True)
        self.disk.age(stale)
        self.schedule.say(f"{self.id} has a stale {stale}")
        return True

    def one_copy(self, random: Random) -> str | None:
        """One of two copies, if both are durable: no save is under way, and each was whole when the last one ended."""
        name = random.choice(("epochs", "manifest"))
        copies = [self.disk.files[f"{name}.{letter}"] for letter in "ab"]
        whole = self.running and not any(copy.unsynced or copy.now != copy.durable for copy in copies)
        return f"{name}.{random.choice('ab')}" if whole else None

    def stale_file(self) -> bool:
        """Lose power, and what was synced last of the log."""
        file = self.storage.wal.files[-1].name
        self.die(power_loss=True)
        if file not in self.disk.files:
            return False
        self.disk.age(file)
        self.schedule.say(f"{self.id} has a stale {file}")
        return True

    def disk_step(self, operation: str) -> None:
        """Before each operation of the disk."""
        self.schedule.count(self.id, operation)
        if self.schedule.tell is not None:
            self.schedule.say(f"{self.id}       disk: {operation}")
        if self.crash_at is not None:
            self.crash_at -= 1
            if self.crash_at <= 0:
                raise PowerLost
        if self.fail_at is not None:
            self.fail_at -= 1
            if self.fail_at <= 0:
                self.fail_at = None
                raise OSError(self.failure, f"the {operation} failed")
        if self.full and operation in ("create", "write"):
            raise OSError(errno.ENOSPC, f"no space left for the {operation}")

    def disk_read(self, name: str) -> None:
        """Before each reading of a file."""
        if self.read_fail_at is not None:
            self.read_fail_at -= 1
            if self.read_fail_at <= 0:
                self.read_fail_at = None
                raise OSError(errno.EIO, f"{name} cannot be read")

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
                self.step(Tick())
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
            self.step(Tick())
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
                effects = self.peer.step(self.events.popleft())
                self.peer.state.check()
                self.perform(effects)
                self.invariants.after_step(self)
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
                case Append(_, entries):
                    self.invariants.appended(self, entries)
                    self.queue.append(effect)
                    self.history.append(entries)
                case Truncate(_, mark):
                    self.invariants.truncated(self, mark)
                    self.queue.append(effect)
                    self.history.truncate(mark)
                case SaveEpochs():
                    self.queue.append(effect)
                case FetchSnapshot(link, _, mark):
                    Transfer(self, link, mark).begin()
                case Install(_, mark):
                    self.queue.append(effect)
                    self.history.install(mark)
                    self.take(self.staged)
                    self.invariants.installed(self, mark)
                    self.invariants.watermark_moved(self, mark.zxid, news=False)
                    self.schedule.say(f"{self.id} takes the snapshot at {mark.zxid}")
                case Deliver(upto):
                    self.deliver(upto)
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
        if self.queue and not self.writing:
            self.begin_write()

    def begin_write(self) -> None:
        """The disk is at the next group commit. If it hangs there, a leader is told to make room."""
        self.writing = True
        micros, self.hang_micros = self.random.randint(*self.sync_micros) + self.hang_micros, 0
        self.schedule.at(micros, self.write, self.life)
        if micros > HANG:
            self.schedule.at(HANG, self.stall, self.life)

    def stall(self, life: int) -> None:
        if life == self.life and self.running and self.paused is None:
            self.stalls += isinstance(self.peer.state.role, Leading)
            self.step(Stalled())

    def void_gate(self) -> None:
        """What the old role still had to say is nobody's to hear."""
        self.gate.void()
        self.held.clear()

    def send(self, send: Send) -> None:
        self.invariants.sending(self, send)
        self.network.send(self.id, send.link, send.message)

    def take(self, raw: bytes) -> None:
        """A snapshot in the place of what was delivered."""
        self.delivered = state_of(raw)
        self.captures = {}
        if self.application is not None:
            self.application.restore(application_of(raw))

    def deliver(self, upto: Zxid) -> None:
        """To the application, if there is one; else it is only remembered."""
        after = self.delivered[-1][0] if self.delivered else ZERO
        known = len(self.invariants.committed)
        while after < upto:
            entries = self.history.read(after, upto, 10_000)
            assert entries is not None, "the law that what is committed is in our log"
            begin = len(self.delivered)
            self.delivered += [(entries.first.after(steps), bytes(payload)) for steps, payload in enumerate(entries.payloads)]
            self.invariants.delivered(self, begin)
            if self.application is not None:
                for zxid, payload in self.delivered[begin:]:
                    self.application.apply(zxid, payload)
                self.application.applied()
            if self.schedule.witness is not None:
                for delivery in self.delivered[begin:]:
                    self.schedule.witness(self.id, delivery)
            after = entries.last
        self.invariants.watermark_moved(self, upto, len(self.delivered) > known)

    def write(self, life: int) -> None:
        """The log writer: a group commit of all that has queued up, or of the first part of it."""
        if life != self.life or not self.running:
            return
        if self.paused is not None:
            self.schedule.at(TICK, self.write, life)
            return
        count = len(self.queue) if self.random.random() < 0.7 else self.random.randint(1, len(self.queue))
        effects, self.queue = self.queue[:count], self.queue[count:]
        if self.on_disk(lambda: self.storage.perform(effects, self.peer.watermark), effects):
            self.just_cut = any(isinstance(effect, Truncate | Install) for effect in effects)
            self.schedule.at(self.random.randint(1, 300), self.wrote, life, effects[-1].token)

    def on_disk(self, work: Callable[[], None], effects: Sequence[DurableEffect] = ()) -> bool:
        """Do something to the disk. Whatever fails there is the end of this life: True if nothing did."""
        try:
            work()
        except PowerLost:
            self.invariants.interrupted(self, effects)
            self.die(self.power_fails)
            return False
        except (StorageFailed, OSError) as error:
            self.schedule.say(f"{self.id} stops: {error}")
            self.invariants.interrupted(self, effects)
            self.die(power_loss=False)
            return False
        self.remember()
        self.invariants.wrote(self)
        return True

    def wrote(self, life: int, token: int) -> None:
        if life != self.life or not self.running:
            return
        if self.paused is not None:
            self.schedule.at(TICK, self.wrote, life, token)
            return
        self.writing = False
        for send in self.gate.open_to(token):
            if self.held.pop(id(send), None) is None:
                self.invariants.outlived(self, send)
            self.send(send)
        if not self.gate.waiting:
            self.held.clear()  # acks that a later one made superfluous
        self.step(Durable(token))
        self.history.durable(self.peer.state.durable.last)
        if self.running and self.queue and not self.writing:
            self.begin_write()
        self.idle_since = self.schedule.now
        if self.running and not self.idling:
            self.idling = True
            self.schedule.at(IDLE, self.idle, life)
        if self.running and self.storage.wal.spare_bytes == 0:
            self.schedule.at(self.random.randint(100, 100_000), self.prepare, life)

    def idle(self, life: int) -> None:
        """A writer without work seals its last batch."""
        if life != self.life or not self.running:
            return
        wait = IDLE if self.writing or self.paused is not None else self.idle_since + IDLE - self.schedule.now
        if wait > 0:
            self.schedule.at(wait, self.idle, life)
            return
        self.idling = False
        self.on_disk(lambda: self.storage.seal_idle(self.peer.watermark))

    def prepare(self, life: int) -> None:
        """The next file of the log is filled with zeros ahead of use. If that fails, whoever needs the file will meet the error."""
        if life == self.life and self.running and self.paused is None:
            try:
                self.storage.prepare()
            except PowerLost:
                self.die(self.power_fails)
            except OSError as error:
                self.schedule.say(f"{self.id} has no file prepared: {error}")

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
