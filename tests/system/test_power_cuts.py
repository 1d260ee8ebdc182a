"""A few power cuts of a whole cluster on real file systems; `python -m tests.system.power` makes hundreds."""

import os
import shutil
from pathlib import Path

import pytest

from tests.system import power
from tests.system.power import cut_power

TOOLS = ("mkfs.ext4", "mount", "umount")


def lacking() -> str | None:
    """Why this cannot run here."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    return None if os.path.exists("/dev/loop-control") else "needs loop devices"


pytestmark = [pytest.mark.needs_root, pytest.mark.slow, pytest.mark.skipif(lacking() is not None, reason=lacking() or "")]


@pytest.mark.parametrize("nodes_cut", [3, 2, 1])
def test_nothing_acknowledged_is_lost_when_the_power_is_cut(tmp_path: Path, nodes_cut: int) -> None:
    report = cut_power(tmp_path, cuts=3, seed=nodes_cut, nodes_cut=nodes_cut, at_least=101)

    assert report.clean, report.document()
    assert report.cuts >= 3 and report.acknowledged > 100


def test_nothing_acknowledged_is_lost_of_a_log_whose_files_are_allocated(tmp_path: Path) -> None:
    """Large batches: the next file is left to the file system, and a cut may come before or after it knows of a block's first write."""
    report = cut_power(tmp_path, cuts=4, seed=1, pad=150_000, at_least=101)

    assert report.clean, report.document()
    assert report.cuts >= 4 and report.acknowledged > 100


def test_what_servers_say_of_damage_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "DAMAGE", ("phase=broadcast",))  # what each of them says

    report = cut_power(tmp_path, cuts=1)

    assert report.damage >= 3 and not report.clean, report.document()
    assert any("phase=broadcast" in words for words in report.words)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_same_cuts_report_loss_where_syncs_are_answered_and_not_done(tmp_path: Path) -> None:
    report = cut_power(tmp_path, cuts=3, seed=7, lying=True)

    assert report.lost > 0, report.document()
