"""Figures: percentiles that were measured, medians, ratios."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bench.figures import Figures, NotReached, Reading, Unit, latencies, percentile, ratios, tail, words


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    values = [float(number) for number in range(100, 0, -1)]

    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile(values, 1.0) == 100
    assert percentile([7.0], 0.001) == 7


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.001, 1))
def test_a_percentile_was_measured_and_leaves_no_more_above_it_than_it_says(values: list[float], quantile: float) -> None:
    found = percentile(values, quantile)

    assert found in values
    assert sum(value <= found for value in values) >= quantile * len(values)
    assert sum(value < found for value in values) < quantile * len(values)


def test_the_figure_of_several_runs_is_their_median() -> None:
    figures = Figures()
    for rate in (10.0, 900.0, 20.0):
        figures.add([Reading("publish_1KiB", rate, Unit.RATE)])

    assert figures.values == {"publish_1KiB": 20.0}
    assert figures.found["publish_1KiB"].runs == [10.0, 900.0, 20.0]


def test_a_latency_that_too_few_samples_lie_beyond_is_left_out() -> None:
    assert [reading.name for reading in latencies("latency", [0.001] * 500)] == ["latency_p50"]
    assert [reading.name for reading in latencies("latency", [0.001] * 1000)] == ["latency_p50", "latency_p99"]
    assert tail("latency", [0.001] * 9_999) == []
    assert tail("latency", [0.001] * 9_989 + [0.002] * 11) == [Reading("latency_p999", 2.0, Unit.MILLISECONDS)]
    assert latencies("latency", [0.001])[0] == Reading("latency_p50", 1.0, Unit.MILLISECONDS)


def test_a_latency_of_nothing_is_an_error_and_no_zero() -> None:
    with pytest.raises(NotReached, match="nothing was measured"):
        latencies("latency", [])


def test_a_ratio_is_ours_by_theirs_where_both_have_the_figure() -> None:
    ours = {"publish_1KiB": 60_000.0, "latency_p50": 0.5, "start_up": 1.0, "failover_kill": 0.2}
    theirs = {"publish_1KiB": 15_000.0, "latency_p50": 1.0, "failover_kill": 0.0, "read_1KiB": 3.0}

    assert ratios(ours, theirs) == {"publish_1KiB": 4.0, "latency_p50": 0.5}


def test_a_figure_is_said_with_three_digits_at_least() -> None:
    assert [words(value) for value in (61234.4, 100.0, 12.345, 0.15333)] == ["61,234", "100", "12.3", "0.153"]
