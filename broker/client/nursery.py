"""A nursery whose block raises the body's own exception as itself, not wrapped in a group.

trio wraps whatever leaves a nursery into an ExceptionGroup, so `except NoQuorum` around `async with connect(...)` would never
match. Where a nursery is our affair and not the caller's, the caller's exception goes through untouched; a group is raised only
if one of our own tasks failed as well.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def quiet_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery for tasks that belong to the block: they are cancelled when it is left."""
    body: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as error:
                body = error
                raise
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        alone = group
        while isinstance(alone, BaseExceptionGroup) and len(alone.exceptions) == 1 and alone is not body:
            alone = alone.exceptions[0]
        if alone is body:
            raise body from body.__cause__
        raise
