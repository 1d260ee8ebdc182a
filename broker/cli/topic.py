"""`zablog topic`: make, list, describe and delete topics."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli import where
from broker.cli.settings import HELP
from broker.cli.terminal import Terminal, terminal
from broker.errors import WouldLoseData

if TYPE_CHECKING:
    from broker.client import Client
    from broker.protocol import TopicDetails

app = typer.Typer(help="Make, list, describe and delete topics.", rich_markup_mode=None, no_args_is_help=True, epilog=HELP)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The topic's name.", show_default=False)]


@app.command(epilog=HELP)
def create(
    context: typer.Context,
    name: _Name,
    partitions: Annotated[int, typer.Option("-p", "--partitions", min=1, help="How many partitions it has, for good.")] = 1,
) -> None:
    """Make a topic.

    Example: zablog topic create orders -p 3
    """
    screen = terminal(context)

    async def work(client: "Client") -> None:
        await client.create_topic(name, partitions=partitions)
        if screen.settings.json:
            await _describe(screen, client, name)

    _run(screen, work)
    screen.note(f"topic {name} is made, with {partitions} partition{'s' if partitions > 1 else ''}")


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
    """A topic's partitions, with the offsets they hold.

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
    document = _document(await client.describe_topic(name))
    screen.emit(document, _partitions(document), ("id", "first", "end", "bytes"))


def _document(topic: "TopicDetails") -> dict[str, object]:
    partitions = [{"id": at, "first": each.first, "end": each.end, "bytes": each.bytes} for at, each in enumerate(topic.partitions)]
    return {"name": topic.name, "id": str(topic.id), "partitions": partitions}


def _partitions(document: dict[str, object]) -> list[dict[str, object]]:
    partitions = document["partitions"]
    assert isinstance(partitions, list), "a topic's document lists its partitions"
    return partitions
