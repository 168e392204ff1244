"""
New connections: TCP, a full handshake, one call, and the end; eight callers at once.

Once with an API key, and once with a client certificate that whoever ends the caller's TLS demands.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass

from bench.speed.load.callers import LoadFailed, entrance_to_json
from bench.speed.load.programs import LoadProgram
from bench.speed.workloads.workload import Effort, Figures, Metric, Subject

RATE = Metric("connections_per_s", "connections/s", more_is_better=True)

_CALLERS = 8
_START_LIMIT = 20.0  # seconds for all interpreters to start


@dataclass(frozen=True)
class NewConnections:
    """
    Callers that never keep a connection.

    Attributes:
        mutual: Whether they bring a certificate.
        quick: See ``Workload``.
    """

    mutual: bool
    quick: bool = False
    metrics: tuple[Metric, ...] = (RATE,)

    @property
    def name(self) -> str:
        return "connections-mutual" if self.mutual else "connections"

    @property
    def title(self) -> str:
        return f"New connections, {'client certificate' if self.mutual else 'API key'}"

    def measure(self, subject: Subject, effort: Effort) -> dict[str, float]:
        """See ``Workload``."""
        entrance = entrance_to_json(subject.running().entrance)
        task = {"entrance": entrance, "mutual": self.mutual, "seconds": effort.seconds}
        with ExitStack() as stack:
            callers = [stack.enter_context(LoadProgram("connections", task)) for _ in range(_CALLERS)]
            for caller in callers:
                caller.hear(_START_LIMIT)
            began = time.monotonic()
            for caller in callers:
                caller.tell({"go": True})
            made = sum(int(caller.hear(effort.seconds + 60.0)["made"]) for caller in callers)
            seconds = time.monotonic() - began
        if not made:
            raise LoadFailed("no connection was made")
        return {RATE.name: made / seconds}

    def beyond(self, figures: Figures, direct: Figures) -> dict[str, float]:
        """See ``Workload``."""
        return {}
