"""
Streams that are open and silent, as an agent's are most of the time: their memory, and a call beside them.

On a fresh system, since memory that an earlier load left behind would hide theirs.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.speed.load import wrk
from bench.speed.load.callers import LoadFailed, entrance_to_json
from bench.speed.load.programs import LoadProgram
from bench.speed.processes import memory_kib
from bench.speed.system import Entrance
from bench.speed.workloads.workload import Effort, Figures, Metric, Subject

MEMORY = Metric("kib_per_stream", "KiB an idle stream", digits=1)
ALONE = Metric("p50_us_without", "p50 µs of a call without them")
BESIDE = Metric("p50_us_beside", "p50 µs of a call beside them")
SLOWDOWN = Metric("slowdown", "beside / without", digits=2)

_HOLDERS = 4  # programs; each comes from an address of its own, because ports are counted by address
_OPEN_LIMIT = 120.0  # seconds
_SETTLE = 1.0  # seconds until what the handshakes needed is given back


@dataclass(frozen=True)
class IdleStreams:
    """
    Connections that made one call and stay.

    Attributes:
        number: How many streams there are, the one that calls included: a link of ours carries 10,000.
        quick: See ``Workload``.
    """

    number: int
    quick: bool = False
    metrics: tuple[Metric, ...] = (MEMORY, ALONE, BESIDE, SLOWDOWN)

    @property
    def name(self) -> str:
        return f"idle-{self.number}"

    @property
    def title(self) -> str:
        return f"{self.number:,} idle streams"

    def measure(self, subject: Subject, effort: Effort) -> dict[str, float]:
        """See ``Workload``."""
        number = effort.streams(self.number) - 1
        with subject.fresh() as running:
            entrance = running.entrance
            alone = wrk.call(entrance, subject.folder, callers=1, seconds=effort.seconds)
            before = memory_kib(running.pids)
            with _held(entrance, number) as holders:
                time.sleep(_SETTLE)
                grown = memory_kib(running.pids) - before
                beside = wrk.call(entrance, subject.folder, callers=1, seconds=effort.seconds)
                _require_all(holders)
        figures = {ALONE.name: alone.p50, BESIDE.name: beside.p50, SLOWDOWN.name: beside.p50 / alone.p50}
        if running.pids:
            figures[MEMORY.name] = grown / number
        return figures

    def beyond(self, figures: Figures, direct: Figures) -> dict[str, float]:
        """See ``Workload``."""
        return {}


@contextmanager
def _held(entrance: Entrance, number: int) -> Iterator[list[LoadProgram]]:
    with ExitStack() as stack:
        holders = []
        for index in range(_HOLDERS):
            share = number // _HOLDERS + (index < number % _HOLDERS)
            task = {
                "entrance": entrance_to_json(entrance),
                "streams": share,
                "source": f"127.0.0.{index + 2}",
            }
            holders.append(stack.enter_context(LoadProgram("idle", task)))
        for holder in holders:
            holder.hear(_OPEN_LIMIT)
        yield holders


def _require_all(holders: list[LoadProgram]) -> None:
    for holder in holders:
        holder.tell({"count": True})
    lost = sum(int(holder.hear(10.0)["lost"]) for holder in holders)
    if lost:
        raise LoadFailed(f"{lost} idle streams were ended")
