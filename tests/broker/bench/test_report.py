"""The result: the shape of its JSON, its table, its drawing."""

import json
from xml.etree import ElementTree

from broker.bench.figures import Figures, Reading, Unit
from broker.bench.report import Peer, columns, document, drawing, rows

ZOOKEEPER = Peer("zookeeper", "3.8.0", "fsync on a quorum", {"publish_1KiB": 10_000.0, "latency_p50": 0.5}, 0.1)
ETCD = Peer("etcd", skipped="etcd is not installed")


def some_figures() -> Figures:
    figures = Figures()
    for rate in (40_000.0, 50_000.0, 45_000.0):
        figures.add([Reading("publish_1KiB", rate, Unit.RATE), Reading("latency_p50", 0.75, Unit.MILLISECONDS)])
    figures.not_reached["catch_up_1GB"] = "not done within 300 s"
    return figures


def test_the_json_has_ours_and_theirs_and_what_one_is_by_the_other() -> None:
    found = document(some_figures(), [ZOOKEEPER, ETCD], {"cores": 2}, [0.1, 0.25])

    assert found["ours"] == {"publish_1KiB": 45_000, "latency_p50": 0.75}
    assert found["peers"] == {"zookeeper": {"publish_1KiB": 10_000.0, "latency_p50": 0.5}}
    assert found["ratios"] == {"zookeeper": {"publish_1KiB": 4.5, "latency_p50": 1.5}}
    assert found["acks"] == {"zablog": "fsync on a quorum", "zookeeper": "fsync on a quorum"}
    assert found["skipped"] == {"etcd": "etcd is not installed"}
    assert found["not_reached"] == {"catch_up_1GB": "not done within 300 s"}
    assert found["units"] == {"publish_1KiB": "records/s", "latency_p50": "ms"}
    assert found["runs"] == {"publish_1KiB": [40_000, 50_000, 45_000], "latency_p50": [0.75, 0.75, 0.75]}
    assert found["machine"] == {"cores": 2} and found["others_cores"] == {"zablog": 0.25, "zookeeper": 0.1}
    assert json.loads(json.dumps(found)) == found


def test_the_json_has_its_keys_when_nothing_was_measured() -> None:
    found = document(Figures(), [], {}, [])

    assert (found["ours"], found["peers"], found["ratios"], found["others_cores"]) == ({}, {}, {}, {"zablog": 0.0})


def test_the_table_has_a_column_for_each_peer_that_was_measured() -> None:
    peers = [ZOOKEEPER, ETCD]

    assert columns(peers) == ("figure", "ours", "unit", "lowest", "highest", "runs", "zookeeper")
    assert rows(some_figures(), peers)[0] == {
        "figure": "publish_1KiB", "ours": "45,000", "unit": "records/s", "lowest": "40,000", "highest": "50,000", "runs": 3,
        "zookeeper": "4.50 x",
    }  # fmt: skip
    assert rows(some_figures(), peers)[-1] == {"figure": "catch_up_1GB", "ours": "not reached"}


def test_the_drawing_is_an_image_whose_bars_are_as_long_as_the_figures_say() -> None:
    svg = drawing(
        {"publish_1KiB": 40_000.0}, {"zoo<keeper": {"publish_1KiB": 10_000.0}}, {"publish_1KiB": "records/s"}, ["publish_1KiB", "gone"]
    )

    image = ElementTree.fromstring(svg)
    bars = [float(bar.attrib["width"]) for bar in image.findall("{*}rect")[1:]]
    texts = [text.text for text in image.findall("{*}text")]
    assert len(bars) == 2 and abs(bars[0] / bars[1] - 4) < 0.01
    assert texts == ["publish_1KiB, records/s (more is better)", "zablog", "40,000", "zoo<keeper", "10,000"]
