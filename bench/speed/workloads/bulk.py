"""
64 MiB down and up, and small calls beside a download that never stops.
"""

from dataclasses import dataclass
from statistics import median

from bench.speed.load import wrk
from bench.speed.load.curl import SIZE, DownloadLoop, download, upload
from bench.speed.processes import cpu_seconds
from bench.speed.workloads.small_calls import P50, P99, RATE as CALLS
from bench.speed.workloads.workload import Effort, Figures, Metric, Subject

RATE = Metric("mb_per_s", "MB/s", more_is_better=True)
CPU = Metric("cpu_ms_per_mb", "tunnel CPU ms a MB", digits=2)
BULK = Metric("bulk_mb_per_s", "MB/s of the download", more_is_better=True)

_CALLERS = 8


@dataclass(frozen=True)
class Transfers:
    """
    Bodies of 64 MiB, one after the other; the median of a round's few.

    Attributes:
        up: From the caller, or else to it.
        quick: See ``Workload``.
    """

    up: bool
    quick: bool = False
    metrics: tuple[Metric, ...] = (RATE, CPU)

    @property
    def name(self) -> str:
        return "upload" if self.up else "download"

    @property
    def title(self) -> str:
        return f"64 MiB {'up' if self.up else 'down'}"

    def measure(self, subject: Subject, effort: Effort) -> dict[str, float]:
        """See ``Workload``."""
        running = subject.running()
        transfer = upload if self.up else download
        before = cpu_seconds(running.pids)
        rates = [transfer(running.entrance, subject.folder) for _ in range(effort.transfers)]
        used = cpu_seconds(running.pids) - before
        figures = {RATE.name: median(rates)}
        if running.pids:
            figures[CPU.name] = used / (effort.transfers * SIZE / 1e6) * 1e3
        return figures

    def beyond(self, figures: Figures, direct: Figures) -> dict[str, float]:
        """See ``Workload``."""
        return {}


@dataclass(frozen=True)
class BesideBulk:
    """Eight callers make small calls while another downloads: does the small one wait for the big one?"""

    name: str = "beside-bulk"
    title: str = "Small calls beside a bulk download, 8 callers"
    metrics: tuple[Metric, ...] = (CALLS, P50, P99, BULK)
    quick: bool = True

    def measure(self, subject: Subject, effort: Effort) -> dict[str, float]:
        """See ``Workload``."""
        entrance = subject.running().entrance
        with DownloadLoop(entrance, subject.folder) as loop:
            calls = wrk.call(entrance, subject.folder, callers=_CALLERS, seconds=effort.seconds)
            bulk = loop.rate()
        return {CALLS.name: calls.rate, P50.name: calls.p50, P99.name: calls.p99, BULK.name: bulk}

    def beyond(self, figures: Figures, direct: Figures) -> dict[str, float]:
        """See ``Workload``."""
        return {}
