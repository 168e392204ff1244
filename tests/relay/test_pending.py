"""Who waits for a link: the bounds, and who has to go where one is reached."""

from dataclasses import dataclass

import pytest

from sallyport.relay.pending import FAIR_TIME, Bounds, Pending

BOUNDS = Bounds(total=8, tunnel=4, address=2)


@dataclass(eq=False)
class Asking:
    """One who asks for a link."""

    label: str = "a"
    address: str = "192.0.2.1"
    arrived: float = 0.0
    can_be_displaced: bool = True


def admit(pending: Pending[Asking], asking: Asking) -> Asking | bool | None:
    """Let one in; return whoever went for it, None where nobody had to, False where it is turned away."""
    displaced = pending.admit(asking)
    if displaced is None:
        return False
    assert asking in list(pending)
    return displaced[0] if displaced else None


def crowd(pending: Pending[Asking], *asking: Asking) -> list[Asking]:
    """Let several in for whom there is room."""
    for each in asking:
        assert admit(pending, each) is None
    return list(asking)


def test_all_have_a_place_within_the_bounds() -> None:
    """Nobody goes while there is room, and a place that is given back is free."""
    pending: Pending[Asking] = Pending(BOUNDS)
    first, *_ = crowd(pending, *(Asking(label, f"192.0.2.{n}") for label in "ab" for n in range(4)))

    assert len(pending) == 8
    pending.discard(first)
    pending.discard(first)
    assert len(pending) == 7
    assert admit(pending, Asking("c")) is None


def test_a_flood_at_one_label_leaves_other_tunnels_alone() -> None:
    """One stranger's hellos at one tunnel's label take a few places, whatever their number."""
    pending: Pending[Asking] = Pending(BOUNDS)
    for moment in range(100):
        admit(pending, Asking("a", "6.6.6.6", float(moment)))

    assert len(pending) == BOUNDS.address
    assert admit(pending, Asking("b", "192.0.2.1", 100.0)) is None


def test_a_flood_from_one_address_displaces_itself_and_not_the_gateway_beside_it() -> None:
    """At the tunnel's bound the largest crowd's oldest goes, not the oldest of all."""
    pending: Pending[Asking] = Pending(BOUNDS)
    gateway, flood, *_ = crowd(
        pending,
        Asking(address="192.0.2.1"),
        *(Asking(address="6.6.6.6") for _ in range(2)),
        Asking(address="7.7.7.7"),
    )

    assert admit(pending, Asking(address="192.0.2.2")) is flood
    assert gateway in list(pending)


def test_at_the_bound_of_all_the_largest_tunnels_oldest_goes() -> None:
    """Known labels fill all places, and the gateway of another tunnel still gets one."""
    pending: Pending[Asking] = Pending(BOUNDS)
    single, *flood = crowd(
        pending,
        Asking("z", "6.6.6.6"),
        *(Asking("a", f"6.6.6.{n}") for n in range(4)),
        *(Asking("b", f"6.6.6.{n}") for n in range(3)),
    )

    assert admit(pending, Asking("c", "192.0.2.1")) is flood[0]
    assert single in list(pending)


def test_a_storm_of_equals_displaces_nobody_in_its_fair_time() -> None:
    """Gateways that all come back at once finish, and those beyond the bound are turned away."""
    pending: Pending[Asking] = Pending(BOUNDS)
    waiting = crowd(pending, *(Asking(label) for label in "abcdefgh"))

    assert admit(pending, Asking("i", arrived=FAIR_TIME / 2)) is False
    assert list(pending) == waiting
    assert admit(pending, Asking("i", arrived=FAIR_TIME)) is waiting[0]


def test_of_one_address_the_oldest_goes_after_its_fair_time() -> None:
    """A gateway behind the flood's own address gets its turn."""
    pending: Pending[Asking] = Pending(BOUNDS)
    oldest, _ = crowd(pending, Asking(), Asking(arrived=1.0))

    assert admit(pending, Asking(arrived=FAIR_TIME - 0.1)) is False
    assert admit(pending, Asking(arrived=FAIR_TIME)) is oldest


def test_who_has_shown_a_certificate_stays() -> None:
    """Its link has a timer of its own; where all have, the newcomer is turned away."""
    pending: Pending[Asking] = Pending(BOUNDS)
    _, unproven = crowd(pending, Asking(can_be_displaced=False), Asking())

    assert admit(pending, Asking(arrived=FAIR_TIME, can_be_displaced=False)) is unproven
    assert admit(pending, Asking(arrived=2 * FAIR_TIME)) is False


@pytest.mark.parametrize(
    ("other", "is_neighbour"),
    [("2001:db8::2", True), ("2001:db8:0:0:ffff::1", True), ("2001:db8:0:1::1", False), ("192.0.2.1", False)],
)
def test_an_ipv6_network_counts_as_one_address(other: str, is_neighbour: bool) -> None:
    """Whoever has one address of a /64 has them all."""
    pending: Pending[Asking] = Pending(Bounds(address=1))
    crowd(pending, Asking(address="2001:db8::1"))

    assert (admit(pending, Asking(address=other)) is False) == is_neighbour
