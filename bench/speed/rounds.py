"""
Interleaved rounds: in each, every system gets every load once, and no system is always the first.

A machine's speed drifts over minutes, so systems are compared within a round and never by blocks of time;
the figures are medians over the rounds. Systems stay up for the whole run: an idle one costs nothing. One
that failed a load is started again for the next, and the failure is kept: a system with a failed round has no
figure.
"""

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import mkdtemp

from bench.report import say
from bench.speed.system import Running, System
from bench.speed.upstream import Upstream
from bench.speed.workloads.workload import Effort, Workload

DIRECT = "direct"

Medians = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Failure:
    """A load that a system did not carry."""

    workload: str
    system: str
    round: int
    reason: str


@dataclass
class Samples:
    """
    What was measured.

    Attributes:
        figures: By workload, system and metric: one for each round.
        failures: In the order in which they happened.
    """

    figures: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def add(self, workload: str, system: str, figures: dict[str, float]) -> None:
        """Keep what one round gave."""
        kept = self.figures.setdefault(workload, {}).setdefault(system, {})
        for metric, figure in figures.items():
            kept.setdefault(metric, []).append(figure)

    def failed(self, workload: str, system: str) -> bool:
        """Tell whether any round failed."""
        return any((each.workload, each.system) == (workload, system) for each in self.failures)

    def medians(self) -> Medians:
        """Return the medians of what never failed: ``{workload: {system: {metric: median}}}``."""
        return {
            workload: {
                system: {metric: median(figures) for metric, figures in metrics.items()}
                for system, metrics in systems.items()
                if not self.failed(workload, system)
            }
            for workload, systems in self.figures.items()
        }


class Contestant:
    """
    A system in this run; see ``workloads.workload.Subject``.

    Args:
        system: What it runs.
        upstream: What it carries callers to.
        folder: A folder of its own.
    """

    def __init__(self, system: System, upstream: Upstream, folder: Path) -> None:
        self.name = system.name
        self.folder = folder
        self._system = system
        self._upstream = upstream
        self._stack = ExitStack()
        self._running: Running | None = None
        folder.mkdir()

    def running(self) -> Running:
        """Return the instance that stays up, started when it is first wanted."""
        if self._running is None:
            self._running = self._stack.enter_context(self.fresh())
        return self._running

    def fresh(self, *, link_through: Callable[[int], int] | None = None) -> AbstractContextManager[Running]:
        """Start another instance, in a folder of its own."""
        folder = Path(mkdtemp(dir=self.folder))
        return self._system.start(folder, self._upstream, link_through=link_through)

    def stop(self) -> None:
        """End the instance that stays up; ``running`` starts a new one."""
        self._running = None
        self._stack.close()


@contextmanager
def contestants(systems: Sequence[System], upstream: Upstream, folder: Path) -> Iterator[list[Contestant]]:
    """Make the contestants of a run and end all of them with the context."""
    with ExitStack() as stack:
        made = []
        for system in systems:
            contestant = Contestant(system, upstream, folder / system.name.replace(" ", ""))
            stack.callback(contestant.stop)
            made.append(contestant)
        yield made


def run_rounds(
    subjects: Sequence[Contestant],
    workloads: Sequence[Workload],
    *,
    rounds: int,
    effort: Effort,
    in_every_round: Callable[[str, str], bool],
) -> Samples:
    """
    Run them all.

    Args:
        subjects: In the order of the first round; the next begins with the second, and so on.
        workloads: In this order in every round.
        rounds: How many.
        effort: Of each load.
        in_every_round: Tells by workload and system what is measured in all rounds; the rest is in the first.
    """
    samples = Samples()
    for number in range(rounds):
        first = number % len(subjects)
        order = [*subjects[first:], *subjects[:first]]
        for workload in workloads:
            due = [each for each in order if number == 0 or in_every_round(workload.name, each.name)]
            if due:
                say(f"round {number + 1} of {rounds}, {workload.name}")
                _run_one(due, workload, number, effort, samples)
    return samples


def _run_one(
    order: Sequence[Contestant], workload: Workload, number: int, effort: Effort, samples: Samples
) -> None:
    found: dict[str, dict[str, float]] = {}
    for subject in order:
        try:
            found[subject.name] = workload.measure(subject, effort)
        # Whatever a system or a load can raise is a failed round of this system, kept with its reason, shown
        # in the table and judged: an hour of rounds does not end because one peer fell over.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".strip()
            samples.failures.append(Failure(workload.name, subject.name, number + 1, reason))
            say(f"FAILED {workload.name} on {subject.name}: {reason}")
            traceback.print_exc(file=sys.stderr, limit=-3)
            subject.stop()
    for name, figures in found.items():
        if DIRECT in found and name != DIRECT:
            figures.update(workload.beyond(figures, found[DIRECT]))
        samples.add(workload.name, name, figures)
        say(f"  {name:20} " + "  ".join(f"{metric} {figure:,.6g}" for metric, figure in figures.items()))
