"""A snapshot on its way from one node to another, on a connection of its own, so that no heartbeat stands behind it.

The follower asks for what it lacks, piece by piece, and the leader answers at a bounded pace. A part that we have in the same length
is not asked for, of one that we have in part the rest is: see `zablog.storage.snapshots`. So a transfer goes on where an earlier one
broke off.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import google_crc32c
import structlog
import trio

from zablog.core.trail import Mark, Payload
from zablog.core.zxid import PeerId, Zxid
from zablog.node.application import Restorable
from zablog.node.errors import the_one_of
from zablog.storage.errors import Corrupt, StorageError
from zablog.storage.manifest import Snapshot
from zablog.storage.snapshots import Part, Unlike, Want, gathered, put_piece, write_snapshot
from zablog.storage.storage import Storage, verified
from zablog.transport.ends import Ends
from zablog.wire.errors import MessageError
from zablog.wire.frames import Frame, FrameReader
from zablog.wire.transfer import PIECE_BYTES_MAX, Ask, Found, Get, Gone, Piece, Read, Run, Seek, Word, decode_word, encode_word

ASKED_AHEAD = 4
"""So many pieces are asked for before the first has come."""
ANSWER_SECONDS = 30.0
"""A leader that is silent for so long has forgotten us."""
IDLE_SECONDS = 30.0
"""A follower that asks for nothing for so long has forgotten us, and its log need not be kept."""
AT_ONCE_SECONDS = 5.0
HASTE_MAX = 64
PROGRESS_SECONDS = 0.3
"""Between two signs of life while our disk or our processor is at work: a leader gives up who makes no progress for 2 s."""
OWN_FILE = ""
"""The name of the snapshot's own file."""

log = structlog.get_logger("zablog.node")

Result = TypeVar("Result")


class TransferFailed(Exception):
    """It did not come through, and the words say why. It is tried again when the link comes back."""


class DiskFailed(Exception):
    """Our own disk, which is final."""


def guarded(work: Callable[..., Result], *words: object) -> Result:
    """Raises DiskFailed for what our disk does to us, so that it is not taken for a broken connection."""
    try:
        return work(*words)
    except (OSError, StorageError) as error:
        raise DiskFailed(str(error)) from error


async def on_disk(work: Callable[..., Result], *words: object) -> Result:
    """Blocking work in a thread. Raises DiskFailed."""
    return await trio.to_thread.run_sync(guarded, work, *words)


class Pace:
    """Bytes a second, for all transfers of a node together."""

    def __init__(self, bytes_per_second: float) -> None:
        self.bytes_per_second = bytes_per_second
        self.due = 0.0

    async def take(self, count: int, haste: int = 1) -> None:
        """Wait until `count` bytes may be sent, so many times faster than usual."""
        now, speed = trio.current_time(), self.bytes_per_second * haste
        self.due = max(self.due, now) + count / speed
        await trio.sleep_until(max(now, self.due - PIECE_BYTES_MAX / speed))


@dataclass
class Sender:
    """The node's snapshots, for others."""

    storage: Storage
    application: Restorable | None
    pace: Pace
    progress: Callable[[PeerId], None]
    """Called after each piece: whom it went to."""
    fresh: Callable[[Zxid], Awaitable[None]] | None = None
    """Waits until there is a snapshot at this place or above it, if that can be."""
    hastes: dict[PeerId, tuple[float, int]] = field(default_factory=dict)
    """When a peer's last transfer ended, and how fast it was. Who is back at once was too slow for what is produced: next time faster."""
    wanted: dict[Ends, Zxid] = field(default_factory=dict)
    """On which connections transfers are under way: the log above these places will be needed."""

    async def serve(self, peer: PeerId, ends: Ends, reader: FrameReader) -> None:
        """One connection, to its end. Raises WireError and what a broken connection raises."""
        snapshot: Snapshot | None = None
        raw = b""
        parts: dict[str, Part] = {}
        paced = False
        ended, haste = self.hastes.get(peer, (-math.inf, 1))
        haste = min(HASTE_MAX, 2 * haste) if trio.current_time() - ended < AT_ONCE_SECONDS else 1
        try:
            line = Line(ends, reader)
            while (word := await line.hear_soon()) is not None:
                match word:
                    case Ask() | Seek():
                        if isinstance(word, Seek) and self.fresh is not None:
                            await self.fresh(word.least)
                        snapshot = self.storage.snapshot if self.application else None
                        if snapshot is None or not fits(snapshot.mark, word):
                            snapshot = None
                            await line.say(Gone(f"there is no snapshot {wanted_by(word)} here (any longer)"))
                            continue
                        mark = snapshot.mark
                        self.wanted[ends] = mark.zxid
                        try:
                            raw, parts = await trio.to_thread.run_sync(self.read, snapshot)
                        except (StorageError, OSError) as error:
                            log.error("our snapshot cannot be sent", node=self.storage.identity.node, peer=peer, reason=str(error))
                            await line.say(Gone(f"our own snapshot at {mark.zxid} cannot be read: {error}"))
                            continue
                        log.info("a snapshot is fetched", node=self.storage.identity.node, peer=peer, zxid=str(mark.zxid), parts=len(parts))
                        await line.say(Found(mark, len(raw), google_crc32c.value(raw)))
                    case Get(name, offset, length):
                        if snapshot is None:
                            raise MessageError("a piece is asked for before the snapshot is")
                        self.progress(peer)
                        paced = True
                        await self.pace.take(length, haste)
                        await line.say(await self.piece(parts, raw, name, offset, length))
                        self.progress(peer)
                    case Read(after, upto):
                        await line.say(await trio.to_thread.run_sync(self.entries, after, upto))
                    case _:
                        raise MessageError(f"{type(word).__name__} is not for those who fetch to say")
        finally:
            self.wanted.pop(ends, None)
            if paced:
                self.hastes[peer] = (trio.current_time(), haste)

    def read(self, snapshot: Snapshot) -> tuple[bytes, dict[str, Part]]:
        """Blocking."""
        assert self.application is not None, "the law that there is no snapshot without one"
        raw = verified(self.storage.disk, snapshot)
        return raw, {part.name: part for part in self.application.parts(raw)}

    def entries(self, after: Mark, upto: Zxid) -> Word:
        """Blocking: what our own log holds above a place, if it is that place."""
        try:
            return Run(self.storage.read_above(after, upto, PIECE_BYTES_MAX))
        except (StorageError, OSError) as error:
            return Gone(f"our log cannot be read there: {error}")

    async def piece(self, parts: dict[str, Part], raw: bytes, name: str, offset: int, length: int) -> Word:
        """What was asked for, or why not: nothing is read that is not of the snapshot."""
        if name == OWN_FILE:
            data = raw[offset : offset + length]
        else:
            part = parts.get(name)
            if part is None or offset + length > part.length:
                return Gone(f"{name[:80]!r} from {offset} to {offset + length} is not part of the snapshot")
            assert self.application is not None, "the law that there are no parts without one"
            try:
                data = await trio.to_thread.run_sync(self.application.files.read, name, offset, length)
            except OSError as error:
                return Gone(f"{name} cannot be read: {error}")
        return Piece(data) if len(data) == length else Gone(f"{name or 'the snapshot'} ends before {offset + length}")


def fits(mark: Mark, word: Ask | Seek) -> bool:
    """Is this snapshot what was asked for?"""
    return mark == word.mark if isinstance(word, Ask) else mark.zxid >= word.least


def wanted_by(word: Ask | Seek) -> str:
    return f"at {word.mark.zxid}" if isinstance(word, Ask) else f"at {word.least} or above"


@dataclass
class Fetcher:
    """One fetch: `run` leaves the snapshot on our disk, verified and durable, named by no manifest yet."""

    storage: Storage
    application: Restorable
    wanted: Ask | Seek
    of_use: Callable[[Mark], bool] = lambda mark: True
    fetched_bytes: int = 0
    kept_bytes: int = 0

    async def run(self, ends: Ends, reader: FrameReader) -> tuple[Snapshot, bytes]:
        """The snapshot and its file's contents.

        Raises TransferFailed, WireError, TooSlowError and what a broken connection raises; DiskFailed for our own disk.
        """
        answers = Answers(ends, reader)
        found = await answers.ask(self.wanted)
        if not isinstance(found, Found) or not fits(found.mark, self.wanted):
            raise TransferFailed(f"{type(found).__name__} came, and a snapshot {wanted_by(self.wanted)} was asked for")
        if not self.of_use(found.mark):
            raise TransferFailed(f"its snapshot at {found.mark.zxid} is of no use to us")
        raw = await self.fetch_own_file(answers, found)
        try:
            parts = await at_work(answers, self.application.parts, raw)
        except Corrupt as error:
            raise TransferFailed(f"its snapshot cannot be used: {error}") from error
        try:
            for part in parts:
                await self.fetch_part(answers, part)
        except Unlike as error:
            raise TransferFailed(str(error)) from error
        await at_work(answers, guarded, self.application.files.sync_names)
        named = self.storage.snapshot
        snapshot = await at_work(answers, guarded, write_snapshot, self.storage.disk, found.mark, [raw], named)
        return snapshot, raw

    async def fetch_own_file(self, answers: "Answers", found: Found) -> bytes:
        pieces: list[Payload] = []

        async def put(offset: int, data: Payload) -> None:
            pieces.append(data)

        await answers.get(OWN_FILE, 0, found.length, put)
        raw = b"".join(pieces)
        self.fetched_bytes += len(raw)
        if google_crc32c.value(raw) != found.crc:
            raise TransferFailed("what came is not the snapshot that was offered: its checksum is another")
        return raw

    async def fetch_part(self, answers: "Answers", part: Part) -> None:
        """What we lack of it; then all of it is verified, then synced."""
        steps, kept = gathered(self.application.files, part), 0
        while (want := await at_work(answers, guarded, next, steps, None)) is not None:
            if want.file != part.name:
                log.warning("a part is fetched anew", node=self.storage.identity.node, part=part.name)
            kept = want.begin
            await self.fetch_rest(answers, part, want)
        self.kept_bytes += kept

    async def fetch_rest(self, answers: "Answers", part: Part, want: Want) -> None:
        disk = self.application.files

        async def put(offset: int, data: Payload) -> None:
            await on_disk(put_piece, disk, want.file, offset, data)

        await answers.get(part.name, want.begin, part.length, put)
        self.fetched_bytes += part.length - want.begin


class Line:
    """Either end of the connection."""

    def __init__(self, ends: Ends, reader: FrameReader) -> None:
        self.ends = ends
        self.reader = reader
        self.heard: deque[Frame] = deque()

    async def say(self, word: Word) -> None:
        await self.ends.send(encode_word(word))

    async def hear(self) -> Word | None:
        """The next word; None at the end. Raises WireError."""
        while not self.heard:
            count = await self.ends.receive_into(self.reader.space())
            if not count:
                return None
            self.reader.received(count)
            self.heard += self.reader.frames()
        return decode_word(self.heard.popleft())

    async def hear_soon(self) -> Word | None:
        """The next word; None at the end, and if it does not come for too long."""
        with trio.move_on_after(IDLE_SECONDS):
            return await self.hear()
        return None


async def at_work(answers: "Answers", work: Callable[..., Result], *words: object) -> Result:
    """Blocking work in a thread; meanwhile the leader is asked for a byte now and then. Raises what the work raises, and a transfer."""
    done = trio.Event()
    results: list[Result] = []

    async def run() -> None:
        results.append(await trio.to_thread.run_sync(work, *words))
        done.set()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            while not done.is_set():
                with trio.move_on_after(PROGRESS_SECONDS):
                    await done.wait()
                if not done.is_set():
                    await answers.show_progress()
    except BaseExceptionGroup as group:
        raise the_one_of(group) from None
    return results[0]


class Answers:
    """The follower's end: questions, and their answers in order."""

    def __init__(self, ends: Ends, reader: FrameReader) -> None:
        self.line = Line(ends, reader)

    async def ask(self, word: Word) -> Word:
        """Ask, and wait for the answer. Raises TransferFailed where it is `Gone`."""
        await self.line.say(word)
        return await self.next()

    async def show_progress(self) -> None:
        """Ask for the first byte of the snapshot's own file, which we have."""
        await self.get(OWN_FILE, 0, 1, _ignore)

    async def next(self) -> Word:
        with trio.fail_after(ANSWER_SECONDS):
            word = await self.line.hear()
        if word is None:
            raise TransferFailed("the connection was closed")
        if isinstance(word, Gone):
            raise TransferFailed(word.text)
        return word

    async def get(self, name: str, begin: int, end: int, put: Callable[[int, Payload], Awaitable[None]]) -> None:
        """All pieces from `begin` to `end`, handed to `put`; some are asked for ahead."""
        asked: deque[Get] = deque()
        while begin < end or asked:
            while begin < end and len(asked) < ASKED_AHEAD:
                asked.append(Get(name, begin, min(PIECE_BYTES_MAX, end - begin)))
                begin += asked[-1].length
                await self.line.say(asked[-1])
            word = await self.next()
            due = asked.popleft()
            if not isinstance(word, Piece) or len(word.data) != due.length:
                raise TransferFailed(f"{due.length:,} bytes of {name or 'the snapshot'} were asked for, and something else came")
            await put(due.offset, word.data)


async def _ignore(offset: int, data: Payload) -> None:
    pass
