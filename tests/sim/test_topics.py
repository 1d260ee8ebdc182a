"""The replicated state under producers that repeat themselves; and its checkers, each made to object by one edited record."""

from collections.abc import Callable
from functools import cache

import pytest

from broker.sim.history import CHECKERS, End, History, Read, anomalies
from tests.pace import few
from tests.sim.topics import PARTITIONS, Play


@pytest.mark.parametrize("first", few(range(0, 60, 10)))
def test_no_seed_shows_an_anomaly(first: int) -> None:
    for seed in range(first, first + 10):
        assert anomalies(Play(seed).run()) == [], f"seed {seed}"


@cache
def recorded() -> int:
    """The first seed whose history has everything that is edited below."""
    for seed in range(100):
        history = Play(seed).run()
        if any(sent.failed for sent in history.sent) and history.reads and all(len(log) > 9 for log in history.final[0]):
            return seed
    raise AssertionError("no history has everything")


def acknowledged(history: History) -> int:
    """An acknowledged command of more than one value, called late."""
    return max(at for at, sent in enumerate(history.sent) if sent.offsets and len(sent.values) > 1)


def everywhere(history: History, partition: int, change: Callable[[list[int]], None]) -> None:
    """All replicas agree on it."""
    for replica in history.final:
        change(replica[partition])


def lost_write(history: History) -> None:
    history.sent[acknowledged(history)] = history.sent[acknowledged(history)]._replace(parts=((0, (10**6,)),), offsets=(0,))


def unanswered(history: History) -> None:
    at = acknowledged(history)
    history.sent[at] = history.sent[at]._replace(offsets=None)


def duplicate(history: History) -> None:
    everywhere(history, 0, lambda log: log.append(log[0]))


def inconsistent_offset(history: History) -> None:
    at = acknowledged(history)
    history.sent[at] = history.sent[at]._replace(offsets=tuple(offset + 1 for offset in history.sent[at].offsets or ()))


def aborted_read(history: History) -> None:
    (failed, *_) = [sent for sent in history.sent if sent.failed]
    everywhere(history, 0, lambda log: log.extend(failed.values))


def phantom(history: History) -> None:
    everywhere(history, 0, lambda log: log.append(10**6))


def torn(history: History) -> None:
    value = history.sent[acknowledged(history)].values[-1]
    for partition in range(PARTITIONS):
        everywhere(history, partition, lambda log: log.remove(value) if value in log else None)


def nonmonotonic_send(history: History) -> None:
    at = acknowledged(history)
    history.sent[at] = history.sent[at]._replace(sequence=0)


def real_time_inversion(history: History) -> None:
    at = acknowledged(history)
    history.sent[at] = history.sent[at]._replace(called=-2, answered=-1)


def poll_skip(history: History) -> None:
    history.reads.append(Read(0, 0, len(history.final[0][0]) + 5, ()))


def stale_end(history: History) -> None:
    history.ends.append(End(0, 2, 1))


def damaged_read(history: History) -> None:
    history.unreadable.append("node 1: a batch is not what was written")


def replica_divergence(history: History) -> None:
    history.digests[1] ^= 1


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_one_edited_record_makes_its_checker_object(checker: Callable[[History], object]) -> None:
    history = Play(recorded()).run()
    assert anomalies(history) == []

    globals()[checker.__name__](history)

    assert any(found.startswith(f"{checker.__name__}: ") for found in anomalies(history))


def test_one_segment_that_differs_makes_replicas_diverge() -> None:
    history = Play(recorded()).run()
    history.segments = [{"a": b"1", "b": b"2"}, {"a": b"1", "b": b"2"}, {"a": b"1"}]

    assert anomalies(history) == ["replica_divergence: segment b of replica 2 is not that of replica 0"]
