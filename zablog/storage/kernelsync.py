"""A sync that the kernel does while the caller goes on: Linux's native asynchronous I/O, which an eventfd tells the end of.

It is for event loops. A thread that waits for `fdatasync` must be woken, must have the interpreter's lock to begin and again to say that it
is done, and takes it from the loop whenever that lets go of it. Here one call begins the sync, and its end is an event like any other.

Source: io_setup(2), io_submit(2), io_getevents(2); the structures are those of <linux/aio_abi.h>. The C library has no functions for them.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from contextlib import suppress
from typing import Final, NamedTuple


class Calls(NamedTuple):
    """The numbers of the system calls."""

    setup: int
    destroy: int
    submit: int
    getevents: int


X86: Final = Calls(206, 207, 209, 208)
GENERIC: Final = Calls(0, 1, 2, 4)
CALLS: Final = {"x86_64": X86, "aarch64": GENERIC, "riscv64": GENERIC}
"""By machine; all of 64 bits, the least byte first."""
REQUEST: Final = struct.Struct("<QIIHhIQQqQII")
"""`struct iocb`: data, key, rw flags, operation, priority, descriptor, buffer, its length, offset, reserved, flags, the eventfd."""
FDSYNC: Final = 3
TELL: Final = 1
"""The flag that there is an eventfd."""
EVENT: Final = struct.Struct("<QQqq")
"""`struct io_event`: data, request, result, second result."""


class KernelSync:
    """One sync at a time. `descriptor` is readable when it is over, and now and then once more behind that."""

    def __init__(self, calls: Calls) -> None:
        """Raises OSError where the system does not let us."""
        self.calls = calls
        self.call = ctypes.CDLL(None, use_errno=True).syscall
        self.call.restype = ctypes.c_long
        self.under_way = False
        context = ctypes.c_ulong(0)
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self.checked(self.call(ctypes.c_long(calls.setup), ctypes.c_long(1), ctypes.byref(context)))
        except OSError:
            os.close(self.descriptor)
            raise
        self.context = context
        self.request = ctypes.create_string_buffer(REQUEST.size)
        self.requests = (ctypes.c_void_p * 1)(ctypes.addressof(self.request))
        self.event = ctypes.create_string_buffer(EVENT.size)
        self.submitting = (ctypes.c_long(calls.submit), context, ctypes.c_long(1), self.requests)
        self.looking, self.waiting = (
            (ctypes.c_long(calls.getevents), context, ctypes.c_long(least), ctypes.c_long(1), self.event, None) for least in (0, 1)
        )

    @classmethod
    def open(cls) -> "KernelSync | None":
        """None where the system has nothing of the kind, or keeps it from us."""
        calls = CALLS.get(platform.machine())
        if sys.platform != "linux" or calls is None or struct.calcsize("P") != 8 or sys.byteorder != "little":
            return None
        try:
            return cls(calls)
        except OSError:
            return None

    def begin(self, descriptor: int) -> None:
        """Sync what was written to that file until now. Raises OSError if it has not begun: this kernel or file system cannot do it."""
        REQUEST.pack_into(self.request, 0, 0, 0, 0, FDSYNC, 0, descriptor, 0, 0, 0, 0, TELL, self.descriptor)
        assert not self.under_way, "the law that one sync is begun at a time"
        self.checked(self.call(*self.submitting))
        self.under_way = True

    def finish(self, wait: bool) -> bool:
        """Has a sync ended, if need be after waiting for it? False if none is under way. Raises what `fdatasync` would have raised."""
        # First, and whether it says anything or not: the kernel has the event ready before it says so. Said later, it is said in vain.
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)
        if not self.under_way:
            return False
        while (count := self.call(*(self.waiting if wait else self.looking))) != 1:
            if count == 0 and not wait:
                return False
            if count < 0 and ctypes.get_errno() != errno.EINTR:
                self.checked(count)
        self.under_way = False
        result = EVENT.unpack(self.event)[2]
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return True

    def close(self) -> None:
        """Waits for a sync that is under way."""
        self.call(ctypes.c_long(self.calls.destroy), self.context)
        os.close(self.descriptor)

    def checked(self, result: int) -> None:
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
