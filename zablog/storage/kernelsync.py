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
    """One sync at a time. `descriptor` is readable when it is over; then `finish` does not wait."""

    def __init__(self, calls: Calls) -> None:
        """Raises OSError where the system does not let us."""
        self.calls = calls
        self.call = ctypes.CDLL(None, use_errno=True).syscall
        self.call.restype = ctypes.c_long
        context = ctypes.c_ulong(0)
        self.checked(self.call(ctypes.c_long(calls.setup), ctypes.c_long(1), ctypes.byref(context)))
        self.context = context
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.request = ctypes.create_string_buffer(REQUEST.size)
        self.requests = (ctypes.c_void_p * 1)(ctypes.addressof(self.request))
        self.event = ctypes.create_string_buffer(EVENT.size)
        self.submitting = (ctypes.c_long(calls.submit), context, ctypes.c_long(1), self.requests)
        self.getting = (ctypes.c_long(calls.getevents), context, ctypes.c_long(1), ctypes.c_long(1), self.event, None)

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
        self.checked(self.call(*self.submitting))

    def finish(self) -> None:
        """Wait for the sync that was begun. Raises the OSError that `fdatasync` would have raised."""
        while (count := self.call(*self.getting)) != 1:
            if count < 0 and ctypes.get_errno() != errno.EINTR:
                self.checked(count)
        os.eventfd_read(self.descriptor)
        result = EVENT.unpack(self.event)[2]
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def close(self) -> None:
        """Waits for a sync that is under way."""
        self.call(ctypes.c_long(self.calls.destroy), self.context)
        os.close(self.descriptor)

    def checked(self, result: int) -> None:
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
