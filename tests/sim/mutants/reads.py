"""Broken linearizable reads (zab-protocol, section 7)."""

from collections.abc import Callable

import pytest

from tests.sim.mutants.mutant import Catch, mutant, simulated
from zablog.core import reads
from zablog.core.effects import Effects, ReadReady
from zablog.core.state import Leading, State
from zablog.sim import Options

SCHISM = Options(
    nodes=3,
    proposals_per_second=150,
    faults={"partition": 1.0, "one_way": 1.0, "slow_clock": 3.0},
    reads_per_second=400.0,
)


def schism(seed: int) -> list[Catch]:
    """For leaders that do not know yet that another leads: cut off, and their clocks stand nearly still; many reads."""
    return simulated(seed, SCHISM)


@mutant("§7 reads", "LinearizableReads", slow=True, arena=schism)
def leader_reads_alone(patch: pytest.MonkeyPatch) -> None:
    """a leader answers from its watermark and asks nobody (ZOOKEEPER-1675)"""

    def on_read_asked(state: State, leading: Leading, out: Effects) -> None:
        out.emit(ReadReady(state.watermark))

    patch.setattr(reads, "on_read_asked", on_read_asked)


def confirmed_if(patch: pytest.MonkeyPatch, enough: Callable[[State, Leading, int], bool]) -> None:
    """A round of reads ends by another rule; `enough` is given the nonce that a quorum should echo."""

    def confirm(state: State, leading: Leading, out: Effects) -> None:
        if leading.reading is not None:
            nonce, watermark = leading.reading
            if enough(state, leading, nonce):
                leading.reading = None
                out.emit(ReadReady(watermark))

    patch.setattr(reads, "confirm", confirm)


@mutant("§7 reads", "LinearizableReads", slow=True, arena=schism)
def earlier_echo_confirms_a_read(patch: pytest.MonkeyPatch) -> None:
    """a quorum that has echoed a ping lately, though before the read was asked, is enough: a lease by the leader's own clock"""

    def enough(state: State, leading: Leading, nonce: int) -> bool:
        fresh = {peer for peer, learner in leading.learners.items() if state.now - learner.echoed <= state.timing.echo}
        return state.configuration.is_quorum(fresh | {state.id})

    confirmed_if(patch, enough)


@mutant("§7 reads", "LinearizableReads", slow=True, arena=schism)
def one_echo_less_confirms_a_read(patch: pytest.MonkeyPatch) -> None:
    """a quorum less one is asked"""

    def enough(state: State, leading: Leading, nonce: int) -> bool:
        echoed = [peer for peer, learner in leading.learners.items() if learner.nonce >= nonce]
        return len(echoed) + 2 > len(state.configuration.voters) / 2

    confirmed_if(patch, enough)
