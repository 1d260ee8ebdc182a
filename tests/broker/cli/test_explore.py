"""`zablog explore`: one flat object, a table, and the shortest history that breaks a broken core."""

import json

import pytest

from broker.cli.main import run
from zablog.core.gate import Gate

TINY = ["--proposals", "1", "--crashes", "0", "--elections", "1", "--losses", "0"]


def test_an_exhausted_ensemble_is_called_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explore", *TINY, "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["complete"] is True
    assert (document["nodes"], document["proposals"], document["crashes"]) == (2, 1, 0)
    assert document["states"] > 40 and document["established"] > 0 and document["violations"] == 0


def test_a_budget_that_is_used_up_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explore", "--nodes", "3", "--budget", "500"]) == 0

    shown = capsys.readouterr()
    assert "False" in shown.out.splitlines()[1]
    assert "not complete: the budget of 500 states is used up" in shown.err


def test_the_shortest_history_that_breaks_a_law_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Gate, "passes", lambda self, send: True)

    assert run(["explore"]) == 8

    shown = capsys.readouterr()
    assert "VIOLATION of DurableBeforeAck" in shown.err
    assert "1 starts with acceptedEpoch 0" in shown.out
    assert "!! DurableBeforeAck: node 1 names epoch 1" in shown.out


@pytest.mark.parametrize("line", ["--nodes 0", "--nodes 6", "--budget 0", "--crashes -1", "--losses some"])
def test_what_makes_no_sense_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explore", *line.split()]) == 2

    assert capsys.readouterr().out == ""
