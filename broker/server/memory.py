"""How a server process uses memory: one pool for all of its threads, which gives back what lies free now and then, and not at once.

The allocator of the GNU C library gives each thread that it finds busy a pool of its own, up to eight a processor, and keeps in each what
was once needed there. Commits, reads and flushes happen in threads, with buffers of megabytes, so after some gigabytes of log every pool
was large and nearly empty. One pool costs nothing here, since only one thread at a time runs Python.

By itself the pool would give back whatever lies free at its end, and take it anew for the next large proposal, page by page; and would
never give back what lies free before its end. So it is told to keep all, and every few seconds to let go. Nothing happens where the C
library is another one.

Python looks for garbage that refers to itself each time it has made 700 objects more than it has dropped, and now and then among all there
are: some 60,000 of modules, for a server, which live as long as it does. So those are set aside, and it looks more rarely.
"""

import ctypes
import gc
from contextlib import suppress
from typing import Final

import trio

TRIM_SECONDS: Final = 5.0
"""Between two looks for memory to give back. One takes 1 to 2 ms, and what is needed again thereafter about as long."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""Of glibc's <malloc.h>."""
_KEPT_BYTES: Final = 256 << 20
"""More than ever lies free at the end of the pool between two looks."""
_COLLECT: Final = (10_000, 20, 50)
"""See `gc.set_threshold`."""
_POOLED_BYTES: Final = 32 << 20
"""The largest piece of memory that glibc takes from the pool: larger ones it asks the system for, one by one."""


def share_one_pool() -> None:
    """For the whole process, before it has threads."""
    with suppress(OSError, AttributeError):
        tell = ctypes.CDLL(None).mallopt
        tell(_M_ARENA_MAX, 1)
        tell(_M_MMAP_THRESHOLD, _POOLED_BYTES)
        tell(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def collect_rarely() -> None:
    """For the whole process, once it serves: what there is now stays, and little of what comes refers to itself."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)


async def keep_small() -> None:
    """For ever: give back to the system what lies free between what is in use."""
    with suppress(OSError, AttributeError):
        trim = ctypes.CDLL(None).malloc_trim
        while True:
            await trio.sleep(TRIM_SECONDS)
            trim(0)
