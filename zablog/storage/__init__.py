"""The disk behind a small port: write-ahead log, epochs, manifest. Blocking; no trio, no threads of its own.

`Storage` is what the node drives from its writer thread; `History` is what everyone reads; `files.FileDisk` is the real disk, and its twin
lives in `zablog.sim.disk`.
"""
