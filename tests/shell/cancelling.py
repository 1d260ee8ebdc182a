"""Cancel a call at a checkpoint of one's choice: the k-th time that it gives the processor away."""

from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

import trio

Result = TypeVar("Result")


class CancelledAt:
    """Calls a function and cancels it at its `checkpoint`-th checkpoint, 1 for the first; 0: never. `count` is how many it met."""

    def __init__(self, checkpoint: int) -> None:
        self.checkpoint = checkpoint
        self.count = 0
        self.scope = trio.CancelScope()

    async def __call__(self, call: Callable[[], Coroutine[Any, Any, Result]]) -> Result | None:  # Any: what trio sends is trio's own
        """What the call returned, or None: `scope.cancelled_caught` tells whether it was cancelled."""
        with self.scope:
            return await self._counting(call())
        return None

    @coroutine
    def _counting(self, call: Coroutine[Any, Any, Result]) -> Generator[Any, Any, Result]:
        try:
            trap = call.send(None)
            while True:
                self.count += 1
                if self.count == self.checkpoint:
                    self.scope.cancel()  # delivered at the checkpoint that the call is about to enter
                try:
                    answer = yield trap
                except BaseException as error:
                    trap = call.throw(error)
                else:
                    trap = call.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # the generator protocol knows no better
