"""
Which workers of a gateway run, and whether the gateway is leaving: what all of them have to know.

It is a few bytes in memory that the first process shares with its workers. Only the first process writes,
since it is the one that is told when a worker ends; the others look when they need it.
"""

import mmap
from typing import Final

_NO, _YES = 0, 1


class Roster:
    """
    The list of a gateway's workers; at first none of them runs.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self._count: Final = count
        self._bytes: Final = mmap.mmap(-1, count + 1)  # one for each worker; whether the gateway is leaving

    def note(self, index: int, *, runs: bool) -> None:
        """Take note that a worker was started, or has ended."""
        self._bytes[index] = _YES if runs else _NO

    def note_leaving(self) -> None:
        """Take note that the gateway is about to end: no worker is started any more."""
        self._bytes[self._count] = _YES

    def runs(self, index: int) -> bool:
        """Say whether a worker runs, be it well or not."""
        return self._bytes[index] == _YES

    @property
    def is_leaving(self) -> bool:
        """Whether the gateway is about to end."""
        return self._bytes[self._count] == _YES

    def others_run(self, index: int) -> bool:
        """Say whether any worker runs, beside one."""
        return any(self.runs(other) for other in range(self._count) if other != index)
