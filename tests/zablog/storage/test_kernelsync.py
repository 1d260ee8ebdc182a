"""Syncs that the kernel does while the caller goes on, on a real file system."""

import ctypes
import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.driving import entries_after
from tests.zablog.storage.directories import IDENTITY
from zablog.core.effects import Append, SaveEpochs
from zablog.core.trail import Trail
from zablog.core.zxid import ZERO, Epoch
from zablog.storage import kernelsync
from zablog.storage.disk import Overlapping
from zablog.storage.errors import StorageFailed
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


def opened(directory: Path, file_bytes: int = 1 << 20) -> Storage:
    storage = Storage.open(FileDisk(directory), file_bytes)
    storage.perform([SaveEpochs(1, Epoch(1), Epoch(1), None)], ZERO)
    return storage


class Answers:
    """The kernel's, one by one: what a call returns, and the error's number or the event's result."""

    def __init__(self, kernel: KernelSync, answers: list[tuple[int, int]]) -> None:
        self.kernel = kernel
        self.answers = iter(answers)

    def __call__(self, *_: object) -> int:
        count, detail = next(self.answers)
        ctypes.set_errno(detail if count < 0 else 0)
        kernelsync.EVENT.pack_into(self.kernel.event, 0, 0, 0, detail, 0)
        return count


@pytest.fixture
def kernel() -> Iterator[KernelSync]:
    kernel = KernelSync.open()
    assert kernel is not None
    yield kernel
    kernel.close()


def readable(kernel: KernelSync, seconds: float = 0.0) -> bool:
    poll = select.poll()
    poll.register(kernel.descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


@can
def test_its_end_can_be_waited_for(kernel: KernelSync, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for turn in range(3):
        os.pwrite(descriptor, b"x" * 5000, turn * 5000)
        kernel.begin(descriptor)
        assert readable(kernel, 20.0)
        assert kernel.finish(wait=False)
        assert not readable(kernel)
    os.close(descriptor)


@can
def test_whoever_finishes_early_waits(kernel: KernelSync, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, bytes(1 << 20), 0)
    kernel.begin(descriptor)
    os.close(descriptor)  # the kernel has a hold on the file itself
    assert kernel.finish(wait=True)


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
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "call", Answers(kernel, [(1, 0), (1, -errno.EIO)]))
        kernel.begin(1)
        with pytest.raises(OSError, match="Input/output error") as caught:
            kernel.finish(wait=True)
    assert caught.value.errno == errno.EIO


@can
def test_the_event_is_there_before_it_is_told(kernel: KernelSync, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits on another processor may see it then."""
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "call", Answers(kernel, [(1, 0), (1, 0)]))
        kernel.begin(1)
        assert kernel.finish(wait=True)
        os.eventfd_write(kernel.descriptor, 1)
        assert not kernel.finish(wait=False)
    assert not readable(kernel)


@can
def test_an_interrupted_wait_goes_on_and_a_failed_one_does_not(kernel: KernelSync, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "call", Answers(kernel, [(1, 0), (-1, errno.EINTR), (0, 0), (1, 0), (1, 0), (0, 0), (-1, errno.EINVAL)]))
        kernel.begin(1)
        assert kernel.finish(wait=True)
        kernel.begin(1)
        assert not kernel.finish(wait=False)
        with pytest.raises(OSError, match="Invalid argument"):
            kernel.finish(wait=True)


@can
def test_nothing_is_waited_for_where_nothing_was_begun(kernel: KernelSync) -> None:
    assert not kernel.finish(wait=True)


@can
def test_a_context_that_gets_no_descriptor_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    made = list[object]()
    monkeypatch.setattr(os, "eventfd", none)
    monkeypatch.setattr(KernelSync, "checked", lambda self, result: made.append(result))
    assert KernelSync.open() is None
    assert made == [], "a context would be left over"


@can
def test_closing_gives_everything_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    descriptor = disk.sync_end
    assert descriptor is not None and disk.kernel_sync is not None
    called, call, number = list[int](), disk.kernel_sync.call, disk.kernel_sync.calls.destroy

    def note(*words: Any) -> int:
        called.append(words[0].value)
        return int(call(*words))

    monkeypatch.setattr(disk.kernel_sync, "call", note)
    disk.close()
    assert called == [number]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


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
    assert disk.finish_sync(wait=True)
    assert not disk.finish_sync(wait=True)
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
    assert storage.finish()
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


@can
def test_it_is_the_last_file_that_is_synced(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = opened(directory, 600)
    begun, begin_sync = list[str](), FileDisk.begin_sync

    def note(self: FileDisk, name: str) -> None:
        begun.append(name)
        begin_sync(self, name)

    monkeypatch.setattr(FileDisk, "begin_sync", note)
    for _ in range(3):
        storage.perform([Append(1, entries_after(storage.trail, 1, bytes(200)))], ZERO)
    run = entries_after(storage.trail, 1, b"a")
    assert storage.begin([Append(1, run)], ZERO)
    assert storage.finish()
    assert begun == [storage.wal.files[-1].name] != [storage.wal.files[0].name]


@can
@pytest.mark.parametrize("when", ["begin", "finish"])
def test_a_failure_is_final(directory: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def fail(self: FileDisk, *_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    storage = opened(directory)
    run = entries_after(storage.trail, 1, b"a")
    monkeypatch.setattr(FileDisk, *(("write", fail) if when == "begin" else ("finish_sync", fail)))
    with pytest.raises(StorageFailed, match="Nothing of it was acknowledged"):
        storage.begin([Append(1, run)], ZERO)
        storage.finish()
    with pytest.raises(StorageFailed, match="an earlier write failed"):
        storage.perform([SaveEpochs(2, Epoch(2), Epoch(2), None)], ZERO)


@can
def test_what_is_known_to_be_committed_is_kept_like_with_any_other_batch(directory: Path) -> None:
    storage = opened(directory)
    run = entries_after(storage.trail, 1, b"a", b"b")
    storage.begin([Append(1, run)], run.first)
    assert storage.finish()
    storage.disk.close()
    assert Storage.open(FileDisk(directory)).watermark == run.first
