"""The mesh in virtual time: who dials whom, who is refused with which words, what replaces what."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from zablog.core.messages import Ack, CEpoch, Message, Ping
from zablog.core.zxid import Epoch, PeerId, Zxid
from zablog.transport.link import encoded
from zablog.transport.network import HANDSHAKES_MAX, Callbacks, Network
from zablog.wire.frames import Frame, FrameReader, pieces
from zablog.wire.handshake import Hello, Purpose, Refusal, Refused, Versions, Welcome, decode_handshake, encode_handshake

from .conftest import Mesh, open_mesh

E1 = Epoch(1)


async def answer_to(network: Network, mesh: Mesh, hello: bytes) -> object:
    """What a stranger is told who opens with `hello`; None if he is told nothing and the connection closed."""
    stream, theirs = trio.testing.memory_stream_pair()
    mesh.nursery.start_soon(network.accept, theirs)
    await stream.send_all(hello)
    reader = FrameReader()
    while not (frames := reader.frames()):
        try:
            received = await stream.receive_some()
        except trio.BrokenResourceError:
            received = b""
        if not received:
            return None
        reader.space()[: len(received)] = received
        reader.received(len(received))
    return decode_handshake(frames[0])


def hello_of(**changes: object) -> bytes:
    """A flawless Hello of node 3 to node 1, but for the changes."""
    words = {"versions": Versions(1, 1), "purpose": Purpose.PEER, "cluster": "c1", "node": 3, "incarnation": "i3", "target": 1}
    return b"".join(encode_handshake(Hello(**{**words, **changes})))  # type: ignore[arg-type]


async def test_the_higher_number_dials_the_lower_and_messages_arrive_in_order(mesh: Mesh, autojump_clock: MockClock) -> None:
    one, heard_by_one = await mesh.node(1, members=2)
    two, heard_by_two = await mesh.node(2, members=2)
    to_two, to_one = await heard_by_one.link(), await heard_by_two.link()

    for counter in range(1, 100):
        assert one.send(to_two, Ack(E1, Zxid(1, counter)))
    two.send(to_one, CEpoch(E1, E1))

    assert await heard_by_two.messages(99) == [Ack(E1, Zxid(1, counter)) for counter in range(1, 100)]
    assert await heard_by_one.messages(1) == [CEpoch(E1, E1)]
    assert (to_two.peer, to_one.peer, len(mesh.streams)) == (2, 1, 1)


async def test_three_nodes_become_a_full_mesh_in_whatever_order_they_start(mesh: Mesh, autojump_clock: MockClock) -> None:
    recorders = [(await mesh.node(number))[1] for number in (3, 1, 2)]

    for recorder in recorders:
        await recorder.until("up", 2)

    assert [network.links() for network in mesh.networks.values()] == [
        sorted(link for (link,) in recorder.of("up")) for recorder in recorders
    ]


async def test_a_dropped_link_is_reported_once_and_dialled_again_as_another_link(mesh: Mesh, autojump_clock: MockClock) -> None:
    one, heard_by_one = await mesh.node(1, members=2)
    _, heard_by_two = await mesh.node(2, members=2)
    first = await heard_by_one.link()
    old = await heard_by_two.link()

    one.drop(first, "a test wants it so")
    second = await heard_by_one.link(2)
    await heard_by_two.link(2)
    one.send(first, Ping(E1, 1))
    one.send(second, Ping(E1, 2))

    assert await heard_by_two.messages(1) == [Ping(E1, 2)]
    assert heard_by_one.of("down") == [(first, "a test wants it so")]
    assert heard_by_two.of("down") == [(old, "the peer closed the connection")]
    assert second != first


async def test_nothing_is_received_on_a_link_after_it_was_dropped(mesh: Mesh, autojump_clock: MockClock) -> None:
    one, heard_by_one = await mesh.node(1, members=2)
    two, heard_by_two = await mesh.node(2, members=2)
    link, back = await heard_by_one.link(), await heard_by_two.link()

    two.send(back, Ping(E1, 1))
    one.drop(link, "enough")
    await heard_by_one.until("down")

    assert heard_by_one.of("received") == []


async def test_a_newer_link_to_a_peer_replaces_the_older_one(mesh: Mesh, autojump_clock: MockClock) -> None:
    one, heard_by_one = await mesh.node(1, members=3)

    assert isinstance(await answer_to(one, mesh, hello_of()), Welcome)
    first = await heard_by_one.link()
    assert isinstance(await answer_to(one, mesh, hello_of()), Welcome)
    second = await heard_by_one.link(2)

    assert heard_by_one.events == [("up", first), ("down", first, "a newer link to this peer replaces it"), ("up", second)]
    assert one.links() == [second]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"versions": Versions(2, 4)}, Refusal.VERSION, "the caller speaks protocol version 2 to 4, node 1 speaks 1"),
        ({"cluster": "c2"}, Refusal.WRONG_CLUSTER, "the caller belongs to cluster c2, and this is cluster c1"),
        ({"node": 9}, Refusal.UNKNOWN_NODE, "node 9 is not a member of this cluster; its members are 1, 2, 3"),
        ({"node": 1}, Refusal.UNKNOWN_NODE, "the caller says it is node 1, and so are we"),
        ({"incarnation": "x"}, Refusal.WRONG_INCARNATION, "node 3 was born as x, and the member of that number as i3"),
        ({"target": 2}, Refusal.WRONG_TARGET, "the caller looked for node 2, and node 1 listens here"),
        ({"purpose": Purpose.CLIENT}, Refusal.NOT_HERE, "node 1 serves no clients"),
    ],
)
async def test_a_caller_who_does_not_belong_here_is_refused_in_words(
    mesh: Mesh, autojump_clock: MockClock, changes: dict[str, object], code: Refusal, words: str
) -> None:
    one, heard_by_one = await mesh.node(1)

    answer = await answer_to(one, mesh, hello_of(**changes))

    assert isinstance(answer, Refused)
    assert answer.code == code
    assert words in answer.text
    assert heard_by_one.of("up") == []
    refused = [(changes.get("node", 3), "unknown", answer.text)]
    assert heard_by_one.of("refused") == ([] if "purpose" in changes else refused)


async def test_the_lower_number_may_not_call_the_higher(mesh: Mesh, autojump_clock: MockClock) -> None:
    three, _ = await mesh.node(3)

    answer = await answer_to(three, mesh, hello_of(node=1, incarnation="i1", target=3))

    assert answer == Refused(Refusal.PROTOCOL, "node 1 called node 3, and the higher number calls the lower")


async def test_a_refused_dialler_hears_why_and_logs_it_once(mesh: Mesh, autojump_clock: MockClock, log: list[dict[str, object]]) -> None:
    _, heard_by_one = await mesh.node(1, members=2)
    _, heard_by_two = await mesh.node(2, members=2, cluster="c2")

    peer, address, reason = await heard_by_two.until("refused", 5)

    assert (peer, address) == (1, "node-1:1")
    assert reason == "node 1 refused us: the caller belongs to cluster c2, and this is cluster c1"
    assert len(heard_by_one.of("refused")) >= 5
    assert [line["event"] for line in log] == ["caller turned away", "handshake refused"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"incarnation": "born again"}, "node 1 was born as born again, and the member of that number as i1"),
        ({"node": PeerId(3)}, "the caller looked for node 1, and node 3 listens here"),
    ],
)
async def test_a_dialler_does_not_talk_to_an_impostor(
    mesh: Mesh, autojump_clock: MockClock, overrides: dict[str, object], words: str
) -> None:
    impostor, _ = await mesh.node(1, **overrides)
    mesh.networks["node-1:1"] = impostor
    _, heard_by_two = await mesh.node(2)

    _, _, reason = await heard_by_two.until("refused")

    assert words in str(reason)
    assert heard_by_two.of("up") == []


async def test_dialling_backs_off_to_half_a_second_and_not_further(mesh: Mesh, autojump_clock: MockClock) -> None:
    await mesh.node(2, members=2)

    await trio.sleep(10)

    pauses = [later - earlier for earlier, later in zip(mesh.dialled, mesh.dialled[1:], strict=False)]
    assert 0.005 <= pauses[0] <= 0.01
    assert all(pause <= 0.011 + at - mesh.dialled[0] for at, pause in zip(mesh.dialled, pauses, strict=False)), "as long again, at most"
    assert all(0.25 <= pause <= 0.5 for pause in pauses[10:])


async def test_an_address_that_swallows_connections_does_not_keep_us_from_the_others(mesh: Mesh, autojump_clock: MockClock) -> None:
    mesh.hanging.add("node-1:1")
    await mesh.node(2)
    three, heard_by_three = await mesh.node(3)

    link = await heard_by_three.link()

    assert link.peer == 2
    assert trio.current_time() - mesh.dialled[0] < 0.5
    mesh.hanging.clear()
    _, heard_by_one = await mesh.node(1)
    await heard_by_one.until("up", 2)
    assert [link.peer for link in three.links()] == [1, 2]


async def test_a_caller_who_says_nothing_is_sent_away_in_time(mesh: Mesh, autojump_clock: MockClock) -> None:
    one, _ = await mesh.node(1)
    stream, theirs = trio.testing.memory_stream_pair()

    with trio.fail_after(3):
        await one.accept(theirs)

    assert await stream.receive_some() == b""


async def test_a_crowd_of_silent_strangers_is_bounded(mesh: Mesh, autojump_clock: MockClock, log: list[dict[str, object]]) -> None:
    one, _ = await mesh.node(1)
    for _ in range(HANDSHAKES_MAX):
        mesh.nursery.start_soon(one.accept, trio.testing.memory_stream_pair()[1])
    await trio.testing.wait_all_tasks_blocked()

    with trio.fail_after(0):
        await one.accept(trio.testing.memory_stream_pair()[1])
    await trio.sleep(3)

    assert isinstance(await answer_to(one, mesh, hello_of()), Welcome), "the crowd has been sent away"
    assert len(log) == 3, "the one too many, the first who was silent for too long, and the link"


@pytest.mark.parametrize("seed", range(5))
async def test_garbage_on_the_port_closes_that_connection_with_one_line(
    mesh: Mesh, autojump_clock: MockClock, log: list[dict[str, object]], seed: int
) -> None:
    one, heard_by_one = await mesh.node(1)
    assert isinstance(await answer_to(one, mesh, hello_of()), Welcome)

    answer = await answer_to(one, mesh, bytes([seed * 50]) * 5000)

    assert answer is None
    assert [line["event"] for line in log] == ["link up", "caller turned away"]
    assert len(one.links()) == 1 and heard_by_one.of("down") == []


async def test_a_whole_frame_that_is_no_hello_is_answered_in_words(mesh: Mesh, autojump_clock: MockClock) -> None:
    one, _ = await mesh.node(1)

    assert await answer_to(one, mesh, b"".join(map(bytes, pieces(Frame(70, b"x"))))) == Refused(
        Refusal.PROTOCOL, "a connection begins with a handshake, not with a frame of kind 70"
    )
    assert await answer_to(one, mesh, hello_of() + b"more") == Refused(
        Refusal.PROTOCOL, "the caller did not wait for the answer to its Hello"
    )


async def test_garbage_on_an_established_link_ends_that_link_only(mesh: Mesh, autojump_clock: MockClock) -> None:
    _, heard_by_one = await mesh.node(1, members=3)
    await mesh.node(2)
    await mesh.node(3)
    await heard_by_one.until("up", 2)
    ours, _ = mesh.streams[0]

    await ours.send_all(b"\xff" * 40)

    _, reason = await heard_by_one.until("down")
    assert str(reason).startswith("the peer sent garbage: a frame of 4,294,967,295 bytes")
    assert len(heard_by_one.of("down")) == 1


async def test_a_client_is_welcomed_and_handed_over(mesh: Mesh, autojump_clock: MockClock) -> None:
    served: list[Hello] = []

    async def serve(stream: trio.abc.Stream, hello: Hello) -> None:
        served.append(hello)
        await stream.send_all(await stream.receive_some())
        raise trio.BrokenResourceError("a client that breaks harms nobody")

    one, recorder = await mesh.node(1)
    one._clients = serve
    client, theirs = trio.testing.memory_stream_pair()
    mesh.nursery.start_soon(one.accept, theirs)
    hello = Hello(Versions(1, 1), Purpose.CLIENT)

    await client.send_all(b"".join(encode_handshake(hello)))
    (welcome,) = FrameReader().feed(bytes(await client.receive_some()))
    await client.send_all(b"words")

    assert decode_handshake(welcome) == Welcome(1, "c1", PeerId(1), "i1")
    assert await client.receive_some() == b"words"
    assert await client.receive_some() == b""
    assert served == [hello] and recorder.events == []


async def test_what_a_callback_raises_ends_the_network_even_if_it_looks_like_a_broken_connection() -> None:
    async def world() -> None:
        async with open_mesh() as mesh:
            one, recorder = await mesh.node(1, members=2)

            def fail(*_: object) -> None:
                raise OSError("the disk, not the connection")

            one._callbacks = Callbacks(recorder.callbacks.on_link_up, fail, recorder.callbacks.on_link_down)
            two, heard_by_two = await mesh.node(2, members=2)
            two.send(await heard_by_two.link(), Ping(E1, 1))
            await trio.sleep_forever()

    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="the disk"), flatten_subgroups=True, allow_unwrapped=True):
        await world()


async def test_what_goes_to_several_peers_is_encoded_once(mesh: Mesh, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Message] = []
    monkeypatch.setattr("zablog.transport.network.encoded", lambda message: calls.append(message) or encoded(message))
    one, heard_by_one = await mesh.node(1)
    heard_by_others = [(await mesh.node(number))[1] for number in (2, 3)]
    await heard_by_one.until("up", 2)
    message = Ping(E1, 1)

    for link in one.links():
        one.send(link, message)

    assert [await recorder.messages(1) for recorder in heard_by_others] == [[message], [message]]
    assert calls == [message]
