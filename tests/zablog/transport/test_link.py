"""One connection: what may overtake, what is bounded, what a broken send means."""

from collections.abc import Sequence

import trio
import trio.testing

from zablog.core.events import Link
from zablog.core.messages import Commit, Message, Notification, Ping, Pong, Propose, Standing, Vote
from zablog.core.trail import Entries, Payload
from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid
from zablog.transport.ends import REST_SECONDS, StreamEnds
from zablog.transport.link import BATCH_BYTES, BROKEN_BYTES, CONGESTED_BYTES, PeerLink, encoded
from zablog.wire.codec import decode
from zablog.wire.frames import FRAME_BYTES_MAX, FrameReader

E1 = Epoch(1)
LINK = Link(PeerId(2), 7)
VOTE = Vote(E1, ZERO, PeerId(1))


def proposal(counter: int, size: int) -> Propose:
    return Propose(E1, Entries(Zxid(1, counter), Zxid(1, counter - 1), [bytes(size)], 0), ZERO)


def link_over(stream: trio.abc.Stream) -> PeerLink:
    return PeerLink(LINK, StreamEnds(stream), FrameReader(FRAME_BYTES_MAX))


async def read(stream: trio.abc.Stream, count: int) -> list[Message]:
    reader = FrameReader(FRAME_BYTES_MAX)
    out: list[Message] = []
    while len(out) < count:
        out += [decode(frame) for frame in reader.feed(bytes(await stream.receive_some()))]
    return out


async def test_heartbeats_overtake_proposals_and_nothing_else_does(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    link = link_over(ours)
    bulk: list[Message] = [proposal(counter, BATCH_BYTES) for counter in (1, 2, 3)]
    commit = Commit(E1, Zxid(1, 3))
    urgent: list[Message] = [Ping(E1, 1), Pong(E1, 2), Notification(Standing.LOOKING, 1, VOTE, VOTE, E1, ())]

    for message in [*bulk, commit, *urgent]:
        link.post(encoded(message))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, lambda *_: None)
        received = await read(theirs, 7)
        link.end("done")

    assert received == [*urgent, *bulk, commit]


class Kernel(StreamEnds):
    """Takes so many bytes at once."""

    def __init__(self, stream: trio.abc.Stream, takes: int) -> None:
        super().__init__(stream)
        self.takes = takes
        self.taken = b""

    def send_now(self, pieces: Sequence[Payload]) -> int:
        some = b"".join(pieces)[: self.takes]
        self.taken += some
        return len(some)


async def test_nothing_overtakes_the_rest_of_a_message_that_was_sent_in_part(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    kernel = Kernel(ours, 100)
    link = PeerLink(LINK, kernel, FrameReader(FRAME_BYTES_MAX))
    messages: list[Message] = [proposal(1, 5000), Commit(E1, Zxid(1, 1)), Ping(E1, 1)]

    for message in messages:
        link.post(encoded(message))
    assert len(kernel.taken) == 100
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, lambda *_: None)
        reader = FrameReader(FRAME_BYTES_MAX)
        received = [decode(frame) for frame in reader.feed(kernel.taken)]
        while len(received) < 3:
            received += [decode(frame) for frame in reader.feed(bytes(await theirs.receive_some()))]
        link.end("done")

    assert received == [messages[0], messages[2], messages[1]]
    assert not link.outbox_bytes


async def test_a_link_at_rest_sends_at_once_and_a_busy_one_gathers(autojump_clock: trio.testing.MockClock) -> None:
    ours, _ = trio.testing.memory_stream_pair()
    kernel = Kernel(ours, 1 << 20)
    link = PeerLink(LINK, kernel, FrameReader(FRAME_BYTES_MAX))
    pings = [encoded(Ping(E1, nonce)) for nonce in (1, 2, 3)]

    link.post(pings[0])
    link.post(pings[1])
    await trio.sleep(REST_SECONDS)
    link.post(pings[2])

    assert len(kernel.taken) == pings[0].size
    assert link.outbox_bytes == pings[1].size + pings[2].size, "what waits is not overtaken by what came later"


async def test_a_burst_of_messages_is_one_call(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    bursts: list[tuple[Link, list[Message]]] = []
    link = link_over(ours)
    burst: list[Message] = [proposal(1, 10), Commit(E1, Zxid(1, 1)), Ping(E1, 3)]

    await theirs.send_all(b"".join(bytes(piece) for message in burst for piece in encoded(message).pieces))
    await theirs.aclose()
    reason = await link.run(lambda link, messages: bursts.append((link, messages)))

    assert bursts == [(LINK, burst)]
    assert reason == "the peer closed the connection"


async def test_a_full_outbox_is_congested_and_has_room_again_when_it_is_drained(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    link = link_over(ours)
    link.post(encoded(proposal(1, CONGESTED_BYTES // 2)))
    assert not link.congested
    link.post(encoded(proposal(2, CONGESTED_BYTES // 2)))
    assert link.congested

    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, lambda *_: None)
        nursery.start_soon(read, theirs, 2)
        await link.room()
        assert not link.congested
        link.end("done")


async def test_an_outbox_that_nobody_drains_breaks_the_link(autojump_clock: trio.testing.MockClock) -> None:
    ours, _ = trio.testing.memory_stream_pair()
    link = link_over(ours)
    big = encoded(proposal(1, 16 << 20))

    while link.reason is None:
        link.post(big)

    assert "the peer does not keep up" in link.reason
    assert BROKEN_BYTES <= link.outbox_bytes <= BROKEN_BYTES + big.size
    await link.room()
    assert await link.run(lambda *_: None) == link.reason


async def test_a_failed_send_breaks_the_link(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    link = link_over(ours)
    await trio.aclose_forcefully(theirs)

    link.post(encoded(Ping(E1, 1)))
    reason = await link.run(lambda *_: None)

    assert reason.startswith(("the connection broke", "the peer closed"))


async def test_whoever_waits_for_room_on_a_link_that_ends_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    ours, _ = trio.testing.memory_stream_pair()
    link = link_over(ours)
    link.post(encoded(proposal(1, CONGESTED_BYTES)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.room)
        await trio.testing.wait_all_tasks_blocked()
        link.end("gone")


async def test_a_held_link_is_read_no_further_and_still_sends(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    link = link_over(ours)
    received: list[Message] = []
    release = trio.Event()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, lambda _, messages: received.extend(messages), release.wait)
        for nonce in (1, 2):
            await theirs.send_all(b"".join(map(bytes, encoded(Ping(E1, nonce)).pieces)))
            await trio.testing.wait_all_tasks_blocked()
        assert received == [Ping(E1, 1)]
        link.post(encoded(Pong(E1, 1)))
        assert await read(theirs, 1) == [Pong(E1, 1)]

        release.set()
        await trio.testing.wait_all_tasks_blocked()
        assert received == [Ping(E1, 1), Ping(E1, 2)]
        link.end("done")
