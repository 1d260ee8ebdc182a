"""Broken promises: acceptedEpoch, and what is said of it (zab-protocol, W1 to W3 and W13, sections 2 and 9)."""

from dataclasses import replace
from random import Random

import google_crc32c
import pytest

from tests.sim.mutants.mutant import decay, mutant, storm
from zablog.core import discovery
from zablog.core.effects import Effects
from zablog.core.messages import AckEpoch, Message, NewEpoch, Notification
from zablog.core.state import Leading, Learner, Phase, State
from zablog.core.zxid import Epoch
from zablog.sim.disk import SimDisk
from zablog.storage.copies import CRC, HEADER, Copies
from zablog.storage.storage import Storage


def ungated(patch: pytest.MonkeyPatch, kind: type[Message]) -> None:
    """Messages of this kind leave at once, whatever the disk is at."""
    original = Effects.vote

    def vote(self: Effects, link, message) -> None:
        if isinstance(message, kind):
            self.send(link, message)
        else:
            original(self, link, message)

    patch.setattr(Effects, "vote", vote)


@mutant("W1", "DurableBeforeAck")
def epoch_named_before_it_is_promised(patch: pytest.MonkeyPatch) -> None:
    """NEWEPOCH leaves before the leader's own promise is durable (ZOOKEEPER-1291)"""
    ungated(patch, NewEpoch)


@mutant("W2", "DurableBeforeAck")
def promise_said_before_it_is_saved(patch: pytest.MonkeyPatch) -> None:
    """ACKEPOCH leaves before the follower's promise is durable"""
    ungated(patch, AckEpoch)


@mutant("W2", "NoStaleAck", arena=storm)
def promise_below_a_promise(patch: pytest.MonkeyPatch) -> None:
    """a follower acknowledges an epoch below its promise, and a leader invites it to"""
    invited_anyway(patch)
    original = discovery.on_new_epoch

    def on_new_epoch(state: State, following, message: NewEpoch, out: Effects) -> None:
        if following.phase is Phase.DISCOVERY and message.epoch < state.accepted:
            following.epoch, following.phase = message.epoch, Phase.SYNC
            out.vote(following.link, AckEpoch(message.epoch, False, state.current, state.trail.last, state.trail.base.zxid, state.suspect))
            return None
        return original(state, following, message, out)

    patch.setattr(discovery, "on_new_epoch", on_new_epoch)


def invited_anyway(patch: pytest.MonkeyPatch) -> None:
    original = discovery.on_cepoch

    def on_cepoch(state, leading, peer, message, out) -> None:
        if leading.epoch is not None and message.accepted > leading.epoch and peer not in leading.learners:
            learner = leading.learners[peer] = Learner(state.links[peer], message)
            leading.cepochs[peer] = message
            return discovery.invite(state, leading, learner, out)
        return original(state, leading, peer, message, out)

    patch.setattr(discovery, "on_cepoch", on_cepoch)


@mutant("§2 NEWEPOCH", "Legal", arena=storm)
def higher_promise_is_invited_to_a_lower_epoch(patch: pytest.MonkeyPatch) -> None:
    """a leader names its epoch to one that has promised a higher one"""
    invited_anyway(patch)


@mutant("W13", "DurableBeforeAck")
def votes_from_memory(patch: pytest.MonkeyPatch) -> None:
    """an election notification describes what is not durable yet (ZOOKEEPER-2307, 5094)"""
    ungated(patch, Notification)


@mutant("§2 ACK-E", "OneCandidate")
def one_promise_counts_twice(patch: pytest.MonkeyPatch) -> None:
    """an epoch promised before is acknowledged and counted again (ZOOKEEPER-335)"""
    new_epoch, ack_epoch = discovery.on_new_epoch, discovery.on_ack_epoch

    def on_new_epoch(state: State, following, message: NewEpoch, out: Effects) -> None:
        if message.epoch == state.accepted and following.phase is Phase.DISCOVERY:
            following.epoch, following.phase = message.epoch, Phase.SYNC
            out.vote(following.link, AckEpoch(message.epoch, True, state.current, state.trail.last, state.trail.base.zxid, state.suspect))
            return None
        return new_epoch(state, following, message, out)

    def on_ack_epoch(state, leading, learner, message: AckEpoch, out: Effects) -> None:
        return ack_epoch(state, leading, learner, replace(message, counted=True), out)

    patch.setattr(discovery, "on_new_epoch", on_new_epoch)
    patch.setattr(discovery, "on_ack_epoch", on_ack_epoch)


@mutant("§2 ACK-E", "SingleLeader", arena=storm)
def epoch_named_without_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """a leader names an epoch above its own promise alone, and counts promises made to another"""
    ack_epoch, decides = discovery.on_ack_epoch, State.decides

    def on_ack_epoch(state, leading, learner, message: AckEpoch, out: Effects) -> None:
        return ack_epoch(state, leading, learner, replace(message, counted=True), out)

    def decide(self: State, peers, new_born: bool) -> bool:
        names_an_epoch = isinstance(self.role, Leading) and self.role.epoch is None
        return decides(self, peers, new_born) or (names_an_epoch and not new_born)

    patch.setattr(discovery, "on_ack_epoch", on_ack_epoch)
    patch.setattr(State, "decides", decide)


@mutant("§1 acceptedEpoch", "PromiseMono", slow=True)
def promise_guessed_from_the_log(patch: pytest.MonkeyPatch) -> None:
    """a restart takes acceptedEpoch from the last entry (ZOOKEEPER-335, 2355)"""
    original = Storage.open.__func__  # type: ignore[attr-defined]  # a classmethod's function

    def open(cls, *words) -> Storage:
        storage = original(cls, *words)
        last, epochs = storage.trail.last, storage.epochs
        storage.epochs = epochs._replace(accepted=Epoch(max(last.epoch, epochs.current)))
        return storage

    patch.setattr(Storage, "open", classmethod(open))


@mutant("§1 durable", "PromiseMono", arena=decay)
def promises_not_synced(patch: pytest.MonkeyPatch) -> None:
    """promises are written to both copies, and reported before they are on disk"""
    original = Copies.write

    def write(self: Copies, file: str, version: int, body: bytes) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(SimDisk, "sync", lambda self, name: None)
            original(self, file, version, body)

    patch.setattr(Copies, "write", write)


def newest_copy_rots(patch: pytest.MonkeyPatch) -> None:
    """A fault, not a mutant: with the power goes the newer of two whole copies of the promises; either of them, if they are equal."""
    original = SimDisk.power_loss

    def power_loss(self: SimDisk, random: Random) -> None:
        original(self, random)
        names = [name for name in ("epochs.a", "epochs.b") if name in self.files]
        copies = [bytes(self.files[name].now) for name in names]
        if len(copies) == 2 and all(map(whole, copies)):
            versions = [HEADER.unpack_from(copy)[2] for copy in copies]
            self.flip(names[versions.index(max(versions))], HEADER.size, 0)

    patch.setattr(SimDisk, "power_loss", power_loss)


def whole(copy: bytes) -> bool:
    body = copy[HEADER.size + CRC.size :]
    return len(copy) > HEADER.size + CRC.size and CRC.unpack_from(copy, HEADER.size)[0] == google_crc32c.value(copy[: HEADER.size] + body)


@mutant("§9 metadata", "PromiseMono", arena=storm)
def promises_in_alternating_slots(patch: pytest.MonkeyPatch) -> None:
    """each save goes to one of two slots in turn: losing the newest falls back to an older promise"""
    newest_copy_rots(patch)

    def save(self: Copies, body: bytes) -> None:
        self.version += 1
        for file in self.files if self.version == 1 else (self.files[self.version % 2],):
            self.write(file, self.version, body)

    patch.setattr(Copies, "save", save)


@mutant("§9 metadata", "RestartFidelity", arena=decay)
def damaged_copy_is_left_as_it_is(patch: pytest.MonkeyPatch) -> None:
    """a record is read from its one good copy, and the other is not rewritten: the next flipped bit loses both"""
    original = Copies.load

    def load(self: Copies) -> bytes:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Copies, "write", lambda self, file, version, body: None)
            return original(self)

    patch.setattr(Copies, "load", load)
