"""Zab, told while it happens: the skeleton of a distributed system as articles print it, filled with the real protocol.

    nodes = [Node(i) for i in range(5)]
    system = DistributedSystem(nodes)
    system.run()

Nothing here is a sketch: the messages are those of `zablog.core`, on simulated wires and disks, in virtual time, from one seed.
"""

from collections.abc import Callable, Sequence

from zablog.core.effects import RoleChanged
from zablog.core.messages import (
    Ack,
    AckEpoch,
    AckNewLeader,
    AckSnap,
    CEpoch,
    Commit,
    Diff,
    HistoryAnswer,
    HistoryQuery,
    Message,
    NewEpoch,
    NewLeader,
    Notification,
    Ping,
    Pong,
    Propose,
    Snap,
    Trunc,
    UpToDate,
)
from zablog.core.zxid import ZERO, Zxid
from zablog.sim.ensemble import Ensemble


def words(payloads: Sequence[object]) -> str:
    return ", ".join(bytes(payload).decode() if isinstance(payload, bytes | bytearray | memoryview) else "?" for payload in payloads)


class Node:
    """One process. `data` is what it has delivered, `timestamp` the zxid of the last of it, `leader` whom it follows (or itself)."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.data: list[str] = []
        self.leader: int | None = None
        self.timestamp: Zxid = ZERO
        self.system: DistributedSystem | None = None

    def send_message(self, message: Message, receiver: "Node") -> None:
        """Say something to another node outside of the protocol's own doing: it is received as from us."""
        receiver.receive_message(self.id, message)

    def receive_message(self, sender: int, message: Message) -> None:
        """Tell what a message means. (The protocol itself has received it already.)"""
        line = explain(sender, self.id, message)
        if line and self.system is not None:
            self.system.tell(line)

    def elect_leader(self) -> int | None:
        """Let the ensemble find a leader; returns whom this node follows then."""
        assert self.system is not None, "a node elects within a system"
        self.system.until_served()
        return self.leader

    def update_data(self, value: str) -> Zxid:
        """Put a value into the ordered log: through the leader, wherever it is. Returns the zxid it was given."""
        assert self.system is not None, "a node writes within a system"
        return self.system.write(self, value)

    def deliver(self, zxid: Zxid, payload: bytes) -> None:
        self.data.append(payload.decode())
        self.timestamp = zxid


def explain(sender: int, receiver: int, message: Message) -> str | None:
    """A message in plain words; None for those that only repeat themselves."""
    way = f"{sender} -> {receiver}"
    match message:
        case CEpoch(accepted, current):
            return f"{way}  CEPOCH: I would follow you. I have promised epoch {accepted}; my history is that of epoch {current}."
        case NewEpoch(epoch):
            return f"{way}  NEWEPOCH: let it be epoch {epoch}, higher than any a quorum has heard of."
        case AckEpoch(epoch, _, _, last):
            return f"{way}  ACKEPOCH: promised, on disk: nobody of an epoch below {epoch} can have me now. My history ends at {last}."
        case HistoryQuery(_, last):
            return f"{way}  HISTORYQUERY: yours is the best history that I know. Where does it go on from mine, which ends at {last}?"
        case HistoryAnswer(_, after, _):
            return f"{way}  HISTORYANSWER: we agree through {after}."
        case Diff(_, after):
            return f"{way}  DIFF: we agree through {after}; what you lack follows."
        case Trunc(_, after):
            return f"{way}  TRUNC: we agree through {after}; cut what you have above it, nobody committed that."
        case Snap(_, zxid):
            return f"{way}  SNAP: your history ends before mine begins; take the state at {zxid}."
        case AckSnap(_, zxid):
            return f"{way}  ACK(SNAP): the state at {zxid} is on my disk; go on from there."
        case NewLeader(epoch, last):
            return f"{way}  NEWLEADER: you have everything through {last}. Will you be bound to epoch {epoch}?"
        case AckNewLeader(epoch, last):
            return f"{way}  ACK(NEWLEADER): everything through {last}, then epoch {epoch}, are on my disk."
        case UpToDate(epoch, watermark):
            return f"{way}  UPTODATE: a quorum is bound to epoch {epoch}. Everything through {watermark} is committed."
        case Propose(_, entries, watermark):
            return f"{way}  PROPOSE {entries.first}: {words(entries.payloads)}   (committed so far: {watermark})"
        case Ack(_, zxid):
            return f"{way}  ACK {zxid}: it is on my disk, and all before it."
        case Commit(_, watermark):
            return f"{way}  COMMIT {watermark}: a quorum has it on disk."
        case Notification() | Ping() | Pong():
            return None


class DistributedSystem:
    """An ensemble of nodes, and its story. `say` takes the lines."""

    def __init__(self, nodes: Sequence[Node], seed: int = 1, say: Callable[[str], None] = print) -> None:
        self.nodes = list(nodes)
        self.say = say
        self.peers = dict(enumerate(self.nodes, 1))  # the protocol counts from 1
        self.ensemble = Ensemble(seed, len(self.nodes))
        self.ensemble.restarts = False
        self.ensemble.schedule.witness = self.witness
        for node in self.nodes:
            node.system = self

    # -- the story ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Election, discovery, synchronization, broadcast; the death of the leader, and the recovery."""
        self.chapter(f"{len(self.nodes)} nodes wake up. Nobody leads: each votes for itself, then for the best it hears of (phase 0)")
        self.nodes[0].elect_leader()
        self.chapter("A value is written: the leader gives it a zxid, and commits it when a quorum has it on disk (phase 3)")
        self.nodes[0].update_data("x = 1")
        self.nodes[-1].update_data("y = 2")
        if len(self.nodes) > 2:
            self.chapter("The leader dies. Its followers lose the link, look for the best history, and begin a higher epoch")
            dead = self.kill_leader()
            self.until_served()
            alive = next(node for node in self.nodes if node is not dead)
            self.chapter("Life goes on without it")
            alive.update_data("x = 3")
            self.chapter(f"Node {dead.id} comes back: it follows, and is given what it lacks")
            self.revive(dead)
        self.chapter("Every node has delivered the same, in the same order")
        for node in self.nodes:
            self.say(f"  node {node.id}: {node.data} through zxid {node.timestamp}, leader {node.leader}")

    def chapter(self, title: str) -> None:
        self.say(f"\n== {title}")

    def tell(self, line: str) -> None:
        self.say(f"{self.ensemble.schedule.now / 1000:9.2f} ms  {line}")

    # -- what happens -------------------------------------------------------------------------------------------------------

    def witness(self, peer: int, what: object) -> None:
        node = self.peers[peer]
        match what:
            case RoleChanged():
                node.leader = self.peers[what.leader].id if what.leader is not None else None
                self.tell_role(node, what)
            case (Zxid() as zxid, bytes() as payload):
                node.deliver(zxid, payload)
                self.tell(f"   {node.id} delivers {zxid}: {payload.decode()}")
            case (int() as sender, message):
                node.receive_message(self.peers[sender].id, message)  # type: ignore[arg-type]  # the network carries messages only

    def tell_role(self, node: Node, role: RoleChanged) -> None:
        match role.role, role.phase:
            case "looking", _:
                self.tell(f"** {node.id} looks for a leader ({role.reason})")
            case "leading", "discovery":
                self.tell(f"** {node.id} was elected. Now it must learn what the others promised (phase 1, discovery)")
            case "leading", "sync":
                self.tell(f"** {node.id} has a quorum's promise. Its history is the one to agree on (phase 2, synchronization)")
            case "leading", "broadcast":
                self.tell(f"** {node.id} is established as the leader of epoch {role.epoch} (phase 3, broadcast)")
            case "following", "discovery":
                self.tell(f"** {node.id} follows {node.leader}")
            case "following", "broadcast":
                self.tell(f"** {node.id} is up to date in epoch {role.epoch}")
            case _:
                pass

    def until(self, truth: Callable[[], bool], seconds: float = 20.0) -> None:
        """Let virtual time pass until something is true."""
        schedule = self.ensemble.schedule
        deadline = schedule.now + int(seconds * 1_000_000)
        while not truth():
            assert schedule.now < deadline, "the law that an ensemble with a quorum gets there"
            schedule.run_until(schedule.now + 1_000)

    def until_served(self) -> None:
        """Until a leader is established and everyone alive is up to date."""
        self.until(lambda: self.leader() is not None and all(node.peer.state.phase.name == "BROADCAST" for node in self.alive()))

    def alive(self) -> list:  # type: ignore[type-arg]  # simulated nodes
        return [node for node in self.ensemble.nodes.values() if node.running]

    def leader(self) -> int | None:
        """The established leader's number in the protocol."""
        return next((node.id for node in self.alive() if node.peer.room > 0), None)

    def write(self, node: Node, value: str) -> Zxid:
        self.until_served()
        leader = self.leader()
        assert leader is not None, "the law that a served ensemble has a leader"
        process = self.ensemble.nodes[leader]
        self.tell(f"   a client of {node.id} writes {value!r}; {self.peers[leader].id} leads")
        self.ensemble.invariants.proposed.add(value.encode())
        process.propose([value.encode()])
        zxid = process.peer.last
        self.until(lambda: all(other.delivered and other.delivered[-1][0] >= zxid for other in self.alive()))
        return zxid

    def kill_leader(self) -> Node:
        leader = self.leader()
        assert leader is not None, "the law that a served ensemble has a leader"
        self.tell(f"** {self.peers[leader].id} is killed")
        self.ensemble.kill(leader, power_loss=False)
        dead = self.peers[leader]
        dead.leader, dead.data, dead.timestamp = None, [], ZERO
        return dead

    def revive(self, node: Node) -> None:
        number = next(number for number, other in self.peers.items() if other is node)
        goal = max(len(other.delivered) for other in self.alive())
        self.ensemble.start(number)
        self.until(lambda: len(self.ensemble.nodes[number].delivered) == goal and self.ensemble.serving)
