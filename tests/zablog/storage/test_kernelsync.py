"""Syncs that the kernel does while the caller goes on, on a real file system."""

import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driving import entries_after
from tests.zablog.storage.directories import IDENTITY
from zablog.core.effects import Append, SaveEpochs
from zablog.core.trail import Trail
from zablog.core.zxid import ZERO, Epoch
from zablog.storage import kernelsync
from zablog.storage.disk import Overlapping
from zablog.storage.files import FileDisk
from zablog.storage.kernelsync import KernelSync
from zablog.storage.manifest import give_birth
from zablog.storage.storage import Storage

can = pytest.mark.skipif(KernelSync.open() is None, reason="this system has no asynchronous syncs")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "node1"
    disk = FileDisk(path, create=True)
    give_birth(disk, IDENTITY)
    disk.close()
    return path


def opened(directory: Path) -> Storage:
    storage = Storage.open(FileDisk(directory))
    storage.perform([SaveEpochs(1, Epoch(1), Epoch(1), None)], ZERO)
    return storage


@pytest.fixture
def kernel() -> Iterator[KernelSync]:
    kernel = KernelSync.open()
    assert kernel is not None
    yield kernel
    kernel.close()


@can
def test_its_end_can_be_waited_for(kernel: KernelSync, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for turn in range(3):
        os.pwrite(descriptor, b"x" * 5000, turn * 5000)
        kernel.begin(descriptor)
        assert select.select([kernel.descriptor], [], [], 20)[0] == [kernel.descriptor]
        kernel.finish()
        assert select.select([kernel.descriptor], [], [], 0)[0] == []
    os.close(descriptor)


@can
def test_whoever_finishes_early_waits(kernel: KernelSync, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, bytes(1 << 20), 0)
    kernel.begin(descriptor)
    os.close(descriptor)  # the kernel has a hold on the file itself
    kernel.finish()


@can
def test_what_cannot_be_synced_is_not_begun(kernel: KernelSync) -> None:
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.begin(writing)
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.begin(writing)


@can
def test_an_error_of_the_disk_is_the_one_that_fdatasync_would_raise(kernel: KernelSync, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.open("/dev/null", os.O_WRONLY)
    with pytest.raises(OSError, match=r"."):
        kernel.begin(descriptor)
    os.close(descriptor)

    def answer(*_: object) -> int:
        kernelsync.EVENT.pack_into(kernel.event, 0, 0, 0, -errno.EIO, 0)
        os.eventfd_write(kernel.descriptor, 1)
        return 1

    monkeypatch.setattr(kernel, "call", answer)
    with pytest.raises(OSError, match="Input/output error") as caught:
        kernel.finish()
    assert caught.value.errno == errno.EIO
    monkeypatch.undo()


@can
@pytest.mark.parametrize("refusal", [errno.ENOSYS, errno.EPERM, errno.EAGAIN])
def test_a_system_that_refuses_has_none(refusal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: KernelSync, calls: kernelsync.Calls) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(KernelSync, "__init__", refused)
    assert KernelSync.open() is None


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "s390x"), ("linux", "armv7l")])
def test_other_systems_have_none(system: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert KernelSync.open() is None


@can
def test_a_disk_begins_and_finishes(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    assert isinstance(disk, Overlapping)
    disk.create("file")
    assert disk.sync_end == disk.sync_end is not None
    disk.write("file", 0, [b"x"])
    disk.begin_sync("file")
    disk.unlink("file")
    disk.finish_sync()
    disk.close()
    assert disk.sync_end is None


def test_a_disk_without_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelSync, "open", lambda: None)
    disk = FileDisk(tmp_path)
    assert disk.sync_end is None
    disk.close()


@can
def test_a_log_that_was_synced_so_is_read_back(directory: Path) -> None:
    storage = opened(directory)
    run = entries_after(Trail(), 1, b"a", b"b")
    assert storage.begin([Append(1, run)], ZERO)
    storage.finish()
    assert (storage.batches, storage.syncs) == (1, 1)
    storage.disk.close()

    again = Storage.open(FileDisk(directory))
    assert again.trail.last == run.last


@can
def test_a_disk_that_does_not_let_it_be_begun_has_synced_all_the_same(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sync = list[str](), FileDisk.sync

    def refused(self: FileDisk, name: str) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    def note(self: FileDisk, name: str) -> None:
        synced.append(name)
        sync(self, name)

    storage = opened(directory)
    monkeypatch.setattr(FileDisk, "begin_sync", refused)
    monkeypatch.setattr(FileDisk, "sync", note)
    assert not storage.begin([Append(1, entries_after(Trail(), 1, b"a"))], ZERO)
    assert synced == [storage.wal.files[-1].name]
    assert storage.batches == 1
