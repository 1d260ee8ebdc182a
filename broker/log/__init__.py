"""Partitions on disk: segments of stored batches, found by offset, zxid or time. Blocking, on the `Disk` port; no trio.

- `stored`: a batch with our prefix, as it lies in a segment and as a fetch answers it. Pure; clients read with it, too.
- `index`: where the batches of one segment are. Pure.
- `partition`: the segments of one partition.
- `log`: all of them, and what the outcomes of commands do to them.
"""

from broker.log.log import Log, scan
from broker.log.partition import SEGMENT_BYTES_MAX, Partition
from broker.log.stored import StoredBatch, split

__all__ = ["SEGMENT_BYTES_MAX", "Log", "Partition", "StoredBatch", "scan", "split"]
