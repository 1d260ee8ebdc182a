"""What every command in this folder does first: have `.venv` beside the project, with what that command needs, and run in it.

Nothing but the system's python3 may be expected here, and it may be older than the project wants, so this file keeps to the
syntax of Python 3.6 and to the standard library. A stamp in `.venv` holds a hash of pyproject.toml, of the place of the
checkout and of the version of Python: while it agrees no pip is called, and nothing needs a network. A file lock settles the
first use by two at once.
"""

import fcntl
import hashlib
import math
import os
import shutil
import statistics
import subprocess
import sys

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(PROJECT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
OLDEST = (3, 11)
QUICKER = 1.1
"""A Python that is not the first on PATH must be quicker by so much to be taken."""
TURNS = 9
"""So often each is measured, in turn with the others."""
WHO = "import os, sys; print(sys.version_info[1], os.path.realpath(sys.executable), sep=chr(10))"
LOOP = """
import ctypes, ssl, sys, zlib  # some are built without what pip and we need
from timeit import repeat
assert sys.implementation.name == "cpython"
print(min(repeat("for one in some: total += len((one, one))", "some, total = list(range(1000)), 0", number=20, repeat=10)))
"""

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
    """`.venv` of the quickest Python of our version; of the first one, if that one cannot make it or has no pip to offer."""
    first = _recent_python()
    quickest = _quickest([first, *_same_version(first)])
    if quickest != first:
        if _made_by(quickest, first):
            _say("of " + quickest + ", which is quicker than " + first)
            return
        _say(quickest + " is quicker than " + first + ", but no environment could be made of it")
    _quietly(
        [first, "-m", "venv", "--clear", VENV],
        hint="on Debian or Ubuntu: apt install python3-venv",
    )


def _recent_python():
    """The Python that ZABLOG_PYTHON names, or one of at least OLDEST: this one, or the newest that PATH has under its versioned name."""
    if os.environ.get("ZABLOG_PYTHON"):
        return os.environ["ZABLOG_PYTHON"]
    if sys.version_info >= OLDEST:
        return sys.executable
    for minor in range(20, OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    _fail(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; python3 here is {sys.version.split()[0]} and PATH has no other")
    raise AssertionError("_fail never returns")


def _same_version(python):
    """Other Pythons of the same minor version on PATH. None where somebody has said which one is wanted."""
    said = [] if os.environ.get("ZABLOG_PYTHON") else _said([python, "-c", WHO]).split("\n")
    if len(said) != 2:
        return []
    minor, itself = said
    names = [os.path.join(folder, "python3." + minor) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    return sorted({_said([name, "-c", WHO]).partition("\n")[2] for name in names if os.path.isfile(name)} - {"", itself})


def _quickest(pythons):
    """The one that is QUICKER than the first, if any: one that was built without optimizations costs servers and tests a fourth.

    They take turns, and each is compared with the first of the same turn: machines change their speed by half within seconds.
    """
    gains = {python: [] for python in pythons}
    for _ in range(TURNS):
        seconds = {python: _seconds(python) for python in pythons}
        for python in pythons:
            gains[python].append(0.0 if math.isinf(seconds[python]) else seconds[pythons[0]] / seconds[python])
    best = max(pythons, key=lambda python: statistics.median(gains[python]))
    return best if statistics.median(gains[best]) >= QUICKER else pythons[0]


def _seconds(python):
    """How long it takes over the loop; for ever if it does not run, or says something else."""
    try:
        return float(_said([python, "-I", "-c", LOOP]))
    except ValueError:
        return math.inf


def _made_by(python, other):
    """Whether `.venv` could be made of `python`. Debian's has no pip to give it; the other one's pip can."""
    if not _works([python, "-m", "venv", "--clear", "--without-pip", VENV]):
        return False
    return _works([PYTHON, "-m", "ensurepip"]) or _works([other, "-m", "pip", "--python", PYTHON, "install", "pip"])


def _interpreter_runs():
    return _works([PYTHON, "-c", f"import sys, pip; sys.exit(sys.version_info < {OLDEST})"])


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


def _works(command):
    """Whether a command ends well, in silence."""
    nowhere = subprocess.DEVNULL
    try:
        return subprocess.run(command, cwd=PROJECT, stdin=nowhere, stdout=nowhere, stderr=nowhere, check=False).returncode == 0
    except OSError:
        return False


def _said(command):
    """What a command prints; nothing if it fails."""
    try:
        done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


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
