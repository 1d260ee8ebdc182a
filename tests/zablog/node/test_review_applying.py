"""What a hostile reader found of applying in the turn that hears of a commit: an application is not called back from its own calls."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.zablog.node.test_proposing import directory, until_leading  # noqa: F401
from zablog import Node, NodeConfig, NodeStopped, Status, Zxid, open_node
from zablog.core.trail import Payload
from zablog.node.reads import Round


class Words:
    """Remembers what was applied, and where; may propose a word of its own behind the next burst."""

    def __init__(self) -> None:
        self.node: Node | None = None
        self.at: dict[bytes, Zxid] = {}
        self.own: Zxid | None = None
        self.calls: list[bytes] = []

    def apply(self, zxid: Zxid, payload: Payload) -> None:
        self.calls.append(bytes(payload))
        if payload == b"poison":
            raise ValueError("I cannot")
        self.at[bytes(payload)] = zxid

    def applied(self, upto: Zxid) -> None:
        if self.node is not None:
            node, self.node = self.node, None
            self.own = node.propose_nowait([b"own"])

    def role_changed(self, status: Status) -> None: ...


@pytest.fixture
async def leading(directory: Path) -> AsyncIterator[tuple[Node, Words]]:  # noqa: F811
    words = Words()
    with trio.fail_after(20):
        async with open_node(NodeConfig(directory), words) as node:
            await until_leading(node)
            yield node, words


@pytest.mark.parametrize("asking", ["proposes", "asks for a linearizable read"])
async def test_who_does_so_is_not_called_back_from_within(asking: str, leading: tuple[Node, Words]) -> None:
    """An entry waits to be applied, as when the fetch of a snapshot was given up, or a slice took too long."""
    node, words = leading
    node._applier.hold()
    await node.committed(await node.propose(b"before"))
    words.node = node
    node._applier.release()

    if asking == "proposes":
        mine = node.propose_nowait([b"mine"])
        assert words.calls == []
    else:
        node._driver.reads.under_way = Round()
        node._driver.reads.begin()
        assert words.calls == []
        mine = node.propose_nowait([b"mine"])
    while len(words.at) < 3:
        await trio.sleep(0.01)

    assert (mine, words.own) == (words.at[b"mine"], words.at[b"own"])


async def test_nothing_is_applied_again_behind_a_failure(directory: Path) -> None:  # noqa: F811
    words = Words()
    with trio.fail_after(20), pytest.raises(NodeStopped, match="I cannot"):
        async with open_node(NodeConfig(directory), words) as node:
            await until_leading(node)
            node._applier.hold()
            first = node.propose_nowait([b"good", b"poison"])
            await node.committed(first.after(1))
            node._applier.release()  # the task is woken, and a step comes before it runs
            node._driver.tick()
            await trio.sleep_forever()

    assert words.calls == [b"good", b"poison"]


async def test_a_law_that_breaks_while_something_is_applied_stops_this_node_alone(
    directory: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be the writer's completion that heard of the commit, where an exception is the end of trio itself."""
    with trio.fail_after(20), pytest.raises(NodeStopped, match="a law of its own"):
        async with open_node(NodeConfig(directory), Words()) as node:
            await until_leading(node)
            monkeypatch.setattr(node._driver.history, "read", lambda *words: None)
            node.propose_nowait([b"good"])
            await trio.sleep_forever()
