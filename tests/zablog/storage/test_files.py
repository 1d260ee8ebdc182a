"""The real disk: the port's promises on a file system, and two processes that want one directory."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.driving import entries_after
from tests.zablog.storage.directories import IDENTITY, contents
from zablog.core.effects import Append, SaveEpochs, Truncate
from zablog.core.trail import Mark
from zablog.core.zxid import BEYOND, ZERO, Epoch, Zxid
from zablog.storage import files
from zablog.storage.errors import DirectoryInUse, NotBorn
from zablog.storage.files import FileDisk
from zablog.storage.manifest import give_birth
from zablog.storage.storage import Storage


def test_a_directory_that_is_not_there_was_never_born(tmp_path: Path) -> None:
    with pytest.raises(NotBorn, match="cluster init"):
        FileDisk(tmp_path / "nowhere")
    with pytest.raises(NotBorn, match="cluster init"):
        Storage.open(FileDisk(tmp_path))


def test_more_pieces_than_one_write_takes_arrive_in_order(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    disk.create("many")
    pieces = [str(number).encode() for number in range(5000)]

    disk.write("many", 3, pieces)
    disk.sync("many")

    assert disk.read("many", 0, 1 << 20) == bytes(3) + b"".join(pieces)
    disk.close()


def test_only_so_many_descriptors_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "DESCRIPTORS_MAX", 4)
    disk = FileDisk(tmp_path)
    open_before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        disk.create(f"file-{number:02}")
        disk.write(f"file-{number:02}", 0, [bytes([number])])

    assert len(os.listdir("/proc/self/fd")) <= open_before + 4
    assert [disk.read(name, 0, 9) for name in disk.names()] == [bytes([number]) for number in range(20)]
    disk.close()
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_what_is_on_disk_alone_is_told_from_what_is_in_memory(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    disk.create("old")
    disk.write("old", 0, [raw := os.urandom(300_000)])
    assert disk.read_now("old", 0, len(raw)) == raw
    assert disk.read_now("old", 100, 50) == raw[100:150]
    disk.sync("old")
    disk.cool("old", 0, len(raw))
    if disk.read_now("old", 0, len(raw)):
        pytest.skip("this file system keeps everything in memory, or does not say what it keeps")

    disk.warm("old", 4096, len(raw))

    assert disk.read_now("old", 4096, len(raw) - 4096) == raw[4096:]
    assert disk.read_now("old", 4096, 2 * len(raw)) == raw[4096:], "as far as there is something"
    with pytest.raises(FileNotFoundError):
        disk.read_now("new", 0, 1)
    disk.close()


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_where_the_system_cannot_say_what_is_in_memory_everything_is_read_at_once(
    refusal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system does not know, the kernel does not, or a container does not let us ask."""
    disk = FileDisk(tmp_path)
    disk.create("file")
    disk.write("file", 0, [b"0123456789"])
    asked = []

    def refuse(descriptor: int, buffers: object, offset: int, flags: int = 0) -> int:
        asked.append(offset)
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "preadv", refuse)

    assert [disk.read_now("file", 3, 4), disk.read_now("file", 5, 2), asked] == [b"3456", b"56", [3]]
    disk.close()


def test_a_renamed_file_is_reached_by_its_new_name_only(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    for name in ("old", "new"):
        disk.create(name)
        disk.write(name, 0, [name.encode()])

    disk.rename("old", "new")
    disk.sync_names()

    assert (disk.names(), disk.read("new", 0, 9)) == (["new"], b"old")
    with pytest.raises(FileNotFoundError):
        disk.read("old", 0, 1)
    disk.close()


def test_a_directory_serves_one_process(tmp_path: Path) -> None:
    holder = FileDisk(tmp_path)
    holder.lock()
    code = f"from zablog.storage.files import FileDisk; FileDisk({str(tmp_path)!r}).lock()"

    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(files.__file__).parents[2])
    with pytest.raises(DirectoryInUse, match="in use"):
        FileDisk(tmp_path).lock()

    assert "DirectoryInUse" in other.stderr
    holder.close()
    FileDisk(tmp_path).lock()


def test_a_log_on_a_real_disk_is_written_cut_and_read(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path / "made" / "for" / "it", create=True)
    give_birth(disk, IDENTITY)
    storage = Storage.open(disk, 4096)
    storage.perform([SaveEpochs(1, Epoch(1), Epoch(1), None)], ZERO)
    marks = []
    for number in range(50):
        run = entries_after(storage.trail, 1, bytes([number]) * 300)
        marks.append(Mark(run.last, run.digest))
        storage.perform([Append(1, run)], ZERO)
    storage.perform([Truncate(1, marks[20])], ZERO)
    disk.close()

    reopened = Storage.open(FileDisk(tmp_path / "made" / "for" / "it"), 4096)

    assert contents(reopened) == [(Zxid(1, number + 1), bytes([number]) * 300) for number in range(21)]
    reopened.wal.disk.close()


def test_others_read_and_prepare_while_one_writes(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    give_birth(disk, IDENTITY)
    storage = Storage.open(disk, 16384)
    storage.perform([SaveEpochs(1, Epoch(1), Epoch(1), None)], ZERO)
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                after = ZERO
                while (run := storage.read(after, BEYOND, 1000)) is not None:
                    assert run.prev == after
                    assert all(bytes(payload) == b"payload" * 20 for payload in run.payloads)
                    after = run.last
        except BaseException as error:
            failures.append(error)

    def prepare() -> None:
        while not done.is_set():
            storage.prepare()

    threads = [threading.Thread(target=read), threading.Thread(target=prepare)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        storage.perform([Append(1, entries_after(storage.trail, 1, *[b"payload" * 20] * 5))], ZERO)
    done.set()
    for thread in threads:
        thread.join()

    assert failures == []
    assert storage.trail.last == Zxid(1, 300)
    disk.close()
