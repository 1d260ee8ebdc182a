"""What a program may count on that proposes to a node, waits for it, and outlives it: one real node, real files."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

import zablog
from tests.ports import free_ports
from zablog import Identity, LeadershipLost, Member, Node, NodeConfig, NodeStopped, PeerId, Status, Zxid, give_birth, open_node
from zablog.core.effects import Effects
from zablog.core.state import Limits
from zablog.core.trail import Mark, Payload
from zablog.core.zxid import ZERO
from zablog.node.driver import HOLD_BYTES
from zablog.node.errors import Full, PayloadTooLarge
from zablog.node.node import PAYLOAD_BYTES_MAX
from zablog.storage.errors import StorageFailed
from zablog.storage.files import FileDisk


class Listing:
    """An application that keeps what it was given, and can be told to fail."""

    def __init__(self, fail: str = "") -> None:
        self.words: list[bytes] = []
        self.fail = fail

    def apply(self, zxid: Zxid, payload: Payload) -> None:
        self.words.append(bytes(payload))

    def applied(self, upto: Zxid) -> None:
        if self.fail == "applied":
            raise OSError(28, "No space left on device")

    def role_changed(self, status: Status) -> None:
        if self.fail == "role_changed" and status.leads:
            raise ValueError("no leader I")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of an ensemble of one."""
    path = tmp_path / "node1"
    (port,) = free_ports(1)
    member = Member(PeerId(1), f"{1:032x}", f"127.0.0.1:{port}")
    give_birth(FileDisk(path, create=True), Identity("ab" * 16, member.id, member.incarnation, (member,)))
    return path


async def until_leading(node: Node) -> None:
    while not node.status().leads:
        await node.changed()


async def test_what_was_given_up_in_a_lost_reign_is_not_taken_for_committed(directory: Path) -> None:
    with trio.fail_after(20):
        async with open_node(NodeConfig(directory), Listing()) as node:
            await until_leading(node)
            kept = await node.propose(b"kept")
            await node.committed(kept)
            state = node._driver.peer.state
            lost = Zxid(state.accepted, kept.counter + 7)  # as if a later leader had cut it away, and the log went on in a new epoch
            state.watermark = Zxid(state.accepted + 1, 1)
            state.trail.ends.append(Mark(state.watermark, 1))

            with pytest.raises(LeadershipLost):
                await node.committed(lost)

            await node.committed(kept)


async def test_who_waits_for_a_commit_hears_that_the_reign_is_over(directory: Path) -> None:
    with trio.fail_after(20):
        async with open_node(NodeConfig(directory), Listing()) as node:
            await until_leading(node)
            never = node.status().last.after(100)
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    with pytest.raises(LeadershipLost):
                        await node.committed(Zxid(node.status().epoch, never.counter))

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                out = node._driver.peer.out
                assert isinstance(out, Effects)
                out.abandon("for the sake of the test")
                node._driver.tick()


async def test_nothing_is_not_proposed(directory: Path) -> None:
    with trio.fail_after(20):
        async with open_node(NodeConfig(directory), Listing()) as node:
            await until_leading(node)

            with pytest.raises(ValueError, match="nothing"):
                node.propose_nowait([])

            await node.committed(await node.propose(b""))


async def test_a_payload_that_no_frame_would_carry_is_refused(directory: Path) -> None:
    with trio.fail_after(20):
        async with open_node(NodeConfig(directory), Listing()) as node:
            await until_leading(node)

            with pytest.raises(PayloadTooLarge, match="Nothing was proposed"):
                await node.propose(bytes(PAYLOAD_BYTES_MAX + 1))
            with pytest.raises(Full):
                node.propose_nowait([bytes(PAYLOAD_BYTES_MAX // 2 + 1)] * 2)

            await node.committed(await node.propose(b"fine"))


async def test_proposals_that_wait_for_room_are_made_in_the_order_of_their_asking(directory: Path) -> None:
    application = Listing()
    words = [b"%d" % number for number in range(50)]
    with trio.fail_after(20):
        async with open_node(NodeConfig(directory, limits=Limits(window_entries=1)), application) as node:
            await until_leading(node)
            async with trio.open_nursery() as nursery:
                for word in words:
                    nursery.start_soon(node.propose, word)
                    await trio.testing.wait_all_tasks_blocked()
            await node.wait_applied(node.status().last)

    assert application.words == words


async def test_a_leader_whose_disk_is_far_behind_takes_nothing_more(directory: Path) -> None:
    # Followers may be a quorum without it: the window of what is uncommitted would never fill, and its memory would.
    with trio.fail_after(20):
        async with open_node(NodeConfig(directory), Listing()) as node:
            await until_leading(node)
            writer = node._driver.writer
            assert writer is not None
            writer.queued_bytes += HOLD_BYTES + 1

            with pytest.raises(Full):
                node.propose_nowait([b"x"])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.propose, b"waits")
                await trio.testing.wait_all_tasks_blocked()
                assert node.status().last == ZERO
                writer.queued_bytes -= HOLD_BYTES + 1

            await node.committed(node.status().last)


async def test_an_application_may_propose_as_soon_as_it_hears_that_it_leads(directory: Path) -> None:
    class Eager(Listing):
        node: Node
        first: Zxid | None = None

        def role_changed(self, status: Status) -> None:
            if status.leads:
                self.first = self.node.propose_nowait([b"first", b"second"])

    application = Eager()
    with trio.fail_after(20):
        async with open_node(NodeConfig(directory), application) as node:
            application.node = node
            await until_leading(node)
            await node.committed(Zxid(node.status().epoch, 2))
            await node.wait_applied(Zxid(node.status().epoch, 2))

    assert application.first == Zxid(application.first.epoch if application.first else 0, 1)
    assert application.words == [b"first", b"second"]


async def test_an_application_that_fails_over_a_role_stops_the_node(directory: Path) -> None:
    with pytest.raises(NodeStopped, match="no leader I"), trio.fail_after(20):
        async with open_node(NodeConfig(directory), Listing(fail="role_changed")):
            await trio.sleep_forever()


async def test_an_application_that_cannot_write_out_a_burst_stops_the_node(directory: Path) -> None:
    with pytest.raises(NodeStopped, match="No space left") as caught, trio.fail_after(20):
        async with open_node(NodeConfig(directory), Listing(fail="applied")) as node:
            await until_leading(node)
            await node.propose(b"x")
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, OSError)


async def test_why_the_disk_failed_stands_behind_the_error(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: FileDisk, name: str | bool) -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(NodeStopped) as caught, trio.fail_after(20):
        async with open_node(NodeConfig(directory), Listing()) as node:
            await until_leading(node)
            monkeypatch.setattr(FileDisk, "sync", fail)
            monkeypatch.setattr(FileDisk, "finish_sync", fail)
            await node.propose(b"x")
            await trio.sleep_forever()

    assert isinstance(caught.value.__cause__, StorageFailed)


async def test_a_broken_law_stops_the_node_and_not_the_program(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Found when a writer's completion met it: an exception there is trio's own end, and takes every other node of the process along.
    def broken(*_: object) -> None:
        raise AssertionError("the law that laws are kept")

    with pytest.raises(NodeStopped, match="laws are kept"), trio.fail_after(20):
        async with open_node(NodeConfig(directory), Listing()) as node:
            await until_leading(node)
            monkeypatch.setattr("zablog.core.broadcast.on_self_durable", broken)
            await node.propose(b"x")
            await trio.sleep_forever()


async def test_a_closed_node_says_so_to_whoever_still_holds_it(directory: Path) -> None:
    with trio.fail_after(20):
        async with open_node(NodeConfig(directory), Listing()) as node:
            await until_leading(node)
        last = node.status().last

        with pytest.raises(NodeStopped, match="closed"):
            node.propose_nowait([b"late"])
        with pytest.raises(NodeStopped, match="closed"):
            await node.propose(b"late")
        with pytest.raises(LeadershipLost):
            await node.committed(last.after(1))
        with pytest.raises(NodeStopped, match="closed"):
            await node.wait_applied(last.after(1))
        with pytest.raises(NodeStopped, match="closed"):
            await node.changed()


@pytest.mark.parametrize("rounds", [5])
async def test_no_thread_outlives_its_node(directory: Path, rounds: int) -> None:
    for _ in range(rounds):
        with trio.fail_after(20):
            async with open_node(NodeConfig(directory), Listing()) as node:
                await until_leading(node)
                await node.committed(await node.propose(b"x"))

        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("zablog-")] == []


def test_a_node_does_not_run_without_assertions(directory: Path) -> None:
    program = f"""
import trio, zablog
from pathlib import Path
async def main():
    async with zablog.open_node(zablog.NodeConfig(Path({str(directory)!r})), None):
        pass
try:
    trio.run(main)
except zablog.ConfigError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout.startswith("refused: assertions guard the protocol"), done.stderr


def test_a_zxid_pulls_in_no_trio() -> None:
    program = "import sys, zablog; zablog.Zxid; zablog.Timing; zablog.give_birth; print('trio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "False\n"


def test_every_name_of_the_front_door_opens() -> None:
    assert set(zablog.__all__) == set(zablog.ROOMS)
    assert all(getattr(zablog, name).__module__ == room or name in {"Epoch", "PeerId"} for name, room in zablog.ROOMS.items())
    with pytest.raises(AttributeError, match="no attribute 'Zookeeper'"):
        zablog.Zookeeper  # noqa: B018
