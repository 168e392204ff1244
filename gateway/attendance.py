"""
How many connections each caller has open.

A link has a number of streams for everybody. One caller that opens and never closes, an agent in a loop or a
stolen bundle, would take them all; so each may have a part of them. Callers are counted by principal, which
the gateway has proven itself: an address is only what the relay claims, and many callers may share one.

Where a gateway has several workers, a caller's connections are spread over them, and the limit is on all. The
workers keep one table in memory that they share: a row for each worker, which only that one writes, and in
each row a count for each of many hashes of callers. A caller's count is the sum of a column. Nobody waits for
anybody; two workers that let somebody in at the same moment may pass the limit by one. Two callers whose hash
is the same count as one: that is rare enough, and nobody can bring it about, since the hash has a key that
only the gateway knows.
"""

import mmap
import struct
from collections import Counter
from hashlib import blake2b
from typing import Final

from sallyport.tunnel.limits import limit

COLUMNS: Final = limit(
    65_536, "number",
    "hashes by which the workers of a gateway count callers' connections together: of 100 callers who are "
    "all near their limit, two share a count with a probability of 7 %",
)  # fmt: skip


def shared_table(workers: int) -> "memoryview[int]":
    """Make the table, empty, in memory that processes share which are forked from this one."""
    return memoryview(mmap.mmap(-1, workers * COLUMNS * struct.calcsize("I"))).cast("I")


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
        # A worker that was here before has taken its callers with it.
        for column in range(COLUMNS):
            if table[self._own + column]:
                table[self._own + column] = 0

    def column(self, principal: str) -> int:
        """Return where a caller is counted."""
        digest = blake2b(principal.encode(), digest_size=2, key=self._key).digest()
        return int.from_bytes(digest, "big")

    def total(self, column: int) -> int:
        """Return what all workers count there."""
        return sum(self._table[column::COLUMNS])

    def add(self, column: int, change: int) -> None:
        """Change this worker's own count."""
        self._table[self._own + column] += change


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
        shared = self._shared
        if shared is None:
            if self.of(principal) >= self.most:
                return False
        else:
            column = shared.column(principal)
            if shared.total(column) >= self.most:
                return False
            shared.add(column, 1)
        self._open[principal] += 1
        return True

    def leave(self, principal: str) -> None:
        """Take note that a counted connection has ended; nothing is kept of a caller who has none."""
        if self._shared is not None:
            self._shared.add(self._shared.column(principal), -1)
        self._open[principal] -= 1
        if not self._open[principal]:
            del self._open[principal]

    def of(self, principal: str) -> int:
        """Return how many connections a caller has open at this worker."""
        return self._open.get(principal, 0)

    def __len__(self) -> int:
        """Return how many callers have a connection."""
        return len(self._open)
