"""The shipped shell from seeds: node, driver, gate, applier, checkpoints, transport, server and client, in virtual time.

python -m tests.shell 17          # one seed again, with what it did
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from broker.state.producers import Producers
from tests.shell.scenes import scene
from tests.shell.world import run_world
from zablog.core.gate import Gate
from zablog.core.zxid import Zxid
from zablog.node.applier import Applier

FAST = range(1, 9)
MANY = range(1000, 1200)
HUNT = range(1, 41)


@pytest.mark.parametrize("seed", FAST)
def test_promises_are_kept(seed: int) -> None:
    _, counts = run_world(scene, seed)
    assert counts["acked"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [MANY[at : at + 10] for at in range(0, len(MANY), 10)], ids=lambda seeds: f"{seeds[0]}")
def test_promises_are_kept_for_many_seeds(seeds: range) -> None:
    for seed in seeds:
        try:
            run_world(scene, seed)
        except BaseException as error:
            error.add_note(f"python -m tests.shell {seed}")
            raise


def test_a_seed_is_the_same_in_every_process() -> None:
    words = [sys.executable, "-m", "tests.shell", "5"]
    one, other = (
        subprocess.run(words, env={"PYTHONHASHSEED": hash}, capture_output=True, text=True, check=True).stdout for hash in ("1", "2")
    )
    assert one == other and len(one.split()[1]) == 64


# -- shells that are broken -------------------------------------------------------------------------------------------------------


def votes_before_they_are_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gate, "passes", lambda gate, send: True)


def carries_out_a_command_each_time_it_comes(patch: pytest.MonkeyPatch) -> None:
    judge = Producers.judge

    def always_new(producers: Producers, turn: Any) -> Any:  # Any: handed through
        settled = judge(producers, turn)
        if settled is not None and (producer := producers.rows.get(turn.producer)) is not None:
            producers.rows[turn.producer] = producer._replace(sequence=turn.sequence - 1)
            return None
        return settled

    patch.setattr(Producers, "judge", always_new)


def applies_nothing_again_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    begin = Applier.__init__

    def ahead(applier: Applier, application: Any, history: Any, applied: Zxid, target: Zxid) -> None:  # Any: handed through
        begin(applier, application, history, max(applied, target), target)

    patch.setattr(Applier, "__init__", ahead)


@pytest.mark.parametrize(
    "breaks",
    [
        votes_before_they_are_durable,
        carries_out_a_command_each_time_it_comes,
        applies_nothing_again_after_a_restart,
    ],
)
@pytest.mark.slow
def test_a_broken_shell_is_caught(breaks: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch)
    with pytest.raises((AssertionError, BaseExceptionGroup)) as caught:
        for seed in HUNT:
            run_world(scene, seed)
    print(f"{breaks.__name__}: seed {seed}: {caught.value!r}"[:300])
    leaves = [caught.value]
    while isinstance(leaves[-1], BaseExceptionGroup):
        leaves.append(leaves[-1].exceptions[0])
    assert isinstance(leaves[-1], AssertionError), "a promise was seen to be broken, not only a crash"
