"""
Who waits for a link: a pure data structure.

A connection that asks for a link holds a place from its ClientHello until the link is up or the connection
is gone. Anybody who knows a label can say that hello and then nothing, so places are bounded three times: of
one address within a tunnel, of a tunnel, and of all. Where a bound is reached, one who has not shown a
certificate yet may have to go for the newcomer:

* who stands in a larger crowd, of the tunnel and then of the address, than the newcomer would; or
* who has had ``FAIR_TIME`` for a handshake that takes two round trips.

Of these, the oldest of the largest crowd. So a flood, from one address or at one label, displaces itself and
never the gateway beside it, while a storm of honest gateways displaces nobody: those beyond the bound are
turned away and come back, where displacing the oldest would let none finish.

Who has shown a certificate stays: he has a key of the tunnel's, and the link's own timer.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from sallyport.relay.registry import MAX_LINKS
from sallyport.tunnel.limits import limit

MAX_PENDING: Final = limit(
    256, "links",
    "waiting to be up, all together: a handshake costs the relay 650 µs, so this many take a fifth "
    "of a second; gateways beyond it come back after their jitter, where taking them all would let none "
    "finish in time (8,000 at once: 0 connected)",
)  # fmt: skip

# Of one tunnel: as many as it may have links.
MAX_OF_TUNNEL: Final = MAX_LINKS

MAX_OF_ADDRESS: Final = limit(
    32, "links",
    "waiting to be up, of one tunnel from one address: gateways behind one NAT may all come back at once",
)  # fmt: skip

FAIR_TIME: Final = limit(
    2.0, "seconds",
    "after which a link's handshake may be given up for somebody else's: four round trips around the world",
)  # fmt: skip


class Waiting(Protocol):
    """
    What has to be known of one who waits.
    """

    @property
    def label(self) -> str:
        """The label of the tunnel that the link is asked for."""

    @property
    def address(self) -> str:
        """Where the connection comes from, without port."""

    @property
    def arrived(self) -> float:
        """When it came, in seconds of the loop's clock."""

    @property
    def can_be_displaced(self) -> bool:
        """Whether it has not shown a certificate yet, or will not be a link any more."""


W = TypeVar("W", bound=Waiting)


@dataclass(frozen=True, slots=True)
class Bounds:
    """
    How many may wait: altogether, of one tunnel, and of one address within it.
    """

    total: int = MAX_PENDING
    tunnel: int = MAX_OF_TUNNEL
    address: int = MAX_OF_ADDRESS


class Pending(Generic[W]):
    """
    Those who wait, in the order of their arrival.

    Args:
        bounds: how many they may be.
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._places: dict[W, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[W]:
        return iter(list(self._places))

    def admit(self, newcomer: W) -> list[W] | None:
        """
        Give a newcomer a place, if there is one.

        Returns:
            Who has lost his place for it, one at most, and whose connection has to be ended; None where the
            newcomer is turned away.
        """
        place = _Place(newcomer.label, _network(newcomer.address))
        crowded = self._crowded(place)
        displaced: list[W] = []
        if crowded:
            victim = self._victim(newcomer, place, crowded)
            if victim is None:
                return None
            self.discard(victim)
            displaced.append(victim)
        self._places[newcomer] = place
        return displaced

    def discard(self, waiting: W) -> None:
        """
        Let one go, if it is here.
        """
        self._places.pop(waiting, None)

    def _crowded(self, place: "_Place") -> list[W]:
        """
        Return those among whom there is no room for one more, by the narrowest bound; empty if there is room.
        """
        tunnel = [waiting for waiting, other in self._places.items() if other.label == place.label]
        neighbours = [waiting for waiting in tunnel if self._places[waiting] == place]
        if len(neighbours) >= self._bounds.address:
            return neighbours
        if len(tunnel) >= self._bounds.tunnel:
            return tunnel
        return list(self._places) if len(self._places) >= self._bounds.total else []

    def _victim(self, newcomer: W, place: "_Place", among: list[W]) -> W | None:
        of_tunnel = Counter(other.label for other in self._places.values())
        of_place = Counter(self._places.values())

        def crowd(other: _Place) -> tuple[int, int]:
            return of_tunnel[other.label], of_place[other]

        def can_go(waiting: W) -> bool:
            if not waiting.can_be_displaced:
                return False
            other, (tunnel, neighbours) = self._places[waiting], crowd(place)
            # The newcomer's crowd with it, and without the one who goes.
            after = tunnel + (other.label != place.label), neighbours + (other != place)
            return crowd(other) > after or newcomer.arrived - waiting.arrived >= FAIR_TIME

        # Of equal crowds, max keeps the first, which is the oldest.
        return max(filter(can_go, among), key=lambda waiting: crowd(self._places[waiting]), default=None)


class _Place(NamedTuple):
    """
    Where one waits: at which tunnel's door, and coming from where.
    """

    label: str
    network: str


def _network(address: str) -> str:
    """
    Name what one customer of a provider has: an IPv4 address, or an IPv6 /64.
    """
    parsed = ip_address(address)
    return str(ip_network((int(parsed), 64), strict=False)) if isinstance(parsed, IPv6Address) else address
