"""What every command in this folder does first: have `.venv` beside the project, with what that command needs, and run in it.

Nothing but the system's python3 may be expected here, and it may be older than the project wants, so this file keeps to the
syntax of Python 3.6 and to the standard library. A stamp in `.venv` holds a hash of pyproject.toml, of the place of the
checkout and of the version of Python: while it agrees no pip is called, and nothing needs a network. A file lock settles the
first use by two at once.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(PROJECT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
OLDEST = (3, 11)

RUNTIME = "runtime"
DEVELOPMENT = "development"
_WANTED = {RUNTIME: ".", DEVELOPMENT: ".[dev]"}


def run(needs, *arguments):
    """Replace this process by the environment's python with `arguments`; never returns.

    What Python compiles is kept in `.venv`, also where it was told to keep nothing: a cluster is several processes, and the tests are
    many, and each of them would compile everything anew.
    """
    prepare(needs)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = os.path.join(VENV, "compiled")
    os.execv(PYTHON, [PYTHON, *arguments])


def prepare(needs):
    """Make or mend `.venv` until it has what `needs` (RUNTIME or DEVELOPMENT) asks for."""
    if _stamped(needs):
        return
    with open(os.path.join(PROJECT, ".venv.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _stamped(needs):  # somebody else was first
            return
        _say("preparing .venv (first use, or pyproject.toml has changed); this may take a minute")
        if not _interpreter_runs():
            _make()
        _quietly([PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "-e", _WANTED[needs]])
        with open(_stamp(needs), "w") as stamp:
            stamp.write(_fingerprint())


def _make():
    python = _recent_python()
    _quietly(
        [python, "-m", "venv", "--clear", VENV],
        hint="on Debian or Ubuntu: apt install python3-venv",
    )


def _recent_python():
    """A Python of at least OLDEST: this one, or the newest that PATH has under its versioned name."""
    if sys.version_info >= OLDEST:
        return sys.executable
    for minor in range(20, OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    _fail(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; python3 here is {sys.version.split()[0]} and PATH has no other")
    raise AssertionError("_fail never returns")


def _interpreter_runs():
    try:
        found = subprocess.run(
            [PYTHON, "-c", f"import sys, pip; sys.exit(sys.version_info < {OLDEST})"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        return False
    return found.returncode == 0


def _stamp(needs):
    return os.path.join(VENV, f"zablog-{needs}.stamp")


def _stamped(needs):
    """Whether the environment has what is needed. The development one includes the runtime one."""
    for which in {needs, DEVELOPMENT}:
        try:
            with open(_stamp(which)) as stamp:
                if stamp.read() == _fingerprint() and os.path.exists(PYTHON):
                    return True
        except OSError:
            continue
    return False


def _fingerprint():
    """Changes when the dependencies may have, or when the checkout was moved: an editable install holds its path.

    The interpreter's version stands in pyvenv.cfg, so that an environment made anew is never taken for the old one.
    """
    sha = hashlib.sha256()
    for name in (os.path.join(PROJECT, "pyproject.toml"), os.path.join(VENV, "pyvenv.cfg")):
        with open(name, "rb") as file:
            sha.update(file.read())
    sha.update(PROJECT.encode())
    return sha.hexdigest()


def _quietly(command, hint=""):
    """Run a command and show what it said only if it failed."""
    done = subprocess.run(command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout)
        _fail(f"{' '.join(command)} failed with exit code {done.returncode}{'; ' + hint if hint else ''}")


def _say(words):
    sys.stderr.write(f"zablog: {words}\n")


def _fail(words):
    _say(words)
    sys.exit(1)
