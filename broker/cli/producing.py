"""The work of `zablog produce`: a reader thread, a bounded load between, and one producer."""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import trio

from broker.cli import framing, where
from broker.cli.refusals import NoSuchFile, PartlyWritten, Usage
from broker.cli.terminal import Terminal
from broker.errors import BrokerError, Exit, OutcomeUnknown, RecordTooLarge
from broker.records import Record
from zablog.core.zxid import Zxid

STDIN: Final = Path("-")
READ_BYTES: Final = 1 << 20
LOAD_BYTES: Final = 4 << 20
"""The reader waits while so much is gathered and not yet taken."""
LOAD_RECORDS: Final = 50_000
DRAIN_SECONDS: Final = 5.0
"""How long Ctrl-C waits for answers."""
PROGRESS_SECONDS: Final = 1.0

Item: TypeAlias = bytes | Record


@dataclass(slots=True)
class Load:
    """What was read and not yet sent. Filled by the reader, emptied by the sender; both in trio's thread."""

    items: list[Item] = field(default_factory=list)
    bytes: int = 0
    ended: bool = False
    failure: BrokerError | None = None
    """What was wrong with the input behind the last item: raised once all before it is acknowledged."""
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def full(self) -> bool:
        return self.bytes >= LOAD_BYTES or len(self.items) >= LOAD_RECORDS

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def take(self) -> list[Item]:
        """All there is; empty at the end of the input."""
        while not self.items and not self.ended:
            await self.changed.wait()
        taken, self.items, self.bytes = self.items, [], 0
        self.wake()
        return taken


@dataclass(slots=True)
class Tally:
    """What became of the input so far. The object of `produce --json`."""

    acked: int = 0
    unknown: int = 0
    zxid_first: Zxid | None = None
    zxid_last: Zxid | None = None
    under_way: int = 0
    moved: float = 0.0
    """When the last answer came, or the last load left; trio's clock."""
    interrupted: bool = False

    def document(self) -> dict[str, object]:
        first, last = self.zxid_first, self.zxid_last
        return {
            "acked": self.acked,
            "unknown": self.unknown,
            "zxid_first": None if first is None else str(first),
            "zxid_last": None if last is None else str(last),
        }


def run(screen: Terminal, topic: str, files: Sequence[Path], form: str, key_separator: str | None) -> int:
    if key_separator is not None and (not key_separator or form == "jsonl"):
        raise Usage("--key-sep must not be empty, and --in jsonl has keys of its own", hint="--key-sep : or --key-sep '\\t'")
    if key_separator is not None:
        key_separator = key_separator.replace("\\t", "\t")
    framing.splitter(form)  # a bad framing is told before anything is opened
    source = Source(files, form, key_separator)
    tally = Tally()
    failure: BrokerError | None = None
    begun = time.monotonic()
    try:
        trio.run(_produce, screen, topic, source, tally)
    except BrokerError as error:
        failure = error
    finally:
        source.close()
    if screen.settings.json and (failure is None or tally.acked or tally.unknown):
        screen.line(json.dumps(tally.document()))
    if failure is not None:
        raise failure
    seconds = time.monotonic() - begun
    screen.note(
        f"{tally.acked:,} records acknowledged in {seconds:.1f} s" + (f", {tally.acked / seconds:,.0f} a second" if seconds > 0.2 else "")
    )
    if tally.unknown:
        raise PartlyWritten(
            f"interrupted: {tally.acked} records are acknowledged, {tally.unknown} were under way and may have been written",
            hint=f"zablog consume {topic} --from earliest  shows what is there",
        )
    return Exit.OK


class Source:
    """The input, file after file, cut into records. `read` blocks, so it is called in a thread."""

    def __init__(self, files: Sequence[Path], form: str, key_separator: str | None) -> None:
        self._splitter = framing.splitter(form)
        self._form = form
        self._separator = None if key_separator is None else key_separator.encode()
        self._seen = 0
        self._opened: list[int] = []
        # All are opened first: a misspelt name is told before anything is sent.
        self._descriptors = iter([self._open(file) for file in files or [STDIN]])
        self._current = next(self._descriptors, None)

    def _open(self, file: Path) -> int:
        if file == STDIN:
            return 0
        try:
            self._opened.append(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise NoSuchFile(f"{file}: {error.strerror}", hint="nothing was sent") from error
        return self._opened[-1]

    def read(self) -> tuple[list[Item], int] | None:
        """The records of the next chunk and its size; None at the end of all input. A file's last line ends with its file."""
        while self._current is not None:
            chunk = os.read(self._current, READ_BYTES)
            if chunk:
                return self._items(self._splitter.feed(chunk)), len(chunk)
            self._current = next(self._descriptors, None)
            last = self._splitter.finish()
            if last:
                return self._items(last), len(last[0])
        return None

    def close(self) -> None:
        for descriptor in self._opened:
            os.close(descriptor)
        self._opened = []

    def _items(self, records: list[bytes]) -> list[Item]:
        first = self._seen + 1
        self._seen += len(records)
        if self._form == "jsonl":
            return [framing.from_json(line, at) for at, line in enumerate(records, first) if line.strip()]
        if self._separator is not None:
            return [framing.split_key(record, self._separator, at) for at, record in enumerate(records, first)]
        return list(records)


async def _produce(screen: Terminal, topic: str, source: Source, tally: Tally) -> None:
    load = Load()
    try:
        # Around everything: leaving the producer's block would wait for what is under way.
        with trio.CancelScope() as everything:
            async with where.client(screen) as client, client.producer() as producer:
                await producer.prepare(topic)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_on_interrupt, load, tally, everything)
                    nursery.start_soon(_read, source, load)
                    nursery.start_soon(_watch, screen, tally, everything)
                    while items := await load.take():
                        tally.under_way, tally.moved = len(items), trio.current_time()
                        try:
                            receipts = await producer.send_many(topic, items)
                        except RecordTooLarge as error:
                            at = max(range(len(items)), key=lambda at: _size(items[at]))
                            error.message = f"record {tally.acked + at + 1} of the input: {error.message}"
                            raise
                        tally.zxid_first = tally.zxid_first or receipts[0].zxid
                        tally.zxid_last = receipts[-1].zxid
                        tally.acked += len(receipts)
                        tally.under_way, tally.moved = 0, trio.current_time()
                    nursery.cancel_scope.cancel()
                if load.failure is not None:
                    raise load.failure
    except* BrokerError as group:
        raise _blame(group, tally) from group
    tally.unknown = tally.under_way
    if tally.unknown and not tally.interrupted:
        raise OutcomeUnknown(
            f"no answer for {screen.settings.timeout:g} s: {tally.acked} records are acknowledged, {tally.unknown} may have been written",
            hint="zablog cluster status shows who is there; --timeout allows more",
        )


def _size(item: bytes | Record) -> int:
    return item.size if isinstance(item, Record) else len(item)


def _blame(group: BaseExceptionGroup[BrokerError], tally: Tally) -> BrokerError:
    """What the whole run failed with, when a part of it did."""
    cause: BaseException = group
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    assert isinstance(cause, BrokerError), "except* has sorted them"
    if cause.maybe_written:
        tally.unknown = tally.under_way
    if not tally.acked and not tally.unknown:
        return cause
    if tally.unknown:
        words = f"{tally.acked} records are acknowledged, {tally.unknown} more may have been written: {cause}"
        return OutcomeUnknown(words, hint=cause.hint, attempts=())
    return PartlyWritten(f"{tally.acked} records are acknowledged, the rest was not sent: {cause}", hint=cause.hint)


async def _read(source: Source, load: Load) -> None:
    """Fill the load from the source; a blocked read is left to its thread when everything ends."""
    while True:
        while load.full:
            await load.changed.wait()
        try:
            got = await trio.to_thread.run_sync(source.read, abandon_on_cancel=True)
        except BrokerError as error:
            load.failure, got = error, None
        if load.ended:
            return
        if got is None:
            load.ended = True
        else:
            load.items += got[0]
            load.bytes += got[1]
        load.wake()
        if got is None:
            return


async def _on_interrupt(load: Load, tally: Tally, everything: trio.CancelScope) -> None:
    """Ctrl-C once: read no more, and wait for what is under way. Twice: go at once."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if tally.interrupted:
                os._exit(Exit.INTERRUPTED)
            tally.interrupted = True
            load.ended = True
            load.items, load.bytes = [], 0
            load.wake()
            everything.deadline = trio.current_time() + DRAIN_SECONDS


async def _watch(screen: Terminal, tally: Tally, everything: trio.CancelScope) -> None:
    """Give up when nothing moves although something is under way; show how far it is, to a person."""
    shows = sys.stderr.isatty() and not screen.settings.quiet and not screen.settings.json
    while True:
        await trio.sleep(PROGRESS_SECONDS / 4)
        if tally.under_way and trio.current_time() - tally.moved > screen.settings.timeout:
            everything.cancel()
        if shows and tally.acked:
            sys.stderr.write(f"\r{tally.acked:,} records\r")
            sys.stderr.flush()
