"""
What a system under test is: a way for callers to reach one upstream, and the processes that carry them.

Workloads know nothing else of a system. They connect where its ``Entrance`` says, and measure its processes.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.speed.upstream import Upstream


@dataclass(frozen=True)
class Entrance:
    """
    Where callers connect, by TLS, and what they bring.

    Attributes:
        port: On 127.0.0.1.
        server_name: For SNI and for Host.
        authority: The file with the one root that the callers trust.
        certificate: A client certificate (PEM) and ...
        key: ... its key. Used in the rows in which callers are named by a certificate.
        mutual_port: On 127.0.0.1; there the end of the caller's TLS demands that certificate.
        mutual_server_name: For SNI and Host there; empty where it is ``server_name``.
        authorization: The whole value of an Authorization header for callers without a certificate; empty
            where none is needed.
    """

    port: int
    server_name: str
    authority: Path
    certificate: Path
    key: Path
    mutual_port: int
    mutual_server_name: str = ""
    authorization: str = ""

    @property
    def mutual(self) -> tuple[int, str]:
        """Port and server name for callers who bring a certificate."""
        return self.mutual_port, self.mutual_server_name or self.server_name


@dataclass(frozen=True)
class Running:
    """
    A system that callers can use now.

    Attributes:
        entrance: Where.
        pids: The processes of the tunnel (neither the upstream nor the load), for CPU time and memory.
    """

    entrance: Entrance
    pids: Sequence[int]


class System(Protocol):
    """One column of the table."""

    name: str

    def missing(self) -> str:
        """Say in one line why it cannot run on this machine, and what would install it; empty when it can."""

    def start(
        self, folder: Path, upstream: Upstream, *, link_through: Callable[[int], int] | None = None
    ) -> AbstractContextManager[Running]:
        """
        Start it in front of an upstream; ready when the context is entered, gone when it is left.

        Args:
            folder: An empty folder of its own.
            upstream: What it carries callers to.
            link_through: Turns the port on 127.0.0.1 where the public half waits for the private half into
                the one that the private half must dial: a slow link in between. Called at most once, before
                the private half starts. A system without a link gives it the port that callers would connect
                to.
        """
