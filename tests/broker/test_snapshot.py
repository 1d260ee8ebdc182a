"""The snapshot's file: what was captured comes back, later commands do not change it, and nothing else passes for one."""

import contextlib
import random
import struct

import pytest
from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st

from broker import snapshot
from broker.errors import Code, Corrupt
from broker.log.kept import PartitionRow, SegmentRow, Tail
from broker.records import Record, encode_batch
from broker.snapshot import MAGIC, Snapshot, decode, encode
from broker.state import Bound, Limits, MoveBounds, Part, Refused, State, Turn, commands
from broker.state import encode as command_bytes
from broker.state.levels import UnknownLevel
from broker.state.producers import Producer
from zablog import Versions
from zablog.core.zxid import Zxid
from zablog.wire import cbor

BATCH = encode_batch([Record(b"a"), Record(b"b")])


def a_history(seed: int, steps: int = 300) -> State:
    """A state after commands of every kind, some of them refused."""
    dice = random.Random(seed)
    state = State()
    producers: dict[Zxid, int] = {}
    for counter in range(1, steps):
        zxid = Zxid(1 + counter // 100, 2 * counter)
        time = 1_000 + counter
        kind = dice.random()
        if not producers or kind < 0.05:
            command: commands.Command = commands.AllocateProducer(time, dice.random() < 0.3)
            producers[zxid] = 0
        else:
            who = dice.choice(list(producers))
            producers[who] += 1
            turn = Turn(who, 0, producers[who], max(1, producers[who] - dice.randrange(3)))
            if kind < 0.08:
                values = ((dice.choice(("topics", "producer_window", "nonsense")), dice.randint(0, 5_000)),)
                command = commands.SetLimits(turn, time, values)
            elif kind < 0.2:
                command = commands.CreateTopic(turn, time, dice.choice(("a", "b", "c.d", "é", "..")), dice.randint(0, 4))
            elif kind < 0.22 and state.topics:
                command = commands.AlterTopic(turn, time, dice.choice(list(state.topics)), commands.Retention(*dice.sample(range(9), 3)))
            elif kind < 0.25 and state.topics:
                command = commands.DeleteTopic(turn, time, dice.choice(list(state.topics)))
            else:
                topic = dice.choice([*state.topics, Zxid(9, 9)])
                command = commands.Produce(turn, time, [Part(topic, dice.randint(0, 3), BATCH)])
        state.apply(zxid, command_bytes(command))
        for (topic, partition), end in dice.sample(list(state.ends.items()), min(len(state.ends), counter % 2)):
            bound = Bound(topic, state.topics[topic].settings, partition, dice.randint(0, end))
            state.apply(zxid.after(1), command_bytes(MoveBounds(time, (bound,))))
    return state


def partitions_of(state: State) -> list[PartitionRow]:
    return [
        PartitionRow(
            topic, number, state.firsts.get((topic, number), 0), end, (SegmentRow(0, 1_000, end, 100 * end, 77, Zxid(1, 5)),) if end else ()
        )
        for (topic, number), end in state.ends.items()
    ]


def bytes_of(state: State, tails: tuple[Tail, ...] = ()) -> bytes:
    return b"".join(encode(Snapshot(state, partitions_of(state), tails)))


@pytest.mark.parametrize("seed", range(8))
def test_what_was_captured_comes_back_to_the_digest(seed: int) -> None:
    state = a_history(seed)
    tails = (Tail("1.2-0-00000000000000000000.segment", 17, b"x" * 100_000), Tail("another", 0, b"y"))

    back = decode(bytes_of(state, tails))

    assert back.state.digest() == state.digest()
    assert back.state == state
    assert list(back.partitions) == partitions_of(state)
    assert tuple(back.tails) == tails


@pytest.mark.parametrize("seed", range(4))
def test_a_restored_state_goes_on_as_the_original(seed: int) -> None:
    state = a_history(seed)
    back = decode(bytes_of(state)).state
    for counter, who in enumerate(list(state.producers.rows), start=1):
        last = state.producers.rows[who]
        for sequence in (last.sequence, last.sequence + 1):
            command = command_bytes(commands.CreateTopic(Turn(who, 0, sequence, max(1, sequence)), 9_000, f"t{counter}", 2))
            zxid = Zxid(8, 2 * counter + sequence - last.sequence)
            assert back.apply(zxid, command) == state.apply(zxid, command)
    assert back.digest() == state.digest()


def test_a_capture_does_not_change_with_what_is_applied_later() -> None:
    state = a_history(1)
    digest, captured = state.digest(), state.capture()
    names = dict(state.names)
    state.apply(Zxid(7, 1), command_bytes(commands.AllocateProducer(5_000, False)))
    state.apply(Zxid(7, 2), command_bytes(commands.CreateTopic(Turn(Zxid(7, 1), 0, 1, 1), 5_000, "later", 3)))
    for topic in list(state.topics):
        if state.topics[topic].name != "later":
            turn = Turn(Zxid(7, 1), 0, state.producers.rows[Zxid(7, 1)].sequence + 1, 1)
            state.apply(Zxid(7, 3 + topic.counter), command_bytes(commands.DeleteTopic(turn, 5_000, topic)))

    back = decode(bytes_of(captured)).state

    assert back.digest() == digest and back.names == names


def test_partitions_that_begin_elsewhere_than_the_state_says_or_behind_their_end_are_refused() -> None:
    state = a_history(3)
    place, end = next((place, end) for place, end in state.ends.items() if end)
    rows = partitions_of(state)

    state.firsts[place] = end + 1
    with pytest.raises(Corrupt, match="behind its end"):
        decode(bytes_of(state))
    state.firsts[place] = end
    with pytest.raises(Corrupt, match="does not begin where the state says"):
        decode(b"".join(encode(Snapshot(state, [row._replace(first=0) for row in rows], ()))))


def test_every_kind_of_answer_comes_back() -> None:
    answers = a_history(3, 900).producers.answers.values()
    assert len({type(answer) for answer in answers}) >= 3
    state = State()
    state.producers.answers[Zxid(1, 1), 1] = Refused(Code.OUT_OF_SEQUENCE, "grüße", True)
    assert decode(bytes_of(state)).state.producers.answers == state.producers.answers


def test_every_truncation_is_refused() -> None:
    raw = bytes_of(a_history(2, 60))
    for length in range(len(raw)):
        with pytest.raises(Corrupt):
            decode(raw[:length])
    with pytest.raises(Corrupt):
        decode(raw + b"\0")


@given(st.data())
def test_a_changed_byte_is_refused_or_makes_another_snapshot_but_nothing_else_is_raised(data: st.DataObject) -> None:
    raw = bytearray(bytes_of(a_history(2, 60)))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Corrupt, UnknownLevel):
        decode(bytes(raw))


@given(st.binary(max_size=300))
def test_garbage_is_refused(garbage: bytes) -> None:
    for raw in (garbage, MAGIC + garbage, MAGIC + len(garbage).to_bytes(4, "big") + bytes([garbage[0] % 9 if garbage else 1]) + garbage):
        with pytest.raises(Corrupt):
            decode(raw)


def test_limits_level_and_windows_come_back() -> None:
    state = State(limits=Limits(topics=7, producer_window=9), level=3)
    state.apply(Zxid(1, 1), command_bytes(commands.AllocateProducer(1)))

    back = decode(bytes_of(state), Versions(1, 3)).state

    assert back == state
    assert back.producers.rows[Zxid(1, 1)].window == 9


def test_format_1_is_read_with_the_level_and_the_limits_of_its_time() -> None:
    sections = [
        (1, [[3, 9, 1234]]),
        (2, [[1, 2, "a", 1, 1000, [0, 0, 0], 1]]),
        (3, [[1, 2, 0, 5, 1]]),
        (4, [[1, 1, 0, False, 2, 1, 3, 9]]),
        (5, [[1, 1, 1, 3, 1, 2]]),
        (6, [[1, 2, 0, 1, 5, []]]),
        (8, [[6]]),
    ]
    raw = b"ZBSNAP\0\x01"
    for kind, rows in sections:
        body = cbor.dumps(rows)
        raw += struct.pack(">IBI", len(body), kind, crc32c(body)) + body

    state = decode(raw).state

    assert (state.level, state.limits, state.applied) == (1, Limits(), Zxid(3, 9))
    assert state.producers.rows == {Zxid(1, 1): Producer(0, False, 2, 1, 1024, Zxid(3, 9))}
    assert decode(bytes_of(state)).state == state


@pytest.mark.parametrize(("levels", "remedy"), [(Versions(1, 1), "that the other nodes run"), (Versions(3, 4), "that knows level 2 first")])
def test_a_snapshot_of_a_level_that_is_not_known_is_refused_in_words(levels: Versions, remedy: str) -> None:
    with pytest.raises(UnknownLevel, match=f"feature level 2, and this version of zablog knows {levels}: install .*{remedy}"):
        decode(bytes_of(State(level=2)), levels)


def test_a_later_format_is_refused_in_words() -> None:
    later = b"ZBSNAP" + (snapshot.VERSION + 1).to_bytes(2, "big")
    with pytest.raises(UnknownLevel, match="install the version of zablog that the other nodes run"):
        decode(later + bytes_of(State())[8:])


def test_a_partition_that_was_written_to_and_is_not_there_is_refused() -> None:
    state = a_history(3)
    place = next(place for place, end in state.ends.items() if end)
    rows = [row for row in partitions_of(state) if (row.topic, row.partition) != place]

    with pytest.raises(Corrupt, match=f"partition {place[1]} of topic {place[0]} is not there"):
        decode(b"".join(encode(Snapshot(state, rows, ()))))


def test_a_partition_that_is_there_twice_is_refused() -> None:
    state = a_history(3)

    with pytest.raises(Corrupt, match="there twice"):
        decode(b"".join(encode(Snapshot(state, partitions_of(state) * 2, ()))))
