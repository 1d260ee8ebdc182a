"""What the C library keeps of memory that nobody uses any more. Linux with glibc."""

import ctypes
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="another C library")

POOLS = """
import ctypes, threading
from broker.server.memory import share_one_pool

share_one_pool()
together = threading.Barrier(4)

def work():
    together.wait()
    blocks = [bytes(100_000) for _ in range(100)]
    together.wait()

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


COLLECTOR = """
import gc
from broker.server.memory import collect_rarely

collect_rarely()
modules = gc.get_freeze_count()
for number in range(100_000):
    one = []
    one.append(one)
print(modules, len(gc.get_objects()))
"""


def test_what_lives_as_long_as_the_server_is_set_aside_and_garbage_is_still_found() -> None:
    told = subprocess.run([sys.executable, "-c", COLLECTOR], capture_output=True, text=True, check=True, timeout=60).stdout

    set_aside, left = map(int, told.split())
    assert set_aside > 5_000
    assert left < 20_000


@glibc
def test_threads_share_one_pool_of_memory() -> None:
    told = subprocess.run([sys.executable, "-c", POOLS], capture_output=True, text=True, check=True, timeout=60).stdout

    assert told.count("<heap nr=") == 1
