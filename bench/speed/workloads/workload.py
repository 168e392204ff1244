"""
What a workload is: a load on one system, and the figures that it yields.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.speed.system import Running

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Effort:
    """
    How hard a round tries.

    Attributes:
        seconds: Of each load that runs for a time; whole ones.
        transfers: Of 64 MiB, in each direction.
        scale: Of the numbers of streams, 1 for those of the table.
    """

    seconds: int
    transfers: int
    scale: float = 1.0

    def streams(self, number: int) -> int:
        """Return how many streams to open where the table says ``number``."""
        return max(1, round(number * self.scale))


FULL = Effort(seconds=3, transfers=3)
QUICK = Effort(seconds=1, transfers=1, scale=0.2)


class Subject(Protocol):
    """
    A system under test, as a workload sees it.

    Attributes:
        name: Of the system.
        folder: For what the load needs to write.
    """

    name: str
    folder: Path

    def running(self) -> Running:
        """Return the instance that stays up for the whole run."""

    def fresh(self, *, link_through: Callable[[int], int] | None = None) -> AbstractContextManager[Running]:
        """Start an instance that nobody has used, ended with the context; see ``System.start``."""


@dataclass(frozen=True)
class Metric:
    """
    One figure of a workload.

    Attributes:
        name: As in ``latest.json``.
        title: For people, with the unit.
        more_is_better: Which of two figures is the better one.
        digits: After the point, in the table.
    """

    name: str
    title: str
    more_is_better: bool = False
    digits: int = 0


class Workload(Protocol):
    """One block of the table."""

    @property
    def name(self) -> str:
        """As in ``latest.json`` and ``--only``."""

    @property
    def title(self) -> str:
        """For people."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What ``measure`` and ``beyond`` yield, in the table's order."""

    @property
    def quick(self) -> bool:
        """Whether it is part of ``--quick``."""

    def measure(self, subject: Subject, effort: Effort) -> dict[str, float]:
        """
        Put the load on a system once.

        Raises:
            LoadFailed: An answer was wrong or missing; the round counts as failed for this system.
        """

    def beyond(self, figures: Figures, direct: Figures) -> dict[str, float]:
        """Return what only a comparison with the direct path of the same round tells."""
