"""Records in streams of bytes, both ways."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli import framing
from broker.cli.framing import RECORD_BYTES_MAX, Delimited, Prefixed, from_json, split_key, splitter, writer
from broker.cli.refusals import Usage
from broker.errors import RecordTooLarge
from broker.records import Record
from zablog.core.zxid import Zxid


def fed(by: framing.Splitter, stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    records: list[bytes] = []
    for begin, end in pairwise(places):
        records += by.feed(stream[begin:end])
    return records + by.finish()


@given(st.lists(st.binary().map(lambda value: value.replace(b"\n", b"")), max_size=20), st.lists(st.integers(0, 10_000), max_size=9))
def test_lines_come_out_as_they_went_in_however_the_stream_is_cut(values: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(value + b"\n" for value in values)

    assert fed(Delimited(b"\n"), stream, cuts) == values


def test_a_last_line_without_its_end_counts_and_carriage_returns_and_nul_stay() -> None:
    assert fed(Delimited(b"\n"), b"a\r\n\n\0b\nlast", [1, 4]) == [b"a\r", b"", b"\0b", b"last"]


@given(st.lists(st.binary(), max_size=20), st.lists(st.integers(0, 10_000), max_size=9))
def test_prefixed_records_come_out_as_they_went_in(values: list[bytes], cuts: list[int]) -> None:
    write = writer("len")

    assert fed(Prefixed(), b"".join(write(Record(value)) for value in values), cuts) == values


def test_prefixed_input_that_ends_within_a_record_is_refused() -> None:
    with pytest.raises(Usage, match="within record 2"):
        fed(Prefixed(), b"\0\0\0\1a\0\0\0\5bc", [])


@pytest.mark.parametrize("chunk", [1000, 65536, 3 << 20])
def test_a_record_above_the_limit_is_refused_and_one_at_the_limit_is_not(chunk: int) -> None:
    good = b"x" * RECORD_BYTES_MAX
    stream = b"first\n" + good + b"\n"

    assert fed(Delimited(b"\n"), stream, list(range(0, len(stream), chunk))) == [b"first", good]
    for bad in (b"first\n" + good + b"x\n", b"first\n" + good + b"x"):
        with pytest.raises(RecordTooLarge, match=r"^record 2 "):
            fed(Delimited(b"\n"), bad, list(range(0, len(bad), chunk)))
    with pytest.raises(RecordTooLarge):
        Prefixed().feed((RECORD_BYTES_MAX + 1).to_bytes(4, "big"))


def test_a_key_stands_before_the_first_separator() -> None:
    assert split_key(b"k:v:w", b":", 1) == Record(b"v:w", b"k")
    with pytest.raises(Usage, match="record 7"):
        split_key(b"kv", b":", 7)


def test_what_jsonl_writes_jsonl_reads() -> None:
    record = Record(b"\xff\0", b"key", (("h", b"1"),), 1_767_225_600_123, "t", 1, 5, Zxid(3, 9))

    line = writer("jsonl")(record)

    assert json.loads(line) == {
        "topic": "t",
        "partition": 1,
        "offset": 5,
        "zxid": "3.9",
        "time": "2026-01-01T00:00:00.123Z",
        "key": "key",
        "headers": {"h": "1"},
        "value_b64": "/wA=",
    }
    assert from_json(line, 1) == Record(b"\xff\0", b"key", (("h", b"1"),))


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"{}", b'{"value": 1}', b'{"value_b64": "?"}', b'{"value": "a", "value_b64": "YQ=="}', b'{"value":"a","headers":[1]}'],
)
def test_bad_jsonl_is_refused_with_its_line(line: bytes) -> None:
    with pytest.raises(Usage, match="line 12"):
        from_json(line, 12)


@pytest.mark.parametrize("timestamp", [2**50, -(2**50), 2**63 - 1, -(2**63)])
def test_a_time_that_no_calendar_has_is_written_in_milliseconds(timestamp: int) -> None:
    line = writer("jsonl")(Record(b"v", timestamp=timestamp))  # a client took microseconds for milliseconds, or worse

    assert json.loads(line)["time"] == timestamp


@pytest.mark.parametrize("line", [b'{"value": ' + b"[" * 50_000, b'{"value": "", "headers": {"\\ud800": ""}}'], ids=["deep", "surrogate"])
def test_jsonl_that_json_takes_and_no_record_holds_is_refused_with_its_line(line: bytes) -> None:
    with pytest.raises(Usage, match="line 12"):
        from_json(line, 12)


def test_formats_know_kcat_s_tokens() -> None:
    record = Record(b"v", b"k", (("a", b"1"), ("b", None)), 5, "t", 2, 7, Zxid(1, 4))

    assert writer(r"%t[%p]@%o %k=%s %S %K %T %z %h 100%%\n")(record) == b"t[2]@7 k=v 1 1 5 1.4 a=1,b= 100%\n"
    assert writer("hex")(record) == b"76\n"
    assert writer("nul")(record) == b"v\0"
    for bad in ("table", "%y"):
        with pytest.raises(Usage):
            writer(bad)


def test_an_unknown_framing_names_the_known_ones() -> None:
    with pytest.raises(Usage) as caught:
        splitter("csv")
    assert "jsonl" in caught.value.hint
