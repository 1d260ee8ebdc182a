"""An ensemble in one thread, from one seed, in virtual time: the shipped core, gate, codec and storage over simulated disks and wires.

`run(seed)` is one run; `run_many(seeds)` many of them; `shrink(failure)` makes a failing one short. No trio.
"""

from zablog.sim.faults import KNOWN, OUTSIDE, SURVIVABLE, Options
from zablog.sim.report import Failure, Report
from zablog.sim.shrink import shrink
from zablog.sim.simulate import run, run_many

__all__ = ["KNOWN", "OUTSIDE", "SURVIVABLE", "Failure", "Options", "Report", "run", "run_many", "shrink"]
