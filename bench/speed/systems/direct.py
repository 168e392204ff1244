"""
No tunnel: callers connect to the upstream's own ports. What everything else is measured from.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.speed.system import Running
from bench.speed.systems.passing import LinkThrough, dialled, entrance
from bench.speed.upstream import Upstream


class Direct:
    """The baseline."""

    name = "direct"

    def missing(self) -> str:
        """Return nothing: an upstream is all it needs."""
        return ""

    @contextmanager
    def start(
        self, folder: Path, upstream: Upstream, *, link_through: LinkThrough = None
    ) -> Iterator[Running]:
        """Point to the upstream itself; there is no process between."""
        yield Running(entrance(upstream, dialled(upstream.tls, link_through), upstream.mutual), pids=())
