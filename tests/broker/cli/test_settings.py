"""The options every command has, wherever they stand."""

import pytest

from broker.cli.refusals import Usage
from broker.cli.settings import Settings, duration, take


@pytest.mark.parametrize(
    "line",
    [
        "--json -q --timeout 2m --cluster blue topic list",
        "topic list --cluster=blue --timeout=2m --quiet --json",
        "topic --json -q list --cluster blue --timeout 120",
    ],
)
def test_settings_are_the_same_before_and_after_the_command(line: str) -> None:
    settings, rest = take(line.split())

    assert settings == Settings(cluster="blue", json=True, quiet=True, timeout=120.0)
    assert rest == ["topic", "list"]


def test_what_stands_behind_two_dashes_is_not_touched() -> None:
    settings, rest = take(["produce", "t", "--", "--json"])

    assert not settings.json
    assert rest == ["produce", "t", "--", "--json"]


@pytest.mark.parametrize("line", ["--timeout", "--timeout soon", "--timeout 0", "--timeout -1s", "--cluster", "--cluster="])
def test_a_setting_without_a_usable_value_is_refused(line: str) -> None:
    with pytest.raises(Usage):
        take(line.split())


def test_lengths_of_time_have_units() -> None:
    assert [duration(text, "x") for text in ("500ms", "1.5s", "15m", "2h", "7d", "30")] == [0.5, 1.5, 900.0, 7200.0, 604800.0, 30.0]
