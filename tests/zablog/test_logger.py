"""The lines of a node: the same with structlog and without it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from zablog.logger import get_logger

PROJECT = Path(__file__).parents[2]
TELL = """
from zablog.logger import get_logger
log = get_logger("zablog.test")
log.info("role", node=3, role="leading", epoch=1, leader=None, reason="a quorum acknowledged the epoch", seconds=0.25)
log.warning("an event whose name is longer than its column is wide", peer=1, address="127.0.0.1:7401", quoted='"', also="it's")
log.error("e", empty="", equal="a=b", lines="a\\nb", tab="a\\tb", letters="\u00e9", pair=(1, "x"), Z=1)
log.debug("nothing else")
"""


def told(script: str, **environment: str) -> str:
    """What the script's process writes, and whether it has loaded structlog; the time of each line is left out."""
    script += "\nimport sys\nprint('structlog' in sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT, env={"PYTHONUTF8": "1", **environment}
    )
    return re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "TIME ", shown.stdout, flags=re.MULTILINE)


def test_a_process_without_structlog_writes_the_lines_that_structlog_would() -> None:
    alone, beside = told(TELL), told("import structlog" + TELL)

    assert alone.splitlines()[0] == (
        "TIME [info     ] role                           epoch=1 leader=None node=3 reason='a quorum acknowledged the epoch' "
        "role=leading seconds=0.25"
    )
    assert alone.splitlines()[:-1] == beside.splitlines()[:-1]
    assert (alone.splitlines()[-1], beside.splitlines()[-1]) == ("False", "True")


def test_colours_are_structlogs() -> None:
    coloured = told(TELL, FORCE_COLOR="1")

    assert coloured.endswith("True\n") and "\x1b[" in coloured
    assert told(TELL, FORCE_COLOR="1", NO_COLOR="1") == told(TELL)


def test_a_program_that_has_structlog_gets_the_lines_as_it_has_configured_it(capsys: pytest.CaptureFixture[str]) -> None:
    with structlog.testing.capture_logs() as lines:
        get_logger("zablog.test").warning("slow disk", seconds=1.5)

    assert lines == [{"event": "slow disk", "log_level": "warning", "seconds": 1.5}]
    assert capsys.readouterr().out == ""
