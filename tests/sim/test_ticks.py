"""Laws and guarantees are not asked after a tick that had no effect, unless the peer leads: nothing that they speak of can have changed."""

from collections import Counter
from typing import Any

import pytest

from zablog.core.events import Tick
from zablog.core.peer import Peer
from zablog.core.state import Leading, Looking, State
from zablog.sim import run
from zablog.sim.freezing import copied

SEEDS = range(12)


def all_but_time(state: State) -> dict[str, Any]:
    """Of an election no law says anything but that there is one."""
    known = {name: copied(getattr(state, name)) for name in State.__slots__ if name not in ("now", "jitter")}
    return {**known, "role": Looking} if isinstance(state.role, Looking) else known


@pytest.mark.slow
def test_a_tick_without_effects_changes_nothing_but_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: Counter[str] = Counter()
    step = Peer.step

    def watched(self: Peer, event: object) -> object:
        if not isinstance(event, Tick) or isinstance(self.state.role, Leading):
            return step(self, event)
        before, role = all_but_time(self.state), type(self.state.role).__name__
        effects = step(self, event)
        if not effects:
            ticks[role] += 1
            assert all_but_time(self.state) == before
        return effects

    monkeypatch.setattr(Peer, "step", watched)

    for seed in SEEDS:
        assert run(seed).failures == []
    assert min(ticks[role] for role in ("Draining", "Looking", "Following")) > 0, ticks
