"""What memory streams cannot show: ports, addresses, big messages through real sockets on loopback."""

import socket
from random import Random

import pytest
import trio

from zablog.core.messages import Propose
from zablog.core.trail import Entries
from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid
from zablog.transport.ends import UNSENT_BYTES, ends_of
from zablog.transport.errors import AddressInUse, CannotListen, InsecureAddress
from zablog.transport.greeting import Contact, Self
from zablog.transport.listening import open_listeners, split_address
from zablog.transport.network import open_network
from zablog.wire.handshake import Hello, Purpose, Versions, encode_handshake

from .conftest import Recorder

ANY = "127.0.0.1:0"


@pytest.mark.parametrize("unix_sockets", [False, True])
async def test_messages_of_every_size_go_through_real_sockets(unix_sockets: bool) -> None:
    dice = Random(1)
    sizes = [dice.choice((0, 10, 1000, 70_000, 3_000_000)) for _ in range(60)]
    messages = [
        Propose(Epoch(1), Entries(Zxid(1, n), ZERO, [dice.randbytes(size), b"", dice.randbytes(size // 2)] * (1 + n % 3), n), ZERO)
        for n, size in enumerate(sizes, 1)
    ]
    first, second = Recorder(), Recorder()

    with trio.fail_after(20):
        async with (
            open_network(ANY, Self("c", PeerId(1), "a"), [Contact(PeerId(2), "b", ("127.0.0.1:1",))], unix_sockets=unix_sockets) as one,
            open_network(ANY, Self("c", PeerId(2), "b"), [Contact(PeerId(1), "a", one.addresses)]) as two,
        ):
            one.start(first.callbacks)
            two.start(second.callbacks)
            up, down = await second.link(), await first.link()
            for message in messages:
                two.send(up, message)
                one.send(down, message)
                await two.room(up)
            received = await first.messages(60), await second.messages(60)

    assert received == (messages, messages)


@pytest.mark.parametrize("unix_sockets", [False, True])
async def test_a_killed_peer_is_noticed_and_dialled_again(unix_sockets: bool) -> None:
    first, second, reborn = Recorder(), Recorder(), Recorder()
    contact = Contact(PeerId(2), "b", ("127.0.0.1:1",))

    with trio.fail_after(20):
        async with open_network(ANY, Self("c", PeerId(1), "a"), [contact], unix_sockets=unix_sockets) as one:
            one.start(first.callbacks)
            async with open_network(None, Self("c", PeerId(2), "b"), [Contact(PeerId(1), "a", one.addresses)]) as two:
                two.start(second.callbacks)
                link = await first.link()
            down, reason = await first.until("down")
            assert down == link
            assert reason == "the peer closed the connection" or "reset by peer" in reason, "a reset where it had not read all"
            async with open_network(None, Self("c", PeerId(2), "b"), [Contact(PeerId(1), "a", one.addresses)]) as two:
                two.start(reborn.callbacks)
                assert (await first.link(2)).generation > link.generation


async def test_a_client_that_vanishes_harms_nobody() -> None:
    hearing = trio.Event()

    async def serve(stream: trio.abc.Stream, hello: Hello) -> None:
        assert isinstance(stream, trio.SocketStream)
        hearing.set()
        await stream.socket.recv(100)
        await stream.socket.recv(100)

    async with open_network(ANY, Self("c", PeerId(1), "a"), []) as one:
        one.start(Recorder().callbacks, serve)
        for _ in range(2):
            hearing = trio.Event()
            stream = await trio.open_tcp_stream(*split_address(one.addresses[0]))
            await stream.send_all(b"".join(encode_handshake(Hello(Versions(1, 1), Purpose.CLIENT))))
            await hearing.wait()
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await stream.aclose()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
async def test_an_address_that_others_can_reach_is_refused_unless_insecure(address: str) -> None:
    with pytest.raises(InsecureAddress, match=r"can be reached from other machines.*insecure = true"):
        await open_listeners(address, insecure=False)


async def test_insecure_listens_where_it_is_told() -> None:
    for listener in await open_listeners("0.0.0.0:0", insecure=True):
        await listener.aclose()


async def test_an_address_in_use_is_named() -> None:
    async with open_network(ANY, Self("c", PeerId(1), "a"), []) as one:
        with pytest.raises(AddressInUse, match=f"{one.addresses[0]} is in use"):
            await open_listeners(one.addresses[0], insecure=False)


@pytest.mark.parametrize("address", ["7101", "host:", "host:port", "host:70000", "no.such.host.invalid:1", "a..b:1", "192.0.2.1:1"])
async def test_an_address_that_is_none_is_refused_in_words(address: str) -> None:
    with pytest.raises(CannotListen):
        await open_listeners(address, insecure=True)


def test_hosts_may_be_names_or_numbers_of_either_kind() -> None:
    assert split_address("localhost:7101") == ("localhost", 7101)
    assert split_address("[::1]:7101") == ("::1", 7101)


async def test_the_kernel_is_given_a_large_frame_in_one_piece() -> None:
    """Each further piece costs a turn of the event loop, at either end."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    stream = await trio.open_tcp_stream(*listener.socket.getsockname())
    async with listener, stream:
        ends_of(stream)

        assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES == 1 << 20
