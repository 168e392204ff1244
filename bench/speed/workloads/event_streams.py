"""
A thousand event streams with ten events a second each: what arrives, how late, and what it costs.
"""

from dataclasses import dataclass

from bench.speed.load.callers import entrance_to_json
from bench.speed.load.programs import LoadProgram
from bench.speed.processes import cpu_seconds
from bench.speed.workloads.workload import Effort, Figures, Metric, Subject

RATE = Metric("events_per_s", "events/s", more_is_better=True)
P50 = Metric("delay_p50_ms", "delay p50 ms", digits=2)
P99 = Metric("delay_p99_ms", "delay p99 ms", digits=2)
CPU = Metric("cpu_us_per_event", "tunnel CPU µs an event", digits=1)

_STREAMS = 1000
_OPEN_LIMIT = 60.0  # seconds


@dataclass(frozen=True)
class EventStreams:
    """Listeners that only listen."""

    name: str = "events"
    title: str = "SSE, 1,000 streams × 10 events/s"
    metrics: tuple[Metric, ...] = (RATE, P50, P99, CPU)
    quick: bool = False

    def measure(self, subject: Subject, effort: Effort) -> dict[str, float]:
        """See ``Workload``."""
        running = subject.running()
        task = {
            "entrance": entrance_to_json(running.entrance),
            "streams": effort.streams(_STREAMS),
            "seconds": effort.seconds,
        }
        with LoadProgram("listeners", task) as listeners:
            listeners.hear(_OPEN_LIMIT)  # All are open.
            listeners.hear(_OPEN_LIMIT)  # What came until then is read.
            before = cpu_seconds(running.pids)
            listeners.tell({"go": True})
            heard = listeners.hear(effort.seconds + 20.0)
            used = cpu_seconds(running.pids) - before
        figures = {name: float(heard[name]) for name in (RATE.name, P50.name, P99.name)}
        if running.pids:
            figures[CPU.name] = used / int(heard["events"]) * 1e6
        return figures

    def beyond(self, figures: Figures, direct: Figures) -> dict[str, float]:
        """See ``Workload``."""
        return {}
