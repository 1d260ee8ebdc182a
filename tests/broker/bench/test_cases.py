"""A figure counts only if all nodes took part in it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.bench import cases, suite
from broker.bench.cases import QUICK, TRIES, Bench, Case, publish_once
from broker.bench.ensemble import NAME, Ensemble
from broker.bench.figures import Figures, NotReached, Reading, Unit
from broker.bench.load import Shape


class Nodes(Ensemble):
    """Three nodes, of which some are left behind, run by run."""

    def __init__(self, behind: Sequence[Sequence[str]], folder: Path | None) -> None:
        super().__init__(("a:1", "b:1", "c:1"), folder)
        self.behind = list(behind)
        self.waited = 0

    async def left_behind(self) -> list[str]:
        return list(self.behind.pop(0))

    async def settled(self) -> list[object]:  # type: ignore[override]  # nobody looks at it
        self.waited += 1
        return []


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rates of runs, each other than the one before."""
    done: list[int] = []

    async def published(*given: object) -> tuple[list[float], list[Reading]]:
        done.append(len(done) + 1)
        return [0.0], [Reading("publish", done[-1], Unit.RATE)]

    monkeypatch.setattr(cases, "_published", published)
    return done


async def test_a_run_in_which_a_node_was_left_behind_is_made_again(runs: list[int]) -> None:
    nodes, said = Nodes([["b:1"], []], Path("/")), list[str]()
    bench = Bench(nodes, QUICK, Figures(), said.append)

    await publish_once("publish", Shape(100), bench, 1.0, 1000)

    assert runs == [1, 2] and nodes.waited == 1
    assert bench.figures.found["publish"].value == 2
    assert "b:1 did not keep up" in said[0]


async def test_a_figure_of_fewer_nodes_is_none(runs: list[int]) -> None:
    bench = Bench(Nodes([["b:1"]] * TRIES, Path("/")), QUICK, Figures(), lambda words: None)

    with pytest.raises(NotReached, match="did not keep up"):
        await publish_once("publish", Shape(100), bench, 1.0, 1000)

    assert bench.figures.found == {}


async def test_a_cluster_of_somebody_else_is_measured_as_it_is(runs: list[int]) -> None:
    bench = Bench(Nodes([["b:1"]], None), QUICK, Figures(), lambda words: None)

    await publish_once("publish", Shape(100), bench, 1.0, 1000)

    assert bench.figures.found["publish"].value == 1


async def test_a_node_that_ends_by_itself_spoils_the_case_and_is_started_again(tmp_path: Path) -> None:
    nodes, started = Nodes([], tmp_path), list[int]()
    nodes.size = 3
    for node in (1, 2, 3):
        (tmp_path / "zablog" / NAME / f"node{node}").mkdir(parents=True)

    def log(node: int, *lines: str) -> None:
        (tmp_path / "zablog" / NAME / f"node{node}" / "server.log").write_text("".join(f"{line}\n" for line in lines))

    async def start(node: int) -> None:
        started.append(node)
        log(node, "zablog: the disk failed", "serving")

    async def die(bench: Bench) -> None:
        log(1, "serving")
        log(2, "serving", "zablog: the disk failed")

    nodes.start = start  # type: ignore[method-assign]
    bench = Bench(nodes, QUICK, Figures(), lambda words: None)

    await suite._cases([Case("publish", die, 10.0), Case("other", lambda bench: start(3), 10.0)], bench)

    assert bench.figures.not_reached == {"publish": "node 2 ended by itself, which is a defect: the disk failed"}
    assert started == [2, 3]
