"""
Small MCP calls over kept connections: the rate, the latency, and the CPU time that one call costs the tunnel.
"""

from dataclasses import dataclass

from bench.speed.load import wrk
from bench.speed.processes import cpu_seconds
from bench.speed.workloads.workload import Effort, Figures, Metric, Subject

RATE = Metric("calls_per_s", "calls/s", more_is_better=True)
P50 = Metric("p50_us", "p50 µs")
P99 = Metric("p99_us", "p99 µs")
CPU = Metric("cpu_us_per_call", "tunnel CPU µs a call", digits=1)
ADDED = Metric("added_p50_us", "p50 over direct, µs")


@dataclass(frozen=True)
class SmallCalls:
    """
    Callers that each make one small call after the other.

    Attributes:
        callers: How many.
        quick: See ``Workload``.
    """

    callers: int
    quick: bool = False

    @property
    def name(self) -> str:
        return f"small-{self.callers}"

    @property
    def title(self) -> str:
        return f"Small calls, {self.callers} caller{'s' if self.callers > 1 else ''}"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (RATE, P50, P99, CPU, *((ADDED,) if self.callers == 1 else ()))

    def measure(self, subject: Subject, effort: Effort) -> dict[str, float]:
        """See ``Workload``."""
        running = subject.running()
        before = cpu_seconds(running.pids)
        calls = wrk.call(running.entrance, subject.folder, callers=self.callers, seconds=effort.seconds)
        used = cpu_seconds(running.pids) - before
        figures = {RATE.name: calls.rate, P50.name: calls.p50, P99.name: calls.p99}
        if running.pids:
            figures[CPU.name] = used / calls.number * 1e6
        return figures

    def beyond(self, figures: Figures, direct: Figures) -> dict[str, float]:
        """See ``Workload``."""
        if self.callers > 1:
            return {}
        return {ADDED.name: figures[P50.name] - direct[P50.name]}
