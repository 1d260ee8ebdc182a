"""What happens to machines, disks and wires while a story is told. Each fault ends by itself, or when the story heals everything.

Whatever a fault does to a node, a quorum of whole disks stays: the story's promises hold with any of them.
"""

import errno
from collections.abc import Awaitable, Callable
from random import Random

import trio

import broker
from tests.shell.disks import ROOM_BYTES, ShellDisk
from tests.shell.wires import who
from tests.shell.world import NODES, World
from zablog.storage.batch import FILE_BYTES

Fault = Callable[[World, Random], Awaitable[None]]


async def revive(world: World, number: int) -> None:
    """Whoever looks after the machine: what is wrong with it is mended, and its server started."""
    host = world.hosts[number]
    if host.ended.is_set():
        host.hurt = not host.disk.room_bytes
        host.disk.room_bytes = max(host.disk.room_bytes, 300)
        await world.start(number)


async def kill(world: World, dice: Random, number: int | None = None) -> None:
    number = number or dice.choice(NODES)
    if not world.hosts[number].ended.is_set():
        await world.kill(number, dice.random() < 0.5, dice.choice((0, dice.randrange(20))))
    await trio.sleep(dice.random() * 0.6)
    await revive(world, number)


async def kill_leader(world: World, dice: Random) -> None:
    await kill(world, dice, world.leader)


async def restart(world: World, dice: Random) -> None:
    """In order, as SIGTERM does: nothing that was taken is in doubt for its peers' sake."""
    number = world.leader or dice.choice(NODES)
    if not world.hosts[number].ended.is_set():
        await world.stop(number)
    await revive(world, number)


async def lose_all(world: World, dice: Random) -> None:
    """The power of all machines at once; now and then while much is on its way to slow disks."""
    if dice.random() < 0.5:
        world.slow_until = trio.current_time() + 1.0
        await trio.sleep(0.1 + dice.random() * 0.1)
    async with trio.open_nursery() as nursery:
        for number in NODES:
            if not world.hosts[number].ended.is_set():
                nursery.start_soon(world.kill, number, True)
    for number in NODES:
        await revive(world, number)


async def lose_quorum(world: World, dice: Random) -> None:
    """Two nodes are away for longer than the impatient wait, or all of them."""
    away = dice.choice(((1, 2), (2, 3), (1, 3), NODES))
    for number in away:
        if not world.hosts[number].ended.is_set():
            await world.kill(number, power_loss=False)
    await trio.sleep(2.0)
    for number in away:
        await revive(world, number)


# -- disks ------------------------------------------------------------------------------------------------------------------


async def stay_away(world: World, dice: Random) -> None:
    """For so long that the others' logs begin above this node's end: it comes back by a snapshot, and is not always let.

    Meanwhile a part of what it has may have decayed, so that it must be fetched anew; its disk may be so slow that the leader must be
    shown signs of life; its connections may be cut just as the snapshot is on its way, or the leader killed.
    """
    number = dice.choice(NODES)
    world.wires.heal()  # the other two must be a quorum
    if not world.hosts[number].ended.is_set():
        await world.kill(number, power_loss=True)
    await write_much(world, 6)
    if dice.random() < 0.5:
        decay(world.hosts[number].disk, dice)
    if dice.random() < 0.3:
        world.very_slow[world.hosts[number].name] = trio.current_time() + 3.0
    await revive(world, number)
    for _ in range(dice.choice((0, 0, 1, 2))):
        with trio.move_on_after(3.0) as patience:
            await world.happens("a snapshot is fetched")
            await trio.sleep(dice.random() * dice.choice((0.01, 0.1)))
        if not patience.cancelled_caught:
            world.note("interrupted")
            if dice.random() < 0.3 and (leader := world.leader):
                await kill(world, dice, leader)
            else:
                world.wires.cut(f"node{number}")


async def write_much(world: World, times: int, pause: float = 0.2) -> None:
    """As long as somebody takes it: a node whose tail is suspect may have to wait for the third one, which is away."""
    with trio.move_on_after(8.0):
        async with world.client("bulk") as client, client.producer() as producer:
            await client.create_topic("bulk", exist_ok=True)
            for _ in range(times):
                await producer.send_many("bulk", [bytes(4000)] * 8)
                await trio.sleep(pause)
    who.set("story")


async def flood(world: World, dice: Random) -> None:
    """More is written than one follower can take: its disk is far behind, or what is sent to it stands still."""
    number = dice.choice([each for each in NODES if each != world.leader])
    name = f"node{number}"
    if dice.random() < 0.5:
        world.very_slow[name] = trio.current_time() + 2.0
    elif world.leader:
        world.wires.stall(f"node{world.leader}", name, 1.0)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(write_much, world, 6, 0.0)


async def rot(world: World, dice: Random) -> None:
    """A bit of one log decays, once in a run: the node fetches what it lost from the others, which must be within reach."""
    number = dice.choice(NODES)
    if world.faults["rot"] > 1 or world.hosts[number].ended.is_set():
        return
    world.wires.heal()
    await world.kill(number, power_loss=False)
    disk = world.hosts[number].disk
    name = dice.choice([name for name in disk.names() if name.startswith("wal-")])
    used = len(disk.read(name, 0, disk.size(name)).rstrip(b"\0"))
    if used > FILE_BYTES:  # the header of a file nobody can make again: such a node stays out, and says so
        disk.flip(name, dice.randrange(FILE_BYTES, used), dice.randrange(8))
    if dice.random() < 0.3:
        await trio.sleep(1.2)  # and by now the others may have let go of it
    await revive(world, number)


async def decay_somewhere(world: World, dice: Random) -> None:
    """A bit of one node's segments or of its snapshot decays, under it or while it is down: it is restored from another node."""
    number = dice.choice(NODES)
    if world.faults["decay_somewhere"] > 1:
        return
    host = world.hosts[number]
    if dice.random() < 0.5:
        decay(host.disk, dice)
        return
    world.wires.heal()
    if not host.ended.is_set():
        await world.kill(number, power_loss=False)
    decay(host.disk, dice)
    snapshots = [name for name in host.disk.names() if name.startswith("snapshot-")]
    if snapshots and dice.random() < 0.5:
        host.disk.flip(snapshots[-1], dice.randrange(host.disk.size(snapshots[-1])), dice.randrange(8))
    await revive(world, number)


def decay(disk: ShellDisk, dice: Random) -> None:
    """A bit of what was durably written to a segment of the first topic is another one."""
    segments = disk.child("topics")
    names = [name for name in segments.names() if name.endswith(".log")]
    first = [name for name in names if name.split("-")[0] == names[0].split("-")[0]]
    durable = [name for name in first if segments.files[name].durable]
    if durable:
        name = dice.choice(durable)
        segments.flip(name, dice.randrange(len(segments.files[name].durable)), dice.randrange(8))


async def fail_disk(world: World, dice: Random) -> None:
    """An operation of a disk fails: the server says so and ends, unless it can do without."""
    number = dice.choice(NODES)
    host = world.hosts[number]
    if host.ended.is_set():
        return
    host.hurt = True
    code = dice.choice((errno.EIO, errno.ENOSPC))
    host.disk.fail_after(dice.choice((0, dice.randrange(30))), OSError(code, "the disk fails"))
    with trio.move_on_after(1.5):
        await host.ended.wait()
        assert host.refusal is not None, "a server whose disk failed said nothing"
        if code == errno.ENOSPC:
            assert isinstance(host.refusal, broker.BrokerError) and "disk fails" in host.refusal.message, host.refusal
    host.disk.step = lambda operation: None
    await revive(world, number)


async def fill_disk(world: World, dice: Random) -> None:
    """No room for a while, then so little that the reserve is given up, then enough."""
    number = dice.choice(NODES)
    host = world.hosts[number]
    if host.ended.is_set():
        return
    host.hurt, host.disk.room_bytes = True, 0
    with trio.move_on_after(1.5):
        await host.ended.wait()
    await revive(world, number)
    await trio.sleep(0.3)
    host.disk.room_bytes = ROOM_BYTES


async def hang_disk(world: World, dice: Random) -> None:
    """A sync takes seconds: a leader makes room for somebody else."""
    number = world.leader or dice.choice(NODES)
    world.hosts[number].disk.hang_seconds = 1.0 + 2.5 * dice.random()


async def slow_disks(world: World, dice: Random) -> None:
    world.slow_until = trio.current_time() + dice.random()


# -- wires ------------------------------------------------------------------------------------------------------------------


def pair(dice: Random) -> tuple[str, str]:
    names = [*(f"node{number}" for number in NODES), "producer0", "producer1", "admin", "reader"]
    one = dice.choice(names[: len(NODES)])
    return one, dice.choice([name for name in names if name != one])


async def cut(world: World, dice: Random) -> None:
    world.wires.cut(*pair(dice))


async def silence(world: World, dice: Random) -> None:
    world.nursery.start_soon(world.wires.fall_silent, *pair(dice))


async def stall(world: World, dice: Random) -> None:
    world.wires.stall(*pair(dice), dice.random() * 2)


async def part(world: World, dice: Random) -> None:
    world.wires.part(*pair(dice))


FAULTS: tuple[Fault, ...] = (
    kill,
    kill_leader,
    restart,
    lose_all,
    lose_quorum,
    stay_away,
    flood,
    rot,
    decay_somewhere,
    fail_disk,
    fill_disk,
    hang_disk,
    slow_disks,
    cut,
    silence,
    stall,
    part,
)
