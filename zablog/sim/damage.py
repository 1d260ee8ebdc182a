"""What becomes of a node's disk between two lives: the power fails, and something on it is no longer what was written last.

Each takes a running node and kills it (`rot_segment` not always). False if there was nothing to damage, or not in this way.
"""

from random import Random

from zablog.sim.applier import FILES
from zablog.sim.node import Node
from zablog.storage.batch import FILE_BYTES as HEADER_BYTES


def rot(node: Node, random: Random) -> bool:
    """A bit of the last batch, if that one was synced, holds entries, and nothing names it yet."""
    wal = node.storage.wal
    file = wal.files[-1]
    if wal.sealed or node.storage.suspect is not None or len(node.disk.files[file.name].durable) < file.end:
        return False
    node.die(power_loss=True)
    node.disk.flip(file.name, random.randrange(wal.last_offset, file.written), random.randrange(8))
    node.schedule.say(f"{node.id} has a rotten last batch")
    return True


def rot_sealed(node: Node, random: Random) -> bool:
    """Some bits of the log before its last batch, which is synced: what they were in was synced long ago."""
    wal = node.storage.wal
    file, last = random.choice(wal.files), wal.files[-1]
    end = file.end if file is not last else wal.last_offset
    if len(node.disk.files[last.name].durable) < last.end or end <= HEADER_BYTES:
        return False
    node.die(power_loss=True)
    for _ in range(random.choice((1, 1, 2, 5))):
        node.disk.flip(file.name, random.randrange(HEADER_BYTES, end), random.randrange(8))
    node.schedule.say(f"{node.id} has a rotten log")
    return True


def rot_copy(node: Node, random: Random) -> bool:
    """A bit of one of two copies that were both whole: the other must do."""
    if (rotten := one_copy(node, random)) is None:
        return False
    node.die(power_loss=True)
    node.disk.flip(rotten, random.randrange(node.disk.size(rotten)), random.randrange(8))
    node.schedule.say(f"{node.id} has a rotten {rotten}")
    return True


def stale_copy(node: Node, random: Random) -> bool:
    """What was written last to one of two copies that were both whole: the other must do."""
    if (stale := one_copy(node, random)) is None:
        return False
    node.die(power_loss=True)
    node.disk.age(stale)
    node.schedule.say(f"{node.id} has a stale {stale}")
    return True


def one_copy(node: Node, random: Random) -> str | None:
    """One of two copies, if both are durable: no save is under way, and each was whole when the last one ended."""
    name = random.choice(("epochs", "manifest"))
    copies = [node.disk.files[f"{name}.{letter}"] for letter in "ab"]
    whole = node.running and not any(copy.unsynced or copy.now != copy.durable for copy in copies)
    return f"{name}.{random.choice('ab')}" if whole else None


def stale_file(node: Node) -> bool:
    """What was synced last of the log."""
    file = node.storage.wal.files[-1].name
    node.die(power_loss=True)
    if file not in node.disk.files:
        return False
    node.disk.age(file)
    node.schedule.say(f"{node.id} has a stale {file}")
    return True


def rot_segment(node: Node, random: Random) -> bool:
    """Some bits of an application's file, of what is durable of it. The process may live on: then it is for it to find out."""
    files = node.disk.children.get(FILES)
    rotten = [name for name, file in sorted(files.files.items()) if file.durable] if files is not None else []
    if files is None or not rotten:
        return False
    name = random.choice(rotten)
    if random.random() < 0.5:
        node.die(power_loss=True)
    file = files.files.get(name)
    if file is None or not (length := min(len(file.now), len(file.durable))):
        return False
    for place in {(random.randrange(length), random.randrange(8)) for _ in range(random.choice((1, 1, 2, 5)))}:
        files.flip(name, *place)
    node.schedule.say(f"{node.id} has a rotten {name}")
    return True
