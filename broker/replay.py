"""What the log says segments hold: its commands applied again, and the batches that came of them, byte for byte. Pure.

A segment behind the last checkpoint is made from the log at each start. So the log tells what must stand there, and where.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from broker.log.stored import Place, head_of
from broker.state import State, UnknownCommand
from broker.state.levels import UnknownLevel
from zablog.core.trail import Entries
from zablog.core.zxid import Zxid


class Derived(NamedTuple):
    """One stored batch."""

    topic: Zxid
    partition: int
    base_offset: int
    end_offset: int
    zxid: Zxid
    stored: bytes


def replay(state: State, runs: Iterable[Entries]) -> Iterator[Derived]:
    """Apply to `state` what is above it, and tell what is appended meanwhile. Raises UnknownLevel."""
    for entries in runs:
        for step, payload in enumerate(entries.payloads):
            zxid = entries.first.after(step)
            if zxid <= state.applied:
                continue
            try:
                outcome = state.apply(zxid, payload)
            except UnknownCommand as error:
                raise UnknownLevel(f"{error}, at {zxid}: look at the directory with the version that wrote it") from error
            for topic, partition, base_offset, position, records, batch in outcome.appends:
                place = Place(base_offset, zxid, position, state.time, len(batch))
                stored = head_of(place) + bytes(memoryview(batch)[16:])
                yield Derived(topic, partition, base_offset, base_offset + records, zxid, stored)
