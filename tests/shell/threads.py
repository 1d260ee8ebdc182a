"""Threads in lock-step with the event loop: one of them runs at a time, and when is up to the seed.

The log writer's own code runs unchanged in a thread of its own. It has the processor only while `resume` waits for it, from the moment it
is woken until it waits at its queue again; so nothing hangs on the machine's scheduler.
"""

import threading
from collections import deque
from collections.abc import Callable
from queue import Empty
from random import Random
from typing import TypeVar

import trio

from zablog.sim.disk import PowerLost

TURN_SECONDS = 0.0005
"""Whoever waits for a turn looks again after so long."""

Result = TypeVar("Result")
Pause = Callable[[], float]


class LockStep:
    """What stands in for the modules `threading` and `queue`, and for trio's threads. `pause` is how long a disk takes, in seconds."""

    def __init__(self, nursery: trio.Nursery, random: Random, pause: Pause) -> None:
        self.nursery = nursery
        self.random = random
        self.pause = pause
        self.running: list[Thread] = []

    def Thread(self, *, target: Callable[[], None], name: str, daemon: bool) -> "Thread":
        return Thread(self, target, name)

    def Lock(self) -> "Turns":
        return Turns(self)

    def SimpleQueue(self) -> "WakeQueue":
        return WakeQueue(self)

    def stand_still(self, seconds: float) -> None:
        """In a thread: what it is at takes so long. Nothing, where there is no thread of its own."""
        if self.running:
            self.running[-1].wait(WakeQueue(self), seconds)

    async def run_sync(self, work: Callable[..., Result], *words: object, **_: object) -> Result:
        """`trio.to_thread.run_sync`: the work is done somewhere within a pause that cannot be cancelled."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            seconds = self.pause()
            before = seconds * self.random.random()
            await trio.sleep(before)
            try:
                return work(*words)
            finally:
                await trio.sleep(seconds - before)
                # A thread ends by the same queue by which it tells anything: what it told before comes first.
                done = trio.Event()
                trio.lowlevel.current_trio_token().run_sync_soon(done.set)
                await done.wait()


class Thread:
    """A thread that runs while the loop stands still."""

    def __init__(self, steps: LockStep, target: Callable[[], None], name: str) -> None:
        self.steps = steps
        self.target = target
        self.ours, self.theirs = threading.Semaphore(0), threading.Semaphore(0)
        self.waiting_at: WakeQueue | None = None
        self.timeout: float | None = None
        self.pumped_at: WakeQueue | None = None
        """Where `pump` waits for it."""
        self.alive = True
        self.thread = threading.Thread(target=self.main, name=name, daemon=True)

    def is_alive(self) -> bool:
        return self.alive

    def start(self) -> None:
        self.thread.start()
        self.resume()
        if self.alive:
            self.steps.nursery.start_soon(self.pump)

    def main(self) -> None:
        self.ours.acquire()
        try:
            self.target()
        except PowerLost:
            pass  # the machine it ran on is gone
        finally:
            self.alive = False
            self.theirs.release()

    def resume(self) -> None:
        """Let it run until it waits, or ends."""
        self.steps.running.append(self)
        self.ours.release()
        self.theirs.acquire()
        self.steps.running.pop()
        if not self.alive:
            self.thread.join()

    def wait(self, queue: "WakeQueue", timeout: float | None) -> None:
        """In the thread: stand still until the next `resume`."""
        self.waiting_at, self.timeout = queue, timeout
        self.theirs.release()
        self.ours.acquire()

    def join(self) -> None:
        while self.alive:
            self.resume()
            waits = self.waiting_at is not None and not self.waiting_at.items and self.timeout is None
            assert not self.alive or not waits, "a thread that is joined was told to end"
        if self.pumped_at is not None:
            self.pumped_at.changed.unpark_all()

    async def pump(self) -> None:
        """On the event loop: wake the thread when it may go on."""
        while self.alive:
            queue, patience = self.waiting_at, self.timeout
            self.pumped_at = queue
            assert queue is not None, "a thread that lives waits"
            with trio.move_on_after(float("inf") if patience is None else patience):
                while not queue.items and self.alive:
                    await queue.changed.park()
            await trio.sleep(self.steps.pause())
            if self.alive:
                self.resume()


class Turns:
    """`threading.Lock` between the loop, which never waits for it, and one such thread."""

    def __init__(self, steps: LockStep) -> None:
        self.steps = steps
        self.held = False

    def acquire(self, blocking: bool = True) -> bool:
        while self.held:
            if not blocking:
                return False
            assert self.steps.running, "the event loop waits for nobody's turn"
            self.steps.stand_still(TURN_SECONDS)
        self.held = True
        return True

    def release(self) -> None:
        assert self.held, "whoever releases it has it"
        self.held = False

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class WakeQueue:
    """`queue.SimpleQueue` between the loop and one such thread."""

    def __init__(self, steps: LockStep) -> None:
        self.steps = steps
        self.items: deque[None] = deque()
        self.changed = trio.lowlevel.ParkingLot()

    def put(self, item: None) -> None:
        self.items.append(item)
        if not self.steps.running:
            self.changed.unpark_all()

    def get(self, timeout: float | None = None) -> None:
        if not self.items:
            self.steps.running[-1].wait(self, timeout)
        if not self.items:
            assert timeout is not None, "a thread is woken by an item, or by its time"
            raise Empty
        self.items.popleft()
