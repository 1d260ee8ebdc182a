"""What the scripts for other systems make of what they read."""

import importlib
import sys
from types import ModuleType

import pytest

from broker.bench.peers import SCRIPTS

HEADER = (2, b"")


@pytest.fixture
def rabbitmq(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.delitem(sys.modules, "rabbitmq", raising=False)
    return importlib.import_module("rabbitmq")


class Silent:
    """A socket that takes everything."""

    def sendall(self, sent: bytes) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        pass


@pytest.mark.parametrize("rounds", [0, 3])
def test_a_queue_that_holds_too_few_to_say_has_no_rate(rabbitmq: ModuleType, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    held = iter([HEADER] * (rounds * rabbitmq.ACK_EACH + rabbitmq.ACK_EACH - 1))

    def frame() -> tuple[int, bytes]:
        for one in held:
            return one
        raise TimeoutError

    channel = object.__new__(rabbitmq.Channel)
    channel.socket, channel._frame, channel.call = Silent(), frame, lambda *_: None
    clock = iter(range(1_000_000))
    monkeypatch.setattr(rabbitmq.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(rabbitmq, "READ_SECONDS_MAX", float("inf"))

    rate = channel.consume("queue", 10**9)

    assert rate == pytest.approx(1.0, rel=0.02) if rounds else rate == 0.0
