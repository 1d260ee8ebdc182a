"""Command lines that start nodes, read without typer: to load it, and pydantic with it, takes longer than all else that is done before.

Only what is written plainly is taken here. Everything else, and every mistake, is typer's, which has the words for it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from broker.cli.terminal import Terminal
from broker.errors import Exit


def plain(words: Sequence[str]) -> Callable[[Terminal], int] | None:
    """What to do for this command line, if it is one of those; else None."""
    match list(words):
        case ["server", file] if _is_value(file):
            return partial(_server, Path(file))
        case ["cluster", "up", *options]:
            return _cluster_up(options)
        case _:
            return None


def _server(file: Path, screen: Terminal) -> int:
    from broker.cli.serving import serve

    serve(file)
    return Exit.OK


def _cluster_up(options: Sequence[str]) -> Callable[[Terminal], int] | None:
    """The same options, with the same limits and defaults, as `broker.cli.cluster.up` has."""
    from broker.cli import running, where
    from broker.cli.birth import FIRST_PORT

    count: int | None = None
    directory: Path | None = None
    port = FIRST_PORT
    flags: set[str] = set()
    words = iter(options)
    for word in words:
        if word in ("--detach", "--tcp"):
            flags.add(word)
            continue
        value = next(words, "")
        match word:
            case "-n" | "--nodes" if _is_number(value, 1, 255):
                count = int(value)
            case "--dir" if _is_value(value):
                directory = Path(value)
            case "--port" if _is_number(value, 1024, 65535):
                port = int(value)
            case _:
                return None
    return lambda screen: running.up(screen, where.named(screen), count, directory, port, "--detach" in flags, "--tcp" in flags)


def _is_value(word: str) -> bool:
    return bool(word) and not word.startswith("-")


def _is_number(word: str, lowest: int, highest: int) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 5 and word == str(int(word)) and lowest <= int(word) <= highest
