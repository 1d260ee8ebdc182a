"""Replicas stay alike over any commands: sound ones, ones out of turn, damaged ones and noise; also one that goes on from a snapshot."""

from collections import Counter
from random import Random

import pytest

from broker import snapshot
from broker.state import State, UnknownCommand, commands
from broker.state import encode as encode_command
from tests.broker.test_snapshot import partitions_of
from tests.fuzz.targets import ANY_LEVEL, batches, damaged
from zablog.core.zxid import Zxid

BATCHES = batches()


def a_command(state: State, dice: Random, time: int) -> commands.Command:
    """Mostly one that is in turn, of a producer and a topic that exist."""
    if not state.producers.rows or dice.random() < 0.02:
        return commands.AllocateProducer(time, dice.random() < 0.3)
    who = dice.choice(list(state.producers.rows))
    sequence = max(0, state.producers.rows[who].sequence + dice.choice((-1, 0, 1, 1, 1, 1, 1, 1, 2)))
    turn = commands.Turn(who, dice.choice((0, 0, 0, 1)), sequence, max(0, sequence - dice.randrange(4)))
    topic = dice.choice([*state.topics, Zxid(9, 9)])
    match dice.randrange(12):
        case 0:
            return commands.CreateTopic(turn, time, dice.choice(("a", "b", "c", "..", "x" * 300)), dice.choice((0, 1, 2, 4, 10**6)))
        case 1:
            return commands.AlterTopic(turn, time, topic, commands.Retention(*(dice.choice((0, 1, 2**40)) for _ in range(3))))
        case 2 if dice.random() < 0.3:
            return commands.DeleteTopic(turn, time, topic)
        case 3:
            return commands.SetLimits(turn, time, ((dice.choice(("topics", "producer_window", "other")), dice.choice((0, 1, 9, 2**40))),))
        case 4 if dice.random() < 0.1:
            return commands.RaiseLevel(time, dice.choice((0, 1, 2, 3)))
        case 5 if state.ends:
            (place, partition), end = dice.choice(list(state.ends.items()))
            return commands.MoveBounds(time, (commands.Bound(place, state.topics[place].settings, partition, dice.randint(0, end + 1)),))
        case _:
            batch = dice.choice(BATCHES) if dice.random() < 0.8 else damaged(BATCHES, dice)
            parts = [commands.Part(topic, dice.choice((0, 0, 0, 1, 3)), batch) for _ in range(dice.choice((1, 1, 2)))]
            return commands.Produce(turn, time, parts)


def applied(state: State, zxid: Zxid, raw: bytes) -> object:
    """The outcome. Of all errors only that of a build that is too old stops a node, and it changes nothing."""
    before = state.digest()
    try:
        return state.apply(zxid, raw)
    except UnknownCommand as error:
        assert state.digest() == before
        return str(error)


def play(seed: int, steps: int) -> Counter[str]:
    """How often each kind of answer was given."""
    dice, seen = Random(seed), Counter[str]()
    states = [State(), State(), State()]
    whole: list[bytes] = []
    for number in range(1, steps + 1):
        zxid = Zxid(1 + number // 100, number)
        raw = encode_command(a_command(states[0], dice, dice.choice((number, 0, 2**53 - 1)) if dice.random() < 0.01 else number))
        whole.append(raw)
        match dice.randrange(6):
            case 0:
                raw = damaged(whole[-20:], dice)
            case 1 if dice.random() < 0.3:
                raw = dice.randbytes(dice.randrange(80))
        outcomes = [applied(state, zxid, raw) for state in states]
        assert outcomes[0] == outcomes[1] == outcomes[2], f"seed {seed}, command {number}: {raw[:200]!r}"
        seen[type(getattr(outcomes[0], "answer", outcomes[0])).__name__] += 1
        if dice.random() < 0.05:
            captured = snapshot.Snapshot(states[2].capture(), partitions_of(states[2]), ())
            states[2] = snapshot.decode(b"".join(snapshot.encode(captured)), ANY_LEVEL).state
            seen["restored"] += 1
    assert states[0].digest() == states[1].digest() == states[2].digest(), f"seed {seed}"
    assert states[0] == states[1] == states[2], f"seed {seed}"
    return seen


KINDS = {"Appended", "BoundsMoved", "ProducerAllocated", "Refused", "TopicCreated", "restored"}


@pytest.mark.parametrize("seed", range(6))
def test_replicas_stay_alike_whatever_is_applied(seed: int) -> None:
    assert set(play(seed, 300)) >= KINDS


def test_the_histories_tell_a_snapshot_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = snapshot.decode

    def forgetful(raw, levels):
        decoded = whole(raw, levels)
        decoded.state.producers.answers.clear()
        return decoded

    monkeypatch.setattr(snapshot, "decode", forgetful)
    with pytest.raises(AssertionError, match="seed 0"):
        play(0, 300)


@pytest.mark.slow
def test_replicas_stay_alike_over_many_histories() -> None:
    seen = sum((play(seed, 600) for seed in range(100, 130)), Counter())

    assert KINDS | {"LevelRaised", "LimitsSet", "TopicAltered", "TopicDeleted", "str"} <= set(seen), "str: a command of a later build"
