"""New leaf files under a running gateway: taken when they are good, and otherwise nothing changes."""

import shutil
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sallyport.certs.contexts import door_context
from sallyport.certs.errors import CertificateRefused
from sallyport.certs.files import IdentityDirectory
from sallyport.certs.issuer import create_identity, issue_leaf
from sallyport.certs.names import Role
from sallyport.gateway.door import DoorContexts
from sallyport.gateway.identity import GatewayIdentity, load_identity
from sallyport.gateway.own_certificates import OwnCertificates
from tests.certs.certificate_kit import damage_key
from tests.gateway.test_identity import config_for

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)

Lines = list[MutableMapping[str, object]]


class World:
    """A gateway's certificates, and what the door was given; the tunnel is a hundred days old."""

    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.shown: list[DoorContexts] = []
        self.directory = create_identity(
            folder, domains=["tunnel.test"], relay="relay.test", name="gw1", now=NOW - 100 * DAY
        )
        for role in (Role.GATEWAY, Role.LINK):
            self.rotate(role)
        identity = load_identity(config_for(self.directory), now=NOW)
        self.own = OwnCertificates(identity, make_context=contexts_of(identity), clock=lambda: self.now)

    async def look(self) -> None:
        """Look once, as the watch does every second."""
        await self.own.look(self.shown.append)

    def rotate(self, role: Role = Role.GATEWAY, *, now: datetime = NOW) -> str:
        """Put a new leaf into its place and return its serial number."""
        issue_leaf(self.directory, role, "gw1", now=now, replace=True)
        return f"{self.directory.leaf(role, 'gw1').load_presented()[0].serial_number:x}"

    def days_left(self, role: Role) -> int:
        """Return what /readyz and the daily line say."""
        return {age.name: age.days_left for age in self.own.ages(NOW)}[role]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Make a gateway's certificates."""
    return World(tmp_path / "identity")


def contexts_of(identity: GatewayIdentity) -> Callable[[], DoorContexts]:
    """Make the door's contexts as the app does."""
    return lambda: DoorContexts(door_context(identity.gateway, identity.root))


def named(lines: Lines, event: str) -> Lines:
    """Return the lines of one event."""
    return [line for line in lines if line["event"] == event]


async def test_unchanged_files_are_left_alone(world: World) -> None:
    """A look costs a few calls to stat and changes nothing."""
    before = world.own.door_contexts

    with capture_logs() as lines:
        await world.look()
        await world.look()

    assert world.shown == []
    assert world.own.door_contexts is before
    assert lines == []


async def test_a_new_gateway_leaf_goes_to_the_door(world: World) -> None:
    """Once, with one line that has the serial and the end."""
    serial = world.rotate()

    with capture_logs() as lines:
        await world.look()
        await world.look()

    assert world.shown == [world.own.door_contexts]
    (line,) = named(lines, "certificate loaded")
    assert (line["certificate"], line["serial"]) == ("gateway", serial)
    assert datetime.fromisoformat(str(line["not_after"])) > NOW + 89 * DAY


async def test_a_new_link_leaf_is_told_and_judged(world: World) -> None:
    """The door has no part in it; the next dial reads the files."""
    serial = world.rotate(Role.LINK)

    with capture_logs() as lines:
        await world.look()

    assert world.shown == []
    assert [line["serial"] for line in named(lines, "certificate loaded")] == [serial]


async def test_the_days_are_those_of_what_is_in_effect(world: World) -> None:
    """The new ones count from the moment they are taken."""
    world.rotate(now=NOW - 40 * DAY)
    assert world.days_left(Role.GATEWAY) == 90

    await world.look()

    assert (world.days_left(Role.GATEWAY), world.days_left(Role.LINK)) == (50, 90)


def _half_copied(directory: IdentityDirectory) -> None:
    path = directory.gateway("gw1").certificate
    path.write_bytes(path.read_bytes()[:300])


def _damaged(directory: IdentityDirectory) -> None:
    damage_key(directory.gateway("gw1").certificate)


def _wide_and_else_the_same(directory: IdentityDirectory) -> None:
    directory.gateway("gw1").key.chmod(0o644)


def _anothers_key(directory: IdentityDirectory) -> None:
    shutil.copy2(directory.link("gw1").key, directory.gateway("gw1").key)


def _wide(directory: IdentityDirectory) -> None:
    directory.gateway("gw1").key.chmod(0o644)
    directory.gateway("gw1").certificate.touch()


def _missing(directory: IdentityDirectory) -> None:
    directory.gateway("gw1").certificate.unlink()


def _the_links(directory: IdentityDirectory) -> None:
    for suffix in (".pem", ".key"):
        shutil.copy2(directory.path / "link" / f"gw1{suffix}", directory.path / "gateway" / f"gw1{suffix}")


def _expired(directory: IdentityDirectory) -> None:
    issue_leaf(directory, Role.GATEWAY, "gw1", now=NOW - 91 * DAY, replace=True)


@pytest.mark.parametrize(
    "spoil",
    [_half_copied, _damaged, _anothers_key, _wide, _wide_and_else_the_same, _missing, _the_links, _expired],
)
async def test_files_that_cannot_be_used_change_nothing(
    world: World, spoil: Callable[[IdentityDirectory], None]
) -> None:
    """What is loaded goes on; one line says why, /status as well, and good files end it."""
    before = world.own.door_contexts
    spoil(world.directory)

    with capture_logs() as lines:
        for _ in range(3):
            await world.look()

    (line,) = lines
    assert line["event"] == "new certificate files not taken"
    assert line["certificate"] == "gateway"
    assert line["reason"] == world.own.problems["gateway"]
    assert world.own.door_contexts is before
    assert world.days_left(Role.GATEWAY) == 90
    world.directory.gateway("gw1").key.chmod(0o600)
    world.rotate()
    await world.look()
    assert world.shown == [world.own.door_contexts]
    assert world.own.problems == {}


async def test_a_copy_in_two_steps_is_taken_when_it_is_whole(world: World) -> None:
    """Whoever copies with cp writes one file after the other; between the two, the old pair goes on."""
    files = world.directory.gateway("gw1")
    old = files.certificate.read_bytes()
    serial = world.rotate()
    new = files.certificate.read_bytes()
    files.certificate.write_bytes(old)

    await world.look()
    assert world.shown == []
    assert "does not belong to the key" in world.own.problems["gateway"]

    files.certificate.write_bytes(new)
    with capture_logs() as lines:
        await world.look()
    assert [line["serial"] for line in named(lines, "certificate loaded")] == [serial]
    assert world.shown == [world.own.door_contexts]


async def test_a_leaf_from_the_future_is_taken_when_its_time_comes(world: World) -> None:
    """The next look judges it anew, though its files are the same."""
    world.rotate(now=NOW + 2 * DAY)
    await world.look()
    assert "not valid" in world.own.problems["gateway"]

    world.now = NOW + 2 * DAY
    await world.look()

    assert len(world.shown) == 1
    assert world.own.problems == {}


async def test_an_expired_certificate_is_told_once(world: World) -> None:
    """Streams and links that are up go on and nothing else would say why new ones fail."""
    world.now = NOW + 91 * DAY

    with capture_logs() as lines:
        await world.look()
        await world.look()

    assert {(line["event"], line["certificate"]) for line in lines} == {
        ("certificate expired", "gateway"),
        ("certificate expired", "link"),
    }
    assert len(lines) == 2
    assert all("rotate leaf" in str(line["hint"]) for line in lines)


async def test_only_at_the_start_is_a_bad_file_an_error(world: World) -> None:
    """Nothing is loaded yet that could go on."""
    identity = load_identity(config_for(world.directory), now=NOW)
    _anothers_key(world.directory)

    with pytest.raises(CertificateRefused):
        OwnCertificates(identity, make_context=contexts_of(identity), clock=lambda: NOW)
