"""The same figures of other systems: one script each, below tests/bench/peers of a checkout, run one after another.

A script starts its own three servers on free ports of 127.0.0.1, measures with the same number of requests in flight, ends what it
has started, and prints a line of JSON for each system it has measured: `{"name", "version", "ack", "figures": {NAME: NUMBER}}`, or
`{"skipped": REASON}`.
"""

import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import PIPE
from typing import Final

import trio

import broker
from broker.bench.report import Peer
from broker.errors import BadRequest, NotFound

NAMES: Final = ("zookeeper", "etcd", "nats", "rabbitmq", "redis", "pysyncobj")
LIMIT_SECONDS: Final = 420.0
"""How long one peer may take for everything."""
STOP_SECONDS: Final = 15.0
"""How long a script may take to end its servers when it is asked to."""
SCRIPTS: Final = Path(broker.__file__).parents[1] / "tests" / "bench" / "peers"


def chosen(text: str) -> list[str]:
    """Peers in `zookeeper,etcd` or `all`. Raises BadRequest."""
    names = list(NAMES) if text == "all" else list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in names if name not in NAMES]:
        raise BadRequest(f"--vs {unknown[0]}: there is no such peer", hint=f"there are {', '.join(NAMES)}; or all")
    if names and not SCRIPTS.is_dir():
        raise NotFound("the peers' scripts are part of a checkout, not of the installed package", hint="run bin/bench of a checkout")
    return names


async def run(names: Sequence[str], *, quick: bool, folder: Path | None, say: Callable[[str], None]) -> list[Peer]:
    """Measure these, one after another."""
    found: list[Peer] = []
    for name in names:
        say(f"measuring {name}")
        found += await _measure(name, quick, folder)
    return found


async def _measure(name: str, quick: bool, folder: Path | None) -> list[Peer]:
    command = [sys.executable, str(SCRIPTS / f"{name}.py")]
    command += ["--quick"] if quick else []
    command += ["--dir", str(folder)] if folder else []
    process = await trio.lowlevel.open_process(command, stdin=None, stdout=PIPE)
    said: list[bytes] = []
    try:
        with trio.move_on_after(LIMIT_SECONDS) as scope:
            assert process.stdout is not None, "it was opened with a pipe"
            async for chunk in process.stdout:
                said.append(bytes(chunk))
            await process.wait()
    finally:
        await _end(process)
    ended = f"was not done within {LIMIT_SECONDS:g} s" if scope.cancelled_caught else f"ended with exit code {process.returncode}"
    return parse(name, b"".join(said), ended)


def parse(name: str, said: bytes, ended: str) -> list[Peer]:
    """What a script has printed; without a result, how it `ended` is why the peer was skipped."""
    found = [_peer(name, line) for line in said.decode("utf-8", "replace").splitlines()]
    return [peer for peer in found if peer is not None] or [Peer(name, skipped=f"its script {ended}, without a result")]


def _peer(name: str, line: str) -> Peer | None:
    """One line of it; None if it is no result."""
    try:
        result = json.loads(line)
        if "skipped" in result:
            return Peer(name, skipped=str(result["skipped"]))
        figures = {str(key): float(value) for key, value in result["figures"].items()}
        return Peer(str(result["name"]), str(result["version"]), str(result["ack"]), figures, figures.pop("others_cores", 0.0))
    except (ValueError, KeyError, AttributeError, TypeError):
        return None


async def _end(process: trio.Process) -> None:
    """Ask the script to end its servers, and wait for it; it is killed only if it does not listen."""
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            with trio.move_on_after(STOP_SECONDS):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
