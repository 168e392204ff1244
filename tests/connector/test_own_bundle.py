"""A caller's bundle that is replaced under a running connector: the next dial shows the new certificate."""

import asyncio
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import anyio
import pytest
from cryptography import x509
from structlog.testing import capture_logs

from sallyport.certs.bundle import Bundle
from sallyport.certs.issuer import add_domains, issue_caller, write_settings
from sallyport.connector.dial import Dialler
from tests.certs.certificate_kit import damage_key
from tests.connector.far_side import FarSide, Request, reply
from tests.harness.identity import TestIdentity

pytestmark = pytest.mark.anyio


class Shown:
    """Learns, at the gateway's end, which certificate each connection presents."""

    def __init__(self) -> None:
        self.serials: list[str] = []

    def __call__(self, request: Request, transport: asyncio.Transport) -> None:
        der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.serials.append(f"{x509.load_der_x509_certificate(der).serial_number:x}")
        reply(transport, b"{}")


class Caller(asyncio.Protocol):
    """Sends one request, and remembers that it was answered."""

    def __init__(self) -> None:
        self.answered = anyio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.ask()

    def ask(self) -> None:
        """Send one request more."""
        self.answered = anyio.Event()
        self.transport.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        self.answered.set()


class World:
    """A tunnel of the test's own, its far side, and a dialler that runs on."""

    def __init__(self, tunnel: TestIdentity, far: FarSide) -> None:
        self.tunnel = tunnel
        self.shown = far.script = Shown()
        self.dialler = Dialler(tunnel.bundle, relay=far.address, clock=lambda: datetime.now(UTC))

    async def call(self) -> Caller:
        """Dial, and make one call."""
        with anyio.fail_after(10):
            caller = Caller()
            await self.dialler.dial(lambda: caller)
            await caller.answered.wait()
        return caller

    def rotate(self, *, domain: str | None = None) -> str:
        """Issue alice's bundle again and return its serial number."""
        now = datetime.now(UTC)
        path = issue_caller(self.tunnel.directory, "alice", domain=domain, now=now, replace=True)
        return f"{Bundle.load(path).leaf.serial_number:x}"

    @property
    def first(self) -> str:
        """The serial number that the connector was started with."""
        return f"{self.tunnel.bundle.leaf.serial_number:x}"


async def test_the_next_dial_shows_the_new_certificate(tmp_path: Path) -> None:
    """The old connection goes on with the old one; one line says which is in use now."""
    tunnel = TestIdentity(tmp_path / "identity")
    async with FarSide.of(tunnel) as far:
        world = World(tunnel, far)
        old = await world.call()
        serial = world.rotate()
        with capture_logs() as lines:
            await world.call()
            await world.call()
            old.ask()
            with anyio.fail_after(10):
                await old.answered.wait()

    assert world.shown.serials == [world.first, serial, serial, world.first]
    (line,) = lines
    assert (line["event"], line["certificate"], line["serial"]) == ("certificate loaded", "caller", serial)


def _half_copied(world: World) -> None:
    path = world.tunnel.bundle.path
    path.write_bytes(path.read_bytes()[:900])


def _damaged(world: World) -> None:
    damage_key(world.tunnel.bundle.path)


def _missing(world: World) -> None:
    world.tunnel.bundle.path.unlink()


def _wide(world: World) -> None:
    world.rotate()
    world.tunnel.bundle.path.chmod(0o644)


def _another_callers(world: World) -> None:
    other = issue_caller(world.tunnel.directory, "bob", domain=None, now=datetime.now(UTC))
    shutil.copy2(other, world.tunnel.bundle.path)


def _another_tunnels(world: World) -> None:
    other = TestIdentity(world.tunnel.directory.path.parent / "other")
    shutil.copy2(other.bundle.path, world.tunnel.bundle.path)


def _another_relays(world: World) -> None:
    write_settings(world.tunnel.directory, "elsewhere.test:443")
    world.rotate()


def _another_domains(world: World) -> None:
    add_domains(world.tunnel.directory, ["b.test"], now=datetime.now(UTC))
    world.rotate(domain="b.test")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_half_copied, "cut off|ends in the middle"),
        (_damaged, "whose key cannot be read"),
        (_missing, "does not exist"),
        (_wide, "mode 0644"),
        (_another_callers, "for the caller bob, and alice is in use"),
        (_another_tunnels, "for the tunnel tnl_"),
        (_another_relays, "for the relay elsewhere"),
        (_another_domains, r"for the domain b\.test"),
    ],
)
async def test_a_bundle_that_cannot_be_used_changes_nothing(
    tmp_path: Path, spoil: Callable[[World], None], reason: str
) -> None:
    """Dials go on with the one that is loaded; the log says once why; a good one ends it."""
    tunnel = TestIdentity(tmp_path / "identity")
    async with FarSide.of(tunnel) as far:
        world = World(tunnel, far)
        spoil(world)
        with capture_logs() as lines:
            await world.call()
            await world.call()
        assert world.shown.serials == [world.first] * 2
        (line,) = lines
        assert line["event"] == "new bundle not taken"
        assert re.search(reason, str(line["reason"]))
        write_settings(tunnel.directory, tunnel.bundle.relay)
        serial = world.rotate()
        await world.call()

    assert world.shown.serials[-1] == serial
