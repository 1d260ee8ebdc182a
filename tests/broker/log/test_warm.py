"""Which bytes of segments stay in memory."""

from broker.log.warm import RANGES_MAX, Range, Warm


def test_the_newest_bytes_stay_and_those_before_them_go_in_the_order_in_which_they_came() -> None:
    warm = Warm(100)

    assert warm.add("a", 0, 60) == []
    assert warm.add("b", 0, 40) == []
    assert warm.add("a", 60, 70) == [Range("a", 0, 60)]
    assert warm.add("c", 0, 200) == [Range("b", 0, 40), Range("a", 60, 70), Range("c", 0, 200)]
    assert warm.add("c", 200, 300) == []


def test_everything_goes_where_nothing_is_to_stay() -> None:
    assert Warm(0).add("a", 5, 6) == [Range("a", 5, 6)]


def test_what_is_remembered_of_many_small_writes_is_bounded() -> None:
    warm = Warm(1 << 40)

    gone = [old for number in range(RANGES_MAX + 5) for old in warm.add(f"{number}", 0, 10)]

    assert gone == [Range(f"{number}", 0, 10) for number in range(5)]
