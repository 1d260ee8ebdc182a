"""A rolling upgrade: builds of two feature levels work together at the lower one, and who is left behind stops instead of diverging."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from broker.client import connect
from broker.errors import ConfigError
from broker.server import ServerConfig, levels
from broker.server.application import BrokerApplication
from broker.server.levels import common_level
from broker.server.run import translated
from broker.snapshot import Snapshot, encode
from broker.state import State
from tests.broker.ensemble import Ensemble
from zablog import Unsupported, Versions
from zablog.core.zxid import ZERO, Zxid

NEW = Versions(1, 2)


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "LOOK_SECONDS", 0.01)


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await trio.sleep(0.005)


def level_of(ensemble: Ensemble, number: int) -> int:
    return ensemble.servers[number].application.state.level


async def test_the_level_rises_once_every_voter_knows_it_and_an_old_build_is_told_what_to_install(ensemble: Ensemble) -> None:
    async with connect(ensemble.addresses) as zl, zl.producer() as out:
        await zl.create_topic("orders")
        for number in (1, 2, 3):
            await ensemble.stop(number)
            assert (await out.send("orders", b"two of three")).offset == 2 * (number - 1)
            assert {level_of(ensemble, other) for other in ensemble.servers} == {1}, "somebody is away, or old"
            await ensemble.start(number, NEW)
            await out.send("orders", b"three of three")
        await until(lambda: all(level_of(ensemble, number) == 2 for number in (1, 2, 3)))
        assert common_level((await ensemble.leader()).node) == 2
        status = (await zl.status()).nodes
        assert {each.levels for each in status} == {NEW}

        await ensemble.stop(1)
        with pytest.raises(Unsupported, match="feature level 2, and this version of zablog knows 1: install"):
            await ensemble.start(1)
            await until(lambda: 1 in ensemble.unsupported)
            raise ensemble.unsupported[1]

        await out.send("orders", b"the others go on")
        await ensemble.start(1, NEW)
        receipt = await out.send("orders", b"and so does it")
        await until(lambda: all(server.application.state.applied >= receipt.zxid for server in ensemble.servers.values()))
        assert len({server.application.state.digest() for server in ensemble.servers.values()}) == 1


async def test_nobody_applies_what_nobody_knows(ensemble: Ensemble) -> None:
    leader = await ensemble.leader()
    servers = list(ensemble.servers.values())

    zxid = leader.node.propose_nowait([b"\x7f\x01", b"behind it"])
    # Whoever learns that it is committed stops. The third may not learn it: the two that did are gone, and alone it commits nothing.
    await until(lambda: len(ensemble.unsupported) >= 2)

    assert all(
        f"kind 127, version 1, which this version of zablog does not know, at {zxid}" in str(e) for e in ensemble.unsupported.values()
    )
    assert all(server.application.state.applied < zxid for server in servers)


async def test_a_snapshot_of_a_later_level_is_no_damage() -> None:
    raw = b"".join(encode(Snapshot(State(applied=Zxid(1, 5), level=2), [], [])))
    application = BrokerApplication(lambda: pytest.fail("nothing is looked for on the disk"))

    with pytest.raises(Unsupported, match="feature level 2"):
        await application.restore(Zxid(1, 5), raw)
    with pytest.raises(Unsupported, match="feature level 2"):
        application.parts(raw)
    assert not application.restored


async def test_a_build_that_no_longer_knows_the_first_level_does_not_begin_a_log() -> None:
    application = BrokerApplication(lambda: pytest.fail("nothing is looked for on the disk"), levels=Versions(2, 3))

    with pytest.raises(Unsupported, match="install a version that knows level 1 first"):
        await application.restore(ZERO, None)


def test_the_server_ends_with_words_for_the_operator(tmp_path: Path) -> None:
    error = translated(Unsupported("install this"), ServerConfig(tmp_path))

    assert isinstance(error, ConfigError) and error.message == "install this"
