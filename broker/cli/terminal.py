"""Where a command's words go: data to stdout, all else to stderr, in the form the reader wants.

A person at a terminal gets tables and colour, a pipe gets plain rows that are never cut, `--json` gets objects; the table is made
from the object, so the two cannot disagree.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.cli.settings import Settings
from broker.errors import BrokerError

if TYPE_CHECKING:
    import typer

Row = Mapping[str, object]


@dataclass(slots=True)
class Terminal:
    """What a command prints with. Found by `terminal(context)`."""

    settings: Settings = field(default_factory=Settings)

    def emit(self, document: Mapping[str, object] | Sequence[Row], rows: Sequence[Row], columns: Sequence[str]) -> None:
        """The command's result: the document as JSON, or the `columns` of its `rows` for a person."""
        if self.settings.json:
            self.line(json.dumps(document, ensure_ascii=False))
        elif sys.stdout.isatty():
            self._rich_table(rows, columns)
        else:
            self._plain_table(rows, columns)

    def line(self, text: str) -> None:
        """One line of data, at once."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Progress and summaries."""
        if not self.settings.quiet:
            self._say(text)

    def detail(self, text: str) -> None:
        """For those who asked for it with -v."""
        if self.settings.verbose:
            self._say(text)

    def warn(self, text: str) -> None:
        self._say(f"warning: {text}")

    def refuse(self, error: BrokerError) -> None:
        """The one clear error a command ends with. As JSON it stands alone on its line of stderr."""
        if self.settings.json:
            self._say(json.dumps({"code": error.code, "message": str(error), "hint": error.hint}, ensure_ascii=False))
            return
        self._say(f"zablog: {error}")
        if error.hint:
            self._say(f"  {error.hint}")

    def _say(self, text: str) -> None:
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except OSError:
            pass  # nobody listens; that must not stop the work

    def _plain_table(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        table = [[name.upper() for name in columns], *([cell(row.get(name)) for name in columns] for row in rows)]
        widths = [max(len(line[at]) for line in table) for at in range(len(columns))]
        for line in table:
            sys.stdout.write("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() + "\n")
        sys.stdout.flush()

    def _rich_table(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            style = "green" if row.get("role") == "leading" else ""
            table.add_row(*(Text(cell(row.get(name)), style=style) for name in columns))
        Console(no_color="NO_COLOR" in os.environ).print(table)


def cell(value: object) -> str:
    """A value as it stands in a table; what is not known is a dash."""
    return "-" if value is None else str(value)


def terminal(context: "typer.Context") -> Terminal:
    """The terminal of the running command."""
    found = context.find_object(Terminal)
    assert found is not None, "main() hands every command its terminal"
    return found
