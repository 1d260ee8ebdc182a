"""Segments written behind: nobody sees a difference, but for how often the system is called."""

import threading
from collections.abc import Sequence
from random import Random

import pytest

from broker.log import behind
from broker.log.behind import WriteBehind
from zablog.core.trail import Payload
from zablog.sim.disk import SimDisk


class Counting(SimDisk):
    """Remembers which writes it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[tuple[str, int, bytes]] = []

    def write(self, name: str, offset: int, pieces: Sequence[Payload]) -> None:
        self.writes.append((name, offset, b"".join(pieces)))
        super().write(name, offset, pieces)


@pytest.fixture
def disk() -> Counting:
    return Counting()


def made(disk: SimDisk, *names: str) -> WriteBehind:
    written_behind = WriteBehind(disk)
    for name in names:
        written_behind.create(name)
    return written_behind


def test_small_pieces_are_one_write_when_they_are_read(disk: Counting) -> None:
    files = made(disk, "a", "b")

    files.write("a", 0, [b"one", b"two"])
    files.write("b", 0, [b"other"])
    files.write("a", 6, [b"three"])
    assert disk.writes == []

    assert files.read("a", 0, 99) == b"onetwothree"
    assert disk.writes == [("a", 0, b"onetwothree")], "and nothing of the other file"


def test_what_is_synced_was_written(disk: Counting) -> None:
    files = made(disk, "a")
    files.sync_names()
    files.write("a", 0, [b"kept"])

    files.sync("a")
    files.write("a", 4, [b" or not"])
    disk.power_loss(Random(1))

    assert disk.read("a", 0, 99) == b"kept"


def test_much_is_written_at_once_and_behind_what_was_gathered(disk: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "WRITE_BYTES", 10)
    files = made(disk, "a")

    files.write("a", 0, [b"small"])
    files.write("a", 5, [b"as much as is worth it"])
    files.write("a", 27, [b"123"])
    files.write("a", 30, [b"4567890"])

    assert disk.writes == [("a", 0, b"small"), ("a", 5, b"as much as is worth it"), ("a", 27, b"1234567890")]


def test_of_too_many_files_those_that_waited_longest_are_written(disk: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "GATHERED_BYTES_MAX", 6)
    files = made(disk, "a", "b", "c")

    for name in "abc":
        files.write(name, 0, [b"xyz"])
    files.write("b", 3, [b"!"])

    assert [name for name, _, _ in disk.writes] == ["a", "b"]


def test_a_small_piece_does_not_keep_its_frame(disk: Counting) -> None:
    files, frame = made(disk, "a"), bytearray(b"a large frame")

    files.write("a", 0, [memoryview(frame)[2:7]])
    frame[:] = b"used again..."

    assert files.read("a", 0, 99) == b"large"


def test_what_is_renamed_or_removed_takes_its_end_along(disk: Counting) -> None:
    files = made(disk, "a", "b", "c")
    for name in "abc":
        files.write(name, 0, [name.encode() * 3])

    files.rename("a", "b")
    files.unlink("c")
    files.truncate("b", 2)

    assert files.read("b", 0, 99) == b"aa"
    assert files.names() == ["b"]
    assert all(name != "c" for name, _, _ in disk.writes), "nobody would read it"


def test_closing_writes_nothing_more(disk: Counting) -> None:
    """The lock on the directory may be gone by then, and another process may be writing there."""
    files = made(disk, "a")
    files.write("a", 0, [b"the end"])

    files.close()

    assert disk.writes == []
    assert files.size("a") == 0


def test_a_write_that_failed_fails_everything_behind_it(disk: Counting) -> None:
    files = made(disk, "a", "b")
    files.write("a", 0, [b"lost"])
    disk.fail_after(0, OSError(5, "Input/output error"))

    with pytest.raises(OSError, match="Input/output"):
        files.read("a", 0, 4)
    assert files.failed is not None
    disk.step = lambda operation: None

    for use in (lambda: files.sync("a"), lambda: files.write("b", 0, [b"x"]), lambda: files.read("b", 0, 1), lambda: files.size("a")):
        with pytest.raises(OSError, match="Input/output"):
            use()
    files.close()


@pytest.mark.parametrize("seed", range(50))
def test_whatever_is_done_it_reads_as_the_disk_itself_would(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "WRITE_BYTES", 40)
    monkeypatch.setattr(behind, "GATHERED_BYTES_MAX", 100)
    random, names = Random(seed), ["a", "b", "c"]
    plain = SimDisk()
    disks = [plain, made(SimDisk())]
    for disk in disks:
        for name in names:
            disk.create(name)

    for _ in range(200):
        name, size = random.choice(names), plain.size(random.choice(names))
        offset = random.choice([plain.size(name), random.randrange(size + 1)])
        pieces = [random.randbytes(random.randrange(30)) for _ in range(random.randrange(1, 3))]
        what = random.randrange(8)
        for disk in disks:
            match what:
                case 0:
                    disk.truncate(name, offset)
                case 1:
                    disk.sync(name)
                case 2 | 3 if offset > plain.size(name):
                    pass
                case _:
                    disk.write(name, offset, pieces)
        if what > 5:
            assert disks[0].read(name, 0, 1 << 20) == disks[1].read(name, 0, 1 << 20)
    for name in names:
        assert disks[0].size(name) == disks[1].size(name)
        assert disks[0].read(name, 0, 1 << 20) == disks[1].read(name, 0, 1 << 20)


def test_what_another_thread_is_just_writing_is_read_once_it_is_written() -> None:
    """A checkpoint syncs a segment in a thread, and a fetch of its last records came back short: the node took itself for damaged."""
    writing, go_on = threading.Event(), threading.Event()

    class Slow(SimDisk):
        def write(self, name: str, offset: int, pieces: Sequence[Payload]) -> None:
            writing.set()
            assert go_on.wait(10)
            super().write(name, offset, pieces)

    files = made(Slow(), "a")
    files.write("a", 0, [b"gathered"])
    syncing = threading.Thread(target=files.sync, args=("a",))
    syncing.start()
    assert writing.wait(10)
    read: list[bytes] = []
    reading = threading.Thread(target=lambda: read.append(files.read("a", 0, 99)))
    reading.start()
    reading.join(0.1)  # long enough for one who does not wait
    go_on.set()
    for thread in (reading, syncing):
        thread.join()

    assert read == [b"gathered"]
