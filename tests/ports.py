"""Ports for tests: below those the kernel gives to outgoing connections, and not those another test process tries first."""

import os
import socket
from collections.abc import Iterator
from itertools import cycle

LOWEST, HIGHEST = 10_000, 29_999
_candidates: Iterator[int] | None = None


def free_ports(count: int) -> list[int]:
    """`count` ports of 127.0.0.1 that nobody listens on, each given out once a process."""
    global _candidates
    if _candidates is None:
        begin = os.getpid() * 97 % (HIGHEST - LOWEST)  # processes of one run have numbers that are close together
        _candidates = cycle([*range(LOWEST + begin, HIGHEST), *range(LOWEST, LOWEST + begin)])
    ports: list[int] = []
    while len(ports) < count:
        port = next(_candidates)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
    return ports
