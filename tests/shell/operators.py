"""What those who run the nodes do: wrong settings, which are refused in words, and other builds, node after node."""

from collections.abc import Callable
from random import Random

import trio

import broker
from broker.errors import AddressInUse, DirectoryInUse, WouldLoseData
from tests.shell.faults import revive
from tests.shell.world import NODES, Host, World, address_of, settings_of
from zablog import Versions

NEW = Versions(1, 2)
"""The feature levels of a build to come."""
OLD = Versions(1, 1)


def top(line: str) -> Callable[[str], str]:
    """A line that comes first, where no table has begun."""
    return lambda text: line + "\n" + text


def instead(key: str, line: str) -> Callable[[str], str]:
    """Another line where that key stood."""
    return lambda text: "\n".join(line if each.startswith(f"{key} ") else each for each in text.split("\n"))


Mistake = tuple[type[broker.BrokerError], str, Callable[[str], str]]
"""How it is refused, a word of the refusal, and what becomes of the right settings."""

MISTAKES: tuple[Mistake, ...] = (
    (broker.ConfigError, "not TOML", top("directory =")),
    (broker.ConfigError, "directory is missing", instead("directory", "")),
    (broker.ConfigError, "no directory", instead("directory", 'directory = "/shell/nowhere"')),
    (broker.ConfigError, "unknown key colour", top("colour = 3")),
    (broker.ConfigError, "unknown key pace.colour", instead("tick", "colour = 3")),
    (broker.ConfigError, "must be a node id", instead("node", "node = 300")),
    (broker.ConfigError, "must be a string", instead("cluster", "cluster = 5")),
    (WouldLoseData, "was born as node", instead("cluster", f'cluster = "{"d" * 32}"')),
    (WouldLoseData, "was born as node", instead("node", "node = 9")),
    (broker.ConfigError, "HOST:PORT", instead("listen", 'listen = "nowhere"')),
    (broker.ConfigError, "neither encrypts", instead("listen", 'listen = "10.0.0.1:7001"')),
    (
        broker.ConfigError,
        "Cannot assign",
        lambda text: instead("insecure", "insecure = true")(instead("listen", 'listen = "10.0.0.1:7001"')(text)),
    ),
    (broker.ConfigError, "true or false", instead("insecure", 'insecure = "yes"')),
    (broker.ConfigError, "table of addresses", lambda text: "peers = 5\n" + text.split("[peers]")[0]),
    (broker.ConfigError, "peers.x", instead("1", 'x = "127.0.0.1:7001"')),
    (broker.ConfigError, "must be a table", lambda text: "pace = 5\n" + text.split("[pace]")[0]),
    (broker.ConfigError, "must be a number", instead("tick", "tick = 5")),
    (broker.ConfigError, "must grow", instead("lease", "lease = 0.05")),
)


async def misconfigure(world: World, dice: Random) -> None:
    """A server is started with wrong settings, says what is wrong and ends; with the right ones it comes back."""
    number = dice.choice(NODES)
    host = world.hosts[number]
    if not host.ended.is_set():
        await world.stop(number)
    for error, word, edit in dice.sample([*MISTAKES, *taken(world, dice, host)], 3):
        if dice.random() < 0.05:
            host.settings.unlink()
            error, word = broker.ConfigError, "cannot read"
        else:
            host.settings.write_text(edit(settings_of(host)))
        host.hurt = True
        await world.start(number)
        assert isinstance(host.refusal, error) and word in host.refusal.message, f"{word!r} was to be said: {host.refusal!r}"
        host.settings.write_text(settings_of(host))
    await revive(world, number)


def taken(world: World, dice: Random, host: Host) -> list[Mistake]:
    """What another server holds already."""
    up = [other for other in world.hosts.values() if other.server is not None and other is not host]
    if not up:
        return []
    other = dice.choice(up)
    return [
        (AddressInUse, "in use", instead("listen", f'listen = "{address_of(other.number)}"')),
        (DirectoryInUse, "in use", lambda text: settings_of(other)),
    ]


async def upgrade(world: World, dice: Random) -> None:
    """One more node gets the build to come. Where the log has gone on to what that brings, the old one is refused."""
    old = [number for number in NODES if world.levels.get(number) != NEW]
    number = dice.choice(old or NODES)
    host = world.hosts[number]
    raised = max((other.server.application.state.level for other in world.hosts.values() if other.server is not None), default=1)
    if not host.ended.is_set():
        await world.stop(number)
    world.levels[number] = NEW
    if raised > 1:
        assert not old, "the level was raised above what a node knows"
        await be_behind(world, host)
    await revive(world, number)


async def be_behind(world: World, host: Host) -> None:
    world.levels[host.number], host.hurt = OLD, True
    await world.start(host.number)
    with trio.move_on_after(5.0) as patience:
        await host.ended.wait()
    if not patience.cancelled_caught:
        assert isinstance(host.refusal, broker.ConfigError) and "feature level 2" in host.refusal.message, host.refusal
    else:
        await world.stop(host.number)
    world.levels[host.number] = NEW


async def lose_the_processor(world: World, dice: Random) -> None:
    """All processes stand still for a moment, several times: nobody may be taken for dead by those who slept as well."""
    for _ in range(4):
        await trio.sleep(0.1 * dice.random())
        world.clock.jump(0.2 * dice.random())


OPERATIONS = (misconfigure, upgrade, lose_the_processor)
