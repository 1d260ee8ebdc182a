"""The explorer: it exhausts what is small, finds every broken core that fits into its bounds, and forgets nothing about a node."""

from random import Random

import pytest

from tests.pace import few
from tests.sim.mutants.catalogue import CATALOGUE
from tests.sim.mutants.histories import truncation_cuts_too_much
from tests.sim.wandering import wander
from zablog.sim.explore import Bounds, Exploration, Explorer
from zablog.sim.freezing import copied
from zablog.sim.guarantees import Violation

SMALL = Bounds(proposals=1, crashes=1, elections=2, losses=1)
CAUGHT = {
    "epoch_named_before_it_is_promised": "DurableBeforeAck",
    "promise_said_before_it_is_saved": "DurableBeforeAck",
    "one_promise_counts_twice": "OneCandidate",
    "entries_acked_before_fsync": "DurableBeforeAck",
    "entries_acked_before_newleader": "Legal",
    "acks_counted_before_newleader": "CommitQuorum",
    "leader_acks_itself_before_fsync": "CommitQuorum",
    "commit_on_any_ack": "CommitQuorum",
    "quorum_less_one": "CommitQuorum",
    "gate_opens_one_write_early": "DurableBeforeAck",
    "gate_survives_the_role": "Legal",
    "entries_delivered_as_they_come": "CommitQuorum",
    "newleader_acked_before_fsync": "DurableBeforeAck",
    "leader_binds_itself_at_once": "CommitQuorum",
    "history_fixed_before_a_quorum_promised": "Diverged",
    "pulled_history_fixed_before_it_is_durable": "DurableBeforeAck",
    "history_fixed_before_the_pull_ends": "Legal",
}
"""By two nodes within SMALL, and who objects in the shortest history."""
CAUGHT_BY_THREE = {
    "uptodate_names_the_last_entry": ("CommitQuorum", Bounds(1, 0, 1, 0)),
    "gate_releases_the_last_first": ("Legal", Bounds(1, 0, 1, 0)),
    "snapshot_acknowledged_before_it_is_installed": ("DurableBeforeAck", Bounds(1, 0, 1, 0, checkpoints=1)),
    "epoch_named_without_a_quorum": ("SingleLeader", Bounds(0, 0, 2, 1)),
    "promise_below_a_promise": ("NoStaleAck", Bounds(0, 0, 2, 2)),
    "no_better_history": ("LeaderComplete", Bounds(1, 0, 2, 1)),
    "tail_kept_in_silence": ("ProcessConsistency", Bounds(1, 0, 2, 1)),
}
"""Those that need a minority, or a third that comes late."""
READING = Bounds(proposals=1, crashes=0, elections=2, losses=1, reads=1)
CAUGHT_BY_READERS = ("leader_reads_alone", "earlier_echo_confirms_a_read", "one_echo_less_confirms_a_read")


def explored(mutant: str, nodes: int, bounds: Bounds, budget: int, aged: bool = False) -> Exploration:
    (prey,) = [prey for prey in CATALOGUE if prey.name == mutant]
    with pytest.MonkeyPatch.context() as patch:
        prey.broken(patch)
        return Explorer(nodes, bounds, aged).search(budget)


def test_two_nodes_are_exhausted_within_small_bounds() -> None:
    found = Explorer(2, SMALL).search(50_000)

    assert found.complete and found.guarantee is None, found.trace
    assert found.counts["established"] > 0 and found.counts["deliveries"] > 0


def test_a_budget_that_is_too_small_is_owned_up_to() -> None:
    found = Explorer(2, SMALL).search(1_000)

    assert not found.complete
    assert 1_000 <= found.states < 1_100


@pytest.mark.parametrize("mutant", few(CAUGHT, fast=4))
def test_two_nodes_find_a_broken_core(mutant: str) -> None:
    found = explored(mutant, 2, SMALL, 50_000)

    assert found.guarantee == CAUGHT[mutant]
    assert found.trace[-1].startswith(f"!! {CAUGHT[mutant]}: ")


@pytest.mark.slow
@pytest.mark.parametrize("mutant", CAUGHT_BY_THREE)
def test_three_nodes_find_a_broken_core(mutant: str) -> None:
    guarantee, bounds = CAUGHT_BY_THREE[mutant]

    assert explored(mutant, 3, bounds, 600_000, aged=True).guarantee == guarantee


@pytest.mark.slow
@pytest.mark.parametrize("mutant", CAUGHT_BY_READERS)
def test_three_nodes_find_a_read_that_is_stale(mutant: str) -> None:
    """A leader that others have left is asked before it hears of that, and they have committed something since."""
    found = explored(mutant, 3, READING, 1_500_000, aged=True)

    assert found.guarantee == "LinearizableReads"
    assert len(found.trace) < 60


def test_two_nodes_are_exhausted_with_a_read_under_way() -> None:
    found = Explorer(2, Bounds(proposals=1, crashes=1, elections=1, losses=0, reads=1)).search(50_000)

    assert found.complete and found.guarantee is None, found.trace
    assert found.counts["answers"] > 0


@pytest.mark.slow
def test_two_nodes_are_exhausted() -> None:
    found = Explorer(2, Bounds()).search(2_000_000)

    assert found.complete and found.guarantee is None, found.trace
    assert found.states > 900_000, "the bounds reach as far as they did"


def test_three_nodes_are_exhausted_with_a_snapshot_on_its_way() -> None:
    """What two nodes can never do: a quorum goes on without the third, and lets go of the log that it lacks."""
    found = Explorer(3, Bounds(proposals=1, crashes=0, elections=1, losses=0, checkpoints=1), aged=True).search(50_000)

    assert found.complete and found.guarantee is None, found.trace
    assert found.counts["snapshots"] > 0


@pytest.mark.slow
def test_random_histories_find_what_lies_beyond_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    truncation_cuts_too_much(monkeypatch)

    with pytest.raises(Violation, match="Diverged"):
        wander(3, walks=500, seed=7)


def test_random_histories_of_a_core_that_is_not_broken_break_nothing() -> None:
    explorer = wander(3, walks=8, seed=1)

    assert explorer.ghosts.known and max(map(len, (ghosts[0] for ghosts in explorer.ghosts.things))) > 2, "entries were committed"


def test_the_shortest_history_is_told_in_the_words_of_the_trace() -> None:
    trace = explored("commit_on_any_ack", 2, SMALL, 50_000).trace

    assert trace[0] == "1 starts with acceptedEpoch 0, currentEpoch 0, last 0.0"
    assert "1 is named to itself" in trace
    assert "1 -> 2  NEWLEADER(1; history through 0.0)" in trace
    assert trace[-1] == "!! CommitQuorum: 1.1 is committed in epoch 1, and on the disks of [1] only"


def test_what_is_filed_under_a_value_keeps_it() -> None:
    """Steps are made on copies: nothing that can change is shared with what they are copies of."""
    explorer = Explorer(3, SMALL)
    explorer.search(5_000)

    for value, number in explorer.nodes.known.items():
        puppet = explorer.nodes.things[number]
        assert (puppet.id, puppet.value) == value


@pytest.mark.parametrize("nodes", few([2, 3]))
def test_equal_values_behave_alike(nodes: int) -> None:
    """A node that really goes through everything has at each moment the value of the one that was looked up."""
    random = Random(nodes)
    explorer = Explorer(nodes, Bounds(9, 3, 9, 9, 3), aged=True)
    for _ in range(30):
        state = explorer.start()
        living = [copied(explorer.nodes.things[number]) for number in state[:nodes]]
        for _ in range(80):
            option = random.choice([*explorer.options(state)])
            state = explorer.after(state, option)
            for index, number in option.steps:
                living[index].happen(explorer.happenings.things[number])
                assert living[index].value == explorer.nodes.things[state[index]].value
