"""
A link with a round trip of 200 ms, with and without loss: small calls, and a download for some seconds.

The delay is between the tunnel's two halves, where the long way is; the caller is near its relay. What
``slow_link`` models and what it does not is said there.
"""

from contextlib import ExitStack
from dataclasses import dataclass

from bench.speed.load import wrk
from bench.speed.load.curl import download
from bench.speed.load.programs import LoadProgram
from bench.speed.workloads.small_calls import P50, P99
from bench.speed.workloads.workload import Effort, Figures, Metric, Subject

RATE = Metric("mb_per_s", "MB/s", more_is_better=True, digits=1)

ROUND_TRIP = 0.2  # seconds
LINK_RATE = 50e6  # bytes a second, each way and for each connection
LOSS = 0.001  # of segments
_CALLERS = 8
_START_LIMIT = 20.0  # seconds


@dataclass(frozen=True)
class FarLink:
    """
    A tunnel over a long way.

    Attributes:
        loss: Of segments.
        quick: See ``Workload``.
    """

    loss: float = 0.0
    quick: bool = False
    metrics: tuple[Metric, ...] = (P50, P99, RATE)

    @property
    def name(self) -> str:
        return "far-loss" if self.loss else "far"

    @property
    def title(self) -> str:
        loss = f", {self.loss:.1%} loss (stalls only)" if self.loss else ""
        return f"200 ms round trip{loss}"

    def measure(self, subject: Subject, effort: Effort) -> dict[str, float]:
        """See ``Workload``."""
        with ExitStack() as stack:

            def through(port: int) -> int:
                shape = {"round_trip": ROUND_TRIP, "rate": LINK_RATE, "loss": self.loss}
                link = stack.enter_context(LoadProgram("slow_link", {**shape, "target": port}))
                return int(link.hear(_START_LIMIT)["port"])

            entrance = stack.enter_context(subject.fresh(link_through=through)).entrance
            calls = wrk.call(entrance, subject.folder, callers=_CALLERS, seconds=effort.seconds)
            rate = download(entrance, subject.folder, box=3.0 * effort.seconds)
        return {P50.name: calls.p50, P99.name: calls.p99, RATE.name: rate}

    def beyond(self, figures: Figures, direct: Figures) -> dict[str, float]:
        """See ``Workload``."""
        return {}
