"""The replicated state: the same commands give the same outcomes everywhere, and no bytes can do more than be refused."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.errors import Code
from broker.records import Record, encode_batch
from broker.state import (
    Append,
    Appended,
    Bound,
    Limits,
    MalformedCommand,
    MoveBounds,
    Outcome,
    Part,
    ProducerAllocated,
    Refused,
    Retention,
    State,
    TopicCreated,
    TopicDeleted,
    Turn,
    UnknownCommand,
    decode,
    encode,
)
from broker.state.commands import AllocateProducer, AlterTopic, CreateTopic, DeleteTopic, Produce, RaiseLevel, SetLimits, decode_parts
from broker.state.producers import Producers
from zablog.core.zxid import Zxid
from zablog.wire import cbor


def batch_of(*values: bytes) -> bytes:
    return encode_batch([Record(value) for value in values])


class Cluster:
    """A state, and one producer's memory of what it has said."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        self.zxid = Zxid(1, 0)
        self.time = 1000
        self.sequence = 0
        answer = self.apply(AllocateProducer(self.time)).answer
        assert isinstance(answer, ProducerAllocated)
        self.producer = answer.producer

    def apply(self, command) -> Outcome:
        self.zxid = self.zxid.after(1)
        return self.state.apply(self.zxid, encode(command))

    def turn(self, lowest: int | None = None) -> Turn:
        self.sequence += 1
        return Turn(self.producer, 0, self.sequence, self.sequence if lowest is None else lowest)

    def create(self, name: str = "t", partitions: int = 2) -> Zxid:
        answer = self.apply(CreateTopic(self.turn(), self.time, name, partitions)).answer
        assert isinstance(answer, TopicCreated), answer
        return answer.topic

    def produce(self, *parts: Part, turn: Turn | None = None) -> Outcome:
        return self.apply(Produce(turn or self.turn(), self.time, parts))


def test_offsets_are_given_out_at_apply_one_partition_at_a_time():
    cluster = Cluster()
    topic = cluster.create()
    a, b = batch_of(b"1", b"2", b"3"), batch_of(b"4")

    first = cluster.produce(Part(topic, 0, a), Part(topic, 1, b), Part(topic, 0, b))
    second = cluster.produce(Part(topic, 0, b))

    zxid = Zxid(cluster.zxid.epoch, cluster.zxid.counter - 1)
    assert first == Outcome(
        Appended(zxid, (0, 0, 3)), [Append(topic, 0, 0, 0, 3, a), Append(topic, 1, 0, 1, 1, b), Append(topic, 0, 3, 2, 1, b)]
    )
    assert second.answer == Appended(cluster.zxid, (4,))
    assert cluster.state.ends == {(topic, 0): 5, (topic, 1): 1}


def test_one_bad_part_refuses_all_of_them():
    cluster = Cluster()
    topic = cluster.create()
    good = Part(topic, 0, batch_of(b"1"))
    longer = batch_of(b"2") + b"\0"
    lying = bytearray(batch_of(b"2"))
    lying[57:61] = struct.pack(">i", 7)

    for bad, code in [
        (Part(Zxid(9, 9), 0, batch_of(b"2")), Code.TOPIC_NOT_FOUND),
        (Part(topic, 2, batch_of(b"2")), Code.PARTITION_NOT_FOUND),
        (Part(topic, 1, longer), Code.BAD_REQUEST),
        (Part(topic, 1, bytes(lying)), Code.BAD_REQUEST),
        (Part(topic, 1, b""), Code.BAD_REQUEST),
    ]:
        outcome = cluster.produce(good, bad)
        assert isinstance(outcome.answer, Refused) and outcome.answer.code == code
        assert not outcome.appends

    assert cluster.state.ends == {(topic, 0): 0, (topic, 1): 0}
    assert cluster.produce(good).answer == Appended(cluster.zxid, (0,)), "a refusal has used up its sequence"


def test_duplicate_gets_its_stored_answer_and_changes_nothing():
    cluster = Cluster()
    topic = cluster.create()
    turn = cluster.turn()
    first = cluster.produce(Part(topic, 0, batch_of(b"1")), turn=turn)

    again = cluster.produce(Part(topic, 0, batch_of(b"1")), turn=turn)

    assert again == Outcome(first.answer, duplicate=True)
    assert cluster.state.ends[topic, 0] == 1


def test_duplicate_of_a_refusal_is_refused_alike():
    cluster = Cluster()
    turn = cluster.turn()
    first = cluster.apply(CreateTopic(turn, 1, "no spaces", 1)).answer

    assert cluster.apply(CreateTopic(turn, 1, "good", 1)) == Outcome(first, duplicate=True)
    assert cluster.state.topics == {}


def test_gap_is_refused_and_uses_up_nothing():
    cluster = Cluster()
    topic = cluster.create()
    cluster.sequence += 1
    late = cluster.turn(lowest=2)

    refused = cluster.produce(Part(topic, 0, batch_of(b"2")), turn=late)
    missing = cluster.produce(Part(topic, 0, batch_of(b"1")), turn=late._replace(sequence=2))
    again = cluster.produce(Part(topic, 0, batch_of(b"2")), turn=late)

    assert isinstance(refused.answer, Refused) and refused.answer.code == Code.OUT_OF_SEQUENCE and not refused.answer.maybe_written
    assert isinstance(missing.answer, Appended) and again.answer == Appended(cluster.zxid, (1,))


def test_unknown_producer_and_stale_epoch_may_have_written():
    cluster = Cluster()
    topic = cluster.create()
    part = Part(topic, 0, batch_of(b"1"))

    stranger = cluster.produce(part, turn=Turn(Zxid(7, 7), 0, 1, 1)).answer
    stale = cluster.produce(part, turn=cluster.turn()._replace(epoch=1)).answer

    assert isinstance(stranger, Refused) and (stranger.code, stranger.maybe_written) == (Code.UNKNOWN_PRODUCER, True)
    assert isinstance(stale, Refused) and (stale.code, stale.maybe_written) == (Code.STALE_PRODUCER, True)
    assert cluster.state.ends[topic, 0] == 0


def test_answers_are_kept_until_the_producer_has_them():
    cluster = Cluster()
    topic = cluster.create()
    turns = [cluster.turn(lowest=2) for _ in range(5)]
    for turn in turns:
        cluster.produce(Part(topic, 0, batch_of(b"1")), turn=turn)

    cluster.produce(Part(topic, 0, batch_of(b"1")), turn=cluster.turn(lowest=4))

    kept = [cluster.produce(Part(topic, 0, batch_of(b"1")), turn=turn) for turn in turns]
    assert [outcome.duplicate for outcome in kept] == [False, False, True, True, True]
    assert isinstance(kept[0].answer, Refused) and kept[0].answer.maybe_written
    assert len(cluster.state.producers.answers) == 4
    assert cluster.state.ends[topic, 0] == 6


@pytest.mark.parametrize("lowest", [0, 1, 7])
def test_lowest_unanswered_must_lie_within_the_window(lowest):
    cluster = Cluster(State(limits=Limits(producer_window=4)))
    topic = cluster.create()
    for _ in range(4):
        cluster.produce(Part(topic, 0, batch_of(b"1")))

    refused = cluster.produce(Part(topic, 0, batch_of(b"1")), turn=Turn(cluster.producer, 0, 6, lowest)).answer

    assert isinstance(refused, Refused) and refused.code == Code.OUT_OF_SEQUENCE


def test_producer_with_gaps_may_lose_but_never_repeats():
    cluster = Cluster()
    topic = cluster.create()
    cluster.apply(AllocateProducer(1, gaps=True))
    producer = cluster.zxid
    part = Part(topic, 0, batch_of(b"1"))

    def produce(sequence: int) -> Outcome:
        return cluster.produce(part, turn=Turn(producer, 0, sequence, sequence))

    outcomes = [produce(sequence) for sequence in (5, 2**40, 2**62, 7, 2**62)]

    assert [type(outcome.answer) for outcome in outcomes] == [Appended, Appended, Appended, Refused, Appended]
    assert [outcome.duplicate for outcome in outcomes] == [False, False, False, False, True]
    assert cluster.state.ends[topic, 0] == 3


def test_producers_are_bounded_and_the_longest_unused_goes_first():
    cluster = Cluster(State(limits=Limits(producers=3)))
    others = [cluster.apply(AllocateProducer(1)).answer.producer for _ in range(2)]
    cluster.create()

    newest = cluster.apply(AllocateProducer(1)).answer.producer

    assert list(cluster.state.producers.rows) == [others[1], cluster.producer, newest]


def test_answers_are_bounded_over_all_producers():
    cluster = Cluster(State(producers=Producers(answers_max=10)))
    topic = cluster.create()
    hoarder = cluster.apply(AllocateProducer(1)).answer.producer
    for sequence in range(1, 9):
        cluster.produce(Part(topic, 0, batch_of(b"1")), turn=Turn(hoarder, 0, sequence, 1))

    for _ in range(5):
        cluster.produce(Part(topic, 0, batch_of(b"1")), turn=cluster.turn(lowest=1))

    assert hoarder not in cluster.state.producers.rows
    assert {who for who, _ in cluster.state.producers.answers} == {cluster.producer}


def test_topic_is_named_by_the_zxid_of_its_creation():
    cluster = Cluster()
    first = cluster.create("t", 3)
    assert cluster.state.topic_named("t").id == first == cluster.zxid

    deleted = cluster.apply(DeleteTopic(cluster.turn(), 1, first))
    second = cluster.create("t", 1)

    assert deleted == Outcome(TopicDeleted(first), deleted=first)
    assert second != first and cluster.state.ends == {(second, 0): 0}
    for outcome in (
        cluster.produce(Part(first, 0, batch_of(b"1"))),
        cluster.apply(DeleteTopic(cluster.turn(), 1, first)),
    ):
        assert isinstance(outcome.answer, Refused) and outcome.answer.code == Code.TOPIC_NOT_FOUND and outcome.deleted is None


@pytest.mark.parametrize(
    ("name", "partitions", "code"),
    [
        ("", 1, Code.BAD_NAME),
        (".", 1, Code.BAD_NAME),
        ("..", 1, Code.BAD_NAME),
        ("a/b", 1, Code.BAD_NAME),
        ("ä", 1, Code.BAD_NAME),
        ("a" * 250, 1, Code.BAD_NAME),
        ("a\n", 1, Code.BAD_NAME),
        ("good", 0, Code.BAD_REQUEST),
        ("good", 10_001, Code.LIMIT_REACHED),
        ("good", -(2**63), Code.BAD_REQUEST),
        ("n" * 9_000, 1, Code.BAD_NAME),
        ("taken", 1, Code.TOPIC_EXISTS),
    ],
)
def test_topic_that_cannot_be_is_refused(name, partitions, code):
    cluster = Cluster()
    cluster.create("taken")
    before = dict(cluster.state.topics)

    answer = cluster.apply(CreateTopic(cluster.turn(), 1, name, partitions)).answer

    assert isinstance(answer, Refused) and answer.code == code
    assert cluster.state.topics == before


def test_names_and_partitions_up_to_their_limits_are_taken():
    cluster = Cluster()
    cluster.create("a" * 249, 10_000)
    cluster.create("A.b_c-9", 1)
    for row in range(9):
        cluster.create(f"t{row}", 9_999 if row < 8 else 10_000)
    answer = cluster.apply(CreateTopic(cluster.turn(), 1, "more", 10_000)).answer
    assert isinstance(answer, Refused) and answer.code == Code.LIMIT_REACHED


def test_time_never_decreases():
    cluster = Cluster()
    topic = cluster.create()
    cluster.time = 500

    cluster.produce(Part(topic, 0, batch_of(b"1")))

    assert cluster.state.time == 1000


ZXIDS = st.builds(Zxid, st.integers(0, 3), st.integers(0, 6))
TURNS = st.builds(Turn, ZXIDS, st.integers(0, 1), st.integers(0, 5), st.integers(0, 5))
BATCHES = st.sampled_from([batch_of(b"1"), batch_of(b"1", b"2"), b"", b"x" * 61]) | st.binary(max_size=80)
KNOWN = {bytes([kind, 1]) for kind in (1, 2, 3, 4, 5, 6, 7, 16)} | {b"\x02\x02"}
VALUES = st.lists(st.tuples(st.sampled_from(["topics", "partitions", "batch_bytes", "x"]), st.integers(-1, 2**23)), max_size=3).map(tuple)
RETENTIONS = st.builds(Retention, st.integers(0, 2**53 - 1), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
BOUNDS = st.builds(Bound, ZXIDS, st.integers(0, 3), st.integers(0, 10_000), st.integers(0, 9) | st.integers(0, 2**63 - 1))
COMMANDS = st.one_of(
    st.builds(AllocateProducer, st.integers(0, 2**53 - 1), st.booleans()),
    st.builds(CreateTopic, TURNS, st.integers(0, 5), st.sampled_from(["a", "b", "a b", "x" * 300]), st.integers(0, 3)),
    st.builds(CreateTopic, TURNS, st.integers(0, 5), st.sampled_from(["a", "b"]), st.integers(1, 3), RETENTIONS),
    st.builds(AlterTopic, TURNS, st.integers(0, 5), ZXIDS, RETENTIONS),
    st.builds(MoveBounds, st.integers(0, 5), st.lists(BOUNDS, min_size=1, max_size=4).map(tuple)),
    st.builds(DeleteTopic, TURNS, st.integers(0, 5), ZXIDS),
    st.builds(SetLimits, TURNS, st.integers(0, 5), VALUES),
    st.builds(RaiseLevel, st.integers(0, 5), st.integers(0, 5)),
    st.builds(
        Produce,
        TURNS,
        st.integers(0, 5),
        st.lists(st.builds(Part, ZXIDS, st.integers(0, 3), BATCHES), min_size=1, max_size=4),
    ),
)


@given(COMMANDS)
def test_commands_round_trip(command):
    assert decode(encode(command)) == command


def applied(state: State, zxid: Zxid, payload) -> Outcome | None:
    """None if this build does not know such a command, and has left everything as it was."""
    before = state.digest()
    try:
        return state.apply(zxid, payload)
    except UnknownCommand:
        assert state.digest() == before and bytes(payload[:2]) not in KNOWN
        return None


@given(st.lists(COMMANDS.map(encode) | st.binary(max_size=120), max_size=30))
@settings(max_examples=200)
def test_no_payload_that_is_known_makes_apply_raise_and_two_states_agree(payloads):
    one, two = State(), State()

    for counter, payload in enumerate(payloads, 1):
        zxid = Zxid(1, counter)
        assert applied(one, zxid, payload) == applied(two, zxid, memoryview(bytearray(payload)))

    assert one.digest() == two.digest()
    assert all(end >= 0 for end in one.ends.values())
    assert set(one.names.values()) == set(one.topics)
    assert all(0 < first <= one.ends[place] for place, first in one.firsts.items())


class BoundsOfOneTopic(RuleBasedStateMachine):
    """Whatever leaders propose, and however late: bounds move forward, never beyond the end, never by settings that were given up."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster, self.twin = Cluster(), Cluster()
        self.topic = self.create()
        self.proposed: list[tuple[bool, Bound]] = []
        """Under settings that still hold?"""

    def both(self, act):
        return act(self.cluster), act(self.twin)

    def create(self) -> Zxid:
        here, there = self.both(lambda each: each.create(partitions=1))
        assert here == there
        return here

    @rule(count=st.integers(1, 3))
    def append(self, count):
        self.both(lambda each: each.produce(Part(self.topic, 0, batch_of(*[b"x"] * count))))

    @rule(first=st.integers(1, 12))
    def a_leader_looks(self, first):
        self.proposed.append((True, Bound(self.topic, self.cluster.state.topics[self.topic].settings, 0, first)))

    @precondition(lambda self: self.proposed)
    @rule(data=st.data(), again=st.booleans())
    def what_it_proposed_is_committed(self, data, again):
        at = data.draw(st.integers(0, len(self.proposed) - 1))
        current, bound = self.proposed[at] if again else self.proposed.pop(at)
        before, end = self.cluster.state.firsts.get((self.topic, 0), 0), self.cluster.state.ends[self.topic, 0]
        here, there = self.both(lambda each: each.apply(MoveBounds(each.time, (bound,))))
        after = max(before, min(bound.first, end)) if current else before
        assert here == there
        assert self.cluster.state.firsts.get((self.topic, 0), 0) == after
        assert [each.first for each in here.moved] == ([after] if after > before else [])

    @rule(records=st.integers(0, 5))
    def alter(self, records):
        self.both(lambda each: each.apply(AlterTopic(each.turn(), each.time, self.topic, Retention(records=records))))
        self.proposed = [(False, bound) for _, bound in self.proposed]
        assert self.cluster.state.topics[self.topic].retention.records == records

    @rule()
    def delete_and_make_anew(self):
        self.both(lambda each: each.apply(DeleteTopic(each.turn(), each.time, self.topic)))
        assert not self.cluster.state.firsts
        self.topic = self.create()
        self.proposed = [(False, bound) for _, bound in self.proposed]

    @invariant()
    def both_states_are_alike(self):
        assert self.cluster.state.digest() == self.twin.state.digest()


TestBoundsOfOneTopic = BoundsOfOneTopic.TestCase


def test_topics_are_kept_for_ever_if_the_log_holds_their_creation_as_it_was_before_retention():
    cluster = Cluster()
    written = b"\x02\x01" + cbor.dumps([list(cluster.turn()), 1000, "old", 2])

    assert decode(written) == CreateTopic(Turn(cluster.producer, 0, 1, 1), 1000, "old", 2, Retention())


def test_digest_says_where_partitions_begin_and_how_topics_are_set():
    cluster = Cluster()
    topic = cluster.create()
    cluster.produce(Part(topic, 0, batch_of(b"1", b"2")))
    digests = {cluster.state.digest()}

    cluster.state.firsts[topic, 0] = 1
    digests.add(cluster.state.digest())
    cluster.state.topics[topic] = replace(cluster.state.topics[topic], retention=Retention(records=1))
    digests.add(cluster.state.digest())
    cluster.state.topics[topic] = replace(cluster.state.topics[topic], settings=2)
    digests.add(cluster.state.digest())

    assert len(digests) == 4


@given(COMMANDS.map(encode), st.data())
@settings(max_examples=300)
def test_damaged_commands_are_refused_or_understood_and_never_raise(payload, data):
    cluster = Cluster()
    cluster.create()
    damaged = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))

    for each in (damaged, damaged[:cut]):
        cluster.zxid = cluster.zxid.after(1)
        outcome = applied(cluster.state, cluster.zxid, bytes(each))
        assert outcome is None or isinstance(outcome, Outcome)
    assert cluster.state.digest()


@given(st.integers(0, 65535), st.binary(max_size=200))
def test_a_table_of_parts_is_compared_with_what_is_there(count, body):
    try:
        parts = decode_parts(body, count)
    except MalformedCommand:
        return
    assert len(parts) == count and sum(len(part.batch) for part in parts) + 18 * count == len(body)


def test_malformed_command_uses_up_nothing():
    cluster = Cluster()
    before = cluster.sequence

    outcome = cluster.state.apply(cluster.zxid.after(1), b"\x10\x01" + bytes(10))

    assert isinstance(outcome.answer, Refused) and outcome.answer.code == Code.BAD_REQUEST
    assert cluster.state.producers.rows[cluster.producer].sequence == before
