"""A simulated node's log writer: one group commit after the other, each taking its time. The twin of `zablog.node.writer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zablog.core.effects import DurableEffect, Install, Truncate
from zablog.core.events import Durable, Stalled
from zablog.core.state import Leading
from zablog.sim.disk import PowerLost

if TYPE_CHECKING:
    from zablog.sim.node import Node

HANG = 500_000
"""A disk that is at one group commit for so long hangs."""
IDLE = 250_000
"""An idle writer seals its last batch after so long."""
LATER = 10_000
"""While the process is stopped, its writer looks so often whether it goes on."""


class Writer:
    """That of one life. `queue` is what the core wants durable and nobody has begun to write."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.life = node.life
        self.schedule, self.random = node.schedule, node.random
        self.queue: list[DurableEffect] = []
        self.writing = False
        self.hanging = 0
        """The number of the group commit under way if the disk hangs at it, else 0."""
        self.commits = 0
        self.idle_since = node.schedule.now
        self.idling = False

    @property
    def alive(self) -> bool:
        return self.node.running and self.node.life == self.life

    def begin(self) -> None:
        """Let the disk be at the next group commit, if there is one. If it hangs there, a leader is told to make room."""
        if self.writing or not self.queue:
            return
        self.writing = True
        self.commits += 1
        troubles = self.node.troubles
        micros, troubles.hang_micros = self.schedule.between(*troubles.sync_micros) + troubles.hang_micros, 0
        self.schedule.at(micros, self.write, self.commits)
        if micros > HANG:
            self.hanging = self.commits
            self.schedule.at(HANG, self.stall)

    def mend(self) -> None:
        """The disk hangs no longer."""
        if self.hanging and self.alive:
            self.commits += 1
            self.hanging = 0
            self.write(self.commits)

    def stall(self) -> None:
        if self.alive and self.hanging and self.node.paused is None:
            self.node.stalls += isinstance(self.node.peer.state.role, Leading)
            self.node.step(Stalled())

    def write(self, commit: int) -> None:
        """A group commit of all that has queued up, or of the first part of it."""
        node = self.node
        if not self.alive or commit != self.commits:
            return
        self.hanging = 0
        if node.paused is not None:
            self.schedule.at(LATER, self.write, commit)
            return
        count = len(self.queue) if self.random.random() < 0.7 else self.random.randint(1, len(self.queue))
        effects, self.queue = self.queue[:count], self.queue[count:]
        if node.on_disk(lambda: node.storage.perform(effects, node.peer.watermark), effects):
            node.just_cut = any(isinstance(effect, Truncate | Install) for effect in effects)
            self.schedule.at(self.schedule.between(1, 300), self.wrote, effects[-1].token)

    def wrote(self, token: int) -> None:
        """The node hears of it."""
        node = self.node
        if not self.alive:
            return
        if node.paused is not None:
            self.schedule.at(LATER, self.wrote, token)
            return
        self.writing = False
        node.open_gate(token)
        if node.applier is not None:
            node.applier.durable(token)
        node.step(Durable(token))
        node.history.durable(node.peer.state.durable.last)
        if node.running:
            self.begin()
        self.idle_since = self.schedule.now
        if node.running and not self.idling:
            self.idling = True
            self.schedule.at(IDLE, self.idle)
        if node.running and node.storage.wal.spare.bytes == 0:
            self.schedule.at(self.random.randint(100, 100_000), self.prepare)

    def idle(self) -> None:
        """A writer without work seals its last batch."""
        node = self.node
        if not self.alive:
            return
        wait = IDLE if self.writing or node.paused is not None else self.idle_since + IDLE - self.schedule.now
        if wait > 0:
            self.schedule.at(wait, self.idle)
            return
        self.idling = False
        node.on_disk(lambda: node.storage.seal_idle(node.peer.watermark))

    def prepare(self) -> None:
        """The next file of the log is made ready ahead of use. If that fails, whoever needs the file will meet the error."""
        node = self.node
        if self.alive and node.paused is None:
            try:
                node.storage.prepare()
            except PowerLost:
                node.die(node.troubles.power_fails)
            except OSError as error:
                self.schedule.say(f"{node.id} has no file prepared: {error}")
