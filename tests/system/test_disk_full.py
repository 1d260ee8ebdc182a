"""A disk that is really full: the server ends in order, and comes up again on the room that it had kept for that."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from broker.client import connect
from tests.system.power import run
from tests.system.test_disk_faults import SECONDS, bear, everything_of_one, send_until_it_dies, server
from tests.system.test_power_cuts import lacking

pytestmark = [pytest.mark.needs_root, pytest.mark.slow, pytest.mark.skipif(lacking() is not None, reason=lacking() or "")]

IMAGE_BYTES = 64 << 20
LEFT_BYTES = 256 << 10
RESERVE_BYTES = 8 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with little room on it."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
    run("mount", "-o", "loop", str(image), str(folder))
    yield folder
    run("umount", str(folder))


def fill(ballast: Path) -> None:
    """Somebody else writes until little is left."""
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room_on(ballast.parent) - LEFT_BYTES)


def room_on(folder: Path) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


async def delete_everything(address: str) -> None:
    async with connect(address, timeout=SECONDS) as zl:
        assert (await zl.describe_topic("numbers")).partitions[0].end > 0
        await zl.delete_topic("numbers")


def test_a_full_disk_can_be_emptied_by_deleting_a_topic(small_disk: Path) -> None:
    (address,) = bear(small_disk, 1)
    reserve, ballast = small_disk / "node1" / "reserve", small_disk / "ballast"
    with server(small_disk, 1) as process:
        assert trio.run(everything_of_one, address) == []
        assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
        fill(ballast)
        acknowledged = trio.run(send_until_it_dies, address, 5000, process)
        assert process.wait(SECONDS) == 1, "disk full"
    assert 10 < len(acknowledged) < 5000
    assert not reserve.exists(), "given up for the last words and the next start"
    assert room_on(small_disk) > RESERVE_BYTES // 2

    with server(small_disk, 1) as process:
        trio.run(delete_everything, address)
        process.terminate()
        assert process.wait(SECONDS) == 0

    ballast.unlink()
    with server(small_disk, 1) as process:
        assert trio.run(everything_of_one, address) == []
        assert reserve.exists(), "taken again"
