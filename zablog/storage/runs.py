"""Parts of runs of entries, each with the running digest at its own end. Pure."""

from zablog.core.trail import Entries, Mark, extend_digest
from zablog.core.zxid import Zxid


def part(entries: Entries, prev: Mark, last: Zxid) -> Entries:
    """The beginning of a run, through `last`."""
    payloads = entries.payloads[: last.counter - entries.first.counter + 1]
    return Entries(entries.first, entries.prev, payloads, extend_digest(prev.digest, prev.zxid, entries.first, payloads))


def slice_run(entries: Entries, prev: Mark, after: Zxid, upto: Zxid, bytes_max: int) -> Entries:
    """The part of a run above `after` and not above `upto`, at least one entry, then as many as fit `bytes_max`."""
    last = entries.last
    if after < entries.first and upto >= last and entries.size <= bytes_max:
        return entries
    begin = after.counter - entries.first.counter + 1 if after >= entries.first else 0
    end = len(entries.payloads) if upto >= last else upto.counter - entries.first.counter + 1
    size, stop = 0, begin
    while stop < end and (stop == begin or size + len(entries.payloads[stop]) <= bytes_max):
        size += len(entries.payloads[stop])
        stop += 1
    digest = entries.digest
    if stop < len(entries.payloads):
        digest = extend_digest(prev.digest, prev.zxid, entries.first, entries.payloads[:stop])
    first = entries.first.after(begin)
    return Entries(first, entries.prev if begin == 0 else first.after(-1), entries.payloads[begin:stop], digest)
