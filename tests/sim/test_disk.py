"""The simulated disk is as cruel as a real one may be, and no crueler."""

from random import Random

import pytest

from zablog.sim.disk import PowerLost, SimDisk


def with_file(content: bytes = b"") -> SimDisk:
    disk = SimDisk()
    disk.create("file")
    disk.write("file", 0, [content])
    disk.sync("file")
    disk.sync_names()
    return disk


def outcomes(prepare: object, seeds: int = 200) -> set[bytes | None]:
    """What is found in `file` after a power loss, over many seeds."""
    found: set[bytes | None] = set()
    for seed in range(seeds):
        disk = with_file(b"before")
        prepare(disk)  # type: ignore[operator]  # a function of the disk
        disk.power_loss(Random(seed))
        found.add(disk.read("file", 0, 1 << 20) if disk.exists("file") else None)
    return found


def test_what_was_synced_survives() -> None:
    def synced(disk: SimDisk) -> None:
        disk.write("file", 0, [b"after ", b"all"])
        disk.sync("file")

    assert outcomes(synced) == {b"after all"}


def test_what_was_not_synced_survives_or_not() -> None:
    assert outcomes(lambda disk: disk.write("file", 0, [b"behind"])) == {b"before", b"behind"}


def test_unsynced_writes_survive_in_any_order() -> None:
    def two(disk: SimDisk) -> None:
        disk.write("file", 0, [b"B"])
        disk.write("file", 5, [b"E"])

    assert outcomes(two) == {b"before", b"Before", b"beforE", b"BeforE"}


def test_a_long_write_is_torn_at_sectors() -> None:
    torn = outcomes(lambda disk: disk.write("file", 0, [b"x" * 2048]))

    assert any(found is not None and b"x" * 512 in found and found != b"x" * 2048 for found in torn)
    for found in torn:
        assert found is not None
        assert all(len(set(found[at : at + 512])) <= 2 for at in range(512, len(found), 512))


def test_a_file_may_have_grown_without_its_bytes() -> None:
    assert b"before" + bytes(4) in outcomes(lambda disk: disk.write("file", 6, [b"more"]))


@pytest.mark.parametrize("durable", [False, True])
def test_names_need_the_directory_synced(durable: bool) -> None:
    def remove(disk: SimDisk) -> None:
        disk.unlink("file")
        if durable:
            disk.sync_names()

    assert outcomes(remove) == ({None} if durable else {None, b"before"})


def test_a_rename_is_atomic() -> None:
    found = set()
    for seed in range(100):
        disk = with_file(b"before")
        disk.rename("file", "other")
        disk.power_loss(Random(seed))
        found.add(tuple((name, disk.read(name, 0, 9)) for name in disk.names()))

    assert found == {(("file", b"before"),), (("other", b"before"),)}


def test_a_rename_may_survive_without_the_content() -> None:
    found = set()
    for seed in range(100):
        disk = with_file(b"before")
        disk.create("new")
        disk.write("new", 0, [b"behind"])
        disk.rename("new", "file")
        disk.power_loss(Random(seed))
        found.add(disk.read("file", 0, 9))

    assert found >= {b"before", b"behind", b""}


def test_a_killed_process_loses_nothing_that_it_wrote() -> None:
    disk = with_file(b"before")
    disk.write("file", 0, [b"behind"])
    disk.crash()

    assert disk.read("file", 0, 9) == b"behind"


def test_a_failed_sync_drops_what_it_should_have_written_and_the_next_one_lies() -> None:
    disk = with_file(b"before")
    disk.write("file", 0, [b"behind"])
    disk.fail_after(0, OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        disk.sync("file")

    disk.sync("file")

    assert disk.read("file", 0, 9) == b"behind"
    disk.power_loss(Random(0))
    assert disk.read("file", 0, 9) == b"before"


def test_a_full_disk_takes_half_a_write() -> None:
    disk = with_file()
    disk.fail_after(1, OSError(28, "No space left on device"))
    disk.write("file", 0, [b"1234"])
    with pytest.raises(OSError, match="No space"):
        disk.write("file", 4, [b"5678"])

    assert disk.read("file", 0, 9) == b"123456"
    disk.write("file", 6, [b"78"])


def test_each_durable_operation_is_announced_before_it_happens() -> None:
    operations: list[str] = []
    disk = SimDisk(operations.append)
    disk.create("a")
    disk.write("a", 0, [b"x"])
    disk.sync("a")
    disk.truncate("a", 0)
    disk.rename("a", "b")
    disk.unlink("b")
    disk.sync_names()

    assert operations == ["create", "write", "sync", "truncate", "rename", "unlink", "sync_names"]
    disk.fail_after(0, PowerLost())
    with pytest.raises(PowerLost):
        disk.create("c")
    assert disk.names() == []


def test_a_sync_that_lies_reports_success_and_the_write_is_gone() -> None:
    disk = SimDisk()
    disk.create("wal-1")
    disk.sync_names()
    disk.lies = 1
    disk.write("wal-1", 0, [b"behind"])
    disk.sync("wal-1")

    assert disk.read("wal-1", 0, 9) == b"behind"
    disk.power_loss(Random(0))
    assert disk.read("wal-1", 0, 9) == b""


def test_an_aged_file_is_what_it_was_before_its_last_sync() -> None:
    disk = with_file(b"before")
    disk.write("file", 0, [b"behind"])
    disk.sync("file")

    disk.age("file")

    assert disk.read("file", 0, 9) == b"before"


def test_each_read_is_announced_before_it_happens() -> None:
    disk = with_file(b"before")
    names: list[str] = []
    disk.reading = names.append
    disk.read("file", 0, 1)

    assert names == ["file"]
