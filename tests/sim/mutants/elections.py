"""Broken elections: none of them loses anything, all of them may stop the ensemble for good (section 3)."""

import pytest

from tests.sim.mutants.mutant import mutant, squall, storm
from zablog.core import election
from zablog.core.state import Timing
from zablog.sim import ensemble


@mutant("§3 late joiner", "Liveness", arena=storm)
def joiner_waits_for_its_own_round(patch: pytest.MonkeyPatch) -> None:
    """a joiner follows an established leader only if their rounds agree (ZOOKEEPER-1732, 1805, 1818)"""
    original = election.settle

    def settle(state, looking, message, out):
        if message.round == state.round:
            original(state, looking, message, out)

    patch.setattr(election, "settle", settle)


@mutant("§3 higher promise", "Liveness", slow=True, arena=squall)
def higher_promise_is_refused_for_ever(patch: pytest.MonkeyPatch) -> None:
    """a leader makes no room for an epoch above the one a voter has promised (ZOOKEEPER-335)"""
    patch.setattr(ensemble, "Timing", lambda: Timing(grace=1 << 60))


@mutant("§3 defecting voter", "Liveness", arena=storm)
def prospective_leader_waits_for_ever(patch: pytest.MonkeyPatch) -> None:
    """a prospective leader whose voters went elsewhere never gives up (ZOOKEEPER-3109)"""
    patch.setattr(ensemble, "Timing", lambda: Timing(discovery=1 << 60, defect=1 << 60))
