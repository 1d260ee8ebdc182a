"""Broken brokers, in an ensemble with all its faults: what is wrong on one node, or only after a restart, shows nowhere else."""

from random import Random

import pytest

from broker.sim import BrokerEnsemble
from broker.state import State
from broker.state.outcomes import Appended, Outcome
from broker.state.producers import Producers
from tests.sim.mutants.mutant import ANOMALIES, GUARANTEES, LAW, Catch, mutant
from tests.sim.mutants.topics import commands_carried_out_twice
from zablog.sim import run
from zablog.sim.faults import draw


def brokers(seed: int) -> list[Catch]:
    """Ensembles of three brokers, with clients; each seed draws its own mix of faults."""
    found = run(seed, draw(Random(f"options {seed}"), nodes=3, more=BrokerEnsemble.more_faults), world=BrokerEnsemble).found
    if not found:
        return []
    if found[0].guarantee in GUARANTEES:
        return [Catch(seed, found[0].guarantee, found[0].reason)]
    names = [name for part in found[0].reason.split("; ") if (name := part.partition(":")[0]) in ANOMALIES]
    return [Catch(seed, name, found[0].reason) for name in names or [LAW]]


@mutant("§7 idempotent retry", "duplicate", arena=brokers)
def resent_commands_carried_out_again(patch: pytest.MonkeyPatch) -> None:
    """what a producer sends again, in doubt, to this leader or the next, is carried out again"""
    commands_carried_out_twice(patch)


@mutant("offsets are given out at apply", "inconsistent_offset", arena=brokers)
def offsets_counted_by_the_process(patch: pytest.MonkeyPatch) -> None:
    """the answer names offsets that a process has counted for itself, not those of the state"""
    original, counted = State._produce, [0]

    def produce(self: State, zxid, command) -> Outcome:
        outcome = original(self, zxid, command)
        counted[0] += len(outcome.appends)
        if isinstance(outcome.answer, Appended):
            return outcome._replace(answer=Appended(zxid, tuple(counted[0] + step for step in range(len(outcome.appends)))))
        return outcome

    patch.setattr(State, "_produce", produce)


@mutant("§7 idempotent retry", "unanswered", arena=brokers)
def gaps_in_sequences_accepted(patch: pytest.MonkeyPatch) -> None:
    """a command that overtook a lost one is carried out, and the lost one is then taken for one of long ago"""
    original = Producers.allocate
    patch.setattr(Producers, "allocate", lambda self, zxid, gaps, limits: original(self, zxid, True, limits))


@mutant("§7 idempotent retry", "unanswered", arena=brokers)
def answers_forgotten_too_early(patch: pytest.MonkeyPatch) -> None:
    """of each producer only the last answer is kept, whatever it says that it still waits for"""
    original = Producers.take

    def take(self: Producers, zxid, turn, answer) -> None:
        original(self, zxid, turn._replace(lowest_unanswered=turn.sequence), answer)

    patch.setattr(Producers, "take", take)


@mutant("§7 reads", "stale_end", arena=brokers)
def local_reads_called_linearizable(patch: pytest.MonkeyPatch) -> None:
    """a linearizable read is answered by any node from what it has applied, and nobody is asked"""

    def ask_end(self: BrokerEnsemble, node, place) -> None:
        other = self.random.choice([node for node in self.nodes.values() if node.running])
        self.found(other, place, self.world.ends[place])

    patch.setattr(BrokerEnsemble, "ask_end", ask_end)


@mutant("snapshots hold the whole state", "replica_divergence", arena=brokers)
def snapshot_without_producers(patch: pytest.MonkeyPatch) -> None:
    """who starts from a snapshot, or takes one from its leader, knows no producers"""
    original = State.capture

    def capture(self: State) -> State:
        captured = original(self)
        captured.producers = Producers()
        return captured

    patch.setattr(State, "capture", capture)


@mutant("apply is a function of the log", "replica_divergence", arena=brokers)
def bounds_moved_by_the_clock_of_the_node(patch: pytest.MonkeyPatch) -> None:
    """how far records are let go of hangs on when a node applies the command"""
    original, clock = State._move, [0]

    def move(self: State, command):
        clock[0] += 1
        bounds = tuple(bound._replace(first=bound.first + clock[0] % 2) for bound in command.bounds)
        return original(self, type(command)(command.time, bounds))

    patch.setattr(State, "_move", move)
