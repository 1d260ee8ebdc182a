"""`zablog log`: look at data directories without touching them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli.refusals import NoSuchFile, Usage
from broker.cli.settings import HELP
from broker.cli.terminal import terminal
from broker.errors import Corrupt, Exit

if TYPE_CHECKING:
    from broker.inspection import Directory
    from zablog.core.zxid import Zxid
    from zablog.storage.inspection import Finding

app = typer.Typer(
    help="Look at data directories, of nodes that run or do not, without touching them.",
    rich_markup_mode=None,
    no_args_is_help=True,
    epilog=HELP,
)

_Dir = Annotated[Path, typer.Argument(metavar="DIR", help="A node's folder, or its data directory.", show_default=False)]


@app.command(epilog=HELP)
def inspect(context: typer.Context, directory: _Dir) -> None:
    """What a data directory holds: who it belongs to, what it promised, the files of its log, its checkpoint, its segments.

    Example: zablog log inspect node1
    """
    screen = terminal(context)
    found = _look(directory)
    log = found.log
    snapshot = log.manifest.contents.snapshot
    rows: list[dict[str, object]] = []
    if log.wal is not None:
        batches: dict[str, list[Zxid]] = {}
        for seen in log.batches():
            batches.setdefault(seen.file.name, []).append(seen.entries.last)
        for file in log.wal.files:
            last = batches.get(file.name, [])
            rows.append(_row(file.name, "log", log.overlay.size(file.name), len(last), file.header.start.zxid, last[-1] if last else None))
    if snapshot is not None:
        rows.append(_row(snapshot.name, "checkpoint", snapshot.length, None, None, snapshot.mark.zxid))
    if found.snapshot is not None:
        for partition in found.snapshot.partitions:
            for segment in partition.segments:
                name = f"{partition.topic}-{partition.partition}-{segment.base_offset:020d}.segment"
                rows.append(_row(name, "segment", segment.size, None, segment.base_zxid, None))
    document = {
        "directory": str(found.path),
        "cluster": log.identity.cluster,
        "node": log.identity.node,
        "accepted_epoch": log.epochs.accepted,
        "current_epoch": log.epochs.current,
        "suspect": _word(log.epochs.suspect),
        "log_begins": _word(log.manifest.contents.base.zxid),
        "log_ends": _word(log.wal.trail.last) if log.wal else None,
        "committed": _word(log.wal.hint) if log.wal else None,
        "files": rows,
        "findings": [_finding(found, each) for each in found.findings],
    }
    screen.note(
        f"node {document['node']} of cluster {document['cluster']}: epochs {log.epochs.accepted}/{log.epochs.current}, "
        f"log from {document['log_begins']} to {document['log_ends']}, known to be committed to {document['committed']}"
    )
    screen.emit(document, rows, ("file", "kind", "bytes", "batches", "after", "last"))
    for each in found.findings:
        screen.warn(_say(found, each))


@app.command(epilog=HELP)
def dump(
    context: typer.Context,
    directory: _Dir,
    begin: Annotated[str | None, typer.Option("--from", metavar="ZXID", help="Begin with this entry.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="ZXID", help="End with this entry.")] = None,
    records: Annotated[bool, typer.Option("--records", help="Show the records of batches, too.")] = False,
) -> None:
    """The entries of a log in order, one line each: zxid, place, length, and what the command says.

    Example: zablog log dump node1 --from 3.1 --records
    """
    from broker.cli.dumping import lines

    screen = terminal(context)
    low, high = _zxid(begin, "--from"), _zxid(end, "--to")
    found = _look(directory)
    for line in lines(found, low, high, records):
        screen.line(json.dumps(line, ensure_ascii=False) if screen.settings.json else "  ".join(map(str, line.values())))
    if found.log.wal is None:
        raise Corrupt(f"{found.path}: the log cannot be read: {found.findings[-1].what}")


@app.command(epilog=HELP)
def verify(
    context: typer.Context,
    directory: _Dir,
    against: Annotated[list[Path] | None, typer.Option("--against", metavar="DIR", help="A replica's directory; may be repeated.")] = None,
) -> None:
    """Verify every checksum, every link from batch to batch, every file that the manifest names; with replicas, that all hold the same.

    With --against all directories are verified, and each helps to say which byte of the others is damaged. What is behind the last
    checkpoint in a segment is not verified: it is made again from the log at a start. Exit code 8 if anything is found.

    Example: zablog log verify node1 --against node2 --against node3
    """
    from broker.inspection import look

    screen = terminal(context)
    paths = [directory, *(against or ())]
    first = [_look(path) for path in paths]
    if len({each.log.identity.cluster for each in first}) > 1:
        raise Usage("these directories belong to different clusters")
    found = [look(path, [other for other in first if other.path != each.path]) for path, each in zip(paths, first, strict=True)]
    rows = [_finding(each, finding) for each in found for finding in each.findings]
    document = {
        "ok": not rows,
        "directories": [
            {
                "directory": str(each.path),
                "node": each.log.identity.node,
                "log_begins": _word(each.log.manifest.contents.base.zxid),
                "log_ends": _word(each.log.wal.trail.last) if each.log.wal else None,
                "checkpoint": _word(each.log.manifest.contents.snapshot.mark.zxid) if each.log.manifest.contents.snapshot else None,
                "segment_bytes": each.checked_bytes,
            }
            for each in found
        ],
        "findings": rows,
    }
    if rows or screen.settings.json:
        screen.emit(document, rows, ("node", "file", "offset", "zxid", "harmless", "what"))
    if rows:
        raise typer.Exit(Exit.VERIFICATION)
    screen.note("\n".join(f"{each.path}: whole, log to {_word(each.log.wal.trail.last) if each.log.wal else '-'}" for each in found))


def _look(path: Path) -> "Directory":
    from broker.inspection import look

    if not path.is_dir():
        raise NoSuchFile(f"{path} is no directory", hint="a node's folder, such as `zablog cluster init` makes")
    return look(path)


def _row(file: str, kind: str, size: int, batches: int | None, after: "Zxid | None", last: "Zxid | None") -> dict[str, object]:
    return {"file": file, "kind": kind, "bytes": size, "batches": batches, "after": _word(after), "last": _word(last)}


def _finding(found: "Directory", finding: "Finding") -> dict[str, object]:
    return {
        "directory": str(found.path),
        "node": found.log.identity.node,
        "file": finding.file,
        "offset": finding.offset,
        "zxid": _word(finding.zxid),
        "harmless": finding.harmless,
        "what": finding.what,
    }


def _say(found: "Directory", finding: "Finding") -> str:
    where = "" if finding.offset is None else f", offset {finding.offset:,}"
    return f"{found.path}/{finding.file}{where}: {finding.what}"


def _word(zxid: "Zxid | None") -> str | None:
    return None if zxid is None else str(zxid)


def _zxid(text: str | None, what: str) -> "Zxid | None":
    from zablog.core.zxid import Zxid

    if text is None:
        return None
    epoch, dot, counter = text.partition(".")
    if not (dot and epoch.isascii() and epoch.isdigit() and counter.isascii() and counter.isdigit()):
        raise Usage(f"{what} {text}: no zxid", hint="EPOCH.COUNTER, such as 3.1042")
    return Zxid(int(epoch), int(counter))
