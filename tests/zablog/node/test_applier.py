"""The applier: every committed entry once, in order, and never for long at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from zablog.core.effects import Append
from zablog.core.trail import ORIGIN, Entries, Payload, extend_digest
from zablog.core.zxid import ZERO, PeerId, Zxid
from zablog.node import applier as room
from zablog.node.applier import Applier
from zablog.node.errors import NodeStopped
from zablog.node.status import Status
from zablog.storage.errors import Corrupt, Trimmed
from zablog.storage.files import FileDisk
from zablog.storage.history import History
from zablog.storage.manifest import Identity, Member, give_birth
from zablog.storage.storage import Storage

WORDS = [b"%d" % number for number in range(1000)]
ENTRIES = Entries(Zxid(1, 1), ZERO, WORDS, extend_digest(ORIGIN.digest, ZERO, Zxid(1, 1), WORDS))


class Diary:
    """An application whose every entry takes a while of a clock of its own."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.seconds_an_entry = 0.0
        self.entries: list[tuple[Zxid, bytes]] = []
        self.bursts: list[Zxid] = []

    def apply(self, zxid: Zxid, payload: Payload) -> None:
        self.seconds += self.seconds_an_entry
        self.entries.append((zxid, bytes(payload)))

    def applied(self, upto: Zxid) -> None:
        assert self.entries[-1][0] == upto
        self.bursts.append(upto)

    def role_changed(self, status: Status) -> None: ...


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    member = Member(PeerId(1), f"{1:032x}", "127.0.0.1:1")
    disk = FileDisk(tmp_path / "data", create=True)
    give_birth(disk, Identity("ab" * 16, member.id, member.incarnation, (member,)))
    yield Storage.open(disk, 1 << 16)
    disk.close()


def numbered(upto: int) -> list[tuple[Zxid, bytes]]:
    return [(Zxid(1, counter), b"%d" % (counter - 1)) for counter in range(1, upto + 1)]


@pytest.mark.parametrize("where", ["memory", "disk"])
async def test_what_is_committed_is_applied_once_and_in_order_from(storage: Storage, where: str) -> None:
    history, diary = History(storage), Diary()
    if where == "memory":
        history.append(ENTRIES)
    else:
        storage.perform([Append(1, ENTRIES)], ZERO)
        history = History(storage)
    applier = Applier(diary, history, ZERO, ZERO)

    for counter in (1, 32, 33, 40, len(WORDS)):
        applier.deliver(Zxid(1, counter))
        await applier.catch_up()
        assert diary.entries == numbered(counter)
        assert applier.applied == diary.bursts[-1] == Zxid(1, counter)


async def test_a_burst_of_many_small_entries_does_not_keep_the_event_loop(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    history, diary = History(storage), Diary()
    history.append(ENTRIES)
    applier = Applier(diary, history, ZERO, ENTRIES.last)
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: diary.seconds))
    diary.seconds_an_entry = room.SLICE_SECONDS / 16

    await applier.catch_up()

    assert diary.entries == numbered(len(WORDS))
    steps = [after.counter - before.counter for before, after in zip([ZERO, *diary.bursts], diary.bursts, strict=False)]
    assert max(steps) * diary.seconds_an_entry <= 3 * room.SLICE_SECONDS


async def test_a_wait_ends_when_the_entry_has_been_applied(storage: Storage) -> None:
    history, diary = History(storage), Diary()
    history.append(ENTRIES)
    applier = Applier(diary, history, ZERO, ZERO)
    woken: list[int] = []
    applier.burst = lambda: woken.append(len(diary.entries))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(applier.run)
        await trio.testing.wait_all_tasks_blocked()
        assert diary.entries == []
        applier.deliver(Zxid(1, 3))
        applier.go_on(at_once=True)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert diary.entries == numbered(3)
    assert woken == [3]


async def test_what_is_in_memory_is_applied_where_its_commit_is_known(storage: Storage) -> None:
    history, diary = History(storage), Diary()
    history.append(ENTRIES)
    applier = Applier(diary, history, ZERO, ZERO)

    applier.deliver(Zxid(1, 3))
    assert diary.entries == [], "not within the step"
    applier.go_on(at_once=True)

    assert diary.entries == numbered(3) and diary.bursts == [Zxid(1, 3)]
    assert not applier.woken.is_set()


async def test_what_takes_longer_than_a_slice_is_left_to_the_task(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    history, diary = History(storage), Diary()
    history.append(ENTRIES)
    applier = Applier(diary, history, ZERO, ENTRIES.last)
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: diary.seconds))
    diary.seconds_an_entry = room.SLICE_SECONDS / 16

    applier.go_on(at_once=True)

    assert len(diary.bursts) == 1 and len(diary.entries) * diary.seconds_an_entry <= 3 * room.SLICE_SECONDS
    assert applier.woken.is_set()
    await applier.catch_up()
    assert diary.entries == numbered(len(WORDS))


@pytest.mark.parametrize("why", ["it is on disk alone", "a snapshot is on its way", "the task has begun to"])
async def test_nothing_is_applied_at_once_when(storage: Storage, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.perform([Append(1, ENTRIES)], ZERO)
    history, diary = History(storage), Diary()
    applier = Applier(diary, history, ZERO, Zxid(1, 10))
    if why != "it is on disk alone":
        history.append(ENTRIES)
    if why == "a snapshot is on its way":
        applier.hold()
    if why == "the task has begun to":
        applier.entries, applier.at = ENTRIES, 0

    applier.go_on(at_once=True)

    assert diary.entries == []
    assert applier.woken.is_set()


async def test_an_application_that_causes_more_while_it_applies_has_it_applied_in_order(storage: Storage) -> None:
    class Eager(Diary):
        def applied(self, upto: Zxid) -> None:
            super().applied(upto)
            if upto.counter < 5:  # as a proposal of its own would be committed at once by a single node
                applier.deliver(Zxid(1, upto.counter + 1))
                applier.go_on(at_once=True)

    history, diary = History(storage), Eager()
    history.append(ENTRIES)
    applier = Applier(diary, history, ZERO, ZERO)

    applier.deliver(Zxid(1, 1))
    applier.go_on(at_once=True)
    assert diary.entries == numbered(1) and applier.woken.is_set(), "it does not stand on itself"
    await applier.catch_up()

    assert diary.entries == numbered(5)


async def test_an_entry_the_application_cannot_take_is_named(storage: Storage) -> None:
    class Choosy(Diary):
        def apply(self, zxid: Zxid, payload: Payload) -> None:
            if payload == b"2":
                raise ValueError("not this one")
            super().apply(zxid, payload)

    history, diary = History(storage), Choosy()
    history.append(ENTRIES)
    applier = Applier(diary, history, ZERO, ENTRIES.last)

    with pytest.raises(NodeStopped, match=r"failed at 1\.3: ValueError\('not this one'\)") as caught:
        await applier.catch_up()

    assert isinstance(caught.value.__cause__, ValueError)
    assert diary.bursts == []


async def test_a_log_that_has_rotted_stops_the_node(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def rotten(self: Storage, after: Zxid, upto: Zxid, bytes_max: int) -> Entries | None:
        raise Corrupt("wal-1, offset 4096: the checksum of the body is wrong")

    storage.perform([Append(1, ENTRIES)], ZERO)
    monkeypatch.setattr(Storage, "read", rotten)
    applier = Applier(Diary(), History(storage), ZERO, ENTRIES.last)

    with pytest.raises(NodeStopped, match="offset 4096") as caught:
        await applier.catch_up()

    assert isinstance(caught.value.__cause__, Corrupt)


@pytest.mark.parametrize("disk", ["has it still", "has let go of it"])
async def test_what_was_read_before_a_snapshot_came_is_not_applied_behind_it(
    storage: Storage, disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.perform([Append(1, ENTRIES)], ZERO)
    history, diary = History(storage), Diary()
    applier = Applier(diary, history, ZERO, Zxid(1, 10))
    reading, read = trio.Event(), trio.Event()

    async def slowly(work: Callable[..., Entries], *words: object) -> Entries:
        reading.set()
        await read.wait()
        if disk == "has let go of it":
            raise Trimmed("the snapshot covers it")
        return work(*words)

    monkeypatch.setattr(trio.to_thread, "run_sync", slowly)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(applier.catch_up)
        await reading.wait()
        applier.hold()
        applier.release(restored=Zxid(1, 10))
        read.set()

    assert diary.entries == [] and applier.applied == Zxid(1, 10)
