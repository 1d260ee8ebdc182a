"""Who calls a node and should not: noise, the wrong cluster, a false name, senseless frames. Each is sent away; nobody else minds."""

from random import Random

import trio

from tests.shell.wires import Wire, who
from tests.shell.world import CLUSTER, NODES, World, address_of
from zablog import PeerId
from zablog.core.trail import Payload
from zablog.wire.frames import Frame, pieces
from zablog.wire.handshake import CLIENT_VERSIONS, Hello, Purpose, Versions, encode_handshake

PATIENCE_SECONDS = 60.0
US = Versions(1, 1)
FOREIGN = Frame(127, b"")
CLIENT = encode_handshake(Hello(CLIENT_VERSIONS, Purpose.CLIENT))


def peer(node: int, target: int, incarnation: int | None = None, cluster: str = CLUSTER, purpose: Purpose = Purpose.PEER) -> list[Payload]:
    """What somebody says who says that he is `node`."""
    return encode_handshake(Hello(US, purpose, cluster, PeerId(node), f"{incarnation or node:032x}", PeerId(target)))


def calls(dice: Random, node: int) -> list[list[Payload]]:
    """What is said to `node`, each of which must end in its closing the connection."""
    other = dice.choice([each for each in NODES if each != node])
    return [
        [dice.randbytes(200)],
        encode_handshake(Hello(Versions(900, 901), Purpose.CLIENT)),
        encode_handshake(Hello(CLIENT_VERSIONS, Purpose.CLIENT, "d" * 32)),
        encode_handshake(Hello(CLIENT_VERSIONS, Purpose.CLIENT, CLUSTER, target=PeerId(other))),
        peer(other, node, cluster="d" * 32),
        peer(other, node, incarnation=77),
        peer(other, node, incarnation=77, purpose=Purpose.SNAPSHOT),
        peer(9, node),
        peer(node, node),
        peer(1, 3) if node == 3 else peer(node, node),
        pieces(FOREIGN),
        [*CLIENT, dice.randbytes(200)],
        [*CLIENT, *pieces(FOREIGN)],
        [*CLIENT, *CLIENT],
    ]


async def knock(world: World, dice: Random) -> None:
    """One caller, who waits until he is sent away."""
    who.set("stranger")
    node = dice.choice(NODES)
    host, _, port = address_of(node).rpartition(":")
    said = b"".join(dice.choice(calls(dice, node)))
    try:
        wire = await world.wires.open_tcp_stream(host, int(port))
    except OSError:
        return  # that node is dead
    async with wire:
        with trio.move_on_after(PATIENCE_SECONDS) as patience:
            answered = await converse(wire, said)
    assert not patience.cancelled_caught, f"node {node} keeps a stranger who said {said!r}"
    world.note("stranger", node, len(said), answered)


async def converse(wire: Wire, said: bytes) -> int:
    """How many bytes came in answer until the end."""
    answered = 0
    try:
        await wire.send_all(said)
        while piece := await wire.receive_some():
            answered += len(piece)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    return answered
