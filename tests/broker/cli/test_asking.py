"""A node asked over a plain socket: one that answers, one that says nothing or nonsense, one that goes away, and none at all."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from broker.cli.asking import Asked
from broker.protocol import NodeStatus, Ponged, Response, Status, decode_request, encode_response
from tests.ports import free_ports
from zablog.core.zxid import ZERO, Epoch, PeerId
from zablog.wire.frames import Frame, FrameReader
from zablog.wire.handshake import Hello, Refusal, Refused, Welcome, decode_handshake, encode_handshake

STATUS = NodeStatus("c", PeerId(1), "h:1", "looking", "election", Epoch(0), None, ZERO, ZERO, ZERO, None, 1)
SECONDS = 10.0
"""How long an answer is waited for that must come."""

Play = Callable[[socket.socket], None]
"""What the node does with one connection."""


class Heard:
    """The caller's frames, one after the other."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.reader = FrameReader()

    def frame(self) -> Frame | None:
        """None once the caller has gone."""
        while not (frames := self.reader.frames(at_most=1)):
            count = self.end.recv_into(self.reader.space())
            if not count:
                return None
            self.reader.received(count)
        return frames[0]


def shake_hands(end: socket.socket) -> Heard:
    heard = Heard(end)
    frame = heard.frame()
    assert frame is not None and isinstance(decode_handshake(frame), Hello)
    end.sendall(b"".join(encode_handshake(Welcome(1, "c", PeerId(1), "i"))))
    heard.reader.admit()
    return heard


def answering(*answers: tuple[int, Response]) -> Play:
    """A node that answers so many questions, each with what is said here, and hangs up."""

    def play(end: socket.socket) -> None:
        heard = shake_hands(end)
        for number, response in answers:
            frame = heard.frame()
            assert frame is not None and isinstance(decode_request(frame)[1], Status)
            end.sendall(b"".join(encode_response(number, response)))

    return play


def silent(end: socket.socket) -> None:
    end.recv(1 << 16)
    end.recv(1)  # until the caller goes


def refusing(end: socket.socket) -> None:
    end.recv(1 << 16)
    end.sendall(b"".join(encode_handshake(Refused(Refusal.VERSION, "too old"))))


@contextmanager
def node(*plays: Play) -> Iterator[str]:
    """Where it listens; each connection that is made to it is served by the next of `plays`, in turn."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for play in plays:
                end, _ = listener.accept()
                with end:
                    play(end)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_a_node_is_asked_again_and_again_on_one_connection() -> None:
    with node(answering((1, STATUS), (1, STATUS))) as address, Asked(address) as asked:
        assert asked.status(SECONDS) == STATUS
        assert asked.status(SECONDS) == STATUS


def test_a_node_that_hung_up_is_called_again() -> None:
    with node(answering((1, STATUS)), answering((1, STATUS))) as address, Asked(address) as asked:
        assert asked.status(SECONDS) == STATUS
        assert asked.status(SECONDS) is None
        assert asked.status(SECONDS) == STATUS


def test_nobody_listens() -> None:
    with Asked(f"127.0.0.1:{free_ports(1)[0]}") as asked:
        assert asked.status(SECONDS) is None


def test_a_node_that_says_nothing_is_given_its_time_and_no_more() -> None:
    with node(silent) as address, Asked(address) as asked:
        begun = time.monotonic()

        assert asked.status(0.2) is None

        assert 0.15 < time.monotonic() - begun < SECONDS


@pytest.mark.parametrize(
    "play",
    [
        refusing,
        answering((2, STATUS)),
        answering((1, Ponged())),
        lambda end: end.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" * 4),
    ],
    ids=["refused", "another question's answer", "another kind of answer", "noise"],
)
def test_what_is_no_answer_counts_as_none(play: Play) -> None:
    with node(play) as address, Asked(address) as asked:
        assert asked.status(SECONDS) is None
