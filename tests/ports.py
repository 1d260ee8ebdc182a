"""Ports for tests: below those the kernel gives to outgoing connections, and each in the hands of one process at a time."""

import os
import socket
import sys
from collections.abc import Iterator

LOWEST, HIGHEST = 10_000, 29_999
BLOCK = 100
_held: list[socket.socket] = []
"""By which other test processes know that a block is ours. The system lets go of them with the process."""
_candidates: Iterator[int] = iter(())


def free_ports(count: int) -> list[int]:
    """`count` ports of 127.0.0.1 that nobody listens on, each given out once a process."""
    global _candidates
    ports: list[int] = []
    while len(ports) < count:
        port = next(_candidates, None)
        if port is None:
            _candidates = iter(_block())
        elif _is_free(port):
            ports.append(port)
    return ports


def _block() -> range:
    """So many ports that no other process of tests on this machine hands out, since two that are given one port meet each other's nodes."""
    begin = os.getpid() * 7 + len(_held)  # processes of one run have numbers that are close together
    for step in range((HIGHEST - LOWEST) // BLOCK):
        number = (begin + step) % ((HIGHEST - LOWEST) // BLOCK)
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            if sys.platform == "linux":
                holder.bind(f"\0zablog-tests-{number}")
        except OSError:
            holder.close()
            continue
        _held.append(holder)
        return range(LOWEST + number * BLOCK, LOWEST + (number + 1) * BLOCK)
    raise AssertionError("every port is taken by some other process of tests")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
