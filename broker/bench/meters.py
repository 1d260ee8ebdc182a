"""What the system knows of processes, their CPU time and memory, and of disks. Linux's /proc and /sys.

A process that is gone counts nothing: whoever compares two looks must see to it that the same processes are in both.
"""

import os
import platform
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_SECTOR = 512
"""The unit of a block device's counts, whatever its own sectors are."""


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that these processes have used since they began."""
    used = 0.0
    for pid in pids:
        stat = _read(pid, "stat").rpartition(")")[2].split()
        if stat:
            used += (int(stat[11]) + int(stat[12])) / _TICKS
    return used


def written_bytes(folder: Path) -> int | None:
    """What was written to the device that a folder lies on, by everybody, since the system began. None where the system does not say.

    Its counts for a process are of no use here: `wchar` has what went to sockets in it, and `write_bytes` the whole piece of memory that a
    write has touched, on ext4 with large folios up to ten times as much as the disk gets to see.
    """
    device = folder.stat().st_dev
    words = "".join(_lines(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat"))).split()
    return int(words[6]) * _SECTOR if len(words) > 6 else None


def memory_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes together, each shared page counted once (PSS)."""
    return sum(_number(_read(pid, "smaps_rollup"), "Pss:") for pid in pids) * 1024


def parent(pid: int) -> int:
    """Whose child a process is; 0 if it is gone."""
    stat = _read(pid, "stat").rpartition(")")[2].split()
    return int(stat[1]) if stat else 0


def busy_seconds() -> float:
    """CPU seconds that the whole machine has spent on anything but waiting."""
    user, nice, system, _, _, irq, softirq = (int(word) for word in Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICKS


def filesystem(folder: Path) -> str:
    """The kind of file system that a folder lies on, such as `ext4`; `unknown` where the system does not say."""
    found, kind = "", "unknown"
    for line in _lines(Path("/proc/mounts")):
        _, point, name = line.split()[:3]
        if folder.resolve().is_relative_to(point) and len(point) >= len(found):
            found, kind = point, name
    return kind


def machine(folder: Path) -> dict[str, object]:
    """What a figure must be read with: processors, memory, system, and what was measured on."""
    model = next((line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")), "unknown")
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "filesystem": filesystem(folder),
    }


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def _number(text: str, key: str) -> int:
    """The number behind `key` at the beginning of a line; 0 if there is none."""
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(key)), 0)
