"""
Who is known and who is connected: a pure data structure.

Two things meet here: the tunnels as the database last said (``replace_tunnels``), and the links that are up
(``add`` and ``remove``). From both follows which link a caller's stream should take (``candidates``).

Names of what is counted: a *gateway* is the name in its link certificate, a *process* of it is the boot id in
its HELLO, a *link* of the process is the link index there. The rules:

1. **The same link again replaces.** A second link with the same gateway, boot id and index is that process
   coming back, or making its next link before it leaves the old one. The newer link gets all new streams at
   once. The older one is told to go (GO_AWAY, replaced) and keeps what it still carries: if it lives, its
   streams end in their own time; if it is the half-open remains of a dead connection, keepalive ends it.
2. **Another link index joins.** So do other gateways: a tunnel has any number of both, up to the limit. The
   links of one process lead to workers of the same configuration before the same servers, so its streams are
   spread over them: the link with the fewest open ones gets the next.
3. **The same gateway from another process waits behind the newest.** After a restart the new process gets the
   streams although the old one's connection may still look alive. Where two machines really share a name (a
   copied identity), the one that came last serves, the other is the spare that takes over when it is full or
   gone; nobody is thrown out, so the two cannot drive each other in circles. It is logged, because a
   copied identity may also be a stolen one.

A caller's address always leads to the same gateway while the set of gateways is the same, and a gateway that
comes or goes moves only its own share (rendezvous hashing). The relay sees no MCP sessions, and this keeps
them together nevertheless.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

from sallyport.tunnel.limits import limit

MAX_LINKS: Final = limit(
    64, "links",
    "of one tunnel at once, those that are leaving included: a tenant with good certificates can open "
    "links as fast as it likes, and each holds a TLS connection and a mux",
)  # fmt: skip


class TunnelState(StrEnum):
    """
    What the operator has made of a tunnel.
    """

    ACTIVE = "active"
    DISABLED = "disabled"  # links are refused until it is enabled again
    ARCHIVED = (
        "archived"  # for good: callers learn that there is no such tunnel, and the ID is never used again
    )


@dataclass(frozen=True, slots=True)
class Tunnel:
    """
    One tunnel as it is registered.

    Attributes:
        label: the DNS form of its ID.
        name: what the operator calls it; for people only.
        root_pem: its root certificate.
        state: whether it is served.
        created: when it was registered.
        updated: when anything of this was last changed.
    """

    label: str
    name: str
    root_pem: str
    state: TunnelState
    created: datetime
    updated: datetime

    @property
    def id(self) -> str:
        """
        The tunnel's ID, as users write it.
        """
        return f"tnl_{self.label}"


class Carrying(Protocol):
    """
    What the registry needs to know of a link.
    """

    @property
    def is_ready(self) -> bool:
        """Whether it takes new streams."""

    @property
    def stream_count(self) -> int:
        """How many streams are open on it."""


L = TypeVar("L", bound=Carrying)


@dataclass(frozen=True, slots=True, eq=False)
class LiveLink(Generic[L]):
    """
    One link that is up.

    Attributes:
        label: the tunnel's label.
        gateway: the name in the link certificate.
        boot_id: which process of that gateway.
        index: which link of that process.
        link: the link itself.
    """

    label: str
    gateway: str
    boot_id: str
    index: int
    link: L


@dataclass(frozen=True, slots=True)
class Joined(Generic[L]):
    """
    What a new link means for the others of its tunnel.

    Attributes:
        replaced: links whose place it takes; they have to be told to go.
        is_second_process: the same gateway is connected from another process as well.
    """

    replaced: tuple[LiveLink[L], ...]
    is_second_process: bool


class Registry(Generic[L]):
    """
    The tunnels and their live links.
    """

    def __init__(self) -> None:
        self._tunnels: dict[str, Tunnel] = {}
        self._links: dict[str, list[LiveLink[L]]] = {}
        # When each process was first seen, as a number that only grows; kept while one of its links is up.
        self._processes: dict[tuple[str, str, str], int] = {}
        self._arrivals = count()

    # Tunnels

    def replace_tunnels(self, tunnels: Iterable[Tunnel]) -> list[Tunnel]:
        """
        Take over what the database says.

        Returns:
            The tunnels that are new or changed.
        """
        known, self._tunnels = self._tunnels, {tunnel.label: tunnel for tunnel in tunnels}
        return [tunnel for tunnel in self._tunnels.values() if known.get(tunnel.label) != tunnel]

    def tunnel(self, label: str) -> Tunnel | None:
        """
        Look a tunnel up.
        """
        return self._tunnels.get(label)

    @property
    def tunnel_count(self) -> int:
        """
        How many tunnels are registered, whatever their state.
        """
        return len(self._tunnels)

    # Links

    def add(self, live: LiveLink[L]) -> Joined[L]:
        """
        Take note that a link is up.
        """
        others = self._links.setdefault(live.label, [])
        namesakes = [other for other in others if other.gateway == live.gateway]
        replaced = tuple(other for other in namesakes if _place(other) == _place(live))
        others.append(live)
        self._processes.setdefault(_process(live), next(self._arrivals))
        return Joined(replaced, any(other.boot_id != live.boot_id for other in namesakes))

    def remove(self, live: LiveLink[L]) -> None:
        """
        Take note that a link is down.
        """
        others = self._links[live.label]
        others.remove(live)
        if not others:
            del self._links[live.label]
        if not any(_process(other) == _process(live) for other in others):
            del self._processes[_process(live)]

    def is_full(self, label: str) -> bool:
        """
        Say whether a tunnel has as many links as it may.
        """
        return len(self._links.get(label, ())) >= MAX_LINKS

    def links(self, label: str | None = None) -> Iterator[LiveLink[L]]:
        """
        List the links that are up, of one tunnel or of all.
        """
        if label is not None:
            yield from list(self._links.get(label, ()))
            return
        for links in list(self._links.values()):
            yield from list(links)

    # Choosing

    def candidates(self, label: str, address: str) -> list[LiveLink[L]]:
        """
        List the links that a caller's stream may take, the best first.

        Args:
            label: the tunnel's label.
            address: the caller's address, without port.

        Returns:
            Links that take streams: those of the caller's own gateway first, of one gateway those of its
            newest process, and of one process those that carry the fewest first. Empty when no gateway is
            connected.
        """
        ready = self._ready(label)
        if len(ready) < 2:
            return ready

        def rank(live: LiveLink[L]) -> tuple[int, str, int, int, int]:
            return (
                -_weight(label, address, live.gateway),
                live.gateway,  # two gateways of equal weight are still two
                -self._processes[_process(live)],
                live.link.stream_count,
                live.index,
            )

        return sorted(ready, key=rank)

    def is_served(self, label: str) -> bool:
        """
        Say whether a tunnel has a link that takes streams.
        """
        return bool(self._ready(label))

    def _ready(self, label: str) -> list[LiveLink[L]]:
        # Of two links in one place the newer counts, also while the GO_AWAY of the older is still on its way
        # out.
        newest = {_place(live): live for live in self._links.get(label, ())}
        return [live for live in newest.values() if live.link.is_ready]


def _process(live: LiveLink[L]) -> tuple[str, str, str]:
    return live.label, live.gateway, live.boot_id


def _place(live: LiveLink[L]) -> tuple[str, str, int]:
    return live.gateway, live.boot_id, live.index


def _weight(*words: str) -> int:
    """
    Draw a number for a caller and a gateway that is the same in every process of every relay.
    """
    # No word holds a NUL, so that two lists of words never give the same text.
    return int.from_bytes(blake2b("\0".join(words).encode(), digest_size=8).digest(), "big")
