"""A published bug, replayed: the scene holds against our core, and fails once the bug is patched into it."""

from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.driving import entries_after
from tests.zablog.storage.directories import FILE_BYTES, born
from zablog.core.effects import Append, DurableEffect, Effect, Send
from zablog.core.messages import Message
from zablog.core.trail import Mark, Trail
from zablog.core.zxid import ZERO
from zablog.sim.disk import PowerLost, SimDisk
from zablog.storage.storage import Storage

Scene = Callable[[], None]
Bug = Callable[[pytest.MonkeyPatch], None]


def known_bug(bug: Bug, says: str) -> Callable[[Scene], Scene]:
    """The scene must hold; with `bug` in the core it must fail, and `says` (a regular expression) is what it fails with."""

    def replayed(scene: Scene) -> Scene:
        def test() -> None:
            scene()
            with pytest.MonkeyPatch.context() as patch:
                bug(patch)
                with pytest.raises(AssertionError, match=says):
                    scene()

        test.__name__ = test.__qualname__ = scene.__name__
        test.__doc__, test.__module__ = scene.__doc__, scene.__module__
        return test

    return replayed


def at_once(effects: Sequence[Effect], kind: type[Message], durable: int) -> list[Message]:
    """What of this kind leaves while the disk has completed no more than `durable`."""
    return [
        effect.message for effect in effects if isinstance(effect, Send) and effect.after <= durable and isinstance(effect.message, kind)
    ]


def written(*runs: tuple[int, int]) -> tuple[SimDisk, Storage, list[Mark]]:
    """A directory whose log holds runs of (epoch, count), each entry a batch of its own; and every place of it."""
    disk = born()
    storage = Storage.open(disk, FILE_BYTES)
    trail, marks = Trail(), [Mark(ZERO, 0)]
    for epoch, count in runs:
        storage.save(storage.epochs._replace(accepted=epoch, current=epoch))
        for number in range(count):
            run = entries_after(trail, epoch, b"%d.%d" % (epoch, number + 1) * 20)
            trail.append(run)
            storage.perform([Append(1, run)], ZERO)
            marks.append(Mark(run.last, run.digest))
    return disk, storage, marks


def crash_at_each_operation(prepare: Callable[[], tuple[SimDisk, Storage]], effects: Sequence[DurableEffect]) -> Iterator[SimDisk]:
    """The directory after the process died before the first, second, … operation of these effects, and at last after all of them.

    Each operation that happened is durable at once: what is at issue is their order.
    """
    for operations in range(1000):
        disk, storage = prepare()
        disk.fail_after(operations, PowerLost())
        try:
            storage.perform(effects, ZERO)
        except PowerLost:
            yield disk
        else:
            disk.step = lambda operation: None
            yield disk
            return
