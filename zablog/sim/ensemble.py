"""An ensemble in one thread: its nodes, the network between them, and clients that remember what they were promised."""

from collections.abc import Callable

from zablog.core.state import Leading, Limits, Phase, Timing
from zablog.core.zxid import PeerId, Zxid
from zablog.sim.disk import SimDisk
from zablog.sim.guarantees import Integrity, Liveness, TotalOrder, Unavailable
from zablog.sim.invariants import Invariants
from zablog.sim.network import Network
from zablog.sim.node import TICK, Node
from zablog.sim.schedule import Schedule
from zablog.storage.manifest import Identity, Member, give_birth


class Ensemble:
    """`nodes` are numbered from 1. Nothing happens until `schedule.run_until`."""

    flag = ""
    """Of `zablog simulate`, for this kind of ensemble."""
    more_faults: tuple[str, ...] = ()
    """What can happen to this kind of ensemble beside what can happen to all."""
    proposed_once = True
    """Is each payload proposed but once?"""

    def __init__(self, seed: int, nodes: int, timing: Timing | None = None, limits: Limits | None = None, drift: float = 0.1) -> None:
        self.schedule = Schedule(seed)
        self.timing = timing or Timing()
        self.limits = limits or Limits()
        self.invariants = Invariants(nodes // 2 + 1)
        ids = list(range(1, nodes + 1))
        self.network = Network(self.schedule)
        members = tuple(Member(PeerId(id), f"{id:032x}", f"node{id}:7401") for id in ids)
        self.nodes: dict[int, Node] = {}
        for member in members:
            disk = SimDisk()
            give_birth(disk, Identity("ab" * 16, member.id, member.incarnation, members))
            node = Node(member.id, disk, self.schedule, self.invariants, self.network)
            self.nodes[member.id] = self.network.nodes[member.id] = node
            node.usual_micros = node.tick_micros = self.schedule.random.randint(int(TICK * (1 - drift)), int(TICK * (1 + drift)))
        self.invariants.nodes = list(self.nodes.values())
        self.restarts = True
        """Does who dies come back by itself?"""
        self.waiting: dict[tuple[int, int, int], list[tuple[Zxid, bytes]]] = {}
        """What each leader (node, life, generation) was handed and has not committed."""
        self.acknowledged: list[tuple[Zxid, bytes]] = []
        self.number = 0
        self.counts: dict[str, int] = {}
        """What a kind of ensemble counts beside what all do."""
        self.clients = True
        """Do clients propose?"""
        for id in ids:
            self.schedule.at(self.schedule.random.randint(0, 50_000), self.start, id)

    # -- nodes --------------------------------------------------------------------------------------------------------------

    def alive(self, node: int) -> bool:
        return self.nodes[node].running

    def start(self, node: int) -> None:
        if not self.alive(node):
            self.nodes[node].start(self.timing, self.limits)

    def kill(self, node: int, power_loss: bool) -> bool:
        """The process dies, and comes back some time later. False if it is dead already."""
        victim = self.nodes[node]
        if not victim.running:
            return False
        victim.die(power_loss)
        return True

    def tend(self) -> None:
        """Whoever is dead is started again some time."""
        if self.restarts:
            for id, node in self.nodes.items():
                if not node.running and self.schedule.random.random() < 0.15:
                    self.start(id)
        self.schedule.at(50_000, self.tend)

    def resume(self, node: int, life: int) -> None:
        victim = self.nodes[node]
        if victim.life == life and victim.running and victim.paused is not None:
            self.schedule.say(f"{node} goes on")
            victim.resume()

    def mend_disk(self, node: int) -> None:
        self.nodes[node].troubles.mend()

    def mend_clock(self, node: int) -> None:
        self.nodes[node].tick_micros = self.nodes[node].usual_micros

    # -- clients ------------------------------------------------------------------------------------------------------------

    def drive(self, per_second: int) -> None:
        """Clients hand new payloads to whoever says that it leads, and note what was committed while it did."""
        for node in self.nodes.values() if self.clients else ():
            if node.running and node.paused is None and (room := node.peer.room):
                payloads = []
                for _ in range(min(room, self.schedule.random.randint(1, 4))):
                    self.number += 1
                    payloads.append(b"%d" % self.number)
                self.hand(node, payloads)
        self.collect()
        self.schedule.at(self.schedule.random.randint(1, 2_000_000 // per_second), self.drive, per_second)

    def hand(self, node: Node, payloads: list[bytes]) -> Zxid | None:
        """Have a leader propose. The zxid of the first payload; None if the node died of it, or leads no longer."""
        self.invariants.proposed.update(payloads)
        first = node.peer.last
        key = (node.id, node.life, node.generation)
        node.propose(payloads)
        if not node.running or node.generation != key[2]:
            return None
        epoch = node.peer.last.epoch
        begin = Zxid(epoch, first.counter + 1 if first.epoch == epoch else 1)
        self.waiting.setdefault(key, []).extend((begin.after(step), payload) for step, payload in enumerate(payloads))
        return begin

    def ask(self, per_second: float) -> None:
        """Clients ask whoever says that it leads for linearizable reads."""
        for node in self.nodes.values() if self.clients else ():
            if (
                node.running
                and node.paused is None
                and isinstance(node.peer.state.role, Leading)
                and node.peer.state.phase is Phase.BROADCAST
            ):
                node.read()
        self.schedule.at(self.schedule.random.randint(1, int(2_000_000 / per_second)), self.ask, per_second)

    def collect(self) -> None:
        """What is committed under the leader that took it is acknowledged; what a leader that is gone took is unknown for ever."""
        for key in list(self.waiting):
            id, life, generation = key
            node = self.nodes[id]
            if node.life != life or not node.running or node.generation != generation:
                del self.waiting[key]
                continue
            waiting = self.waiting[key]
            done = 0
            while done < len(waiting) and waiting[done][0] <= node.peer.watermark:
                done += 1
            self.acknowledged += waiting[:done]
            del waiting[:done]

    # -- the end ------------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Everything works again, and everybody is up."""
        self.network.heal()
        self.network.delay = (50, 1_000)
        self.network.late.clear()
        for id, node in self.nodes.items():
            troubles = node.troubles
            troubles.crash_at = troubles.fail_at = troubles.read_fail_at = None
            node.disk.lies = troubles.hang_micros = 0
            self.mend_disk(id)
            self.mend_clock(id)
            if node.running and node.paused is not None:
                node.resume()
            node.writer.mend()
            self.start(id)

    def serve_through_a_hub(self, seconds: float = 15.0) -> bool:
        """Only one node reaches everybody, and a minority of the others not even that: a quorum must serve and commit all the same.

        The best history may lie where it can only be fetched from, entry by entry: so the hub is one whose log reaches up to where every
        other begins. One tail may be suspect, if it is the hub's own, and a quorum of the others is reached. False, and nothing is asked,
        while somebody is out, has had no epoch yet (the first one needs everybody), or has a damaged log, which may then be the one
        that counts.
        """
        states = {id: node.peer.state for id, node in self.nodes.items() if node.running}
        suspects = {id for id, state in states.items() if state.suspect is not None}
        sound = all(state.current > 0 for state in states.values()) and len(suspects) <= 1
        if len(states) < len(self.nodes) or self.invariants.faulty or not sound:
            return False
        highest = max(state.trail.base.zxid for state in states.values())
        hubs = [id for id, state in states.items() if state.trail.last >= highest and suspects <= {id}]
        if not hubs:
            return False
        hub = self.schedule.random.choice(hubs)
        leaves = [id for id in self.nodes if id != hub]
        out = set(self.schedule.random.sample(leaves, self.schedule.random.randint(0, (len(self.nodes) - 1) // 2 - len(suspects))))
        self.schedule.say(f"-- only {hub} reaches others, and {sorted(out)} reach nobody")
        self.network.separate({(a, b) for a in self.nodes for b in self.nodes if a < b and (hub not in (a, b) or {a, b} & out)})
        goal = len(self.invariants.committed) + 3
        self.wait_for(lambda: len(self.invariants.committed) >= goal, seconds, f"nothing is committed where only {hub} reaches others")
        self.schedule.say("-- everybody reaches everybody")
        self.network.separate(set())
        return True

    @property
    def serving(self) -> bool:
        """Everyone takes part in one epoch, and one leads it."""
        roles = [node.peer.state for node in self.nodes.values() if node.running]
        phases = all(state.phase is Phase.BROADCAST for state in roles) and len(roles) == len(self.nodes)
        return phases and sum(isinstance(state.role, Leading) for state in roles) == 1

    def finish(self, seconds: float = 15.0) -> None:
        """The healed ensemble must serve, commit something new everywhere, fall silent, and hold everything that was acknowledged, once."""
        self.wait_for(lambda: self.serving, seconds, "nobody leads everybody")
        goal = len(self.invariants.committed) + 3
        self.wait_for(lambda: all(len(node.delivered) >= goal for node in self.nodes.values()), seconds, "nothing new is committed")
        self.clients = False
        self.wait_for(lambda: self.silent, seconds, "what is committed does not reach everybody")
        log = self.invariants.committed
        for id, node in self.nodes.items():
            if node.delivered != log:
                raise TotalOrder(f"in the end node {id} has delivered another sequence than was committed")
        if self.proposed_once and len({payload for _, payload in log}) != len(log):
            raise Integrity("a payload was delivered twice")
        missing = set(self.acknowledged) - set(log)
        if missing:
            raise Integrity(f"{len(missing)} acknowledged entries are lost, the first is {min(missing)}")

    @property
    def silent(self) -> bool:
        """Nothing proposed is still open, and everybody has delivered all of it."""
        self.collect()
        count = len(self.invariants.committed)
        return self.serving and not any(self.waiting.values()) and all(len(node.delivered) == count for node in self.nodes.values())

    @property
    def lag(self) -> int:
        """How many entries the node lacks that lacks most; more than there are for one whose end is of an earlier epoch."""
        lasts = [node.peer.last for node in self.nodes.values() if node.running]
        newest = max(lasts)
        return max(newest.counter - last.counter if last.epoch == newest.epoch else 1 << 40 for last in lasts)

    def wait_for(self, truth: Callable[[], bool], seconds: float, else_say: str) -> None:
        """Let virtual time pass until something is true, but not for ever: longer only for a node that catches up all the while."""
        deadline, lag = self.schedule.now + int(seconds * 1_000_000), self.lag
        while not truth():
            if self.schedule.now >= deadline and self.lag < lag:
                deadline, lag = self.schedule.now + int(seconds * 1_000_000), self.lag
            elif self.schedule.now >= deadline:
                states = {
                    id: (type(node.peer.state.role).__name__, node.peer.state.phase.name, len(node.delivered)) if node.running else "dead"
                    for id, node in self.nodes.items()
                }
                words = f"after {seconds:g} s without faults {else_say}: {states}"
                ill = self.invariants.faulty | {
                    id for id, node in self.nodes.items() if node.running and node.peer.state.suspect is not None
                }
                if self.invariants.faulty and len(ill) > (len(self.nodes) - 1) // 2:
                    raise Unavailable(words)
                raise Liveness(words)
            self.schedule.run_until(self.schedule.now + 20_000)
            self.collect()
