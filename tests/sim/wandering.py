"""Random histories of an explorer: far beyond what can be exhausted, at a hundred thousand transitions a second."""

from random import Random
from typing import Final

from zablog.sim.explore import Bounds, Explorer, Option, State
from zablog.sim.happenings import Broadcast, Checkpoint, Die, Disconnect, Follow, Heartbeat, Lead, Quit

FAR: Final = Bounds(proposals=8, crashes=6, elections=12, losses=8, checkpoints=3)
WEIGHTS: Final = {Broadcast: 6.0, Lead: 3.0, Die: 1.0, Quit: 0.7, Checkpoint: 0.5, Disconnect: 0.5, Heartbeat: 0.1}
LENGTH: Final = 400


def wander(nodes: int, walks: int, seed: int) -> Explorer:
    """So many histories of at most LENGTH transitions. Raises what is wrong with the first that has something wrong."""
    random = Random(seed)
    explorer = Explorer(nodes, FAR, aged=True)
    for _ in range(walks):
        state = explorer.start()
        rare = random.choice((0.025, 0.08, 0.25))
        for _ in range(LENGTH):
            options = [*explorer.options(state)]
            costly = [option for option in options if option.left != state[-1]]
            if costly and random.random() < rare:
                options = costly
            else:
                options = [option for option in options if option.left == state[-1]] or options
            (option,) = random.choices(options, [weight(explorer, state, option) for option in options])
            state = explorer.after(state, option)
    return explorer


def weight(explorer: Explorer, state: State, option: Option) -> float:
    what = explorer.happenings.things[option.steps[0][1]]
    if isinstance(what, Follow):  # who follows one that does not lead goes round in circles
        return 1.0 if explorer.leading[state[what.leader - 1]] else 0.02
    return WEIGHTS.get(type(what), 1.0)
