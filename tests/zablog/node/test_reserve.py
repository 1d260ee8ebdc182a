"""The reserve: taken where there is room for it and as much again, given up before a full disk would stop what cannot wait."""

import errno
from pathlib import Path

import pytest

from zablog.node.reserve import NAME, Reserve
from zablog.storage.files import FileDisk

SIZE = 1 << 20


class SmallDisk(FileDisk):
    """A disk of which the test says how much is left."""

    room = 100 * SIZE

    def free(self) -> int:
        return self.room


@pytest.fixture
def disk(tmp_path: Path) -> SmallDisk:
    return SmallDisk(tmp_path)


@pytest.mark.parametrize(("room", "held_before", "held_after"), [
    (2 * SIZE, False, True),
    (2 * SIZE - 1, False, False),
    (SIZE // 2, True, True),
    (SIZE // 2 - 1, True, False),
    (0, False, False),
])  # fmt: skip
def test_what_a_node_does_at_its_start(disk: SmallDisk, room: int, held_before: bool, held_after: bool) -> None:
    reserve = Reserve(disk, SIZE)
    if held_before:
        disk.allocate(NAME, SIZE)
    disk.room = room

    reserve.begin()

    assert reserve.held == disk.exists(NAME) == held_after


def test_its_blocks_are_really_taken(disk: SmallDisk, tmp_path: Path) -> None:
    Reserve(disk, SIZE).begin()

    assert (tmp_path / NAME).stat().st_blocks * 512 >= SIZE


def test_a_node_that_ends_gives_it_up_only_on_a_full_disk(disk: SmallDisk) -> None:
    reserve = Reserve(disk, SIZE)
    reserve.begin()
    reserve.end()
    assert reserve.held

    disk.room = 0
    reserve.take_if_roomy()
    assert reserve.held, "while the node runs, appends would spend it"
    reserve.end()

    assert not disk.exists(NAME)


def test_one_that_a_power_loss_left_short_is_made_whole(disk: SmallDisk) -> None:
    disk.allocate(NAME, SIZE // 2)

    Reserve(disk, SIZE).begin()

    assert disk.size(NAME) == SIZE


def test_none_is_kept_where_none_is_wanted(disk: SmallDisk) -> None:
    disk.allocate(NAME, SIZE)

    Reserve(disk, 0).begin()

    assert disk.names() == []


def test_a_disk_that_refuses_it_is_no_reason_to_stop(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, length: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(disk, "allocate", refuse)
    reserve = Reserve(disk, SIZE)

    reserve.begin()
    reserve.end()

    assert not reserve.held
