"""Who this node is, and what its directory must hold: which files are its log, and the snapshot that the log goes on from.

In two copies (see `copies`). A switch of the manifest is the one step by which a checkpoint or a transferred snapshot takes effect: before
it the old state stands whole, after it the new one. `cluster init` makes the directories of all nodes together: the cluster's id, each
node's id and incarnation, the base configuration.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from zablog.core.quorum import Configuration
from zablog.core.trail import ORIGIN, Mark
from zablog.core.zxid import Epoch, PeerId, Zxid
from zablog.storage.copies import Copies
from zablog.storage.disk import Disk
from zablog.storage.epochs import EpochsFile
from zablog.storage.errors import AlreadyBorn, MetadataLost, NewerFormat

HEX = re.compile(r"[0-9a-f]{32}")
FORMAT: Final = 2
"""2: base, first, newest and snapshot."""


@dataclass(frozen=True, slots=True)
class Member:
    """A voter of the base configuration. `address` is HOST:PORT, for peers and clients alike."""

    id: PeerId
    incarnation: str
    address: str


@dataclass(frozen=True, slots=True)
class Identity:
    """`cluster` and `incarnation` are 32 hexadecimal digits, random, drawn at birth."""

    cluster: str
    node: PeerId
    incarnation: str
    members: tuple[Member, ...]

    @property
    def configuration(self) -> Configuration:
        return Configuration(0, tuple(member.id for member in self.members))


class Snapshot(NamedTuple):
    """The exact state of the application at a committed place of the log, in one file of the directory.

    What else belongs to it, such as segments and their lengths, is named within that file, in the application's own words.
    """

    mark: Mark
    name: str
    length: int
    crc: int
    """CRC-32C of the whole file."""


class Contents(NamedTuple):
    """What the directory holds. Changed whole, by one switch of the manifest."""

    base: Mark = ORIGIN
    """Where the log begins."""
    first: int = 1
    """The lowest generation that a file of the log may have; what is below is void."""
    newest: int = 0
    """A file of this generation was put to use, and must be there unless it is below `first`."""
    snapshot: Snapshot | None = None


class Manifest:
    """The record `manifest`, in JSON, for people to read."""

    def __init__(self, disk: Disk) -> None:
        self.copies = Copies(disk, "manifest", lambda body: body[:1] == b"{")
        self.contents = Contents()
        self.identity: Identity | None = None

    def give_birth(self, identity: Identity) -> None:
        self.identity = identity
        self.copies.give_birth(self.encode())

    def switch(self, contents: Contents) -> None:
        """From now on the directory holds this. Durable in both copies when it returns."""
        self.contents = contents
        self.copies.save(self.encode())

    def encode(self) -> bytes:
        assert self.identity is not None, "the law that a manifest is born or loaded before it is written"
        identity, contents = self.identity, self.contents
        record: dict[str, Any] = {  # Any: JSON
            "format": FORMAT,
            "cluster": identity.cluster,
            "node": identity.node,
            "incarnation": identity.incarnation,
            "members": [{"id": member.id, "incarnation": member.incarnation, "address": member.address} for member in identity.members],
            "base": _words(contents.base),
            "first": contents.first,
            "newest": contents.newest,
        }
        if (snapshot := contents.snapshot) is not None:
            file = {"name": snapshot.name, "length": snapshot.length, "crc": snapshot.crc}
            record["snapshot"] = {**_words(snapshot.mark), **file}
        return json.dumps(record, indent=1).encode()

    def load(self) -> Identity:
        """Raises NotBorn, MetadataLost, NewerFormat."""
        try:
            record = json.loads(self.copies.load())
            if int(record["format"]) > FORMAT:
                raise NewerFormat(
                    f"the manifest has format {record['format']}, this version reads up to {FORMAT}: use the version that wrote it."
                )
            members = tuple(
                Member(PeerId(int(member["id"])), str(member["incarnation"]), str(member["address"])) for member in record["members"]
            )
            identity = Identity(str(record["cluster"]), PeerId(int(record["node"])), str(record["incarnation"]), members)
            contents = _contents(record)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise MetadataLost(f"the manifest is whole but says nothing usable ({error!r}): keep the directory.") from error
        if not HEX.fullmatch(identity.cluster) or identity.node not in identity.configuration.voters:
            raise MetadataLost(f"the manifest names node {identity.node} of cluster {identity.cluster!r}, which cannot be.")
        self.identity, self.contents = identity, contents
        return identity


def _words(mark: Mark) -> dict[str, Any]:
    return {"epoch": mark.zxid.epoch, "counter": mark.zxid.counter, "digest": f"{mark.digest:016x}"}


def _mark(words: dict[str, Any]) -> Mark:
    return Mark(Zxid(Epoch(int(words["epoch"])), int(words["counter"])), int(words["digest"], 16))


def _contents(record: dict[str, Any]) -> Contents:
    """A manifest of format 1 says nothing of contents: its log begins at the origin."""
    if "base" not in record:
        return Contents()
    snapshot = None
    if (words := record.get("snapshot")) is not None:
        snapshot = Snapshot(_mark(words), str(words["name"]), int(words["length"]), int(words["crc"]))
    return Contents(_mark(record["base"]), int(record["first"]), int(record["newest"]), snapshot)


def give_birth(disk: Disk, identity: Identity) -> None:
    """Make an empty directory a data directory: the only birth there is. AlreadyBorn if anything is there.

    The manifest comes last: a directory with a manifest is whole.
    """
    if disk.names():
        raise AlreadyBorn(f"the directory holds {disk.names()[0]!r} and more: a data directory is born only in an empty one.")
    EpochsFile(disk).give_birth()
    disk.sync_names()
    Manifest(disk).give_birth(identity)
    disk.sync_names()
