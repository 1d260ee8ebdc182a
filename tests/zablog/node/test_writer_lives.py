"""Many short lives of the log writer with its real thread, which stands still for a moment wherever it may.

Whatever comes between, nothing is told before it is durable, or twice, or in another order than it was put; nobody else is at the storage
meanwhile; and all ends.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from random import Random
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import trio

import zablog.node.writer
from tests.zablog.node.test_writer import append, save
from zablog.core.effects import DurableEffect
from zablog.core.zxid import ZERO, Zxid
from zablog.node.writer import BESIDE_BYTES, Writer
from zablog.storage.kernelsync import KernelSync

pytestmark = [pytest.mark.slow, pytest.mark.skipif(KernelSync.open() is None, reason="this system has no asynchronous syncs")]

LIVES = 30
"""Of one seed."""


class Checked:
    """Stands in for the storage, and looks at everything that is done to it."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.overlapping = SimpleNamespace(sync_end=os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self.wal = SimpleNamespace(room=1 << 22, spare=SimpleNamespace(bytes=1))
        self.identity = SimpleNamespace(node=1)
        self.inside = threading.Lock()
        self.under_way = False
        self.batches = self.written = self.durable = self.told = self.jobs = 0
        self.wrong: list[str] = []

    def enter(self, who: str) -> None:
        if not self.inside.acquire(blocking=False):
            self.wrong.append(f"{who} comes while another is at the storage")

    def leave(self) -> None:
        try:
            self.inside.release()
        except RuntimeError:
            self.wrong.append("somebody has left twice")

    def write(self, effects: Sequence[DurableEffect]) -> None:
        for effect in effects:
            if effect.token != self.written + 1:
                self.wrong.append(f"{effect.token} is written after {self.written}")
            self.written = effect.token

    def perform(self, effects: Sequence[DurableEffect], watermark: Zxid) -> None:
        self.enter("a commit")
        self.write(effects)
        self.batches, self.durable = self.batches + 1, self.written
        self.leave()

    def begin(self, effects: Sequence[DurableEffect], watermark: Zxid) -> bool:
        self.enter("a batch beside")
        self.write(effects)
        self.under_way = True
        threading.Thread(target=self.be_kernel, args=(self.dice.random() * 3e-4,), daemon=True).start()
        return True

    def be_kernel(self, seconds: float) -> None:
        time.sleep(seconds)
        os.eventfd_write(self.overlapping.sync_end, 1)

    def finish(self, wait: bool = True) -> bool:
        while True:
            try:
                os.eventfd_read(self.overlapping.sync_end)
            except BlockingIOError:
                if not wait or not self.under_way:
                    return False
                time.sleep(1e-5)
            else:
                break
        if not self.under_way:
            return False
        self.under_way = False
        self.batches, self.durable = self.batches + 1, self.written
        self.leave()
        return True

    def seal_idle(self, watermark: Zxid = ZERO) -> None:
        self.enter("a seal")
        self.leave()

    def done(self, token: int) -> None:
        if not self.told < token <= self.durable:
            self.wrong.append(f"{token} is told after {self.told}, and durable is {self.durable}")
        self.told = token

    def job(self) -> None:
        self.enter("a job")
        self.jobs += 1
        self.leave()

    def failed(self, error: BaseException) -> None:
        self.wrong.append(repr(error))


async def life(dice: Random) -> list[str]:
    storage, token, asked = Checked(dice), 0, 0
    writer = Writer(storage, storage.done, storage.failed)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.watch)
        for _ in range(150):
            kind = dice.random()
            if kind < 0.12:
                asked += 1
                writer.ask(storage.job)
            else:
                token += 1
                effect = save(token) if kind < 0.25 else append(token, BESIDE_BYTES + 1 if kind < 0.3 else 10)
                writer.put([effect], at_once=dice.random() < 0.4)
            pause = dice.random()
            if pause < 0.2:
                await trio.sleep(dice.random() * 1e-3)
            elif pause < 0.7:
                await trio.lowlevel.checkpoint()
        if dice.random() < 0.7:
            with trio.move_on_after(20) as patience:
                while storage.told < token or storage.jobs < asked:
                    await trio.sleep(0.001)
            if patience.cancelled_caught:
                storage.wrong.append(f"told are {storage.told} of {token}, done {storage.jobs} of {asked} jobs")
        await writer.drain()
        await trio.lowlevel.checkpoint()
        if (storage.written, storage.jobs) != (token, asked):
            storage.wrong.append(f"at the end {storage.written} of {token} were written, and {storage.jobs} of {asked} jobs done")
        nursery.cancel_scope.cancel()
    os.close(storage.overlapping.sync_end)
    return storage.wrong


@pytest.fixture
def unsteady(request: pytest.FixtureRequest) -> Iterator[Random]:
    """Whoever runs the writer's code stands still at some of its lines, and threads take turns all the time."""
    dice, file = Random(request.param), zablog.node.writer.__file__

    def at_line(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and dice.random() < 0.06:
            time.sleep(dice.random() * 4e-4)
        return at_line

    def at_call(frame: FrameType, event: str, argument: Any) -> Any:
        return at_line if frame.f_code.co_filename == file else None

    interval, tracing = sys.getswitchinterval(), sys.gettrace()
    sys.setswitchinterval(1e-6)
    threading.settrace(at_call)
    sys.settrace(at_call)
    yield dice
    sys.settrace(tracing)
    threading.settrace(None)  # type: ignore[arg-type]  # that is how it is taken back
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("unsteady", range(4), indirect=True)
def test_whatever_comes_between_the_writer_keeps_its_word(unsteady: Random, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zablog.node.writer.IDLE_SECONDS", 0.0002)
    for number in range(LIVES):
        assert trio.run(life, unsteady) == [], f"in life {number}"
