"""What one server is told to be: the TOML file behind `zablog server FILE`, and nothing that it could find out by itself.

Who the node is, and who its peers are, stands in its born directory. The file says where that directory lies, what to listen
on, and how patient to be. A key we do not know is refused, never ignored: a misspelt `insecure` must not pass for the default.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from broker.errors import ConfigError
from broker.log.warm import WARM_BYTES
from broker.state import LEVELS
from zablog import Versions


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the broadcast is, in seconds. The defaults suit a LAN; tests choose faster ones."""

    tick: float = 0.010
    heartbeat: float = 0.050
    lease: float = 0.300
    """A leader that no quorum answered, and a follower that heard no leader, for so long, gives its role up."""


@dataclass(frozen=True, slots=True)
class DiskUse:
    """How the disk is used, in bytes and seconds; see `zablog.NodeConfig`."""

    checkpoint_bytes: int = 64 << 20
    """After so much log the state is written down, and log that it covers may go."""
    checkpoint_seconds: float = 60.0
    """And after so long, if anything changed."""
    keep_bytes: int = 32 << 20
    """So much log below a checkpoint stays, for nodes that were away for a while."""
    pin_bytes: int = 1 << 30
    """And so much while another node is being caught up."""
    transfer_rate: int = 16 << 20
    """Bytes a second at which snapshots are sent to other nodes, all together. Twice that each time a node was left behind meanwhile."""
    file_bytes: int = 16 << 20
    """The size of one file of the write-ahead log."""
    reserve_bytes: int = 8 << 20
    """So much room is kept for a node whose disk is full, to stop in order and to come up again; 0: none."""
    warm_bytes: int = WARM_BYTES
    """So many of the newest bytes of segments stay in the system's page cache; those before them leave it once they are durable."""
    retention_seconds: float = 5.0
    """Between two looks of the leader at what topics need not keep any longer."""
    scrub_rate: int = 4 << 20
    """Bytes a second at which segments are read to see whether they are still what was written; 0: not at all."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may ask of a server at a time. At a limit the server stops reading from that connection."""

    in_flight_requests: int = 1024
    in_flight_bytes: int = 32 << 20
    outbox_bytes: int = 16 << 20
    fetch_bytes: int = 8 << 20
    fetch_wait: float = 30.0
    """The longest a fetch may wait for data, in seconds."""
    connections: int = 4096


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything `broker.server.run` needs."""

    directory: Path
    """Of this node, born by `cluster init` or `cluster up`."""
    cluster: str | None = None
    node: int | None = None
    """Whose directory it must be: one that was born with another cluster, or for another node, is refused."""
    listen: str | None = None
    """HOST:PORT; None means the address of the node's own entry in its base configuration."""
    insecure: bool = False
    """Listen beyond loopback, without TLS or users."""
    unix_sockets: bool = True
    """Whoever is on the same machine may come by a Unix socket instead of loopback."""
    peers: Mapping[int, str] = field(default_factory=dict)
    """Other addresses than the born ones, by node id."""
    pace: Pace = Pace()
    limits: Limits = Limits()
    disk: DiskUse = DiskUse()
    levels: Versions = LEVELS
    """The feature levels that this build knows; no key of the file says so."""


def load(path: str | Path) -> ServerConfig:
    """Read a TOML file. A relative `directory` is taken from the file's own folder.

    Raises ConfigError, which names the file, the key, the value and what would be allowed.
    """
    file = Path(path)
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot read the server's configuration: {_cause(error)}") from error
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    return parse(table, str(file), file.parent)


def parse(table: Mapping[str, object], source: str, folder: Path) -> ServerConfig:
    """The configuration in a decoded TOML table; `source` is how errors call it."""
    _known(table, _SERVER_KEYS, source, "")
    if "directory" not in table:
        raise ConfigError(f"{source}: directory is missing: the node's born directory, as `zablog cluster init` wrote it")
    config = ServerConfig(directory=folder / _text(table["directory"], source, "directory"))
    if "cluster" in table:
        config = replace(config, cluster=_text(table["cluster"], source, "cluster"))
    if "node" in table:
        number = table["node"]
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 255:
            raise ConfigError(f"{source}: node = {number!r}: must be a node id, 1 to 255")
        config = replace(config, node=number)
    if "listen" in table:
        config = replace(config, listen=_address(table["listen"], source, "listen"))
    if "insecure" in table:
        config = replace(config, insecure=_boolean(table["insecure"], source, "insecure"))
    if "unix_sockets" in table:
        config = replace(config, unix_sockets=_boolean(table["unix_sockets"], source, "unix_sockets"))
    if "peers" in table:
        config = replace(config, peers=_peers(table["peers"], source))
    if "pace" in table:
        numbers = _numbers(table["pace"], source, "pace", _PACE_RANGES)
        config = replace(config, pace=replace(Pace(), **numbers))
        if not config.pace.tick < config.pace.heartbeat < config.pace.lease:
            raise ConfigError(
                f"{source}: pace: tick {config.pace.tick} s, heartbeat {config.pace.heartbeat} s and lease {config.pace.lease} s "
                "must grow in this order"
            )
    if "limits" in table:
        numbers = _numbers(table["limits"], source, "limits", _LIMIT_RANGES)
        whole = {key: value if key == "fetch_wait" else int(value) for key, value in numbers.items()}
        config = replace(config, limits=replace(Limits(), **whole))  # type: ignore[arg-type]  # keys and kinds were checked
    if "disk" in table:
        numbers = _numbers(table["disk"], source, "disk", _DISK_RANGES)
        whole = {key: value if key.endswith("_seconds") else int(value) for key, value in numbers.items()}
        config = replace(config, disk=replace(DiskUse(), **whole))  # type: ignore[arg-type]  # keys and kinds were checked
    return config


_SERVER_KEYS: Final = ("directory", "cluster", "node", "listen", "insecure", "unix_sockets", "peers", "pace", "limits", "disk")
_PACE_RANGES: Final = {"tick": (0.001, 1.0), "heartbeat": (0.002, 10.0), "lease": (0.01, 120.0)}
_LIMIT_RANGES: Final = {
    "in_flight_requests": (1, 1 << 20),
    "in_flight_bytes": (1 << 20, 1 << 40),
    "outbox_bytes": (1 << 20, 1 << 40),
    "fetch_bytes": (1 << 10, 1 << 30),
    "fetch_wait": (0.0, 3600.0),
    "connections": (1, 1 << 20),
}


_DISK_RANGES: Final = {
    "checkpoint_bytes": (1 << 16, 1 << 40),
    "checkpoint_seconds": (0.1, 86_400.0),
    "keep_bytes": (0, 1 << 40),
    "pin_bytes": (0, 1 << 44),
    "transfer_rate": (1 << 20, 1 << 40),
    "file_bytes": (1 << 16, 1 << 30),
    "reserve_bytes": (0, 1 << 40),
    "retention_seconds": (0.01, 86_400.0),
    "scrub_rate": (0, 1 << 40),
    "warm_bytes": (0, 1 << 50),
}


def _known(table: Mapping[str, object], allowed: tuple[str, ...], source: str, prefix: str) -> None:
    for key in table:
        if key not in allowed:
            raise ConfigError(f"{source}: unknown key {prefix}{key}; allowed here: {', '.join(prefix + name for name in allowed)}")


def _text(value: object, source: str, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{source}: {key} = {value!r}: must be a string that is not empty")
    return value


def _boolean(value: object, source: str, key: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{source}: {key} = {value!r}: must be true or false")
    return value


def _address(value: object, source: str, key: str) -> str:
    text = _text(value, source, key)
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError(f'{source}: {key} = {text!r}: must be "HOST:PORT", such as "127.0.0.1:7401"')
    return text


def _peers(value: object, source: str) -> Mapping[int, str]:
    if not isinstance(value, dict):
        raise ConfigError(f'{source}: peers = {value!r}: must be a table of addresses by node id, such as 2 = "10.0.0.2:7401"')
    peers: dict[int, str] = {}
    for key, address in value.items():
        if not (key.isascii() and key.isdigit() and 1 <= int(key) <= 255):
            raise ConfigError(f"{source}: peers.{key}: must be a node id, 1 to 255")
        peers[int(key)] = _address(address, source, f"peers.{key}")
    return peers


def _numbers(value: object, source: str, key: str, ranges: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: {key} = {value!r}: must be a table with {', '.join(ranges)}")
    _known(value, tuple(ranges), source, f"{key}.")
    numbers: dict[str, float] = {}
    for name, number in value.items():
        low, high = ranges[name]
        if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
            raise ConfigError(f"{source}: {key}.{name} = {number!r}: must be a number from {low:g} to {high:g}")
        numbers[name] = number
    return numbers


def _cause(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
