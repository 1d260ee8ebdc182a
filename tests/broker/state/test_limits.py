"""Limits are replicated settings: they hold from the command on that sets them, and never touch what is there already."""

import pytest

from broker.errors import Code
from broker.state import LimitsSet, Part, Refused, State, TopicCreated
from broker.state.commands import AllocateProducer, CreateTopic, SetLimits
from broker.state.limits import DEFAULTS, RANGES, Limits, limits_of
from tests.broker.state.test_state import Cluster, batch_of


def set_limits(cluster: Cluster, **values: int):
    return cluster.apply(SetLimits(cluster.turn(), 1, tuple(values.items()))).answer


def create(cluster: Cluster, name: str, partitions: int = 1):
    return cluster.apply(CreateTopic(cluster.turn(), 1, name, partitions)).answer


def test_a_limit_holds_from_the_next_command_on_and_says_how_it_is_raised():
    cluster = Cluster()
    cluster.create("a")
    cluster.create("b")

    assert set_limits(cluster, topics=2) == LimitsSet()

    assert create(cluster, "c") == Refused(
        Code.LIMIT_REACHED, "topic c: there are 2 topics: the limit topics is 2; `zablog limits set topics N` raises it, up to 100,000"
    )
    assert set_limits(cluster, topics=3) == LimitsSet()
    assert isinstance(create(cluster, "c"), TopicCreated)


def test_lowering_a_limit_leaves_what_is_there():
    cluster = Cluster()
    topic = cluster.create("a", 3)
    cluster.create("b", 2)

    assert set_limits(cluster, topics=1, partitions=1, topic_partitions=1) == LimitsSet()

    assert cluster.produce(Part(topic, 2, batch_of(b"1"))).answer.offsets == (0,)
    assert len(cluster.state.topics) == 2 and len(cluster.state.ends) == 5


def test_each_limit_of_topics_is_one():
    cluster = Cluster(State(limits=Limits(topics=9, topic_partitions=3, partitions=4)))

    refused = create(cluster, "a", 4)
    cluster.create("b", 3)
    full = create(cluster, "c", 2)

    assert refused.code == full.code == Code.LIMIT_REACHED
    assert "the limit topic_partitions is 3" in refused.text
    assert "2 partitions besides the 3 that there are: the limit partitions is 4" in full.text


def test_batches_and_proposals_are_bounded_at_apply():
    cluster = Cluster()
    topic = cluster.create()
    big = batch_of(bytes(1_200_000))
    assert set_limits(cluster, record_bytes=1 << 19, batch_bytes=1 << 20, proposal_bytes=2 << 20) == LimitsSet()

    batch = cluster.produce(Part(topic, 0, big)).answer
    proposal = cluster.produce(*[Part(topic, 0, batch_of(bytes(900_000)))] * 3).answer
    fine = cluster.produce(*[Part(topic, 0, batch_of(bytes(900_000)))] * 2).answer

    assert batch.code == proposal.code == Code.RECORD_TOO_LARGE
    assert "the limit batch_bytes is 1,048,576; `zablog limits set batch_bytes N` raises it, up to 4,194,304" in batch.text
    assert "the limit proposal_bytes is 2,097,152" in proposal.text
    assert fine.offsets == (0, 1), "a refusal has used up its sequence, and nothing else"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"nonsense": 1}, "there is no limit 'nonsense', but record_bytes, batch_bytes"),
        ({"topics": 0}, "limit topics: 0 is not from 1 to 100,000"),
        ({"topics": 100_001}, "limit topics: 100,001 is not from"),
        ({"topics": -(2**63)}, "limit topics: -9,223,372,036,854,775,808 is not from"),
        ({"proposal_bytes": (8 << 20) + 1}, "limit proposal_bytes"),
        (
            {"batch_bytes": 1 << 20},
            "limit batch_bytes would be 1,048,576, and it must be at least twice record_bytes, which would be 1,048,576",
        ),
        ({"topics": 5, "partitions": 0}, "limit partitions: 0"),
    ],
)
def test_what_no_node_could_keep_is_refused_and_changes_nothing(values, words):
    cluster = Cluster()

    answer = set_limits(cluster, **values)

    assert isinstance(answer, Refused) and answer.code == Code.BAD_REQUEST and words in answer.text
    assert cluster.state.limits == DEFAULTS


def test_setting_limits_again_is_answered_as_the_first_time():
    cluster = Cluster()
    turn = cluster.turn()
    first = cluster.apply(SetLimits(turn, 1, (("topics", 5),)))
    set_limits(cluster, topics=6)
    cluster.state.producers.answers[cluster.producer, turn.sequence] = first.answer

    again = cluster.apply(SetLimits(turn, 1, (("topics", 5),)))

    assert again.duplicate and cluster.state.limits.topics == 6


def test_fewer_producers_are_remembered_without_forgetting_those_that_are_there():
    cluster = Cluster()
    others = [cluster.apply(AllocateProducer(1)).answer.producer for _ in range(4)]
    set_limits(cluster, producers=2)

    newest = cluster.apply(AllocateProducer(1)).answer.producer

    assert list(cluster.state.producers.rows) == [*others[1:], cluster.producer, newest], "one came, and the longest unused went"


def test_a_producer_keeps_the_window_it_was_born_with():
    cluster = Cluster()
    topic = cluster.create()
    set_limits(cluster, producer_window=8)
    assert cluster.state.producers.rows[cluster.producer].window == 1024

    answers = [cluster.produce(Part(topic, 0, batch_of(b"1")), turn=cluster.turn(lowest=3)).answer for _ in range(20)]

    assert not any(isinstance(answer, Refused) for answer in answers)
    assert cluster.state.producers.rows[cluster.apply(AllocateProducer(1)).answer.producer].window == 8


def test_every_default_can_be_set_and_every_limit_has_a_range():
    assert set(DEFAULTS.values()) == set(RANGES)
    assert DEFAULTS.changed(DEFAULTS.values()) == DEFAULTS
    most = DEFAULTS.changed({name: each.most for name, each in RANGES.items()})
    least = DEFAULTS.changed({name: each.least for name, each in RANGES.items()})
    assert isinstance(most, Limits) and isinstance(least, Limits)


def test_a_client_of_another_version_understands_the_limits_it_knows():
    assert limits_of([("topics", 5), ("of a later version", 9)]) == Limits(topics=5)
