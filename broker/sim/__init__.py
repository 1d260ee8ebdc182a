"""The broker in the ensemble's simulator: its real state machine and log behind the real core, storage and gate, on every simulated node.

`run_many(seeds, world=BrokerEnsemble)` of `zablog.sim` runs it, and so does `zablog simulate --broker`. No trio.
"""

from broker.sim.ensemble import BrokerEnsemble

__all__ = ["BrokerEnsemble"]
