"""The registry: who is connected, and who gets the next stream."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from hypothesis import given, settings, strategies as st

from sallyport.relay.registry import MAX_LINKS, LiveLink, Registry, Tunnel, TunnelState

LABEL = "abcdefghijklmnopqrstuvwxyz234567"
OTHER = "bcdefghijklmnopqrstuvwxyz234567a"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(eq=False)
class FakeLink:
    """A link that only says whether it takes streams."""

    is_ready: bool = True
    stream_count: int = 0


def live(gateway: str, boot: str = "b1", index: int = 0, *, label: str = LABEL) -> LiveLink[FakeLink]:
    """Make a live link."""
    return LiveLink(label, gateway, boot, index, FakeLink())


def registry(*links: LiveLink[FakeLink]) -> Registry[FakeLink]:
    """Make a registry with these links up, in this order."""
    made = Registry[FakeLink]()
    for link in links:
        made.add(link)
    return made


def addresses(count: int) -> Iterable[str]:
    """Give that many caller addresses."""
    return (f"192.0.{number // 256}.{number % 256}" for number in range(count))


def tunnel(state: TunnelState = TunnelState.ACTIVE, *, label: str = LABEL, name: str = "") -> Tunnel:
    """Make a registered tunnel."""
    return Tunnel(label, name, "PEM", state, NOW, NOW)


# Tunnels


def test_new_and_changed_tunnels_are_told() -> None:
    """Only what differs from what was known is reported."""
    made = Registry[FakeLink]()
    assert made.replace_tunnels([tunnel(), tunnel(label=OTHER)]) == [tunnel(), tunnel(label=OTHER)]
    assert made.replace_tunnels([tunnel(), tunnel(label=OTHER)]) == []
    disabled = tunnel(TunnelState.DISABLED)
    assert made.replace_tunnels([disabled, tunnel(label=OTHER)]) == [disabled]
    assert made.tunnel(LABEL) is disabled
    assert made.tunnel("x" * 32) is None
    assert made.tunnel_count == 2


def test_a_tunnel_is_called_by_its_id() -> None:
    """The ID is the label with its prefix."""
    assert tunnel().id == f"tnl_{LABEL}"


# Choosing a link


def test_without_links_nobody_is_chosen() -> None:
    """No gateway connected means no candidates."""
    assert registry().candidates(LABEL, "192.0.2.1") == []
    assert registry(live("gw1", label=OTHER)).candidates(LABEL, "192.0.2.1") == []


def test_links_that_take_no_streams_are_skipped() -> None:
    """A link that is leaving or down is no candidate."""
    first, second = live("gw1"), live("gw2")
    made = registry(first, second)
    first.link.is_ready = False
    for address in addresses(20):
        assert made.candidates(LABEL, address) == [second]


def test_two_gateways_share_the_callers() -> None:
    """Each of two gateways gets its part of 100 callers, and the other one is the second choice."""
    made = registry(live("gw1"), live("gw2"))
    chosen = Counter(made.candidates(LABEL, address)[0].gateway for address in addresses(100))
    assert min(chosen["gw1"], chosen["gw2"]) >= 30
    assert all(len(made.candidates(LABEL, address)) == 2 for address in addresses(100))


def test_links_of_a_gateway_do_not_weigh_more() -> None:
    """A gateway with four links gets no more callers than one with a single link."""
    made = registry(live("gw2"), *(live("gw1", index=index) for index in range(4)))
    chosen = Counter(made.candidates(LABEL, address)[0].gateway for address in addresses(400))
    assert 120 <= chosen["gw2"] <= 280


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(1, 200))
def test_streams_of_a_process_are_spread_over_its_links(open_streams: list[int], more: int) -> None:
    """The link with the fewest streams gets the next, whoever the caller is, until all have the same."""
    links = [live("gw1", index=index) for index in range(len(open_streams))]
    for one, count in zip(links, open_streams, strict=True):
        one.link.stream_count = count
    made = registry(*links)
    for address in addresses(more):
        fewest = min(one.link.stream_count for one in links)
        best = made.candidates(LABEL, address)[0]
        assert best.link.stream_count == fewest
        best.link.stream_count += 1


@settings(deadline=None)
@given(st.sets(st.sampled_from([f"gw{number}" for number in range(8)]), min_size=2), st.data())
def test_a_gateway_that_leaves_moves_only_its_own_callers(gateways: set[str], data: st.DataObject) -> None:
    """Callers of the gateways that stay keep theirs, whatever order the links came up in."""
    links = data.draw(st.permutations([live(gateway) for gateway in sorted(gateways)]))
    made = registry(*links)
    before = {address: made.candidates(LABEL, address)[0] for address in addresses(50)}
    leaving = data.draw(st.sampled_from(links))
    made.remove(leaving)
    for address, chosen in before.items():
        if chosen is not leaving:
            assert made.candidates(LABEL, address)[0] is chosen


# The same gateway twice


def test_the_same_link_again_replaces() -> None:
    """A reconnecting link gets the streams at once; the one that it replaces is named, and no candidate."""
    old, new = live("gw1"), live("gw1")
    made = registry(old)
    joined = made.add(new)
    assert joined.replaced == (old,)
    assert not joined.is_second_process
    assert made.candidates(LABEL, "192.0.2.1") == [new]
    made.remove(old)
    assert made.candidates(LABEL, "192.0.2.1") == [new]


def test_another_index_joins() -> None:
    """A process may have several links."""
    made = registry(live("gw1"))
    joined = made.add(live("gw1", index=1))
    assert joined.replaced == ()
    assert not joined.is_second_process
    assert len(made.candidates(LABEL, "192.0.2.1")) == 2


def test_a_restarted_gateway_is_preferred_to_its_remains() -> None:
    """After a restart the new process gets all streams, and the old one stands behind it."""
    remains, restarted = live("gw1", "b1"), live("gw1", "b2")
    made = registry(remains)
    joined = made.add(restarted)
    assert joined.replaced == ()
    assert joined.is_second_process
    for address in addresses(20):
        assert made.candidates(LABEL, address) == [restarted, remains]


def test_two_machines_with_one_name_do_not_drive_each_other_out() -> None:
    """The process that came last serves, also when the earlier one makes more links."""
    made = registry(live("gw1", "b1"), serving := live("gw1", "b2"))
    made.add(live("gw1", "b1", 1))
    made.add(live("gw1", "b1", 0))
    for address in addresses(20):
        assert made.candidates(LABEL, address)[0] is serving
    made.remove(serving)
    assert {other.boot_id for other in made.candidates(LABEL, "192.0.2.1")} == {"b1"}


def test_a_process_that_was_gone_counts_as_new() -> None:
    """Whoever lost all links and comes back is the newest."""
    first, second = live("gw1", "b1"), live("gw1", "b2")
    made = registry(first, second)
    made.remove(first)
    made.add(back := live("gw1", "b1"))
    assert made.candidates(LABEL, "192.0.2.1") == [back, second]


# Bookkeeping


def test_links_are_listed_by_tunnel_and_in_all() -> None:
    """The listing is a copy, so that links may go while it is walked."""
    one, two = live("gw1"), live("gw1", label=OTHER)
    made = registry(one, two)
    assert list(made.links(LABEL)) == [one]
    assert list(made.links()) == [one, two]
    for link in made.links():
        made.remove(link)
    assert list(made.links()) == []


def test_a_tunnel_is_full_at_the_limit() -> None:
    """The limit counts every link of one tunnel and no other's."""
    links = [live("gw1", index=index) for index in range(MAX_LINKS)]
    made = registry(*links)
    assert made.is_full(LABEL)
    assert not made.is_full(OTHER)
    made.remove(links[3])
    assert not made.is_full(LABEL)
