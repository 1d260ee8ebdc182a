"""The search for a leader: often enough to meet one soon, and less and less often."""

import random
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from broker.client.cluster import PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN, Cluster
from broker.errors import NoCluster


async def test_a_search_pauses_for_no_more_than_a_part_of_what_it_has_taken(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    async def nobody(*_: object, **__: object) -> None:
        asked.append(trio.current_time())

    monkeypatch.setattr(Cluster, "_ask_everyone", nobody)
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, ["127.0.0.1:7401"], 20.0, random.Random(1))
        with pytest.raises(NoCluster):
            await cluster.leader()

    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert all(pause <= PAUSE_SECONDS_MIN + (at - asked[0]) / 2 for at, pause in zip(asked, pauses, strict=False))
    assert max(pauses) <= PAUSE_SECONDS_MAX
    assert len(asked) < 100, "and a cluster that stays away is not asked too often"
