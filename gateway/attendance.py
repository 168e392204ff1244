"""
How many connections each caller has open.

A link has a number of streams for everybody. One caller that opens and never closes, an agent in a loop or a
stolen bundle, would take them all; so each may have a part of them. Callers are counted by principal, which
the gateway has proven itself: an address is only what the relay claims, and many callers may share one.

Where a gateway has several workers, a caller's connections are spread over them, and the limit is on all. The
workers keep one table in memory that they share: a row for each worker, which only that one writes while it
lives, and in each row a count for each of many hashes of callers. A caller's count is the sum of a column.
Nobody waits for anybody; two workers that let somebody in at the same moment may pass the limit by one. Two
callers whose hash is the same count as one: that is rare enough, and nobody can bring it about, since the
hash has a key that only the gateway knows.
"""

import mmap
from array import array
from collections import Counter
from hashlib import blake2b
from typing import Final

from sallyport.tunnel.limits import limit

COLUMNS: Final = limit(
    65_536, "number",
    "hashes by which the workers of a gateway count callers' connections together: of 100 callers who are "
    "all near their limit, two share a count with a probability of 7 %",
)  # fmt: skip

_EMPTY_ROW: Final = array("I", [0]) * COLUMNS


def shared_table(workers: int) -> "memoryview[int]":
    """Make the table, empty, in memory that processes share which are forked from this one."""
    return memoryview(mmap.mmap(-1, workers * _EMPTY_ROW.itemsize * COLUMNS)).cast("I")


def clear_row(table: "memoryview[int]", row: int) -> None:
    """Forget what a worker has counted that has ended: it has taken its callers with it."""
    table[row * COLUMNS : (row + 1) * COLUMNS] = _EMPTY_ROW


class SharedCounts:
    """
    One worker's view of what all of them count.

    Args:
        table: ``COLUMNS`` counts for each worker, see :func:`shared_table`.
        row: Which worker this is.
        key: Random, the same for all workers: for the hash.
    """

    def __init__(self, table: "memoryview[int]", row: int, key: bytes) -> None:
        self._table = table
        self._own = row * COLUMNS
        self._key = key

    def of(self, principal: str) -> int:
        """Return how many connections a caller has open at all workers."""
        return sum(self._table[self._column(principal) :: COLUMNS])

    def add(self, principal: str, change: int) -> None:
        """Change what this worker counts for a caller."""
        self._table[self._own + self._column(principal)] += change

    def _column(self, principal: str) -> int:
        digest = blake2b(principal.encode(), digest_size=2, key=self._key).digest()
        return int.from_bytes(digest, "big")


class Attendance:
    """
    Counts callers' connections.

    Args:
        most: How many one caller may have open at once.
        shared: Where all workers of the gateway count; None when there is only one.
    """

    def __init__(self, most: int, shared: SharedCounts | None = None) -> None:
        self.most = most
        self._open: Counter[str] = Counter()
        self._shared = shared

    def arrive(self, principal: str) -> bool:
        """Count a connection, unless that caller has too many: then False, and ``leave`` is not due."""
        if (self._shared or self).of(principal) >= self.most:
            return False
        self._open[principal] += 1
        if self._shared is not None:
            self._shared.add(principal, 1)
        return True

    def leave(self, principal: str) -> None:
        """Take note that a counted connection has ended; nothing is kept of a caller who has none."""
        self._open[principal] -= 1
        if not self._open[principal]:
            del self._open[principal]
        if self._shared is not None:
            self._shared.add(principal, -1)

    def of(self, principal: str) -> int:
        """Return how many connections a caller has open at this worker."""
        return self._open.get(principal, 0)

    def __len__(self) -> int:
        """Return how many callers have a connection."""
        return len(self._open)
