"""The story can fail: shells with one thing broken are caught within a few seeds, each by what it breaks."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from broker.client.connection import Connection
from broker.client.session import Session
from broker.protocol import Response
from broker.server.connection import ClientConnection
from tests.shell.story import play
from tests.shell.test_cancelling import Sweep
from tests.shell.world import World, leaves
from zablog.core.effects import DurableEffect
from zablog.node.writer import Writer

SEEDS = range(2000, 2160)

Break = Callable[[pytest.MonkeyPatch], None]


def acknowledge_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    put = Writer.put

    def put_and_say_so(writer: Writer, effects: Sequence[DurableEffect]) -> None:
        put(writer, effects)
        writer.token.run_sync_soon(writer.done, effects[-1].token)

    patch.setattr(Writer, "put", put_and_say_so)
    patch.setattr(Writer, "completed", lambda writer, token, size, seconds: None)


def drop_a_batch_on_reconnect(patch: pytest.MonkeyPatch) -> None:
    attach = Session._attach

    def attached(session: Session, connection: Connection) -> None:
        if session._attempt and session._unanswered:
            session._unanswered.pop()
            session._next -= 1
        attach(session, connection)

    patch.setattr(Session, "_attach", attached)


def resend_nothing_after_a_cancel(patch: pytest.MonkeyPatch) -> None:
    call, post = Session.call, Session._post
    given_up: list[object] = []

    async def called(session: Session, build: Any) -> Response:  # Any: as `call` has it
        try:
            return await call(session, build)
        except BaseException:
            given_up.extend(each for each in session._unanswered if each.build is build)
            raise

    def posted(session: Session, connection: Connection, unanswered: Any) -> None:  # Any: private to the session
        if unanswered not in given_up:
            post(session, connection, unanswered)

    patch.setattr(Session, "call", called)
    patch.setattr(Session, "_post", posted)


def answer_the_next_with_what_was_cancelled(patch: pytest.MonkeyPatch) -> None:
    reply = ClientConnection._reply
    held: dict[int, Response] = {}

    def replied(connection: ClientConnection, number: int, size: int, response: Response) -> None:
        late = held.pop(id(connection), None)
        if late is None and number % 7 == 0:
            held[id(connection)] = response
        reply(connection, number, size, late or response)

    patch.setattr(ClientConnection, "_reply", replied)


def send_again_as_something_new(patch: pytest.MonkeyPatch) -> None:
    post = Session._post

    def posted(session: Session, connection: Connection, unanswered: Any) -> None:  # Any: private to the session
        if unanswered.doubts:
            session._next += 1
            unanswered.sequence = session._next - 1
        post(session, connection, unanswered)

    patch.setattr(Session, "_post", posted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [
        acknowledge_before_it_is_durable,
        drop_a_batch_on_reconnect,
        resend_nothing_after_a_cancel,
        answer_the_next_with_what_was_cancelled,
        send_again_as_something_new,
    ],
)
def test_a_broken_shell_is_caught(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)

    for seed in SEEDS:
        try:
            if broken is resend_nothing_after_a_cancel:
                World(seed).run(Sweep(leader_dies=True))
            else:
                play(seed)
        except BaseException as error:
            print(f"caught by seed {seed}: {leaves(error)}")
            return
    pytest.fail(f"{broken.__name__} got away with {len(SEEDS)} seeds")
