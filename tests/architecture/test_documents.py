"""What the documents draw is what the code is."""

import re
from pathlib import Path
from typing import get_args

import pytest

from zablog.core import messages

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_table_of_messages_names_every_message_once() -> None:
    assert messages.__doc__ is not None
    rows = [row.split("|")[1] for row in messages.__doc__.splitlines() if row.startswith("| ")][1:]
    named = [name for row in rows for name in re.findall(r"\w+", row)]

    assert sorted(named) == sorted(cls.__name__ for cls in get_args(messages.Message))


def test_the_drawing_of_the_folders_is_the_folders() -> None:
    drawing = README.split("```")[next(i for i, part in enumerate(README.split("```")) if part.startswith("\nzablog/ "))]
    package, drawn = "", set()
    for line in drawing.strip().splitlines():
        name = line.split()[0].rstrip("/")
        if line.startswith(" "):
            drawn.add(f"{package}/{name}")
        else:
            package = name
    rooms = {
        f"{package}/{path.stem}"
        for package in ("zablog", "broker")
        for path in (ROOT / package).iterdir()
        if path.is_dir() and (path / "__init__.py").exists()
    }

    assert rooms <= drawn, "every room is drawn"
    for room in drawn:
        assert (ROOT / room).exists() or (ROOT / f"{room}.py").exists(), f"{room} is drawn and not there"


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=lambda path: path.stem)
def test_a_decision_says_what_was_faced_chosen_given_up_and_what_would_prove_it_wrong(path: Path) -> None:
    text = path.read_text()

    for part in ("**Faced.**", "**Chose.**", "**Gave up.**", "**Would prove it wrong.**"):
        assert part in text


def test_the_commands_that_the_readme_names_exist() -> None:
    for command in set(re.findall(r"\bbin/(\w+)", README)):
        assert (ROOT / "bin" / command).exists(), f"README names bin/{command}"
