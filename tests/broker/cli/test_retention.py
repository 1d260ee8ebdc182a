"""`zablog topic`: how long records are kept, as one says it and as one is told."""

import pytest

from broker.cli.main import run
from broker.cli.topic import kept
from broker.state import Retention


@pytest.fixture(autouse=True)
def _no_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("ZABLOG_CLUSTER", raising=False)


@pytest.mark.parametrize("command", ["create", "alter"])
@pytest.mark.parametrize(
    "words",
    [
        "--retention 0",
        "--retention 0d",
        "--retention -7d",
        "--retention soon",
        "--retention 101y",
        "--retention 40000d",
        "--retention-bytes 0",
        "--retention-bytes 0.5",
        "--retention-bytes 0GiB",
        "--retention-bytes -5",
        "--retention-bytes much",
        "--retention-bytes 9999999999TiB",
        "--retention-records 0",
        "--retention-records -1",
        "--retention-records 1.5",
        "--retention-records 9223372036854775808",
    ],
)
def test_what_is_no_retention_is_refused_before_anybody_is_asked(command, words, capsys):
    assert run(["topic", command, "orders", *words.split()]) == 2

    option, value = words.split()
    assert f"{option} {value}: " in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--retention 90d", "--retention 3650d", "--retention 1ms", "--retention none", "--retention-bytes 1"])
@pytest.mark.parametrize("rest", ["--retention-records 1000000", "--retention-records none", "--retention-bytes 1.5GiB"])
def test_what_is_one_is_taken_to_the_cluster_which_is_not_there(words, rest, capsys):
    assert run(["topic", "create", "orders", *words.split(), *rest.split()]) == 3
    assert run(["topic", "alter", "orders", *words.split(), *rest.split()]) == 3


def test_alter_wants_to_be_told_what(capsys):
    assert run(["topic", "alter", "orders"]) == 2

    assert "--retention-bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("retention", "words"),
    [
        (Retention(), "records are kept for ever"),
        (Retention(ms=7 * 86_400_000), "records are kept for 7d"),
        (Retention(ms=90_000), "records are kept for 90s"),
        (Retention(ms=1), "records are kept for 1ms"),
        (Retention(bytes=1 << 20), "records are kept up to 1,048,576 bytes of each partition"),
        (
            Retention(3_600_000, 5000, 1000),
            "records are kept for 1h, up to 5,000 bytes of each partition, up to 1,000 records of each partition, whatever is less",
        ),
    ],
)
def test_how_long_records_are_kept_is_said_in_words(retention, words):
    assert kept(retention) == words
