"""Three real nodes in one process: real sockets on loopback, real files, real fsync."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from tests.ports import free_ports
from zablog import Identity, Member, Node, NodeConfig, NodeStopped, NotLeading, PeerId, Status, Zxid, give_birth, open_node
from zablog.core.trail import Payload
from zablog.storage.errors import DirectoryInUse, Foreign, NotBorn
from zablog.storage.files import FileDisk
from zablog.storage.manifest import Manifest
from zablog.transport import errors as transport_errors
from zablog.wire.frames import FrameReader
from zablog.wire.handshake import PEER_VERSIONS, Hello, Purpose, Refusal, Refused, decode_handshake, encode_handshake


class Recorder:
    """An application that remembers what it was given."""

    def __init__(self) -> None:
        self.entries: list[tuple[Zxid, bytes]] = []

    def apply(self, zxid: Zxid, payload: Payload) -> None:
        self.entries.append((zxid, bytes(payload)))

    def applied(self, upto: Zxid) -> None:
        assert self.entries[-1][0] == upto

    def role_changed(self, status: Status) -> None:
        pass


def bear(path: Path, nodes: int = 3) -> list[Path]:
    """Data directories for a new ensemble."""
    members = tuple(Member(PeerId(id), f"{id:032x}", f"127.0.0.1:{port}") for id, port in enumerate(free_ports(nodes), 1))
    directories = []
    for member in members:
        directory = path / f"node{member.id}"
        give_birth(FileDisk(directory, create=True), Identity("ab" * 16, member.id, member.incarnation, members))
        directories.append(directory)
    return directories


def addresses_in(directory: Path) -> list[str]:
    return [member.address for member in Manifest(FileDisk(directory)).load().members]


class Running:
    """Nodes that can be opened and closed one by one."""

    def __init__(self, nursery: trio.Nursery, directories: list[Path]) -> None:
        self.nursery = nursery
        self.directories = directories
        self.nodes: dict[int, Node] = {}
        self.recorders: dict[int, Recorder] = {}
        self.scopes: dict[int, trio.CancelScope] = {}
        self.closed: dict[int, trio.Event] = {}

    async def start(self, id: int) -> None:
        opened = trio.Event()

        async def live() -> None:
            recorder = Recorder()
            with trio.CancelScope() as scope:
                async with open_node(NodeConfig(self.directories[id - 1], file_bytes=1 << 20), recorder) as node:
                    self.nodes[id], self.recorders[id], self.scopes[id] = node, recorder, scope
                    self.closed[id] = trio.Event()
                    opened.set()
                    await trio.sleep_forever()
            del self.nodes[id]
            self.closed[id].set()

        self.nursery.start_soon(live)
        await opened.wait()

    async def stop(self, id: int) -> None:
        self.scopes[id].cancel()
        await self.closed[id].wait()

    async def until(self, truth: Callable[[], bool]) -> None:
        """Wait for something to become true, looking whenever anything happens on any node."""
        with trio.fail_after(20):
            while not truth():
                async with trio.open_nursery() as nursery:
                    for node in self.nodes.values():
                        nursery.start_soon(self.look_again, node, nursery.cancel_scope)

    async def look_again(self, node: Node, scope: trio.CancelScope) -> None:
        """One of them has moved; a node that is being closed may be waited for by nobody else."""
        with suppress(NodeStopped):
            await node.changed()
        scope.cancel()

    def leader(self) -> Node | None:
        return next((node for node in self.nodes.values() if node.status().leads), None)

    async def leading(self) -> Node:
        await self.until(lambda: self.leader() is not None)
        leader = self.leader()
        assert leader is not None
        return leader


@asynccontextmanager
async def ensemble(path: Path, nodes: int = 3) -> AsyncIterator[Running]:
    async with trio.open_nursery() as nursery:
        running = Running(nursery, bear(path, nodes))
        for id in range(1, nodes + 1):
            await running.start(id)
        yield running
        nursery.cancel_scope.cancel()


async def write(running: Running, words: list[bytes]) -> Zxid:
    leader = await running.leading()
    zxid = Zxid(0, 0)
    for word in words:
        zxid = await leader.propose(word)
    await leader.committed(zxid)
    return zxid


async def test_what_is_proposed_is_applied_everywhere_in_order(tmp_path: Path) -> None:
    words = [b"%d" % number for number in range(500)]
    async with ensemble(tmp_path) as running:
        await write(running, words)

        await running.until(lambda: all(len(recorder.entries) == 500 for recorder in running.recorders.values()))

        assert [word for _, word in running.recorders[1].entries] == words
        assert running.recorders[1].entries == running.recorders[2].entries == running.recorders[3].entries


@pytest.mark.parametrize("task", ["Outbound.keep_telling", "Awake.run"])
async def test_what_waits_is_watched_over(tmp_path: Path, task: str) -> None:
    """Nobody else would tell a follower of the last of several records in time (a heartbeat tells it later), or stay awake for a client."""
    async with ensemble(tmp_path, nodes=2) as running:
        await running.leading()
        assert sum(task in each.name for each in tasks(trio.lowlevel.current_root_task())) == 2


async def test_records_one_by_one_come_to_everybody_in_order(tmp_path: Path) -> None:
    """Also to the follower that the quorum does not need, and when the one it does need goes in the middle of it."""
    words = [b"%d" % number for number in range(90)]
    async with ensemble(tmp_path) as running:
        leader = await running.leading()
        for word in words[:60]:
            await leader.committed(await leader.propose(word))
        needed = next(iter(leader._driver.outbound._prompt or leader._driver.live_links)).peer
        await running.stop(needed)
        for word in words[60:]:
            await leader.committed(await leader.propose(word))
        await running.start(needed)
        await running.until(lambda: all(len(each.entries) == len(words) for each in running.recorders.values()))
        assert all([word for _, word in recorder.entries] == words for recorder in running.recorders.values())


def tasks(root: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    """This task and all below it."""
    assert root is not None
    yield root
    for nursery in root.child_nurseries:
        for child in nursery.child_tasks:
            yield from tasks(child)


async def test_one_node_is_an_ensemble_too(tmp_path: Path) -> None:
    async with ensemble(tmp_path, nodes=1) as running:
        await write(running, [b"alone"])

        await running.until(lambda: [word for _, word in running.recorders[1].entries] == [b"alone"])


async def test_another_leads_when_the_leader_is_gone_and_it_catches_up_when_it_is_back(tmp_path: Path) -> None:
    async with ensemble(tmp_path) as running:
        await write(running, [b"before"])
        first = (await running.leading()).status().id
        await running.stop(first)
        await write(running, [b"without", b"it"])

        await running.start(first)

        await running.until(lambda: len(running.recorders[first].entries) == 3)
        assert [word for _, word in running.recorders[first].entries] == [b"before", b"without", b"it"]
        await write(running, [b"after"])
        await running.until(lambda: all(len(recorder.entries) == 4 for recorder in running.recorders.values()))


async def test_a_restart_of_everything_loses_nothing(tmp_path: Path) -> None:
    async with ensemble(tmp_path) as running:
        await write(running, [b"%d" % number for number in range(100)])
        for id in (1, 2, 3):
            await running.stop(id)
        for id in (1, 2, 3):
            await running.start(id)

        await running.until(lambda: all(len(recorder.entries) == 100 for recorder in running.recorders.values()))


async def test_a_follower_proposes_nothing_and_says_who_does(tmp_path: Path) -> None:
    async with ensemble(tmp_path) as running:
        leader = await running.leading()
        await running.until(lambda: all(node.status().serving for node in running.nodes.values()))
        follower = next(node for node in running.nodes.values() if node is not leader)

        with pytest.raises(NotLeading) as caught:
            follower.propose_nowait([b"x"])

        assert caught.value.leader == leader.status().id


async def test_a_directory_serves_one_process(tmp_path: Path) -> None:
    async with ensemble(tmp_path, nodes=1) as running:
        with pytest.raises(DirectoryInUse):
            async with open_node(NodeConfig(running.directories[0]), Recorder()):
                pass


async def test_a_directory_that_was_not_born_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotBorn, match="cluster init"):
        async with open_node(NodeConfig(tmp_path), Recorder()):
            pass
    with pytest.raises(NotBorn):
        async with open_node(NodeConfig(tmp_path / "nowhere"), Recorder()):
            pass


async def test_a_directory_of_another_birth_is_refused_in_words(tmp_path: Path) -> None:
    (directory,) = bear(tmp_path, 1)

    with pytest.raises(Foreign, match="must not stand in for it"):
        async with open_node(NodeConfig(directory, cluster="ff" * 16), Recorder()):
            pass
    with pytest.raises(Foreign, match="node 2"):
        async with open_node(NodeConfig(directory, node=PeerId(2)), Recorder()):
            pass


async def test_a_node_of_another_birth_takes_no_part_however_long_it_knocks(tmp_path: Path) -> None:
    directories = bear(tmp_path / "ours")
    theirs = [Member(PeerId(id), f"{id + 100:032x}", address) for id, address in enumerate(addresses_in(directories[0]), 1)]
    stranger = tmp_path / "theirs"
    give_birth(FileDisk(stranger, create=True), Identity("cd" * 16, PeerId(3), theirs[2].incarnation, tuple(theirs)))
    async with trio.open_nursery() as nursery:
        running = Running(nursery, [*directories[:2], stranger])
        for id in (1, 2, 3):
            await running.start(id)

        with trio.fail_after(20):
            for id in (1, 2):
                hello = Hello(PEER_VERSIONS, Purpose.PEER, "cd" * 16, PeerId(3), theirs[2].incarnation, PeerId(id))
                host, _, port = theirs[id - 1].address.rpartition(":")
                async with await trio.open_tcp_stream(host, int(port)) as stream:
                    await stream.send_all(b"".join(encode_handshake(hello)))
                    (frame,) = FrameReader().feed(bytes(await stream.receive_some()))
                    answer = decode_handshake(frame)
                    assert isinstance(answer, Refused)
                    assert answer.code == Refusal.WRONG_CLUSTER

        assert running.nodes[3].status().links == ()
        assert running.leader() is None, "a new-born ensemble begins when all its own members are there"
        await running.stop(3)
        running.directories[2] = directories[2]
        await running.start(3)
        await write(running, [b"ours"])
        nursery.cancel_scope.cancel()


async def test_no_address_but_loopback_is_listened_on_unasked(tmp_path: Path) -> None:
    (directory,) = bear(tmp_path, 1)

    with pytest.raises(transport_errors.InsecureAddress, match="insecure"):
        async with open_node(NodeConfig(directory, listen="0.0.0.0:0"), Recorder()):
            pass


async def test_a_failing_application_stops_the_node(tmp_path: Path) -> None:
    class Failing(Recorder):
        def apply(self, zxid: Zxid, payload: Payload) -> None:
            raise ValueError("no")

    (directory,) = bear(tmp_path, 1)
    with pytest.raises(NodeStopped, match=r"failed at 1\.1"):
        async with open_node(NodeConfig(directory), Failing()) as node:
            while not node.status().leads:
                await node.changed()
            await node.propose(b"x")
            await trio.sleep_forever()


async def test_a_failing_disk_stops_the_node_and_acknowledges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory,) = bear(tmp_path, 1)
    recorder = Recorder()
    with pytest.raises(NodeStopped, match="disk failed"):
        async with open_node(NodeConfig(directory), recorder) as node:
            while not node.status().leads:
                await node.changed()

            def fail(self: FileDisk, name: str | bool) -> None:
                raise OSError(5, "Input/output error")

            monkeypatch.setattr(FileDisk, "sync", fail)
            monkeypatch.setattr(FileDisk, "finish_sync", fail)
            zxid = await node.propose(b"x")
            await node.committed(zxid)
    assert recorder.entries == []


async def test_the_errors_of_the_block_are_not_wrapped(tmp_path: Path) -> None:
    (directory,) = bear(tmp_path, 1)
    with pytest.raises(KeyError):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(open_node(NodeConfig(directory), Recorder()))
            raise KeyError("mine")
