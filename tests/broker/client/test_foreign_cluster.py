"""An address may be somebody else's by now: a client speaks to the cluster that answered it first, and to no other."""

from pathlib import Path

import pytest
import trio

from broker.client.connection import open_connection
from broker.errors import ConnectionLost
from broker.protocol import Ping, Ponged
from tests.broker.ensemble import open_ensemble


async def test_a_node_of_another_cluster_is_not_spoken_to(tmp_path: Path) -> None:
    """Found by killing a cluster while another one took its ports: a producer's records went to the other one."""
    async with (
        open_ensemble(tmp_path / "ours", 1) as ours,
        open_ensemble(tmp_path / "theirs", 1) as theirs,
        trio.open_nursery() as nursery,
    ):
        connection = await open_connection(nursery, ours.all_addresses[1])
        assert await connection.call(Ping()) == Ponged()

        with pytest.raises(ConnectionLost, match="belongs to cluster"):
            await open_connection(nursery, theirs.all_addresses[1], connection.cluster)
        nursery.cancel_scope.cancel()
