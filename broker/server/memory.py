"""How a server process keeps its memory small: one pool for all of its threads, and back with what lies free in it.

The allocator of the GNU C library gives each thread that it finds busy a pool of its own, up to eight a processor, and keeps in each what
was once needed there. Commits, reads and flushes happen in threads, with buffers of megabytes, so after some gigabytes of log every pool
was large and nearly empty. One pool costs nothing here, since only one thread at a time runs Python; but between what stays in it for
long, holes remain that only an explicit word gives back. Nothing happens where the C library is another one.
"""

import ctypes
from contextlib import suppress
from typing import Final

import trio

TRIM_SECONDS: Final = 5.0
"""Between two looks for memory to give back. One takes 1 to 2 ms, and what is needed again thereafter about as long."""
_M_ARENA_MAX: Final = -8
"""Of glibc's <malloc.h>."""


def share_one_pool() -> None:
    """For the whole process, before it has threads."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


async def keep_small() -> None:
    """For ever: give back to the system what lies free between what is in use."""
    with suppress(OSError, AttributeError):
        trim = ctypes.CDLL(None).malloc_trim
        while True:
            await trio.sleep(TRIM_SECONDS)
            trim(0)
