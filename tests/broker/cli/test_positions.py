"""What --from and --until may say."""

from datetime import UTC, datetime, timedelta

import pytest

from broker.cli.positions import Count, start, stop
from broker.cli.refusals import Usage
from zablog.core.zxid import Zxid

NOW = datetime(2026, 2, 1, 12, 0, 0, tzinfo=UTC)


def test_starts_are_words_offsets_times_and_zxids() -> None:
    assert start("earliest", NOW) == "earliest"
    assert start("latest", NOW) == "latest"
    assert start("17", NOW) == 17
    assert start("zxid:3.1041", NOW) == Zxid(3, 1041)
    assert start("-15m", NOW) == NOW - timedelta(minutes=15)
    assert start("2026-01-31T12:00:00+02:00", NOW) == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert start("2026-01-31T12:00:00.5Z", NOW) == datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)


def test_stops_are_the_end_counts_offsets_and_times() -> None:
    assert stop("end", NOW) == "end"
    assert stop("+5", NOW) == Count(5)
    assert stop("5", NOW) == 5
    assert stop("-1h", NOW) == NOW - timedelta(hours=1)


BAD_STARTS = ["", "end", "begin", "-5", "+5", "1.5", "9" * 19, "9" * 30, "zxid:", "zxid:1", "zxid:4294967296.0", "-soon", "٣"]
BAD_TIMES = ["2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z", "2027-01-01T00:00:00Z"]


@pytest.mark.parametrize("text", BAD_STARTS + BAD_TIMES)
def test_a_bad_start_is_refused_never_guessed(text: str) -> None:
    with pytest.raises(Usage):
        start(text, NOW)


@pytest.mark.parametrize("text", ["", "earliest", "+0", "+", "+x", "zxid:1.1", "2026-02-01T12:00:01Z"])
def test_a_bad_stop_is_refused_never_guessed(text: str) -> None:
    with pytest.raises(Usage):
        stop(text, NOW)
