"""Data directories looked at from outside: one changed byte on one of three nodes is found and named, and nothing is ever written."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from broker.cli.main import run
from broker.client import connect
from broker.errors import Exit
from broker.inspection import look
from broker.server.config import DiskUse
from tests.broker.ensemble import open_ensemble
from tests.broker.server.test_checkpoints import VALUES, applied_alike, publish, until

USE = DiskUse(checkpoint_bytes=1 << 18, keep_bytes=1 << 16, file_bytes=1 << 18, checkpoint_seconds=3600, scrub_rate=0)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three directories of a cluster with checkpoints, trimmed logs and several topics, at rest."""
    folder = tmp_path_factory.mktemp("cluster")

    async def live() -> None:
        async with open_ensemble(folder, disk_use=USE) as ensemble:
            async with connect(ensemble.addresses) as zl:
                for name in ("numbers", "others"):
                    await zl.create_topic(name, partitions=2)
            await publish(ensemble.addresses, VALUES)
            await publish(ensemble.addresses, VALUES[:1000], "others")
            await applied_alike(ensemble)
            await until(lambda: all(server.node.status().log_begins.counter for server in ensemble.servers.values()))
            await applied_alike(ensemble)
            for number in list(ensemble.servers):
                await ensemble.stop(number)

    trio.run(live)
    return [folder / f"node{number}" for number in (1, 2, 3)]


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(autouse=True)
def _untouched(nodes: list[Path]) -> Iterator[None]:
    before = [everything(node) for node in nodes]
    yield
    assert [everything(node) for node in nodes] == before, "nothing is written, whatever is looked at"


def verify(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> tuple[int, dict]:
    code = run(["log", "verify", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_whole_directories_are_whole(nodes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, said = verify(capsys, nodes[0], "--against", nodes[1], "--against", nodes[2])
    assert (code, said["ok"], said["findings"]) == (0, True, [])
    assert all(each["segment_bytes"] > 200_000 and each["checkpoint"] and each["log_begins"] != "0.0" for each in said["directories"])


def places(node: Path) -> list[tuple[str, int]]:
    """Bytes of every kind of file: some of each, drawn, from among those that are in use."""
    dice = random.Random(1)
    found = look(node)
    assert found.log.wal is not None and found.log.manifest.contents.snapshot is not None
    snapshot = found.log.manifest.contents.snapshot
    picked = [(name, dice.randrange((node / name).stat().st_size)) for name in ("manifest.a", "manifest.b", "epochs.a", "epochs.b")]
    picked += [(snapshot.name, dice.randrange(snapshot.length)) for _ in range(3)]
    for seen in dice.sample(list(found.log.batches()), 4):
        picked += [(seen.file.name, seen.offset + dice.randrange(120)), (seen.file.name, seen.offset + 120 + dice.randrange(1000))]
    assert found.snapshot is not None
    tails = {tail.name: tail.begin for tail in found.snapshot.tails}
    for partition in found.snapshot.partitions:
        for row in partition.segments:
            name = f"{partition.topic}-{partition.partition}-{row.base_offset:020d}.segment"
            picked += [(f"topics/{name}", dice.randrange(tails.get(name, row.size))) for _ in range(3)]
    picked += [(f"topics/{index.name}", dice.randrange(index.stat().st_size)) for index in (node / "topics").glob("*.index")]
    return picked


def test_one_changed_byte_on_one_of_three_nodes_is_named(nodes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    exact = 0
    for name, at in places(nodes[1]):
        file = nodes[1] / name
        whole, times = file.read_bytes(), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        try:
            code, said = verify(capsys, nodes[0], "--against", nodes[1], "--against", nodes[2])
        finally:
            file.write_bytes(whole)
            os.utime(file, ns=times)
        assert code == Exit.VERIFICATION, f"{name} at {at}"
        (found,) = said["findings"]
        assert (found["node"], found["file"]) == (2, name)
        assert found["offset"] is not None and found["offset"] <= at
        if name.startswith("wal-") or name.endswith(".segment"):
            assert found["zxid"] is not None
        if not name.startswith("snapshot-") and not name.endswith(".index"):
            assert found["offset"] == at, f"a replica tells the byte: {found}"
            exact += 1
    assert exact > 15


def test_without_replicas_the_damaged_batch_is_named(nodes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    file = min((nodes[0] / "topics").glob("*.segment"))
    whole, times = file.read_bytes(), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(whole[:5000] + b"\xff\x00" + whole[5002:])
    try:
        code, said = verify(capsys, nodes[0])
    finally:
        file.write_bytes(whole)
        os.utime(file, ns=times)
    (found,) = said["findings"]
    assert code == Exit.VERIFICATION and 0 <= found["offset"] <= 5000 and found["zxid"] and not found["harmless"]


def test_the_log_is_dumped_in_order_with_its_records(nodes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["log", "dump", str(nodes[0]), "--records", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    zxids = [tuple(map(int, line["zxid"].split("."))) for line in lines]
    assert zxids == sorted(set(zxids)) and len(zxids) >= 2
    assert {line["command"] for line in lines} >= {"Produce"}
    assert all(len(line["records"]) for line in lines if line["command"] == "Produce")
    middle = lines[len(lines) // 2]["zxid"]
    assert run(["log", "dump", str(nodes[0]), "--from", middle, "--to", middle]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(middle + "  wal-")


def test_a_directory_is_inspected(nodes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["log", "inspect", str(nodes[2]), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["node"] == 3 and said["findings"] == [] and said["log_begins"] != "0.0"
    assert {file["kind"] for file in said["files"]} == {"log", "checkpoint", "segment"}
    assert run(["log", "inspect", str(nodes[2])]) == 0
    assert "FILE" in capsys.readouterr().out


def test_what_is_no_data_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["log", "verify", str(tmp_path / "nowhere")]) == Exit.NOT_FOUND
    assert run(["log", "verify", str(tmp_path)]) == Exit.NOT_FOUND
    assert run(["log", "dump", str(tmp_path), "--from", "x"]) == Exit.USAGE
    assert capsys.readouterr().out == ""
