"""The rules of the house that a machine can hold: who imports whom, how long a file may be, and that each says what it is for."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.api import read_configuration
from importlinter.cli import lint_imports

PROJECT = Path(__file__).parents[2]
PACKAGES = ("zablog", "broker")
LINES_WITHOUT_A_REASON = 450
WORDS_OF_A_REASON = {"long", "longer", "lines"}
CODECS = {"cbor.py", "codec.py"}
DOORS_WITHOUT_TRIO = (
    "zablog",
    "zablog.core.peer",
    "zablog.wire.codec",
    "zablog.storage.files",
    "zablog.sim",
    "broker",
    "broker.state",
    "broker.cli.main",
)


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((PROJECT / package).rglob("*.py"))


def place(file: Path) -> str:
    return str(file.relative_to(PROJECT))


def test_every_import_keeps_to_the_contracts(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)

    broken = lint_imports(config_filename=str(PROJECT / "pyproject.toml"), no_cache=True)

    assert broken == 0, capfd.readouterr().out
    assert len(read_configuration(str(PROJECT / "pyproject.toml"))["contracts_options"]) >= 8


def test_every_file_opens_with_what_it_is_for() -> None:
    silent = [place(file) for file in sources() if len(opening(file)) < 20]

    assert silent == [], "each must open with a docstring: what the room is for, what may come in, what may not"


def test_a_long_file_says_in_its_opening_why_it_is_long() -> None:
    long = [file for file in sources() if file.read_text("utf-8").count("\n") > LINES_WITHOUT_A_REASON]

    unexplained = [place(file) for file in long if not WORDS_OF_A_REASON & set(opening(file).lower().split())]

    assert unexplained == [], f"longer than {LINES_WITHOUT_A_REASON} lines: cut it, or say in its docstring why it is so long"


def test_cbor_is_spoken_by_codecs_alone() -> None:
    speakers = [place(file) for file in sources() if "cbor2" in imports(file) and file.name not in CODECS]

    assert speakers == [], "strict CBOR is zablog/wire/cbor.py's"


@pytest.mark.parametrize("door", DOORS_WITHOUT_TRIO)
def test_a_pure_room_pulls_in_no_trio(door: str) -> None:
    """Layers are checked on paper by the contracts; here by running: lazy `__init__` files are easily broken."""
    script = f"import json, sys, {door}; print(json.dumps(sorted(name for name in ('trio', 'asyncio', 'rich') if name in sys.modules)))"

    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT)

    assert json.loads(shown.stdout) == [], f"import {door} pulls in {shown.stdout}"


def opening(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found
