"""Checkpoints, step by step: wherever the power fails, the one that the manifest names, old or new, can be gone on from."""

from itertools import count, islice
from random import Random

import pytest

from broker.checkpoint import Checkpoint
from broker.records import Record, encode_batch
from broker.sim.replica import Replica
from broker.state import Part, Retention, Turn, encode
from broker.state.commands import AllocateProducer, Bound, Command, CreateTopic, DeleteTopic, MoveBounds, Produce
from zablog.core.zxid import ZERO, Zxid
from zablog.sim.disk import SimDisk

KEPT, DELETED = Zxid(1, 2), Zxid(1, 3)
RECORDS = 60
FIRST = 40
"""What is below is let go of between the two checkpoints, and with it whole segments."""


def commands() -> list[Command]:
    """A topic that loses its first records, and one that is deleted; the second half of it behind the first checkpoint."""
    sequence = count(1)

    def turn() -> Turn:
        number = next(sequence)
        return Turn(Zxid(1, 1), 0, number, number)

    def produce(value: int) -> Command:
        batch = encode_batch([Record(b"%d" % value)])
        return Produce(turn(), 0, [Part(KEPT, 0, batch), *([Part(DELETED, 0, batch)] if value < RECORDS // 2 else [])])

    made = [CreateTopic(turn(), 0, name, 1, Retention()) for name in ("kept", "deleted")]
    early = [produce(value) for value in range(RECORDS // 2)]
    deletion = DeleteTopic(turn(), 0, DELETED)
    late = [produce(value) for value in range(RECORDS // 2, RECORDS)]
    return [AllocateProducer(0), *made, *early, deletion, *late, MoveBounds(0, (Bound(KEPT, 1, 0, FIRST),))]


class Scene:
    """A replica with one checkpoint, and everything applied since; a second checkpoint has begun."""

    def __init__(self) -> None:
        self.commands = [(Zxid(1, number), encode(command)) for number, command in enumerate(commands(), 1)]
        self.disk = SimDisk()
        replica = self.replica = Replica({"duplicates": 0}, self.disk)
        replica.restore(ZERO, None)
        half = RECORDS // 2 + 3
        self.apply(replica, self.commands[:half])
        first = replica.capture()
        self.named = self.commands[half - 1][0], self.finished(first)
        first.over()
        self.apply(replica, self.commands[half:])
        self.second = replica.capture()

    def apply(self, replica: Replica, some: list[tuple[Zxid, bytes]]) -> None:
        for zxid, payload in some:
            replica.apply(zxid, payload)
            replica.applied()

    def finished(self, checkpoint: Checkpoint) -> bytes:
        steps = checkpoint.encoded()
        while True:
            try:
                work = next(steps)
            except StopIteration as stop:
                return b"".join(stop.value)
            if work is not None:
                work()

    def restarted(self) -> Replica:
        """As a node starts: from what the manifest names, and then the log above it."""
        zxid, raw = self.named
        replica = Replica({"duplicates": 0}, self.disk)
        replica.restore(zxid, raw)
        assert replica.check(restored=True) is None
        self.apply(replica, [each for each in self.commands if each[0] > zxid])
        return replica


def whole(replica: Replica) -> bool:
    replica.settle()
    return replica.check() is None and replica.read_all(KEPT, 0) == [*range(FIRST, RECORDS)] and DELETED not in replica.state.topics


@pytest.mark.parametrize("seed", range(10))
def test_the_power_fails_before_any_step_of_a_checkpoint_and_the_one_before_it_stands(seed: int) -> None:
    for steps in count():
        scene = Scene()
        done = 0
        for work in islice(scene.second.encoded(), steps):
            done += 1
            if work is not None:
                work()

        scene.disk.power_loss(Random(seed))

        assert whole(scene.restarted()), f"seed {seed}, {steps} steps"
        if done < steps:
            return


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("over", [False, True])
def test_once_the_manifest_names_it_a_checkpoint_is_all_that_is_needed(seed: int, over: bool) -> None:
    scene = Scene()
    scene.named = scene.commands[-1][0], scene.finished(scene.second)
    if over:
        scene.second.over()

    scene.disk.power_loss(Random(seed))

    assert whole(scene.restarted())


def test_files_that_a_checkpoint_does_not_name_go_once_it_is_over() -> None:
    scene = Scene()
    before = scene.disk.names()

    scene.finished(scene.second)
    assert set(before) <= set(scene.disk.names()), "the manifest may still name the one before"
    scene.second.over()

    assert set(before) - set(scene.disk.names()) and not any(name.startswith(f"{DELETED}-") for name in scene.disk.names())
