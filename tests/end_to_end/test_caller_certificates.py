"""
Whom the gateway's door lets in: callers with a good certificate of this tunnel, and nobody else.

Each is refused by the TLS alert that names the fault, or, where TLS itself has nothing against the
certificate, by an HTTP answer with the rule; no server hears of any of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.harness.child_process import run_sallyport
from tests.harness.forgery import Authority, copy_certificate, new_key, write_server_files
from tests.harness.outside_clients import Target, call_python
from tests.harness.product import Product, Tunnel
from tests.harness.rough_upstream import RoughUpstream


@dataclass(frozen=True)
class House:
    """Two tunnels with gateways on one relay, and the server of both."""

    tunnel: Tunnel
    neighbour: Tunnel
    upstream: RoughUpstream


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Run all of it."""
    with RoughUpstream() as upstream, Product(tmp_path_factory.mktemp("house") / "p") as product:
        product.start_relay()
        tunnel = product.make_tunnel("house", {"tickets": upstream.url})
        neighbour = product.make_tunnel("neighbour", {"tickets": upstream.url})
        tunnel.start_gateway()
        neighbour.start_gateway()
        yield House(tunnel, neighbour, upstream)


def _nobody(house: House, folder: Path) -> Path | None:
    return None


def _neighbour(house: House, folder: Path) -> Path | None:
    return house.neighbour.bundle()


def _expired(house: House, folder: Path) -> Path | None:
    now = datetime.now(UTC)
    return caller_valid(house.tunnel, folder, now - timedelta(days=9), now - timedelta(minutes=1))


def _not_yet_valid(house: House, folder: Path) -> Path | None:
    now = datetime.now(UTC)
    return caller_valid(house.tunnel, folder, now + timedelta(days=1), now + timedelta(days=9))


def _gateway(house: House, folder: Path) -> Path | None:
    files = house.tunnel.identity.gateway("gw1")
    return _joined(folder, files.certificate, files.key)


def _link(house: House, folder: Path) -> Path | None:
    files = house.tunnel.identity.link("gw1")
    return _joined(folder, files.certificate, files.key)


REFUSED: list[tuple[str, Callable[[House, Path], Path | None], str]] = [
    ("no certificate", _nobody, "CERTIFICATE_REQUIRED"),
    ("another tunnel's caller", _neighbour, "ALERT_UNKNOWN_CA"),
    ("expired", _expired, "ALERT_CERTIFICATE_EXPIRED"),
    ("not yet valid", _not_yet_valid, "ALERT_BAD_CERTIFICATE"),
    ("the gateway's own", _gateway, "ALERT_UNSUPPORTED_CERTIFICATE"),
    ("a link's", _link, "403 gateway gw1: refused by rule role: link certificate gw1 is presented where"),
]


@pytest.mark.parametrize(("make", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_wrong_certificate_is_refused_for_its_own_reason(
    house: House, tmp_path: Path, make: Callable[[House, Path], Path | None], words: str
) -> None:
    """The caller is told what is wrong with it, and the server hears nothing."""
    before = len(house.upstream.requests)
    attempt = call_python(_target(house.tunnel, make(house, tmp_path)))
    assert not attempt.answered
    assert words in attempt.said
    assert len(house.upstream.requests) == before


def test_a_good_certificate_is_let_in(house: House) -> None:
    """The same client with its own bundle is answered."""
    assert call_python(_target(house.tunnel, house.tunnel.bundle())).answered


def test_the_connector_says_that_its_own_certificate_has_expired(house: House, tmp_path: Path) -> None:
    """It does not dial to find out, and names the day and the command for a new one."""
    now = datetime.now(UTC)
    ended = now - timedelta(minutes=1)
    pem = caller_valid(house.tunnel, tmp_path, now - timedelta(days=9), ended)
    bundle = tmp_path / "late.bundle.pem"
    header = house.tunnel.bundle().read_bytes().partition(b"-----BEGIN")[0]
    bundle.write_bytes(header + pem.read_bytes() + house.tunnel.identity.root_path.read_bytes())
    bundle.chmod(0o600)
    done = run_sallyport("connect", house.tunnel.id, "--bundle", bundle, "--port", "0", folder=tmp_path)
    assert done.returncode == 1
    assert f"error: caller certificate agent expired on {ended:%Y-%m-%d %H:%M} UTC" in done.stderr
    assert "hint: issue a new one: sallyport certs issue caller agent" in done.stderr


def caller_valid(tunnel: Tunnel, folder: Path, begins: datetime, ends: datetime) -> Path:
    """Issue a caller certificate with the tunnel's real CA for a time of the test's choice."""
    callers = Authority.load(tunnel.identity.path / "callers.pem", tunnel.identity.path / "callers.key")
    genuine = x509.load_pem_x509_certificate(tunnel.bundle().read_bytes())
    leaf = copy_certificate(genuine, new_key(), callers, valid=(begins, ends))
    return write_server_files(folder, leaf, callers.certificate)


def _target(tunnel: Tunnel, bundle: Path | None) -> Target:
    return Target(tunnel.host("tickets"), tunnel.product.relay_port, tunnel.identity.root_path, bundle)


def _joined(folder: Path, *files: Path) -> Path:
    path = folder / "joined.pem"
    path.write_bytes(b"".join(file.read_bytes() for file in files))
    return path
