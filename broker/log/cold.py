"""What would have to be waited for: a consumer that reads what is long written must not make the node's event loop wait for its disk."""

from broker.log.index import Index
from broker.log.kept import rows_of
from zablog.storage.disk import Disk


class Cold(Exception):
    """These bytes of a segment are not in memory, or its rows have not been read.

    Whoever may wait calls `warm` in a thread, hands what it gives to `take`, and asks again. It may be cold again by then.
    """

    def __init__(self, disk: Disk, segment: str, index: Index, begin: int = 0, end: int = 0) -> None:
        super().__init__(segment, begin, end)
        self.place = (segment, begin, end)
        self.bytes = end - begin or index.size
        """Whoever asked would have been given no more of this segment."""
        self._disk = disk
        self._index = index

    def warm(self) -> Index | None:
        """Blocking. Raises Corrupt, OSError."""
        segment, begin, end = self.place
        if begin == end:
            return rows_of(self._disk, segment, self._index) if self._index.unread else None
        self._disk.warm(segment, begin, end)
        return None

    def take(self, rows: Index | None) -> None:
        """Event loop: what `warm` gave."""
        if rows is not None and self._index.unread:
            self._index.adopt(rows)
