"""An address may be somebody else's by now: a client speaks to the cluster that answered it first, and to no other."""

from pathlib import Path

import pytest
import trio

from broker.cli.asking import Asked
from broker.cli.survey import survey
from broker.client import connect
from broker.client.connection import open_connection
from broker.errors import ConnectionLost, NoCluster
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


async def test_whoever_names_a_cluster_speaks_to_no_other(tmp_path: Path) -> None:
    """Found by starting two clusters at once: the second one's ports were the first one's by then, and so were its topics."""
    async with open_ensemble(tmp_path, 1) as theirs:
        address = theirs.all_addresses[1]
        async with connect(address) as zl:
            named = (await zl.status()).cluster
        async with connect(address, cluster=named) as zl:
            await zl.create_topic("theirs")

        other = "0123456789abcdef0123456789abcdef"
        async with connect(address, timeout=0.5, cluster=other) as zl:
            with pytest.raises(NoCluster, match="belongs to cluster"):
                await zl.create_topic("ours")
        assert (await survey([address], cluster=named)).leader is not None
        assert (await survey([address], cluster=other)).answers == {address: None}
        with Asked(address, named) as node, Asked(address, other) as nobody:
            assert await trio.to_thread.run_sync(node.status, 5.0) is not None
            assert await trio.to_thread.run_sync(nobody.status, 5.0) is None
