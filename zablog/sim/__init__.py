"""An ensemble in one thread, from one seed, in virtual time: the shipped core, gate, codec and storage over simulated disks and wires.

`run(seed)` is one run; `run_many(seeds)` many of them. No trio.
"""

from zablog.sim.faults import Options
from zablog.sim.simulate import Report, run, run_many

__all__ = ["Options", "Report", "run", "run_many"]
