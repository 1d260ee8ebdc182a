"""Holds back what must not be said before it is true on disk. One implementation, used by the node and the simulator alike."""

from collections import deque

from zablog.core.effects import Send
from zablog.core.messages import Ack


class Gate:
    """Sends that wait for durable effects, in order. Released when `durable` reaches their `after`; voided by a new role."""

    __slots__ = ("durable", "waiting")

    def __init__(self) -> None:
        self.durable = 0
        self.waiting: deque[Send] = deque()

    def passes(self, send: Send) -> bool:
        """May it leave now? If not, the gate keeps it."""
        if send.after <= self.durable:
            return True
        assert not self.waiting or self.waiting[-1].after <= send.after, "gated sends wait in the order of their tokens"
        self.waiting.append(send)
        return False

    def open_to(self, token: int) -> list[Send]:
        """Everything through `token` is durable: what may leave now. Of successive acks on one link only the last is left."""
        self.durable = max(self.durable, token)
        released: list[Send] = []
        while self.waiting and self.waiting[0].after <= self.durable:
            send = self.waiting.popleft()
            if released and isinstance(send.message, Ack) and isinstance(released[-1].message, Ack) and released[-1].link == send.link:
                released.pop()
            released.append(send)
        return released

    def void(self) -> None:
        """A new role begins: nobody is to hear what the old one had to say."""
        self.waiting.clear()
