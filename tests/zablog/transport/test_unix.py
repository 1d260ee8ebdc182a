"""The Unix socket beside a loopback address: who takes it, who does not, and that nothing else is different."""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from zablog.core.zxid import PeerId
from zablog.transport import unix
from zablog.transport.ends import LOOK_SECONDS, SILENCE_SECONDS, UNSENT_BYTES, address_of, ends_of, tune
from zablog.transport.errors import AddressInUse
from zablog.transport.greeting import Contact, Self
from zablog.transport.listening import split_address
from zablog.transport.network import Network, open_network
from zablog.transport.unix import NOBODY, credentials, dial, name_of
from zablog.wire.handshake import Hello, Purpose, Versions, encode_handshake

from .conftest import Recorder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no abstract names but on Linux")

ANY = "127.0.0.1:0"
OTHERS_UID = 65534
MOST = int(Path("/proc/sys/net/core/wmem_max").read_text()) if sys.platform == "linux" else 0
"""What the system lets the kernel hold back at all."""


def is_unix(stream: trio.abc.Stream) -> bool:
    assert isinstance(stream, trio.SocketStream)
    return stream.socket.family == socket.AF_UNIX


@asynccontextmanager
async def alone(unix_sockets: bool = True, address: str = ANY) -> AsyncIterator[Network]:
    async with open_network(address, Self("c", PeerId(1), "a"), [], unix_sockets=unix_sockets) as network:
        yield network


@asynccontextmanager
async def dialled(network: Network) -> AsyncIterator[trio.abc.Stream]:
    stream = await dial(*split_address(network.addresses[0]))
    async with stream:
        yield stream


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_who_dials_a_loopback_address_comes_by_the_socket_beside_it(host: str) -> None:
    async with alone(address=f"[{host}]:0") as network, dialled(network) as stream:
        assert is_unix(stream)
        assert split_address(network.addresses[0])[0] == host, "a name is no address, and none is told"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.1", "\0zablog/127.0.0.1:7401"),
        ("::1", "\0zablog/[::1]:7401"),
        ("0:0:0:0:0:0:0:1", "\0zablog/[::1]:7401"),
        ("127.0.0.2", "\0zablog/127.0.0.2:7401"),
        ("10.0.0.1", None),
        ("0.0.0.0", None),
        ("localhost", None),
        ("node1.example", None),
    ],
)
def test_only_loopback_addresses_have_names(host: str, name: str | None) -> None:
    assert name_of(host, 7401) == name


async def test_a_node_that_is_told_so_takes_tcp_alone() -> None:
    async with alone(unix_sockets=False) as network, dialled(network) as stream:
        assert not is_unix(stream)


@contextmanager
def squatter(host: str, port: int) -> Iterator[None]:
    """Another user has taken the name beside this address."""
    command = [sys.executable, "-c", SQUATTER, host, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None, "they are pipes"
        said = process.stdout.readline().strip()
        if said == "no right":
            pytest.skip("only root can be somebody else")
        assert said == "listening"
        yield
        process.stdin.close()


SQUATTER = f"""
import os, socket, sys
try:
    os.setuid({OTHERS_UID})
except PermissionError:
    print("no right")
    sys.exit()
ours = socket.socket(socket.AF_UNIX)
ours.bind("\\0zablog/%s:%s" % tuple(sys.argv[1:]))
ours.listen()
print("listening", flush=True)
sys.stdin.read()
"""


async def test_a_name_that_another_user_has_is_done_without() -> None:
    """The port is ours, the name another user's: whoever dials does not fall for it, and the node comes up."""
    async with alone(unix_sockets=False) as network:
        (address,) = network.addresses
    with squatter(*split_address(address)):
        async with alone(address=address) as network, dialled(network) as stream:
            assert network.addresses == (address,)
            assert not is_unix(stream), "the listener on the name is nobody whom the caller trusts"


async def test_a_name_whose_holder_would_be_believed_keeps_a_node_from_coming_up() -> None:
    async with alone() as network:
        host, port = split_address(network.addresses[0])
        network._listeners[0].socket.close()
        with pytest.raises(AddressInUse, match=f"{host}:{port}: process {os.getpid()} listens on the Unix socket of that name"):
            async with alone(address=f"{host}:{port}"):
                pass
        for listener in await trio.open_tcp_listeners(port, host=host):  # it has left nothing open
            await listener.aclose()


@pytest.mark.parametrize(("owner", "taken"), [(0, True), (os.geteuid(), True), (os.geteuid() + 1, False)])
async def test_who_listens_must_be_of_the_callers_user_or_root(monkeypatch: pytest.MonkeyPatch, owner: int, taken: bool) -> None:
    async with alone() as network:
        monkeypatch.setattr(unix, "credentials", lambda ours: credentials(ours)._replace(user=owner))
        async with dialled(network) as stream:
            assert is_unix(stream) is taken


async def test_a_listener_with_no_room_for_another_caller_is_called_by_tcp() -> None:
    """The kernel says "try again" instead of making a caller wait; trio would take that for a connection."""
    async with alone(unix_sockets=False) as network:
        host, port = split_address(network.addresses[0])
        name = name_of(host, port)
        assert name is not None
        with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            full.bind(name)
            full.listen(0)
            first.setblocking(False)
            first.connect(name)
            second.setblocking(False)
            with pytest.raises(BlockingIOError):
                second.connect(name)
            async with dialled(network) as stream:
                assert not is_unix(stream)


async def test_a_name_is_gone_with_its_network() -> None:
    async with alone() as network:
        (address,) = network.addresses
    async with alone(unix_sockets=False, address=address) as network, dialled(network) as stream:
        assert not is_unix(stream)


async def test_a_caller_is_named_by_its_process() -> None:
    async with alone() as network:
        (beside,) = [listener for listener in network._listeners if listener.socket.family == socket.AF_UNIX]
        async with dialled(network), await beside.accept() as accepted:
            assert address_of(accepted) == f"local:{os.getpid()}"


async def test_a_large_frame_fits_into_what_the_kernel_holds() -> None:
    """Each further piece costs a turn of the event loop, at either end."""
    async with alone() as network, dialled(network) as stream:
        assert isinstance(stream, trio.SocketStream)
        tune(stream)
        ends_of(stream)
        assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * min(UNSENT_BYTES, MOST), (
            "Linux counts its own share, as much again"
        )


@pytest.mark.parametrize("unread", [b"", b"what nobody reads"])
async def test_the_end_of_the_other_side_is_noticed_as_over_tcp(unread: bytes) -> None:
    async with alone() as network:
        (beside,) = [listener for listener in network._listeners if listener.socket.family == socket.AF_UNIX]
        async with dialled(network) as stream:
            accepted = await beside.accept()
            await stream.send_all(unread or b"x")
            if not unread:
                await accepted.receive_some(1)
            await accepted.aclose()
            space = memoryview(bytearray(10))
            if unread:
                with pytest.raises(OSError, match="reset by peer"):
                    await ends_of(stream).receive_into(space)
            else:
                assert await ends_of(stream).receive_into(space) == 0


async def test_clients_and_strangers_are_served_by_either_way() -> None:
    heard: list[bool] = []

    async def serve(stream: trio.abc.Stream, hello: Hello) -> None:
        heard.append(is_unix(stream))

    async with alone() as network:
        network.start(Recorder().callbacks, serve)
        host, port = split_address(network.addresses[0])
        for stream in (await dial(host, port), await trio.open_tcp_stream(host, port)):
            await greet(stream)
            with trio.fail_after(5):
                while await stream.receive_some(100):
                    pass
            await stream.aclose()
    assert heard == [True, False]


async def test_where_unix_sockets_are_forbidden_tcp_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by seccomp, or RestrictAddressFamilies=AF_INET AF_INET6 of a systemd unit (which lets socketpairs be made, so trio runs)."""

    class Socket(socket.socket):
        def __init__(self, family: int = -1, *more: int, **named: object) -> None:
            if family == socket.AF_UNIX:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *more, **named)  # type: ignore[arg-type]

    async with alone(unix_sockets=False) as network:
        with monkeypatch.context() as patch:
            patch.setattr(unix.socket, "socket", Socket)
            stream = await dial(*split_address(network.addresses[0]))
        async with stream:
            assert not is_unix(stream)


async def test_a_user_whom_the_kernel_cannot_name_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a user namespace all users who have no number there are said to be 65534. Who runs as "nobody" must not trust them all."""
    async with alone() as network:
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
        monkeypatch.setattr(unix, "credentials", lambda ours: credentials(ours)._replace(user=NOBODY))
        async with dialled(network) as stream:
            assert not is_unix(stream)


def test_user_numbers_have_no_sign() -> None:
    """`struct ucred`: pid_t, uid_t, gid_t; the latter two are unsigned, as geteuid() is."""
    assert unix.Credentials(*unix.CREDENTIALS.unpack(b"\1\0\0\0" + b"\xf0\xff\xff\xff" * 2)).user == 0xFFFFFFF0


async def test_a_peer_that_takes_nothing_any_more_breaks_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    """As with TCP, where the kernel breaks it. A stopped process keeps its connections: for a snapshot that it fetches log is pinned."""
    async with alone() as network, dialled(network) as stream:
        tune(stream)
        async with await network._listeners[-1].accept():
            begun = trio.current_time()
            with pytest.raises(trio.BrokenResourceError, match="taken nothing for 5"):
                await ends_of(stream).send([bytes(1 << 20)] * 40)
            assert SILENCE_SECONDS <= trio.current_time() - begun <= SILENCE_SECONDS + 2 * LOOK_SECONDS


async def test_a_peer_that_takes_a_little_now_and_then_does_not(autojump_clock: trio.testing.MockClock) -> None:
    """A Unix socket says that it can be written to only when most of what it holds was taken."""
    pieces, got = [bytes(1 << 20)] * 8, 0
    async with alone() as network, dialled(network) as stream, trio.open_nursery() as nursery:
        tune(stream)
        async with await network._listeners[-1].accept() as accepted:
            nursery.start_soon(ends_of(stream).send, pieces)
            while got < sum(map(len, pieces)):
                await trio.sleep(SILENCE_SECONDS * 0.6)
                got += len(await accepted.receive_some(200_000))
            assert trio.current_time() > 10 * SILENCE_SECONDS


async def test_many_may_call_before_anybody_answers() -> None:
    async with alone() as network, AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(dialled(network)) for _ in range(100)]
        assert all(is_unix(caller) for caller in callers)


async def test_peers_meet_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*place: object) -> None:
        raise OSError("nobody is to be called by TCP")

    monkeypatch.setattr(trio, "open_tcp_stream", refuse)
    first, second = Recorder(), Recorder()
    with trio.fail_after(5):
        async with (
            open_network(ANY, Self("c", PeerId(1), "a"), [Contact(PeerId(2), "b", ("127.0.0.1:1",))]) as one,
            open_network(ANY, Self("c", PeerId(2), "b"), [Contact(PeerId(1), "a", one.addresses)]) as two,
        ):
            one.start(first.callbacks)
            two.start(second.callbacks)
            await first.link()


async def greet(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"".join(encode_handshake(Hello(Versions(1, 1), Purpose.CLIENT))))
