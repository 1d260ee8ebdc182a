"""`zablog log`: look at data directories without touching them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli.refusals import NoSuchFile, Usage
from broker.cli.settings import HELP
from broker.cli.terminal import terminal
from broker.errors import Corrupt, Exit, TopicNotFound

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
    from broker.cli.inspecting import COLUMNS, described

    screen = terminal(context)
    found = _look(directory)
    log, document = found.log, described(found)
    document["findings"] = [_finding(found, each) for each in found.findings]
    rows = document["files"]
    assert isinstance(rows, list), "a description lists files"
    screen.note(
        f"node {document['node']} of cluster {document['cluster']}: epochs {log.epochs.accepted}/{log.epochs.current}, log from "
        f"{document['log_begins']} to {document['log_ends']} ({document['tail']}), known to be committed to {document['committed']}"
    )
    screen.emit(document, rows, COLUMNS)
    for note in found.notes:
        screen.note(note)
    for each in found.findings:
        screen.warn(_say(found, each))


@app.command(epilog=HELP)
def dump(
    context: typer.Context,
    directory: _Dir,
    begin: Annotated[str | None, typer.Option("--from", metavar="ZXID", help="Begin with this entry.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="ZXID", help="End with this entry.")] = None,
    records: Annotated[bool, typer.Option("--records", help="Show the records of batches, too.")] = False,
    topic: Annotated[
        str | None,
        typer.Option("--topic", metavar="TOPIC[/P]", help="The batches in a topic's segments (name or id), not the log's entries."),
    ] = None,
) -> None:
    """The entries of a log in order, one line each: zxid, file, batch, offset, length, running digest, and what the command says.

    A log that cannot be read to its end is shown up to there; exit code 8 then.

    Example: zablog log dump node1 --from 3.1 --records
    """
    from broker.cli.dumping import lines, segment_lines

    screen = terminal(context)
    low, high = _zxid(begin, "--from"), _zxid(end, "--to")
    if topic is None:
        from broker.inspection import look_at_log

        log = look_at_log(_existing(directory))
        shown, unread = lines(log, low, high, records), log.unread
    else:
        found = _look(directory)
        name, slash, number = topic.rpartition("/") if "/" in topic else (topic, "", "")
        if slash and not (number.isascii() and number.isdigit()):
            raise Usage(f"--topic {topic}: {number!r} is no partition", hint="TOPIC or TOPIC/P, such as orders/0")
        if found.segments is None:
            raise TopicNotFound(f"{found.path} holds no segments")
        shown = segment_lines(found.segments, _topic(found, name), int(number) if slash else None, low, high, records)
        unread = ""
    for line in shown:
        screen.line(json.dumps(line, ensure_ascii=False) if screen.settings.json else "  ".join(map(str, line.values())))
    if unread:
        raise Corrupt(f"{directory}: the log cannot be read further: {unread}")


@app.command(epilog=HELP)
def verify(
    context: typer.Context,
    directory: _Dir,
    against: Annotated[list[Path] | None, typer.Option("--against", metavar="DIR", help="A replica's directory; may be repeated.")] = None,
) -> None:
    """Verify every checksum, every link from batch to batch, every file that the manifest names; with replicas, that all hold the same.

    With --against all directories are verified, and each helps to say which byte of the others is damaged; of a running node, give
    the directory, too. Segments behind the last checkpoint are compared with the log that they are made from at a start, so damage there
    is harmless. Exit code 8 if anything is found, harmless or not.

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
                "log_ends": _word(each.log.wal.trail.last),
                "tail": each.log.tail(),
                "checkpoint": _word(each.log.manifest.contents.snapshot.mark.zxid) if each.log.manifest.contents.snapshot else None,
                "segment_bytes": each.checked_bytes,
                "notes": each.notes,
            }
            for each in found
        ],
        "findings": rows,
    }
    if rows or screen.settings.json:
        screen.emit(document, rows, ("node", "file", "offset", "zxid", "harmless", "what"))
    for note in (f"{each.path}: {note}" for each in found for note in each.notes):
        screen.note(note)
    if rows:
        raise typer.Exit(Exit.VERIFICATION)
    for each in found:
        screen.note(f"{each.path}: whole, log to {each.log.wal.trail.last} ({each.log.tail()}), {each.checked_bytes:,} bytes of segments")


def _existing(path: Path) -> Path:
    if not path.is_dir():
        raise NoSuchFile(f"{path} is no directory", hint="a node's folder, such as `zablog cluster init` makes")
    return path


def _look(path: Path) -> "Directory":
    from broker.inspection import look

    return look(_existing(path))


def _topic(found: "Directory", text: str) -> "Zxid":
    """The id of a topic that may have been deleted since: then only its id names it."""
    known = found.state.topic_named(text)
    if known is not None:
        return known.id
    epoch, dot, counter = text.partition(".")
    if dot and epoch.isdigit() and counter.isdigit():
        from zablog.core.zxid import Zxid

        return Zxid(int(epoch), int(counter))
    names = ", ".join(sorted(found.state.names)) or "none"
    raise TopicNotFound(f"there is no topic {text} in {found.path}", hint=f"it knows of: {names}; what is deleted goes by its id")


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
