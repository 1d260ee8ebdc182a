"""Which cluster a command means: `--cluster`, else $ZABLOG_CLUSTER, else the local one of the name `local`."""

import os
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from broker.cli import local
from broker.cli.birth import parse_addresses
from broker.cli.terminal import Terminal
from broker.errors import NoCluster

if TYPE_CHECKING:
    from broker.client import Client


def named(terminal: Terminal) -> str:
    """What the user called the cluster: a name, or addresses."""
    return terminal.settings.cluster or os.environ.get("ZABLOG_CLUSTER") or local.DEFAULT_NAME


def place(terminal: Terminal) -> tuple[list[str], str | None]:
    """Where its nodes are, and the id that they must have: at the ports of a local cluster another one may listen by now.

    Raises NoCluster if it is a local one that does not run.
    """
    name = named(terminal)
    if ":" in name:
        return parse_addresses(name), None
    found = local.find(name)
    if found is None:
        raise NoCluster(f"there is no cluster {name} in {local.home()}", hint=_start(name))
    if not found.running:
        raise NoCluster(f"cluster {name} is not running; it lies in {found.directory}", hint=_start(name))
    return found.addresses, found.cluster


def client(terminal: Terminal) -> "AbstractAsyncContextManager[Client]":
    """A client of that cluster."""
    from broker.client import connect

    addresses, cluster = place(terminal)
    return connect(",".join(addresses), timeout=terminal.settings.timeout, cluster=cluster)


def local_cluster(terminal: Terminal) -> local.LocalCluster:
    """The local cluster of that name, running or not."""
    name = named(terminal)
    found = None if ":" in name else local.find(name)
    if found is None:
        what = (
            "starts and stops nodes of this machine, by the name of their cluster"
            if ":" in name
            else f"finds no cluster {name} in {local.home()}"
        )
        raise NoCluster(f"this command {what}", hint=_start(name))
    return found


def _start(name: str) -> str:
    flag = "" if name == local.DEFAULT_NAME or ":" in name else f" --cluster {name}"
    return f"start one with: zablog{flag} cluster up --detach   or say where it is: --cluster HOST:PORT,..."
