"""Each fault of `bin/chaos` for a moment, and that what judges it can object; `bin/chaos` mixes them for minutes."""

import shutil
from pathlib import Path

import pytest

import broker
import zablog
from broker.sim.history import Read, Sent
from tests.system import chaos
from tests.system.chaos import DECK, Report, lacking, torment
from tests.system.power import DAMAGE
from tests.system.rig import Cluster
from tests.system.traffic import SLOTS, Look, Seen, judge

ROOT = ("power cut", "failing disk")


def needs(kind: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.needs_root, pytest.mark.skipif(bool(lacking(kind)), reason=lacking(kind) or "")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param([kind for kind in DECK if kind not in ROOT], id="without root"),
        *(pytest.param([kind], id=kind, marks=needs(kind)) for kind in ROOT),
    ],
)
def test_nothing_acknowledged_is_lost_repeated_or_moved(tmp_path: Path, kinds: list[str]) -> None:
    report = torment(tmp_path, minutes=0.25 if len(kinds) > 1 else 0.05, seed=4, kinds=kinds)

    assert report.anomalies == {}, report.document()
    assert sum(report.faults.values()) >= 1
    assert report.figures["acknowledged"] > 200 and report.figures["records_polled"] > 200


def test_what_servers_say_of_damage_is_heard(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, powered=False, lying=False, settings="")
    for number in cluster.servers:
        (tmp_path / f"server{number}.log").write_text("[info     ] link up\n")
    assert cluster.damage() == []
    sources = "".join(file.read_text() for package in (broker, zablog) for file in Path(package.__path__[0]).rglob("*.py"))
    for words in DAMAGE:
        assert words in sources, "servers say it so"
        (tmp_path / "server2.log").write_text(f"[info     ] link up\n[error    ] a segment: {words}\n")
        assert cluster.damage() == [f"node 2: [error    ] a segment: {words}"]
    cluster.servers[2].lying = True
    assert cluster.damage() == [], "with syncs that lie there is damage"


@pytest.mark.slow
@pytest.mark.needs_root
@pytest.mark.skipif(bool(lacking("power cut")) or not shutil.which("strace"), reason=lacking("power cut") or "needs strace")
def test_syncs_that_are_answered_and_not_done_are_reported_as_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "SERVICE_SECONDS", 8.0)
    monkeypatch.setattr(chaos, "CLIENT_SECONDS", 10.0)

    report = torment(tmp_path, minutes=0.01, seed=1, kinds=["power cut"], lying=True)

    assert "lost_write" in report.anomalies, report.document()
    assert not report.clean


def test_a_kind_that_was_injected_too_seldom_is_no_success() -> None:
    report = Report(10.0, 1, wanted={"split": 5})
    report.faults["split"] = 4

    assert not report.clean
    assert "TOO FEW split: 4 of 5" in report.words()


def history() -> Seen:
    """Two producers' records in the first partition, read by a reader and back by their own client; three copies alike."""
    seen = Seen()
    seen.sent = [
        Sent(1, 1, ((0, (1,)),), called=10, answered=20, offsets=(0,)),
        Sent(2, 1, ((0, (2,)),), called=30, answered=40, offsets=(1,)),
        Sent(1, 2, ((0, (3,)),), called=50),
    ]
    seen.reads = [Read(0, 0, 0, (1,)), Read(0, 0, 1, (2,))]
    seen.looks = [Look("linearizable", 2, 2)]
    empty: list[list[int]] = [[] for _ in SLOTS[1:]]
    seen.final = [[[1, 2], *empty] for _ in range(3)]
    seen.digests = [7, 7, 7]
    return seen


def test_a_history_without_anomalies_is_not_objected_to() -> None:
    assert judge(history()) == {}


@pytest.mark.parametrize(
    ("edit", "checker"),
    [
        (lambda seen: [log[0].remove(2) for log in seen.final], "lost_write"),
        (lambda seen: [log[0].append(1) for log in seen.final], "duplicate"),
        (lambda seen: [log[0].append(99) for log in seen.final], "phantom"),
        (lambda seen: [log[0].reverse() for log in seen.final], "inconsistent_offset"),
        (lambda seen: seen.final[2][0].append(3), "replica_divergence"),
        (lambda seen: seen.digests.__setitem__(1, 8), "replica_divergence"),
        (lambda seen: seen.reads.pop(0), "poll_skip"),
        (lambda seen: seen.looks.append(Look("linearizable", 1, None)), "stale_read"),
    ],
)
def test_an_edited_history_is_objected_to(edit, checker: str) -> None:
    seen = history()
    edit(seen)

    assert checker in judge(seen)
