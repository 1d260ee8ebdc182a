"""Data directories looked at from outside: one changed byte on one of three nodes is found and named, and nothing is ever written."""

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

import broker.inspection
from broker.cli.main import run
from broker.client import connect
from broker.errors import Exit
from broker.inspection import Directory, look
from broker.server.config import DiskUse
from tests.broker.ensemble import open_ensemble
from tests.broker.server.test_checkpoints import VALUES, applied_alike, publish, until
from zablog.storage.inspection import Finding

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


def places(node: Path, replicas: Sequence[Path]) -> list[tuple[str, int]]:
    """Bytes of every kind of file: some of each, drawn, from among those that are in use, and of the log from what a replica has, too.

    A node lets go of its log by itself, so that one may have a file more than the others: see
    `test_a_changed_byte_that_no_replica_has_is_named_by_its_batch`.
    """
    dice = random.Random(1)
    found = look(node)
    shared = min(look(replica).log.manifest.contents.base.zxid for replica in replicas)
    assert found.log.wal is not None and found.log.manifest.contents.snapshot is not None
    snapshot = found.log.manifest.contents.snapshot
    picked = [(name, dice.randrange((node / name).stat().st_size)) for name in ("manifest.a", "manifest.b", "epochs.a", "epochs.b")]
    picked += [(snapshot.name, dice.randrange(snapshot.length)) for _ in range(3)]
    picked += [(file.name, dice.randrange(76)) for file in found.log.wal.files]
    for seen in dice.sample(list(found.log.batches(shared)), 4):
        picked += [(seen.file.name, seen.offset + dice.randrange(120)), (seen.file.name, seen.offset + 120 + dice.randrange(1000))]
    assert found.snapshot is not None
    tails = {tail.name: tail.begin for tail in found.snapshot.tails}
    for partition in found.snapshot.partitions:
        for row in partition.segments:
            name = f"{partition.topic}-{partition.partition}-{row.base_offset:020d}.segment"
            picked += [(f"topics/{name}", dice.randrange(tails.get(name, row.size))) for _ in range(3)]
    picked += [(f"topics/{index.name}", dice.randrange(index.stat().st_size)) for index in (node / "topics").glob("*.index")]
    return picked


@pytest.mark.slow
def test_one_changed_byte_on_one_of_three_nodes_is_named(nodes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    exact = 0
    for name, at in places(nodes[1], (nodes[0], nodes[2])):
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


def test_a_changed_byte_that_no_replica_has_is_named_by_its_batch(nodes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    seen = next(iter(look(nodes[1]).log.batches()))
    at = seen.offset + 200
    with changed(nodes[1] / seen.file.name, lambda whole: whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :]):
        code, said = verify(capsys, nodes[1])
    (found,) = said["findings"]
    assert code == Exit.VERIFICATION
    assert (found["node"], found["file"], found["offset"]) == (2, seen.file.name, seen.offset)


@pytest.fixture(scope="module")
def young(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three directories of a cluster that has taken no checkpoint yet, at rest."""
    folder = tmp_path_factory.mktemp("young")

    async def live() -> None:
        async with open_ensemble(folder) as ensemble:
            async with connect(ensemble.addresses) as zl:
                await zl.create_topic("numbers", partitions=2)
            await publish(ensemble.addresses, VALUES[:600])
            await applied_alike(ensemble)
            for number in list(ensemble.servers):
                await ensemble.stop(number)

    trio.run(live)
    return [folder / f"node{number}" for number in (1, 2, 3)]


@contextmanager
def changed(file: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """The file with other bytes, for the length of a block."""
    whole, times = file.read_bytes(), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(change(whole))
    try:
        yield
    finally:
        file.write_bytes(whole)
        os.utime(file, ns=times)


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :]


def test_without_a_checkpoint_the_log_tells_the_byte_of_a_segment(young: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = look(young[1])
    segments = [path for path in (found.path / "topics").glob("*.segment") if path.stat().st_size > 10_000]
    assert found.findings == [] and found.snapshot is None and segments
    dice = random.Random(2)

    for file in segments:
        size = file.stat().st_size
        for at in (0, 10, 50, 100, size - 1, *(dice.randrange(size) for _ in range(6))):
            with changed(file, flip(at)):
                code, said = verify(capsys, young[1])
            (finding,) = said["findings"]
            assert code == Exit.VERIFICATION and finding["harmless"] and finding["zxid"], finding
            assert (finding["file"], finding["offset"]) == (f"topics/{file.name}", at)


def test_headers_and_the_end_of_a_log_are_told_to_the_byte(young: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    log = look(young[2]).log
    file = log.wal.files[-1]
    last = list(log.batches())[-1]
    for at in (0, 20, 70, last.offset, last.offset + 60, last.offset + 1000, log.wal.last_offset + 30, file.end, file.end + 5000):
        with changed(young[2] / file.name, flip(at)):
            code, said = verify(capsys, young[0], "--against", young[1], "--against", young[2])
        (finding,) = said["findings"]
        assert code == Exit.VERIFICATION
        assert (finding["node"], finding["file"], finding["offset"]) == (3, file.name, at), finding
        assert finding["zxid"]


@pytest.mark.parametrize("how", ["cut", "zeros"])
def test_a_segment_that_ends_early_behind_the_checkpoint_is_no_damage(
    young: list[Path], capsys: pytest.CaptureFixture[str], how: str
) -> None:
    file = max((young[0] / "topics").glob("*.segment"), key=lambda path: path.stat().st_size)
    with changed(file, lambda whole: whole[:-1000] + (bytes(1000) if how == "zeros" else b"")):
        code, said = verify(capsys, young[0])
    assert (code, said["findings"]) == (0, [])
    (note,) = said["directories"][0]["notes"]
    assert file.name in note and "made again" in note


def test_nothing_is_opened_for_writing(young: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[tuple[object, int]]()
    really = os.open

    def watching(path: str, flags: int, *rest: int, **more: int) -> int:
        opened.append((path, flags))
        return really(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", watching)
    for command in (
        ["inspect", str(young[0])],
        ["dump", str(young[0])],
        ["verify", str(young[0])],
        ["dump", "--topic", "numbers", str(young[0])],
    ):
        assert run(["log", *command]) == 0

    assert len(opened) > 8
    assert all(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) == 0 for _, flags in opened)


def test_directories_of_running_nodes_are_whole_all_the_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While nodes append, take checkpoints and let go of files."""
    busy = DiskUse(checkpoint_bytes=1 << 17, keep_bytes=0, file_bytes=1 << 17, checkpoint_seconds=3600, scrub_rate=0)
    seen = list[list[object]]()

    def look_at(node: Path) -> None:
        seen.append([*look(node).findings])

    async def live() -> None:
        async with open_ensemble(tmp_path, disk_use=busy) as ensemble, connect(ensemble.addresses) as zl:
            await zl.create_topic("numbers", partitions=2)

            async with trio.open_nursery() as nursery:

                async def keep_publishing() -> None:
                    while True:
                        await publish(ensemble.addresses, VALUES[:300])

                nursery.start_soon(keep_publishing)
                await until(lambda: all(server.node.status().log_begins.counter for server in ensemble.servers.values()))
                for _ in range(5):
                    for number in (1, 2, 3):
                        await trio.to_thread.run_sync(look_at, tmp_path / f"node{number}")
                nursery.cancel_scope.cancel()

    trio.run(live)
    assert seen == [[]] * 15


def test_only_what_is_found_in_each_look_counts(nodes: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    lasts, passes, moves = Finding("a", 1, None, "lasts"), Finding("b", 2, None, "passes"), Finding("a", 9, None, "moves on")

    def looked(*script: list[Finding] | Exception) -> tuple[list[Finding], int]:
        whole, steps = look(nodes[0]), iter(script)

        def look_once(path: Path, replicas: object = ()) -> Directory:
            step = next(steps)
            if isinstance(step, Exception):
                raise step
            return replace(whole, findings=step, notes=[])

        with monkeypatch.context() as patch:
            patch.setattr(broker.inspection, "look_once", look_once)
            found = look(nodes[0])
        return found.findings, len(found.notes)

    assert looked([]) == ([], 0)
    assert looked([lasts], [lasts]) == ([lasts], 0)
    assert looked([lasts, passes], [moves, lasts], [lasts]) == ([lasts], 1)
    assert looked([passes], [moves]) == ([], 1)
    assert looked(FileNotFoundError(), []) == ([], 1)
    with pytest.raises(FileNotFoundError):
        looked(*[FileNotFoundError()] * 4)


def test_damage_under_a_running_node_is_found(tmp_path: Path) -> None:
    async def live() -> None:
        async with open_ensemble(tmp_path) as ensemble, connect(ensemble.addresses) as zl:
            await zl.create_topic("numbers")
            await publish(ensemble.addresses, VALUES[:300])
            await applied_alike(ensemble)
            file = max((tmp_path / "node2" / "topics").glob("*.segment"), key=lambda path: path.stat().st_size)
            whole = file.read_bytes()
            file.write_bytes(flip(5000)(whole))
            (found,) = await trio.to_thread.run_sync(lambda: look(tmp_path / "node2").findings)
            assert (found.file, found.offset) == (f"topics/{file.name}", 5000)
            file.write_bytes(whole)

    trio.run(live)


def test_a_damaged_log_is_dumped_up_to_the_damage(young: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    batches = list(look(young[0]).log.batches())
    damaged = batches[len(batches) // 2]
    with changed(young[0] / damaged.file.name, flip(damaged.offset + 300)):
        code = run(["log", "dump", str(young[0]), "--json"])
    told = capsys.readouterr()
    zxids = [json.loads(line)["zxid"] for line in told.out.splitlines()]
    assert code == Exit.VERIFICATION and zxids[-1] == str(damaged.header.prev.zxid)
    assert str(damaged.offset) in told.err


def test_the_dump_shows_where_each_entry_is_and_its_running_digest(young: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    log = look(young[0]).log
    assert run(["log", "dump", str(young[0]), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["digest"] == f"{log.wal.trail.digest:016x}"
    assert [line["batch"] for line in lines] == [seen.header.sequence for seen in log.batches() for _ in seen.entries.payloads]
    payloads = [bytes(payload) for seen in log.batches() for payload in seen.entries.payloads]
    for line, payload in zip(lines, payloads, strict=True):
        assert (young[0] / line["file"]).read_bytes()[line["offset"] : line["offset"] + line["bytes"]] == payload


def test_the_segments_of_a_topic_are_dumped(nodes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["log", "dump", str(nodes[0]), "--topic", "numbers", "--records", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(len(line["values"]) for line in lines) == len(VALUES)
    offsets = [(line["partition"], line["first"]) for line in lines]
    assert offsets == sorted(set(offsets)) and {partition for partition, _ in offsets} == {0, 1}
    assert run(["log", "dump", str(nodes[0]), "--topic", "numbers/1", "--json"]) == 0
    assert {json.loads(line)["partition"] for line in capsys.readouterr().out.splitlines()} == {1}
    assert run(["log", "dump", str(nodes[0]), "--topic", "nothing"]) == Exit.NOT_FOUND
    assert "numbers" in capsys.readouterr().err
    assert run(["log", "dump", str(nodes[0]), "--topic", "numbers/x"]) == Exit.USAGE


def test_an_inspection_tells_copies_and_topics(nodes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with changed(nodes[0] / "epochs.a", flip(9)):
        assert run(["log", "inspect", str(nodes[0]), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    files = {file["file"]: file for file in said["files"]}
    assert files["epochs.a"]["state"] == "damaged" and files["epochs.b"]["state"] == "whole, the one that counts"
    assert len([file for file in files.values() if file["state"] == "whole, the one that counts"]) == 2
    assert {file["topic"] for file in files.values() if file["kind"] == "segment"} == {"numbers", "others"}
    assert said["manifest_format"] and said["tail"].startswith("clean") and len(said["members"]) == 3


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
    assert {file["kind"] for file in said["files"]} == {"metadata", "log", "checkpoint", "segment"}
    assert run(["log", "inspect", str(nodes[2])]) == 0
    assert "FILE" in capsys.readouterr().out


def test_what_is_no_data_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["log", "verify", str(tmp_path / "nowhere")]) == Exit.NOT_FOUND
    assert run(["log", "verify", str(tmp_path)]) == Exit.NOT_FOUND
    assert run(["log", "dump", str(tmp_path), "--from", "x"]) == Exit.USAGE
    assert capsys.readouterr().out == ""
