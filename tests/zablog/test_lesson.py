"""The lesson is the protocol, and says so in plain words."""

import pytest

from zablog.lesson import DistributedSystem, Node


def test_the_skeleton_of_the_articles_runs_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [Node(i) for i in range(5)]
    system = DistributedSystem(nodes)
    system.run()

    story = capsys.readouterr().out
    for word in ("looks for a leader", "CEPOCH", "NEWEPOCH", "ACKEPOCH", "NEWLEADER", "UPTODATE", "PROPOSE", "ACK 1.1", "COMMIT", "killed"):
        assert word in story
    assert [node.data for node in nodes] == [["x = 1", "y = 2", "x = 3"]] * 5
    assert len({node.timestamp for node in nodes}) == 1
    assert len({node.leader for node in nodes}) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_smaller_systems_agree_too(count: int) -> None:
    lines: list[str] = []
    nodes = [Node(i) for i in range(count)]

    DistributedSystem(nodes, say=lines.append).run()

    assert len({tuple(node.data) for node in nodes}) == 1
    assert nodes[0].data[:2] == ["x = 1", "y = 2"]
