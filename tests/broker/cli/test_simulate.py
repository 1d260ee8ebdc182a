"""`zablog simulate`: one flat object, a trace, and a failing seed with the command that shows it again."""

import json
import re
import shlex

import pytest

from broker.cli.main import run
from zablog.core.gate import Gate

COUNTS = {"seeds", "events", "events_per_s", "violations", "elections", "truncations", "snapshots"}
FAULTS = {"power_losses", "torn_tails", "partitions", "repairs", "acked"}


def test_a_simulation_prints_one_flat_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--seeds", "1", "--events", "300", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document.keys() >= COUNTS | FAULTS
    assert document["events"] >= 300
    assert re.fullmatch("[0-9a-f]{16}", document["hash"])
    assert document.pop("failures") == []
    assert all(isinstance(value, int | str) for value in document.values())


def test_only_the_faults_that_were_asked_for_strike(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--seeds", "2", "--events", "1000", "--faults", "crash,pause", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert {key for key, value in document.items() if key.startswith("fault_") and value} <= {"fault_crash", "fault_pause"}
    assert document["fault_crash"] + document["fault_pause"] > 0


def test_a_trace_is_what_stdout_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--seeds", "3", "--events", "200", "--trace"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 200
    assert all(re.match(r" *\d+\.\d{3} ms  ", line) for line in lines)
    assert any("NEWLEADER(1; " in line for line in lines)


def test_a_trace_leaves_stdout_to_the_object_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--seeds", "3", "--events", "200", "--trace", "--json"]) == 0

    shown = capsys.readouterr()
    assert json.loads(shown.out)["seeds"] == 1
    assert "NEWLEADER(1; " in shown.err


def test_a_failing_seed_prints_the_command_that_shows_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Gate, "passes", lambda self, send: True)

    assert run(["simulate", "--seeds", "1", "--events", "500"]) == 8

    told = capsys.readouterr().err
    assert "VIOLATION seed 1" in told
    assert "DurableBeforeAck" in told
    command = told.rsplit("see it: ", 1)[1].splitlines()[0]
    assert run(shlex.split(command)[1:]) == 8
    shown = capsys.readouterr()
    assert "!! DurableBeforeAck" in shown.out.splitlines()[-1]


@pytest.mark.parametrize(
    "line",
    [
        "--faults fire",
        "--options [] --seeds 1",
        "--options nothing --seeds 1",
        "--seeds 1..2 --trace",
        "--seeds 1 --events 0",
        "--seeds x",
    ],
)
def test_what_makes_no_sense_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", *line.split()]) == 2

    assert capsys.readouterr().out == ""


def test_a_simulation_of_brokers_counts_what_clients_were_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--broker", "--seeds", "1", "--events", "3000", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert min(document[count] for count in ("records_acked", "sends_acked", "polls", "topics")) > 0
