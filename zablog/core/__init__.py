"""The protocol, and nothing else: `effects = peer.step(event)`.

No clock, dice, disk, network or async module is imported in this room. What comes in is an event, what goes out is a list of
effects; `zablog.node` performs them on trio and real files, `zablog.sim` in virtual time.
"""
