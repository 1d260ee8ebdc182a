"""What must not be said before it is true on disk."""

from zablog.core.effects import Send
from zablog.core.events import Link
from zablog.core.gate import Gate
from zablog.core.messages import Ack, AckNewLeader, Commit
from zablog.core.zxid import Epoch, PeerId, Zxid

TO_TWO, TO_THREE = Link(PeerId(2), 1), Link(PeerId(3), 2)


def ack(counter: int, after: int, link: Link = TO_TWO) -> Send:
    return Send(link, Ack(Epoch(1), Zxid(1, counter)), after)


def test_a_send_waits_for_its_token_and_leaves_in_order() -> None:
    gate = Gate()
    first = Send(TO_TWO, AckNewLeader(Epoch(1), Zxid(1, 1)), 1)
    second = ack(2, 2)

    assert not gate.passes(first)
    assert not gate.passes(second)

    assert gate.open_to(1) == [first]
    assert gate.open_to(2) == [second]
    assert gate.open_to(2) == []


def test_a_send_that_waits_for_nothing_leaves_at_once() -> None:
    gate = Gate()
    gate.passes(ack(1, 1))

    assert gate.passes(Send(TO_TWO, Commit(Epoch(1), Zxid(1, 1)), 0))


def test_of_successive_acks_on_one_link_only_the_last_is_sent() -> None:
    gate = Gate()
    sends = [ack(1, 1), ack(2, 2), ack(2, 2, TO_THREE), ack(3, 3)]
    for send in sends:
        gate.passes(send)

    assert gate.open_to(2) == [ack(2, 2), ack(2, 2, TO_THREE)]
    assert gate.open_to(3) == [ack(3, 3)]


def test_an_ack_never_swallows_another_kind_of_message() -> None:
    gate = Gate()
    sends = [Send(TO_TWO, AckNewLeader(Epoch(1), Zxid(1, 1)), 1), ack(2, 2)]
    for send in sends:
        gate.passes(send)

    assert gate.open_to(2) == sends


def test_a_new_role_voids_what_the_old_one_had_to_say() -> None:
    gate = Gate()
    gate.passes(ack(1, 1))

    gate.void()

    assert gate.open_to(1) == []
