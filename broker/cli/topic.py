"""`zablog topic`: make, list, describe and delete topics."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli import where
from broker.cli.refusals import Usage
from broker.cli.settings import HELP, duration
from broker.cli.settings import size as parse_size
from broker.cli.terminal import Terminal, terminal
from broker.errors import WouldLoseData
from broker.state.commands import Retention

if TYPE_CHECKING:
    from broker.client import Client
    from broker.protocol import TopicDetails

app = typer.Typer(help="Make, alter, list, describe and delete topics.", rich_markup_mode=None, no_args_is_help=True, epilog=HELP)

_FOR_EVER = (0, 0, 0)
AGE_DAYS_MAX = 36_525
"""A hundred years."""
_Age = Annotated[str | None, typer.Option("--retention", metavar="TIME", help="Keep records so long: 12h, 7d; none: for ever.")]
_Size = Annotated[str | None, typer.Option("--retention-bytes", metavar="SIZE", help="Keep so much of each partition: 10GiB; none: all.")]
_Records = Annotated[
    str | None, typer.Option("--retention-records", metavar="N", help="Keep so many records of each partition; none: all.")
]

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The topic's name.", show_default=False)]


@app.command(epilog=HELP)
def create(
    context: typer.Context,
    name: _Name,
    partitions: Annotated[int, typer.Option("-p", "--partitions", min=1, help="How many partitions it has, for good.")] = 1,
    age: _Age = None,
    size: _Size = None,
    records: _Records = None,
) -> None:
    """Make a topic. Its records are kept for ever, unless a retention says how long.

    Example: zablog topic create orders -p 3 --retention 7d --retention-bytes 10GiB
    """
    screen = terminal(context)
    retention = _retention(_FOR_EVER, age, size, records)

    async def work(client: "Client") -> None:
        await client.create_topic(name, partitions=partitions, retention=Retention(*retention))
        if screen.settings.json:
            await _describe(screen, client, name)

    _run(screen, work)
    screen.note(f"topic {name} is made, with {partitions} partition{'s' if partitions > 1 else ''}")


@app.command(epilog=HELP)
def alter(context: typer.Context, name: _Name, age: _Age = None, size: _Size = None, records: _Records = None) -> None:
    """Change how long a topic's records are kept; what is not named stays as it is. What is let go of is gone for good.

    Example: zablog topic alter orders --retention 30d --retention-bytes none
    """
    screen = terminal(context)
    if age is None and size is None and records is None:
        raise Usage(f"topic alter {name}: nothing to change", hint="say --retention, --retention-bytes or --retention-records")
    _retention(_FOR_EVER, age, size, records)  # what is wrong is said before anybody is asked

    async def work(client: "Client") -> None:
        present = (await client.describe_topic(name)).retention
        await client.alter_topic(name, Retention(*_retention(tuple(present), age, size, records)))
        if screen.settings.json:
            await _describe(screen, client, name)

    _run(screen, work)
    screen.note(f"topic {name} is altered")


@app.command("list", epilog=HELP)
def list_topics(context: typer.Context) -> None:
    """All topics.

    Example: zablog topic list --json
    """
    screen = terminal(context)

    async def work(client: "Client") -> None:
        documents = [_document(topic) for topic in await client.describe_topics([each.name for each in await client.list_topics()])]
        rows = [{"name": each["name"], "id": each["id"], "partitions": len(_partitions(each))} for each in documents]
        screen.emit(documents, rows, ("name", "id", "partitions"))

    _run(screen, work)


@app.command(epilog=HELP)
def describe(context: typer.Context, name: _Name) -> None:
    """A topic's partitions, with the offsets they hold, and how long its records are kept.

    Example: zablog topic describe orders
    """
    screen = terminal(context)

    async def work(client: "Client") -> None:
        await _describe(screen, client, name)

    _run(screen, work)


@app.command(epilog=HELP)
def delete(
    context: typer.Context,
    name: _Name,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, delete all its records.")] = False,
) -> None:
    """Delete a topic and all its records.

    Example: zablog topic delete orders --yes
    """
    screen = terminal(context)
    if not yes:
        raise WouldLoseData(f"deleting topic {name} deletes all its records", hint=f"zablog topic delete {name} --yes")

    async def work(client: "Client") -> None:
        await client.delete_topic(name)

    _run(screen, work)
    screen.note(f"topic {name} is deleted")


def _run(screen: Terminal, work: "Callable[[Client], Awaitable[None]]") -> None:
    import trio

    async def connected() -> None:
        async with where.client(screen) as client:
            await work(client)

    trio.run(connected)


async def _describe(screen: Terminal, client: "Client", name: str) -> None:
    topic = await client.describe_topic(name)
    document = _document(topic)
    screen.emit(document, _partitions(document), ("id", "first", "end", "bytes"))
    if not screen.settings.json:
        screen.note(kept(topic.retention))


def kept(retention: Retention) -> str:
    """How long records are kept, in words."""
    ms, size, records = retention
    if not any(retention):
        return "records are kept for ever"
    limits = [f"for {_age(ms)}"] if ms else []
    limits += [f"up to {size:,} bytes of each partition"] if size else []
    limits += [f"up to {records:,} records of each partition"] if records else []
    return f"records are kept {', '.join(limits)}{', whatever is less' if len(limits) > 1 else ''}"


def _age(ms: int) -> str:
    """As one would say it to `--retention`."""
    for unit, each in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if ms % each == 0:
            return f"{ms // each}{unit}"
    return f"{ms}ms"


def _document(topic: "TopicDetails") -> dict[str, object]:
    partitions = [{"id": at, "first": each.first, "end": each.end, "bytes": each.bytes} for at, each in enumerate(topic.partitions)]
    age, size, records = (number or None for number in topic.retention)
    retention = {"ms": age, "bytes": size, "records": records}
    return {"name": topic.name, "id": str(topic.id), "retention": retention, "partitions": partitions}


def _retention(present: tuple[int, ...], age: str | None, size: str | None, records: str | None) -> tuple[int, int, int]:
    """Milliseconds, bytes and records, each 0 for ever: what was said, and for the rest what was. Raises Usage."""
    ms, length, count = present
    if age is not None:
        ms = 0 if age == "none" else max(1, round(1000 * duration(age, "--retention", AGE_DAYS_MAX)))
    if size is not None:
        length = 0 if size == "none" else parse_size(size, "--retention-bytes")
        if size != "none" and not 0 < length < 2**63:  # 0 would mean for ever, which is the last thing meant by it
            raise Usage(f"--retention-bytes {size}: at least 1 byte, and less than 8 EiB", hint="such as 512MiB, 10GiB, 1GB, or none")
    if records is not None:
        if records != "none" and not (records.isascii() and records.isdigit() and 0 < int(records) < 2**63):
            raise Usage(f"--retention-records {records}: not a number of records", hint="such as 1000000, or none")
        count = 0 if records == "none" else int(records)
    return ms, length, count


def _partitions(document: dict[str, object]) -> list[dict[str, object]]:
    partitions = document["partitions"]
    assert isinstance(partitions, list), "a topic's document lists its partitions"
    return partitions
