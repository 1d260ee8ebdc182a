"""The folder bin/: each command runs from anywhere, has no suffix, and asks for nothing twice."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
COMMANDS = ("zablog", "producer", "consumer", "demo", "test", "check", "bench")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_its_help_from_any_folder(command: str, tmp_path: Path) -> None:
    shown = subprocess.run([PROJECT / "bin" / command, "--help"], capture_output=True, text=True, cwd=tmp_path, check=False)

    assert shown.returncode == 0, shown.stderr
    assert command in shown.stdout or "zablog" in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_commands_leave_no_cache_beside_them() -> None:
    assert not (PROJECT / "bin" / "__pycache__").exists()


def test_an_environment_with_its_stamp_calls_no_pip(tmp_path: Path) -> None:
    """A copy of bin/ whose python would fail loudly, were it asked to install anything."""
    home = tmp_path / "checkout"
    (home / "bin").mkdir(parents=True)
    (home / ".venv" / "bin").mkdir(parents=True)
    (home / "bin" / "environment.py").write_bytes((PROJECT / "bin" / "environment.py").read_bytes())
    (home / "pyproject.toml").write_text("[project]\n")
    (home / ".venv" / "pyvenv.cfg").write_text("version = 3.11.0\n")
    (home / ".venv" / "bin" / "python").write_text('#!/bin/sh\necho ran >> "$0.calls"\ncase "$*" in *install*) exit 3;; esac\n')
    (home / ".venv" / "bin" / "python").chmod(0o755)
    ask = [sys.executable, "-B", "-c", "import environment as e; e.prepare(e.RUNTIME)"]

    unstamped = subprocess.run(ask, cwd=home / "bin", capture_output=True, text=True, check=False)
    stamp = "import environment as e; open(e._stamp(e.DEVELOPMENT), 'w').write(e._fingerprint())"
    subprocess.run([sys.executable, "-B", "-c", stamp], cwd=home / "bin", check=True)
    calls = (home / ".venv" / "bin" / "python.calls").read_text()
    stamped = subprocess.run(ask, cwd=home / "bin", capture_output=True, text=True, check=False)

    assert unstamped.returncode == 1 and "pip install" in unstamped.stderr
    assert stamped.returncode == 0 and stamped.stderr == ""
    assert (home / ".venv" / "bin" / "python.calls").read_text() == calls


def pythons(folder: Path, **seconds: float | str) -> str:
    """A PATH with Pythons that say they take so long; `first` is the one that was asked for."""
    found = []
    for name, taken in seconds.items():
        (folder / name).mkdir()
        python = folder / name / "python3.99"
        python.write_text(f'#!/bin/sh\ncase "$*" in *version_info*) printf "99\\n%s\\n" "$0";; *) echo {taken};; esac\n')
        python.chmod(0o755)
        found.append(str(python.parent))
    return ":".join(found)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"first": 0.5, "other": 0.3, "third": 0.2}, "third"),
        ({"first": 0.5, "other": 0.48}, "first"),
        ({"first": 0.5}, "first"),
        ({"first": 0.5, "other": "no number"}, "first"),
        ({"first": "$(date +%N | sed 's/^0*/0./')5", "other": "$(date +%N | sed 's/^0*/0.0/')5"}, "other"),
    ],
    ids=["quicker", "hardly quicker", "alone", "broken", "on a machine of many speeds"],
)
def test_the_quickest_python_of_a_version_is_taken(tmp_path: Path, seconds: dict[str, float | str], chosen: str) -> None:
    path = pythons(tmp_path, **seconds)
    first = tmp_path / "first" / "python3.99"
    ask = f"import environment as e; print(e._quickest([{str(first)!r}, *e._same_version({str(first)!r})]))"
    environment = {"PATH": f"{path}:/usr/bin:/bin"}

    said = subprocess.run(
        [sys.executable, "-B", "-c", ask], cwd=PROJECT / "bin", env=environment, capture_output=True, text=True, check=True
    )
    named = subprocess.run(
        [sys.executable, "-B", "-c", ask],
        cwd=PROJECT / "bin",
        env={**environment, "ZABLOG_PYTHON": str(first)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout.strip() == str(tmp_path / chosen / "python3.99")
    assert named.stdout.strip() == str(first), "who names one gets it"
