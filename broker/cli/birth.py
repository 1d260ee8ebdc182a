"""The birth of a cluster: one directory a node, all in one go, and the only way that a data directory comes to be.

node1/node.toml    what `zablog server` is given
node1/data/        the born data directory
"""

import errno
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from broker.cli.refusals import NotEmpty, Usage
from broker.errors import AddressInUse

FIRST_PORT = 7401
PORTS_TRIED = 1000
OUTGOING_PORT = 32768
"""From here on the system gives ports to connections that go out."""
PROBE_SECONDS = 0.05
"""On loopback a refusal comes at once. What says nothing is not free: somebody listens who is busy, or a firewall is in the way."""
TURN_SECONDS = 10.0


def node_folder(parent: Path, node: int) -> Path:
    return parent / f"node{node}"


def configuration_file(parent: Path, node: int) -> Path:
    return node_folder(parent, node) / "node.toml"


def bear(parent: Path, addresses: Sequence[str], unix_sockets: bool = True) -> str:
    """Write one folder a node below `parent`; the id of the new cluster. Nothing is touched if any of the folders exists."""
    from zablog.core.zxid import PeerId
    from zablog.storage.files import FileDisk
    from zablog.storage.manifest import Identity, Member, give_birth

    for node in range(1, len(addresses) + 1):
        if node_folder(parent, node).exists():
            raise NotEmpty(
                f"{node_folder(parent, node)} exists already: a data directory is born only where there is nothing",
                hint="choose another folder, or start what is there",
            )
    cluster = os.urandom(16).hex()
    members = tuple(Member(PeerId(node), os.urandom(16).hex(), address) for node, address in enumerate(addresses, start=1))
    for member in members:
        folder = node_folder(parent, member.id)
        folder.mkdir(parents=True)
        disk = FileDisk(folder / "data", create=True)
        try:
            give_birth(disk, Identity(cluster, member.id, member.incarnation, members))
        finally:
            disk.close()
        configuration_file(parent, member.id).write_text(_toml(cluster, member.id, members, unix_sockets))
        _sync_folder(folder)
    _sync_folder(parent)
    return cluster


def parse_addresses(text: str) -> list[str]:
    """HOST:PORT,HOST:PORT,... each once. Raises Usage."""
    addresses = [part.strip() for part in text.split(",") if part.strip()]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise Usage(f"{address!r} is not an address", hint="HOST:PORT,HOST:PORT,... such as 10.0.0.1:7401,10.0.0.2:7401")
    if not addresses or len(set(addresses)) < len(addresses) or len(addresses) > 255:
        raise Usage(f"{text!r}: 1 to 255 addresses are needed, each of them once", hint="HOST:PORT,HOST:PORT,...")
    return addresses


def free_addresses(count: int, first_port: int = FIRST_PORT, taken: Collection[str] = ()) -> list[str]:
    """`count` loopback addresses that nobody listens on and that are not `taken`, from `first_port` upwards."""
    free: list[str] = []
    for port in range(first_port, min(first_port + PORTS_TRIED, 65536)):
        if f"127.0.0.1:{port}" in taken or not _free(port):
            continue
        free.append(f"127.0.0.1:{port}")
        if len(free) == count:
            return free
    raise AddressInUse(
        f"no {count} free ports on 127.0.0.1 from {first_port} upwards", hint="stop what listens there, or choose others: --port"
    )


def _free(port: int) -> bool:
    """Does nobody listen there? To listen there oneself, and be it for a moment, could be in the way of a server that is just starting."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        if probe.connect_ex(("127.0.0.1", port)) != errno.ECONNREFUSED:
            return False
    if port < OUTGOING_PORT:
        return True
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Does a connection have it? To bind, without listening, is in nobody's way who reuses addresses, as servers do.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


@contextmanager
def choosing() -> Iterator[None]:
    """From the choice of ports until servers listen there nobody else of this user chooses any on this machine.

    Two that chose at once would find the same ones free, and nodes of both would come up there. Who holds the turn for long is not
    waited for: the nodes themselves refuse whoever is not of their cluster.
    """
    path = os.path.join(tempfile.gettempdir(), f"zablog-ports-{os.getuid()}")
    descriptor: int | None = None
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if descriptor is not None:
            _take_turn(descriptor)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _take_turn(descriptor: int) -> None:
    until = time.monotonic() + TURN_SECONDS
    while time.monotonic() < until:
        with suppress(OSError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.02)
    return None


def _toml(cluster: str, node: int, members: Sequence[object], unix_sockets: bool) -> str:
    from zablog.storage.manifest import Member

    lines = [
        f"# Node {node}. Start it with: zablog server {node_folder(Path(), node) / 'node.toml'}",
        'directory = "data"',
        f'cluster = "{cluster}"',
        f"node = {node}",
        "",
    ]
    if not unix_sockets:
        lines.insert(4, "unix_sockets = false")
    lines += ["# Who the peers are stands in the directory. Where they are, if not at the addresses of their birth:", "# [peers]"]
    for member in members:
        assert isinstance(member, Member), "the members of an identity"
        lines.append(f'# {member.id} = "{member.address}"')
        if member.id == node:
            lines.insert(4, f'listen = "{member.address}"')
            if not _loopback(member.address):
                lines.insert(
                    5, "# Nothing is encrypted and nobody is asked who they are: beyond loopback, only if you say so.\n# insecure = true"
                )
    return "\n".join(lines) + "\n"


def _loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
