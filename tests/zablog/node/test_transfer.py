"""Snapshots on their way: only what is missing travels, what comes is verified, and no peer gets or does what it should not."""

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random

import google_crc32c
import pytest
import trio
import trio.testing

from tests.zablog.storage.directories import born, most_unsynced
from tests.zablog.storage.test_snapshots import snapshot_at, written
from zablog.core.trail import Mark, Payload
from zablog.core.zxid import ZERO, PeerId, Zxid
from zablog.node.application import Capture
from zablog.node.status import Status
from zablog.node.transfer import DiskFailed, Fetcher, Line, Pace, Sender, TransferFailed
from zablog.sim.disk import SimDisk
from zablog.storage.errors import Corrupt
from zablog.storage.snapshots import Part
from zablog.storage.storage import Storage
from zablog.transport.ends import ends_of
from zablog.wire.errors import WireError
from zablog.wire.frames import FrameReader
from zablog.wire.transfer import PIECE_BYTES_MAX, Ask, Found, Get, Gone, Piece, Seek, Word


class Files:
    """An application whose snapshot is a list of its files."""

    def __init__(self, **files: bytes) -> None:
        self.files = SimDisk()
        for name, data in files.items():
            self.put(name, data)

    def put(self, name: str, data: bytes) -> None:
        if self.files.exists(name):
            self.files.unlink(name)
        self.files.create(name)
        self.files.write(name, 0, [data])

    def describe(self) -> bytes:
        return b"\n".join(
            b"%s %d %d" % (name.encode(), len(data), google_crc32c.value(data)) for name in self.files.names() if (data := self.read(name))
        )

    def read(self, name: str) -> bytes:
        return self.files.read(name, 0, 1 << 30)

    def parts(self, raw: bytes) -> Sequence[Part]:
        try:
            rows = [line.decode().split() for line in raw.splitlines()]
            return [Part(name, int(length), int(crc)) for name, length, crc in rows]
        except ValueError as error:
            raise Corrupt(f"no list of files: {error}") from error

    def capture(self) -> Capture:
        raise NotImplementedError

    async def restore(self, zxid: Zxid, raw: bytes | None) -> None:
        raise NotImplementedError

    def apply(self, zxid: Zxid, payload: Payload) -> None: ...

    def applied(self, upto: Zxid) -> None: ...

    def role_changed(self, status: Status) -> None: ...


def leader_of(application: Files) -> tuple[Sender, Mark]:
    """Somebody with a snapshot of these files."""
    disk, storage, marks = written(10)
    storage.checkpoint(snapshot_at(disk, marks[5], application.describe()))
    return Sender(storage, application, Pace(1e12), lambda peer: None), marks[5]


def follower(application: Files, mark: Mark) -> Fetcher:
    return Fetcher(Storage.open(born(), 4096), application, Ask(mark))


@asynccontextmanager
async def connected(serve: Callable[[Line], object] | Sender) -> AsyncIterator[Line]:
    """The follower's end of a connection whose other end is served so."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        if isinstance(serve, Sender):
            nursery.start_soon(served, serve, theirs)
        else:
            nursery.start_soon(serve, Line(ends_of(theirs), admitted()))  # type: ignore[arg-type]
        yield Line(ends_of(ours), admitted())
        await ours.aclose()
        nursery.cancel_scope.cancel()


async def served(sender: Sender, stream: trio.abc.Stream) -> None:
    """As the network does it: a broken connection is no news."""
    try:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await sender.serve(PeerId(2), ends_of(stream), admitted())
    finally:
        with trio.CancelScope(shield=True):  # or the cancelled close would hide what was raised
            await trio.aclose_forcefully(stream)


def admitted() -> FrameReader:
    reader = FrameReader()
    reader.admit()
    return reader


BIG = Random(1).randbytes(3 * PIECE_BYTES_MAX + 17)


@pytest.mark.parametrize(
    ("have", "fetched"),
    [
        ({}, len(BIG) + 5),
        ({"big": BIG, "small": b"small"}, 0),
        ({"big": BIG[:1_000_000], "small": b"small"}, len(BIG) - 1_000_000),
        ({"big": BIG + b"more, of a later place", "other": b"kept alone"}, 5),
        ({"big": b"rotten" + BIG[6:], "small": b""}, len(BIG) + 5),
        ({"big": BIG[:100] + b"rotten"}, len(BIG) - 106 + len(BIG) + 5),
    ],
)
async def test_only_what_is_missing_or_rotten_travels(have: dict[str, bytes], fetched: int) -> None:
    sender, mark = leader_of(theirs := Files(big=BIG, small=b"small"))
    fetcher = follower(ours := Files(**have), mark)

    async with connected(sender) as line:
        snapshot, raw = await fetcher.run(line.ends, line.reader)

    assert ours.read("big")[: len(BIG)] == BIG and ours.read("small") == b"small"
    assert raw == theirs.describe() and snapshot.mark == mark
    assert fetcher.fetched_bytes == fetched + len(raw)
    fetcher.storage.disk.power_loss(Random(3))
    ours.files.power_loss(Random(3))
    assert fetcher.storage.disk.read(snapshot.name, 0, 1 << 20) == raw, "what is staged is durable"
    assert ours.read("big")[: len(BIG)] == BIG and ours.read("small") == b"small"


async def test_what_comes_is_synced_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    sender, mark = leader_of(Files(big=BIG))
    fetcher = follower(ours := Files(), mark)
    most = most_unsynced(ours.files, monkeypatch)

    async with connected(sender) as line:
        await fetcher.run(line.ends, line.reader)

    assert ours.read("big") == BIG
    assert most["big"] == PIECE_BYTES_MAX


async def test_a_follower_that_is_long_at_work_shows_that_it_lives() -> None:
    """A leader gives up a learner that takes no piece for 2 s; to read a great snapshot takes longer."""
    sender, mark = leader_of(Files(a=b"12345"))
    alive, pieces = threading.Event(), 0

    class Slow(Files):
        def parts(self, raw: bytes) -> Sequence[Part]:
            assert alive.wait(30), "the leader heard nothing"
            return super().parts(raw)

    def progress(peer: PeerId) -> None:
        nonlocal pieces
        pieces += 1
        if pieces > 2:  # the snapshot's own file is the first
            alive.set()

    sender.progress = progress
    fetcher = follower(ours := Slow(), mark)
    async with connected(sender) as line:
        await fetcher.run(line.ends, line.reader)

    assert ours.read("a") == b"12345"


async def test_a_transfer_goes_on_where_an_earlier_one_broke_off() -> None:
    sender, mark = leader_of(Files(big=BIG))
    fetcher = follower(ours := Files(), mark)
    pieces = 0

    def progress(peer: PeerId) -> None:
        nonlocal pieces
        pieces += 1
        if pieces == 7:
            raise trio.BrokenResourceError("the line is cut")

    sender.progress = progress
    with pytest.raises(ExceptionGroup):
        async with connected(sender) as line:
            await fetcher.run(line.ends, line.reader)
    there = ours.files.size("big")
    assert 0 < there < len(BIG)
    assert not sender.wanted, "nothing is kept for whoever is gone"

    again = Fetcher(fetcher.storage, ours, Ask(mark))
    async with connected(sender) as line:
        await again.run(line.ends, line.reader)

    assert ours.read("big") == BIG
    assert again.kept_bytes == there


async def test_a_snapshot_that_is_not_there_any_longer_is_refused_in_words() -> None:
    sender, mark = leader_of(Files(a=b"a"))
    fetcher = follower(Files(), Mark(Zxid(1, 2), 3))
    async with connected(sender) as line:
        with pytest.raises(TransferFailed, match=r"no snapshot at 1\.2"):
            await fetcher.run(line.ends, line.reader)
        assert isinstance(await ask(line, Seek(ZERO)), Found), "the connection is still of use"
        assert list(sender.wanted.values()) == [mark.zxid]


@pytest.mark.parametrize(
    "get",
    [Get("b", 0, 1), Get("../a", 0, 1), Get("a", 0, 6), Get("a", 5, 1), Get("a", 2**40, 1), Get("", 2**39, 1), Get("rotten", 0, 5)],
)
async def test_nothing_is_read_that_is_not_of_the_snapshot(get: Get) -> None:
    sender, _ = leader_of(files := Files(a=b"12345", rotten=b"12345"))
    files.files.truncate("rotten", 2)
    files.put("b", b"not of the snapshot")
    async with connected(sender) as line:
        assert isinstance(await ask(line, Seek(ZERO)), Found)
        assert isinstance(await ask(line, get), Gone)
        assert await ask(line, Get("a", 1, 3)) == Piece(b"234")


@pytest.mark.parametrize("word", [Get("a", 0, 1), Piece(b""), Gone(""), Found(Mark(Zxid(1, 1), 1), 1, 1)])
async def test_a_peer_that_says_what_is_not_its_to_say_is_cut_off(word: Word) -> None:
    sender, _ = leader_of(Files(a=b"12345"))
    with pytest.raises(ExceptionGroup) as caught:
        async with connected(sender) as line:
            await ask(line, word)
    assert caught.group_contains(WireError)


def scripted(*answers: Word) -> Callable[[Line], object]:
    async def serve(line: Line) -> None:
        for answer in answers:
            if await line.hear() is None:
                return
            await line.say(answer)
        await trio.sleep_forever()

    return serve


def found(mark: Mark, raw: bytes) -> Found:
    return Found(mark, len(raw), google_crc32c.value(raw))


MARK = Mark(Zxid(1, 5), 7)
LIST = b"a 5 %d" % google_crc32c.value(b"12345")


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([Piece(b"")], "Piece came"),
        ([found(Mark(Zxid(1, 6), 7), LIST)], "Found came"),
        ([found(MARK, LIST), Piece(LIST[:-1])], "something else came"),
        ([found(MARK, LIST), Piece(bytes(len(LIST)))], "not the snapshot that was offered"),
        ([found(MARK, b"nonsense"), Piece(b"nonsense")], "cannot be used"),
        ([found(MARK, LIST), Piece(LIST), Gone("unlinked meanwhile")], "unlinked meanwhile"),
        ([found(MARK, LIST), Piece(LIST), Piece(b"1234")], "something else came"),
        ([found(MARK, LIST), Piece(LIST), Piece(b"54321"), Piece(b"a")], "a is not what the snapshot says"),
    ],
)
async def test_a_leader_that_sends_something_else_is_given_up_with_the_reason(answers: list[Word], words: str) -> None:
    fetcher = follower(Files(), MARK)
    async with connected(scripted(*answers)) as line:
        with pytest.raises(TransferFailed, match=words):
            await fetcher.run(line.ends, line.reader)
    assert not [name for name in fetcher.storage.disk.names() if name.startswith("snapshot-")], "nothing is staged that was not verified"


async def test_a_silent_leader_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    fetcher = follower(Files(), MARK)
    async with connected(scripted()) as line:
        with pytest.raises(trio.TooSlowError):
            await fetcher.run(line.ends, line.reader)


async def test_a_full_disk_is_not_taken_for_a_broken_connection() -> None:
    sender, mark = leader_of(Files(big=BIG))
    fetcher = follower(ours := Files(), mark)

    def full(name: str, offset: int, pieces: Sequence[Payload]) -> None:
        raise OSError(28, "No space left on device")

    ours.files.write = full  # type: ignore[method-assign]
    async with connected(sender) as line:
        with pytest.raises(DiskFailed, match="No space left"):
            await fetcher.run(line.ends, line.reader)


async def test_the_pace_is_kept_by_all_transfers_together(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(PIECE_BYTES_MAX / 2)
    began = trio.current_time()

    async def take() -> None:
        for _ in range(10):
            await pace.take(PIECE_BYTES_MAX)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        nursery.start_soon(take)

    assert trio.current_time() - began == pytest.approx(38), "twenty pieces, two seconds each, and the first leaves at once"


async def test_who_was_left_behind_is_served_faster_the_next_time_and_as_usual_later(monkeypatch: pytest.MonkeyPatch) -> None:
    sender, _ = leader_of(Files(a=b"12345"))
    hastes: list[int] = []

    async def take(count: int, haste: int = 1) -> None:
        hastes.append(haste)

    sender.pace.take = take  # type: ignore[method-assign]
    for wait in (0.0, 0.0, 0.0, 60.0):
        if wait:
            later = trio.current_time() + wait
            monkeypatch.setattr(trio, "current_time", lambda later=later: later)
        async with connected(sender) as line:
            await ask(line, Seek(ZERO))
            await ask(line, Get("a", 0, 1))
    assert hastes == [1, 2, 4, 1]


async def test_who_asks_and_takes_nothing_is_not_sent_the_next_snapshot_in_haste() -> None:
    sender, mark = leader_of(Files(a=b"12345"))
    for word in (Seek(ZERO), Seek(mark.zxid.after(1)), Ask(Mark(Zxid(1, 2), 3))):
        async with connected(sender) as line:
            await ask(line, word)

    assert sender.hastes == {}


async def test_a_snapshot_is_made_for_who_needs_a_later_one_than_there_is() -> None:
    sender, mark = leader_of(Files(a=b"12345"))
    asked: list[Zxid] = []

    async def fresh(least: Zxid) -> None:
        asked.append(least)

    sender.fresh = fresh
    later = mark.zxid.after(1)
    async with connected(sender) as line:
        assert isinstance(await ask(line, Ask(mark)), Found)
        assert isinstance(await ask(line, Seek(mark.zxid)), Found)
        assert isinstance(await ask(line, Seek(later)), Gone), "none was made, after all"
    assert asked == [mark.zxid, later]


async def ask(line: Line, word: Word) -> Word | None:
    await line.say(word)
    return await line.hear()
