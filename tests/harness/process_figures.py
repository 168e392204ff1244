"""
What a relay or a gateway holds at a moment: memory and descriptors as the kernel counts them, tasks, streams
and links as its own ``/status`` does.
"""

import asyncio
import json
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final, cast

import psutil  # type: ignore[import-untyped]  # no stubs among the tools

from tests.harness.child_process import ChildProcess
from tests.harness.product import LOOPBACK

_LOOK_INTERVAL: Final = 0.25  # seconds
_ANSWER_WITHIN: Final = 10.0  # seconds


@dataclass(frozen=True)
class Holdings:
    """
    What a program holds, the processes that it started included.

    Attributes:
        resident: Bytes of its memory that are in RAM (RSS).
        private: Bytes of them that are nobody else's (USS).
        descriptors: Open ones.
        tasks: Of its event loops.
        streams: Open ones, as its links count them.
        links: That are up, or on their way up.
        charged: Bytes that its memory budget counts.
    """

    resident: int
    private: int
    descriptors: int
    tasks: int
    streams: int
    links: int
    charged: int

    def growth_from(self, before: "Holdings") -> dict[str, float]:
        """Return each figure's growth as a part of what it was; of nothing, the figure itself."""
        return {
            each.name: (getattr(self, each.name) - getattr(before, each.name))
            / (getattr(before, each.name) or 1)
            for each in fields(self)
        }

    def as_dict(self) -> dict[str, int]:
        """Return it for a result file."""
        return asdict(self)


class Subject:
    """
    A program that is looked at again and again.

    Args:
        name: In messages and figures.
        process: What runs.
        health_port: Of its health listener; None for a connector, which has none and shows memory only.
    """

    def __init__(self, name: str, process: ChildProcess, health_port: int | None = None) -> None:
        self.name = name
        self.process = process
        self._health_port = health_port
        self._kernel = [psutil.Process(pid) for pid in process.tree()]

    def resident(self) -> int:
        """Return its RSS in bytes."""
        return sum(each.memory_info().rss for each in self._kernel)

    async def holdings(self) -> Holdings:
        """Look at everything."""
        # First, since the connection that asks for the status is a descriptor there, and for a moment longer.
        memory = [each.memory_full_info() for each in self._kernel]
        descriptors = sum(each.num_fds() for each in self._kernel)
        status = await self.status() if self._health_port is not None else {}
        links = status.get("links")
        return Holdings(
            resident=sum(each.rss for each in memory),
            private=sum(each.uss for each in memory),
            descriptors=descriptors,
            tasks=_number(status.get("tasks")),
            streams=_number(status.get("streams")),
            links=len(links) + _number(status.get("links_pending")) if isinstance(links, list) else 0,
            charged=_number(_mapping(status.get("memory")).get("used")),
        )

    async def status(self) -> Mapping[str, object]:
        """Ask for ``/status``."""
        return await asyncio.to_thread(self._ask)

    async def wait_until(self, holds: Callable[[Holdings], bool], *, within: float) -> Holdings:
        """
        Look until something holds, and return what was seen last, whether or not it does.

        Args:
            holds: What is waited for.
            within: Seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while True:
            seen = await self.holdings()
            if holds(seen) or loop.time() >= deadline:
                return seen
            await asyncio.sleep(_LOOK_INTERVAL)

    def _ask(self) -> Mapping[str, object]:
        url = f"http://{LOOPBACK}:{self._health_port}/status"
        with urllib.request.urlopen(url, timeout=_ANSWER_WITHIN) as answer:
            return _mapping(json.load(answer))


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _mapping(value: object) -> Mapping[str, object]:
    return cast(Mapping[str, object], value) if isinstance(value, Mapping) else {}
