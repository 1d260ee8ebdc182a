"""Who this node is, and of which ensemble. Written once, at birth; in two copies (see `copies`).

`cluster init` makes the directories of all nodes together: the cluster's id, each node's id and incarnation, the base configuration.
"""

import json
import re
from dataclasses import dataclass

from zablog.core.quorum import Configuration
from zablog.core.zxid import PeerId
from zablog.storage.copies import Copies
from zablog.storage.disk import Disk
from zablog.storage.epochs import EpochsFile
from zablog.storage.errors import AlreadyBorn, MetadataLost

HEX = re.compile(r"[0-9a-f]{32}")
FORMAT = 1


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


class Manifest:
    """The record `manifest`, in JSON, for people to read."""

    def __init__(self, disk: Disk) -> None:
        self.copies = Copies(disk, "manifest")

    def give_birth(self, identity: Identity) -> None:
        members = [{"id": member.id, "incarnation": member.incarnation, "address": member.address} for member in identity.members]
        record = {
            "format": FORMAT,
            "cluster": identity.cluster,
            "node": identity.node,
            "incarnation": identity.incarnation,
            "members": members,
        }
        self.copies.give_birth(json.dumps(record, indent=1).encode())

    def load(self) -> Identity:
        try:
            record = json.loads(self.copies.load())
            members = tuple(
                Member(PeerId(int(member["id"])), str(member["incarnation"]), str(member["address"])) for member in record["members"]
            )
            identity = Identity(str(record["cluster"]), PeerId(int(record["node"])), str(record["incarnation"]), members)
        except (ValueError, KeyError, TypeError) as error:
            raise MetadataLost(f"the manifest is whole but says nothing usable ({error!r}): keep the directory.") from error
        if not HEX.fullmatch(identity.cluster) or identity.node not in identity.configuration.voters:
            raise MetadataLost(f"the manifest names node {identity.node} of cluster {identity.cluster!r}, which cannot be.")
        return identity


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
