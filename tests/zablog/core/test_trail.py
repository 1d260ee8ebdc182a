"""A history described by its base and the last entry of each epoch."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.driving import entries_after, history
from zablog.core.trail import Entries, Mark, Trail
from zablog.core.zxid import ZERO, Zxid

runs = st.lists(st.integers(1, 4), max_size=5).map(lambda counts: [(2 * epoch + 1, count) for epoch, count in enumerate(counts)])


def everything(rows: list[tuple[int, int]]) -> list[Zxid]:
    return [Zxid(epoch, counter) for epoch, count in rows for counter in range(1, count + 1)]


@given(runs)
def test_a_trail_contains_its_entries_and_its_base_and_nothing_else(rows: list[tuple[int, int]]) -> None:
    trail = history(*rows)

    inside = {ZERO, *everything(rows)}

    for epoch in range(12):
        for counter in range(6):
            zxid = Zxid(epoch, counter)
            assert (zxid in trail) == (zxid in inside)


@given(runs, st.integers(0, 12), st.integers(0, 6))
def test_the_floor_is_the_largest_place_not_above(rows: list[tuple[int, int]], epoch: int, counter: int) -> None:
    trail = history(*rows)
    zxid = Zxid(epoch, counter)

    floor = trail.floor(zxid)

    assert floor == max(place for place in [ZERO, *everything(rows)] if place <= zxid)


@given(runs)
def test_truncating_gives_the_trail_that_was_never_longer(rows: list[tuple[int, int]]) -> None:
    places = [ZERO, *everything(rows)]
    prefixes = []
    trail = Trail()
    prefixes.append(trail.copy())
    for epoch, count in rows:
        for counter in range(1, count + 1):
            trail.append(entries_after(trail, epoch, f"{epoch}.{counter}".encode()))
            prefixes.append(trail.copy())

    for place, prefix in zip(places, prefixes, strict=True):
        cut = trail.copy()
        cut.truncate(Mark(place, prefix.digest))
        assert cut == prefix


def test_entries_follow_only_without_gap_overlap_or_other_payload() -> None:
    trail = history((1, 3), (4, 2))
    good = entries_after(trail, 4, b"x")

    assert trail.follows(good)
    assert trail.follows(entries_after(trail, 6, b"x"))

    assert not trail.follows(good._replace(first=Zxid(4, 4)))
    assert not trail.follows(good._replace(first=Zxid(4, 2)))
    assert not trail.follows(good._replace(prev=Zxid(4, 1)))
    assert not trail.follows(good._replace(payloads=(b"y",)))
    assert not trail.follows(good._replace(payloads=()))
    assert not trail.follows(good._replace(digest=good.digest ^ 1))
    assert not trail.follows(entries_after(history((1, 3)), 3, b"x"))


def test_an_epoch_begins_with_counter_one() -> None:
    trail = history((1, 3))

    assert not trail.follows(entries_after(trail, 2, b"x")._replace(first=Zxid(2, 2)))


@pytest.mark.parametrize("other", [(b"a", 1), (b"b", 2)])
def test_the_digest_tells_payloads_and_epochs_apart(other: tuple[bytes, int]) -> None:
    payload, epoch = other

    one = entries_after(Trail(), 1, b"b")
    two = entries_after(Trail(), epoch, payload)

    assert one.digest != two.digest


def test_a_base_within_an_epoch_hides_what_lies_below_it() -> None:
    trail = Trail(Mark(Zxid(3, 7), 99))
    trail.append(entries_after(trail, 3, b"x", b"y"))

    assert Zxid(3, 6) not in trail
    assert Zxid(3, 7) in trail
    assert Zxid(3, 8) in trail
    assert Zxid(3, 10) not in trail
    assert trail.floor(Zxid(3, 20)) == Zxid(3, 9)
    assert trail.digest_at(Zxid(3, 7)) == 99


def test_a_run_that_is_copied_or_changed_agrees_with_itself() -> None:
    entries = Entries(Zxid(1, 4), Zxid(1, 3), (b"a", b"bc"), 7)

    longer = entries._replace(payloads=(b"a", b"bc", b"d"))

    assert (entries.last, entries.size) == (Zxid(1, 5), 3)
    assert (longer.last, longer.size) == (Zxid(1, 6), 4)
    assert copy.deepcopy(entries) == pickle.loads(pickle.dumps(entries)) == entries
