"""Producers and readers of a live cluster, and the history of what they were told.

Producers are idempotent and live short lives: each is killed in the middle of its work and followed by another. Readers stay with the
leader or with one node's copy, whatever happens to it, and go on where they were. The prober sends one record at a time and reads it back
at each level that the cluster offers. Afterwards every replica is read as a whole, and the checkers of `tests/sim/topics.py` judge.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import trio
import xxhash

from broker.client import Client, Producer, connect
from broker.client.client import ReadLevel
from broker.client.pending import Pending
from broker.errors import BrokerError, NotAllowed, OffsetOutOfRange
from broker.sim.history import CHECKERS, History, Read, Sent, unanswered

TOPICS = {"orders": 3, "payments": 1}
SLOTS = [(topic, partition) for topic, partitions in TOPICS.items() for partition in range(partitions)]
"""Every partition; a history knows it by its place here."""
CLIENT_SECONDS = 40.0
"""How long a client tries: longer than any fault lasts."""
IN_FLIGHT = 200
SETTLE_SECONDS = 60.0
LEVELS: tuple[ReadLevel, ...] = ("session", "linearizable")


class Look(NamedTuple):
    """A record that its own client had been told is safe was looked for at once, and found or not."""

    level: str
    value: int
    found: int | None


@dataclass
class Seen(History):
    """A history of real clients: also what was looked for, and how long the way back to service took."""

    looks: list[Look] = field(default_factory=list)


def stale_read(history: History) -> Iterator[str]:
    """What was acknowledged before a read of level session or linearizable was called is not in its answer."""
    assert isinstance(history, Seen)
    for look in history.looks:
        if look.found != look.value:
            yield f"{look}: acknowledged before, and not read"


REAL_CHECKERS = (*(checker for checker in CHECKERS if checker is not unanswered), stale_read)
"""Whoever was killed has no answers, so `unanswered` is not asked; that the cluster serves in the end is seen otherwise."""


def judge(history: Seen) -> dict[str, list[str]]:
    """What each checker objects to, a few findings of each; empty if all is well."""
    found = {checker.__name__: list(itertools.islice(checker(history), 5)) for checker in REAL_CHECKERS}
    return {name: words for name, words in found.items() if words}


class Traffic:
    """All clients. `run` never returns; cancel it."""

    def __init__(self, addresses: str, seed: int, producers: int = 4, nodes: int = 3) -> None:
        self.addresses = addresses
        self.seed = seed
        self.history = Seen()
        self.producers = producers
        self.nodes = nodes
        self.killed = 0
        """Producers that were."""
        self.offered: dict[str, bool] = dict.fromkeys(LEVELS, True)
        self.positions: dict[int, dict[tuple[str, int], int]] = {reader: dict.fromkeys(SLOTS, 0) for reader in range(nodes + 1)}
        """Reader 0 reads from whoever leads, the others the copy of the node of their number."""
        self.reader_errors: dict[int, str] = {}
        self._producer_numbers = itertools.count(1)
        self._values = itertools.count(1)
        self._producing = trio.CancelScope()
        self._probes: tuple[trio.MemorySendChannel[float], trio.MemoryReceiveChannel[float]] = trio.open_memory_channel(0)

    # -- producers ----------------------------------------------------------------------------------------------------------

    async def produce(self) -> None:
        """Producers, until `stop_producing`."""
        with self._producing:
            async with trio.open_nursery() as nursery:
                for number in range(self.producers):
                    nursery.start_soon(self._lives, Random(f"{self.seed} producer {number}"))

    def stop_producing(self) -> None:
        self._producing.cancel()

    async def _lives(self, dice: Random) -> None:
        """One producer after the other."""
        while True:
            with trio.move_on_after(dice.uniform(2, 15)) as life:
                try:
                    await self._life(dice)
                except* BrokerError:
                    await trio.sleep(0.1)
            self.killed += life.cancelled_caught

    async def _life(self, dice: Random) -> None:
        who = next(self._producer_numbers)
        async with connect(self.addresses, timeout=CLIENT_SECONDS) as zl, zl.producer() as out, trio.open_nursery() as nursery:
            send, receive = trio.open_memory_channel[tuple[int, Pending]](IN_FLIGHT)
            nursery.start_soon(self._hear, receive)
            for sequence in itertools.count(1):
                slot = dice.randrange(len(SLOTS))
                at, pending = await self._submit(out, who, sequence, slot, dice.randrange(400))
                await send.send((at, pending))
                if dice.random() < 0.1:
                    await trio.sleep(dice.uniform(0.0, 0.3))

    async def _submit(self, out: Producer, who: int, sequence: int, slot: int, size: int) -> tuple[int, Pending]:
        """Written into the history before it is sent: whatever comes back has a place."""
        value = next(self._values)
        at = len(self.history.sent)
        self.history.sent.append(Sent(who, sequence, ((slot, (value,)),), time.monotonic_ns()))
        topic, partition = SLOTS[slot]
        return at, await out.submit(topic, b"%d " % value + bytes(size), partition=partition)

    async def _hear(self, receive: trio.MemoryReceiveChannel[tuple[int, Pending]]) -> None:
        async for at, pending in receive:
            await self._answer(at, pending)

    async def _answer(self, at: int, pending: Pending) -> None:
        """Raises what the record failed with: that producer's life is over, and another one's begins."""
        sent = self.history.sent[at]
        try:
            receipt = await pending.wait()
        except BrokerError as error:
            if not error.maybe_written:
                self.history.sent[at] = sent._replace(answered=time.monotonic_ns(), failed=True)
            raise
        self.history.sent[at] = sent._replace(answered=time.monotonic_ns(), offsets=(receipt.offset,))

    # -- the prober ---------------------------------------------------------------------------------------------------------

    async def probe(self, out: Producer, zl: Client, sequence: int) -> float:
        """Send one record, read it back; how many seconds its acknowledgement took."""
        began = time.monotonic()
        at, pending = await self._submit(out, 0, sequence, 0, 0)
        await self._answer(at, pending)
        seconds = time.monotonic() - began
        sent = self.history.sent[at]
        assert sent.offsets is not None, "it was answered"
        for level in LEVELS:
            if self.offered[level]:
                await self._look(zl, level, sent.values[0], sent.offsets[0])
        return seconds

    async def _look(self, zl: Client, level: ReadLevel, value: int, offset: int) -> None:
        try:
            found: int | None = value_of((await zl.read(*SLOTS[0], offset, level)).value)
        except NotAllowed:
            self.offered[level] = False
            return
        except OffsetOutOfRange:
            found = None
        self.history.looks.append(Look(level, value, found))

    # -- readers ------------------------------------------------------------------------------------------------------------

    async def read(self) -> None:
        async with trio.open_nursery() as nursery:
            for reader in self.positions:
                nursery.start_soon(self._read, reader, Random(f"{self.seed} reader {reader}"))

    async def _read(self, reader: int, dice: Random) -> None:
        """For ever, with a new connection now and then, and after each trouble."""
        positions = self.positions[reader]
        while True:
            with trio.move_on_after(dice.uniform(5, 30)):
                try:
                    async with (
                        connect(self.addresses, timeout=CLIENT_SECONDS) as zl,
                        zl.consumer(list(TOPICS), start=positions, node=reader or None) as inbox,
                    ):
                        async for records in inbox.batches():
                            place = records[0].topic, records[0].partition
                            values = tuple(value_of(record.value) for record in records)
                            self.history.reads.append(Read(reader, SLOTS.index(place), records[0].offset, values))
                            positions[place] = records[-1].offset + 1
                except BrokerError as error:  # a node that is behind what was read elsewhere, or dead for long
                    self.reader_errors[reader] = repr(error)
                    await trio.sleep(0.2)

    # -- the end ------------------------------------------------------------------------------------------------------------

    async def finish(self) -> list[str]:
        """Read every replica, until all have the same length and every reader has read all of it. What did not come about, in words."""
        missing: list[str] = []
        with trio.move_on_after(SETTLE_SECONDS) as patience:
            async with connect(self.addresses, timeout=CLIENT_SECONDS) as zl:
                while True:
                    copies = [await self._copy(zl, node) for node in range(1, self.nodes + 1)]
                    self.history.final = [logs for logs, _ in copies]
                    self.history.digests = [digest for _, digest in copies]
                    lengths = [[len(log) for log in logs] for logs, _ in copies]
                    if all(each == lengths[0] for each in lengths) and all(
                        [positions[place] for place in SLOTS] == lengths[0] for positions in self.positions.values()
                    ):
                        break
                    await trio.sleep(0.3)
        if patience.cancelled_caught:
            missing.append(f"after {SETTLE_SECONDS:g} s of peace replicas or readers are still behind; last trouble: {self.reader_errors}")
        return missing

    async def _copy(self, zl: Client, node: int) -> tuple[list[list[int]], int]:
        """A node's own copy by partition and offset, and the digest of all that its records say."""
        logs: list[list[int]] = [[] for _ in SLOTS]
        digests = [xxhash.xxh3_64() for _ in SLOTS]
        async with zl.consumer(list(TOPICS), start="earliest", stop="end", node=node) as inbox:
            async for record in inbox:
                slot = SLOTS.index((record.topic, record.partition))
                logs[slot].extend([-1] * (record.offset - len(logs[slot])))
                logs[slot].append(value_of(record.value))
                digests[slot].update(repr((record.offset, record.zxid, record.timestamp, record.key, record.value)).encode())
        return logs, sum(digest.intdigest() << 64 * slot for slot, digest in enumerate(digests))


def value_of(value: bytes | None) -> int:
    """The number in a record; -1 for what is none of ours."""
    number = (value or b"").partition(b" ")[0]
    return int(number) if number.isdigit() else -1
