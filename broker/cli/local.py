"""A cluster on this machine: where it lies, which processes are its nodes, and how they are started and stopped.

    DIR/cluster.json   its name and id, its nodes, their addresses and processes
    DIR/lock           held while any of that changes
    DIR/node1/         node.toml, data/, server.log

DIR is `$XDG_STATE_HOME/zablog/NAME`, or a link from there to the folder that --dir named. Only processes that stand in cluster.json
and still are the ones that were started are ever signalled.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from broker.cli import birth
from broker.cli.processes import Process, this
from broker.cli.refusals import ClusterRunning, NotEmpty, Relayed, Usage
from broker.errors import Exit, NodeNotFound

DEFAULT_NAME: Final = "local"
STOP_SECONDS: Final = 10.0
"""How long a node may take to end when it is asked to."""
_LOG_TAIL_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class Node:
    """One node, as cluster.json knows it."""

    id: int
    address: str
    process: Process | None = None
    """The last one that was started, until it is known to have ended."""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive


@dataclass(slots=True)
class LocalCluster:
    """A cluster that `cluster up` made. The fields are as of the last `load`."""

    name: str
    directory: Path
    cluster: str
    nodes: dict[int, Node]
    up: bool = False
    """Is it meant to run? False from `cluster down` to the next `cluster up`."""
    made_by: str = "zablog"
    """Which command made it: the demo makes its own anew each time, and nobody else's."""
    children: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    """Nodes that this very process started."""

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes.values()]

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.alive]

    def node(self, number: int) -> Node:
        if number not in self.nodes:
            raise NodeNotFound(
                f"cluster {self.name} has no node {number}", hint=f"its nodes are {', '.join(str(each) for each in self.nodes)}"
            )
        return self.nodes[number]

    def log(self, number: int) -> Path:
        return birth.node_folder(self.directory, number) / "server.log"

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the cluster's lock, with what cluster.json says now; what has changed is saved at the end, also after an error."""
        with open(self.directory / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.load()
            try:
                yield
            finally:
                if self.nodes:  # else it was wiped
                    self.save()

    def load(self) -> None:
        record, nodes = _read(self.directory)
        self.cluster, self.up, self.made_by = str(record["cluster"]), bool(record["up"]), str(record["made_by"])
        self.nodes = {node.id: node for node in nodes}

    def save(self) -> None:
        nodes = [
            {"id": node.id, "address": node.address} | ({"pid": node.process.pid, "started": node.process.started} if node.process else {})
            for node in self.nodes.values()
        ]
        record = {"format": 1, "name": self.name, "cluster": self.cluster, "up": self.up, "made_by": self.made_by, "nodes": nodes}
        aside = self.directory / "cluster.json.new"
        aside.write_text(json.dumps(record, indent=1) + "\n")
        aside.rename(self.directory / "cluster.json")

    def start(self, number: int) -> bool:
        """Start a node's process; False if it runs already. The lock must be held."""
        node = self.node(number)
        if node.alive:
            return False
        # -P: a folder called `broker` where the user stands must not pass for ours.
        command = [sys.executable, "-P", "-m", "broker.cli", "server", str(birth.configuration_file(self.directory, number))]
        with open(self._log_for_writing(number), "ab") as log:
            # A session of its own: Ctrl-C at the terminal is for `cluster up`, which then stops its nodes in order.
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self.directory)
        self.children[number] = child
        self.nodes[number] = replace(node, process=this(child.pid))
        self.save()
        return True

    def _log_for_writing(self, number: int) -> Path:
        """The node's log. Its folder may have been deleted: then the words why it cannot start still need a place."""
        return self.log(number) if self.log(number).parent.is_dir() else self.directory / f"node{number}.log"

    def kill(self, number: int) -> bool:
        """kill -9. False if it did not run. The lock must be held."""
        node = self.node(number)
        killed = node.process is not None and node.process.kill()
        self.nodes[number] = replace(node, process=None)
        return killed

    def stop(self) -> None:
        """Stop all nodes in order, each given its time. The lock must be held."""
        self.up = False
        self.save()
        for number, node in self.nodes.items():
            if node.process is not None:
                node.process.stop(STOP_SECONDS)
            self.nodes[number] = replace(node, process=None)
            self.save()

    def why_it_ended(self, number: int) -> Relayed:
        """The last words of a node that ended although it was to run, and the code it ended with if it is a child of ours."""
        log = self._log_for_writing(number)
        child = self.children.get(number)
        code = child.poll() if child else None
        words = last_words(log)
        error = next((at for at in range(len(words) - 1, max(-1, len(words) - 3), -1) if words[at].startswith("zablog: ")), None)
        if error is None:
            killed = f"killed by signal {-code}" if code is not None and code < 0 else "without a word"
            return Relayed("node_ended", Exit.INTERNAL, f"node {number} ended, {killed}", f"its log is {log}")
        hint = words[error + 1].strip() if error + 1 < len(words) else f"its log is {log}"
        return Relayed("node_ended", code or Exit.INTERNAL, f"node {number} ended: {words[error].removeprefix('zablog: ')}", hint)


def last_words(log: Path) -> list[str]:
    """The last lines of a log, without empty ones."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
            return [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return []


def home() -> Path:
    """Where clusters are kept."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "zablog"


def find(name: str) -> LocalCluster | None:
    """The cluster of this name; None if there is none. Raises Usage for what cannot be a name."""
    directory = home() / _checked(name)
    if not (directory / "cluster.json").exists():
        return None
    found = LocalCluster(name, directory.resolve(), "", {})
    found.load()
    return found


def make(
    name: str,
    directory: Path | None,
    count: int,
    *,
    first_port: int = birth.FIRST_PORT,
    unix_sockets: bool = True,
    made_by: str = "zablog",
) -> LocalCluster:
    """A new cluster of `count` nodes on this machine, its directories born, nothing started."""
    place = home() / _checked(name)
    if directory is not None:
        _link(place, directory.absolute())
    place.mkdir(parents=True, exist_ok=True)
    place = place.resolve()
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (place / "cluster.json").exists():
            raise ClusterRunning(f"another command has just made cluster {name} in {place}", hint="zablog cluster status")
        addresses = birth.free_addresses(count, first_port, _taken())
        cluster = birth.bear(place, addresses, unix_sockets=unix_sockets)
        made = LocalCluster(name, place, cluster, {at: Node(at, address) for at, address in enumerate(addresses, start=1)}, made_by=made_by)
        made.save()
    return made


def wipe(cluster: LocalCluster) -> None:
    """Delete a stopped cluster: its folders, its files, and nothing else that may lie beside them."""
    for number in cluster.nodes:
        shutil.rmtree(birth.node_folder(cluster.directory, number), ignore_errors=True)
        (cluster.directory / f"node{number}.log").unlink(missing_ok=True)
    (cluster.directory / "cluster.json").unlink(missing_ok=True)
    cluster.nodes = {}


def _link(place: Path, directory: Path) -> None:
    """Let the name point to the folder that --dir named."""
    directory.mkdir(parents=True, exist_ok=True)
    if place.resolve() == directory.resolve():
        return
    if place.is_symlink():
        place.unlink()  # find() saw no cluster of this name: what it pointed to is gone
    elif place.exists():
        raise NotEmpty(f"{place} exists and is not {directory}", hint="choose another name with --cluster NAME")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(directory.resolve(), target_is_directory=True)


def _taken() -> set[str]:
    """The addresses of all clusters kept here: one that rests today wants its ports again tomorrow."""
    taken: set[str] = set()
    for file in home().glob("*/cluster.json"):
        with suppress(ValueError, KeyError, TypeError, RecursionError, OSError):
            taken.update(str(node["address"]) for node in json.loads(file.read_text("utf-8"))["nodes"])
    return taken


def _checked(name: str) -> str:
    if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name.startswith("."):
        raise Usage(
            f"{name!r} cannot name a cluster", hint="letters, digits, dots, hyphens and underscores; or HOST:PORT,... for addresses"
        )
    return name


def _read(directory: Path) -> tuple[Mapping[str, object], list[Node]]:
    file = directory / "cluster.json"
    try:
        record = json.loads(file.read_text("utf-8"))
        if record["format"] != 1:
            raise Usage(f"{file}: format {record['format']}: written by a later version of zablog", hint="use that version")
        return {key: record[key] for key in ("cluster", "up", "made_by")}, [_node(each) for each in record["nodes"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Usage(f"{file}: unreadable: {error!r}", hint=f"stop its nodes by hand; their data is in {directory}/node*/data") from error


def _node(record: Mapping[str, object]) -> Node:
    process = Process(int(str(record["pid"])), str(record["started"])) if "pid" in record else None
    return Node(int(str(record["id"])), str(record["address"]), process)
