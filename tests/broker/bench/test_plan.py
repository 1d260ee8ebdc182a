"""What the benchmark refuses, which cases it chooses, and what it makes of a case that fails."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from broker.bench import meters, peers, suite
from broker.bench.cases import BIG, CASES, HARMFUL, Bench, Effort, label
from broker.bench.ensemble import Ensemble
from broker.bench.figures import Figures, NotReached, Reading, Unit
from broker.bench.load import Shape, outage
from broker.bench.report import Peer
from broker.bench.suite import NAMES, QUICK_NAMES, Plan
from broker.errors import BadRequest, NoQuorum, NotAllowed


def a_bench(suffix: str = "") -> Bench:
    return Bench(Ensemble(("127.0.0.1:1",)), Effort(), Figures(), lambda words: None, suffix)


def test_every_case_has_a_name_of_its_own_and_a_limit() -> None:
    table = [*CASES, *HARMFUL, *BIG]

    assert len({case.name for case in table}) == len(table)
    assert all(0 < case.limit <= 900 for case in table)
    assert set(QUICK_NAMES) <= set(NAMES)


def test_a_case_that_nobody_knows_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(BadRequest, match="no case publish_2KiB") as refused:
        Plan(only=["publish_2KiB"]).check()

    assert "publish_1KiB" in refused.value.hint


@pytest.mark.parametrize("name", ["failover_kill", "failover_stop", "big_log"])
def test_nodes_of_a_cluster_that_was_given_are_not_harmed(name: str) -> None:
    with pytest.raises(NotAllowed):
        Plan(only=[name], addresses=["127.0.0.1:7401"]).check()


def test_a_given_cluster_is_measured_by_loads_alone() -> None:
    plan = Plan(addresses=["127.0.0.1:7401"])

    assert [case.name for case in plan.chosen((*CASES, *HARMFUL, *BIG))] == [case.name for case in CASES]


async def test_an_ensemble_that_is_not_ours_takes_no_commands() -> None:
    with pytest.raises(NotAllowed):
        await Ensemble(("127.0.0.1:7401",)).command("cluster", "down")


async def test_more_than_the_limit_of_bytes_is_refused_before_anything_starts() -> None:
    with pytest.raises(BadRequest, match="at most 4 GB"):
        await suite.one(Plan(), Shape(1 << 20), 5000, lambda words: None)


def test_a_part_that_fails_is_not_reached_and_says_why() -> None:
    bench = a_bench("_5_nodes")

    async def fail() -> None:
        with bench.part("catch_up_1GB", 5):
            raise NoQuorum("no leader within 30 s")

    trio.run(fail)
    assert bench.figures.not_reached == {"catch_up_1GB_5_nodes": "NoQuorum: no leader within 30 s"}


async def test_a_part_that_takes_too_long_is_not_reached(autojump_clock: trio.testing.MockClock) -> None:
    bench = a_bench()

    with bench.part("restart_1GB", 5):
        await trio.sleep_forever()

    assert bench.figures.not_reached == {"restart_1GB": "not done within 5 s"}


async def test_a_defect_of_a_case_is_not_taken_for_a_figure_that_was_not_reached() -> None:
    bench = a_bench()

    with pytest.raises(AssertionError), bench.part("latency", 5):
        raise AssertionError("a law")

    assert bench.figures.not_reached == {}


def test_what_was_taken_carries_the_name_of_its_cluster() -> None:
    bench = a_bench("_5_nodes")

    bench.take(Reading("publish_1KiB", 1.0, Unit.RATE))

    assert bench.figures.values == {"publish_1KiB_5_nodes": 1.0}


def test_an_outage_ends_with_the_longest_silence_not_with_what_was_on_its_way() -> None:
    assert outage(10.0, [9.9, 10.001, 10.2, 10.201, 10.21]) == pytest.approx(0.2)


def test_an_outage_that_nothing_ended_is_no_figure() -> None:
    with pytest.raises(NotReached, match="nothing was acknowledged"):
        outage(10.0, [9.0, 9.9])


@pytest.mark.parametrize(("size", "name"), [(100, "100B"), (1024, "1KiB"), (65536, "64KiB"), (1000, "1KB"), (1500, "1500B")])
def test_sizes_have_short_names(size: int, name: str) -> None:
    assert label(size) == name


# -- peers ------------------------------------------------------------------------------------------------------------------------


def test_peers_are_chosen_by_name_once_each() -> None:
    assert peers.chosen("etcd, zookeeper,etcd") == ["etcd", "zookeeper"]
    assert peers.chosen("all") == list(peers.NAMES)
    assert peers.chosen("") == []


def test_a_peer_that_nobody_knows_is_refused() -> None:
    with pytest.raises(BadRequest, match="no such peer"):
        peers.chosen("zookeeper,oracle")


def test_every_peer_has_its_script() -> None:
    assert [name for name in peers.NAMES if not (peers.SCRIPTS / f"{name}.py").exists()] == []


def test_every_line_that_is_a_result_is_taken_and_noise_is_not() -> None:
    said = b"""starting
{"name": "rabbitmq", "version": "3.10", "ack": "fdatasync on a quorum", "figures": {"publish_1KiB": 17000}}
{"name": "rabbitmq-streams", "version": "3.10", "ack": "page cache of a quorum", "figures": {"publish_1KiB": 64000, "others_cores": 0.5}}
"""

    assert peers.parse("rabbitmq", said, "ended") == [
        Peer("rabbitmq", "3.10", "fdatasync on a quorum", {"publish_1KiB": 17_000.0}),
        Peer("rabbitmq-streams", "3.10", "page cache of a quorum", {"publish_1KiB": 64_000.0}, 0.5),
    ]
    assert peers.parse("etcd", b'{"skipped": "etcd is not installed"}', "ended") == [Peer("etcd", skipped="etcd is not installed")]


@pytest.mark.parametrize(
    "said", [b"", b"Traceback\n", b"[1]", b'{"version": "1"}', b'{"name": "a", "version": "1", "ack": "", "figures": {"a": null}}']
)
def test_a_script_without_a_result_is_skipped_and_how_it_ended_is_said(said: bytes) -> None:
    found = peers.parse("nats", said, "ended with exit code 3")

    assert found == [Peer("nats", skipped="its script ended with exit code 3, without a result")]


# -- meters -----------------------------------------------------------------------------------------------------------------------


def test_a_process_that_is_gone_uses_nothing() -> None:
    assert meters.cpu_seconds([2**22 + 1]) == 0 and meters.memory_bytes([2**22 + 1]) == 0


def test_what_a_disk_was_given_is_its_own_count(tmp_path: Path) -> None:
    before = meters.written_bytes(tmp_path)
    with (tmp_path / "file").open("wb") as file:
        file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    after = meters.written_bytes(tmp_path)

    assert (before is None) == (after is None)
    if before is not None and after is not None:
        assert after - before >= 1 << 20


def test_the_machine_is_described(tmp_path: Path) -> None:
    assert {"cores", "memory_gb", "python", "filesystem"} <= meters.machine(tmp_path).keys()


def test_the_command_refuses_what_cannot_be_meant(zablog: "Callable[..., int]") -> None:
    assert zablog("bench", "--only", "latency") == 2
    assert zablog("bench", "--suite", "--vs", "oracle") == 2
    assert zablog("bench", "--count", "many") == 2
    assert zablog("bench", "--size", "2MiB") == 2
    assert zablog("bench", "--acks", "some") == 2


@pytest.fixture
def zablog() -> "Callable[..., int]":
    from broker.cli.main import run

    return lambda *words: run(words)


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_plan_of_tcp_alone_is_one_for_every_cluster_that_is_made(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tcp: bool
) -> None:
    given: list[tuple[str, ...]] = []

    async def command(self: Ensemble, *words: str) -> None:
        given.append(words)
        raise NoQuorum("not today")

    monkeypatch.setattr(Ensemble, "command", command)
    with pytest.raises(NoQuorum):
        await suite.one(Plan(tcp=tcp, folder=tmp_path), Shape(100), 1, lambda words: None)
    assert [("--tcp" in words) for words in given if words[:2] == ("cluster", "up")] == [tcp]
