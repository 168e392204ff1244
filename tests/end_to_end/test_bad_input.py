"""
Bad input gets a clear answer: the command says what is wrong, where, and what to do, and exits with 1.

Golden messages of whole commands, as the user who made the mistake reads them.
"""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.harness.child_process import run_sallyport
from tests.harness.product import DOMAIN, LOOPBACK, Product, Tunnel, free_port


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Run a relay of this module's own, whose files are spoiled and mended again."""
    with Product(tmp_path_factory.mktemp("office") / "product") as product:
        product.start_relay()
        yield product


@pytest.fixture(scope="module")
def acme(office: Product) -> Tunnel:
    """Register a tunnel; no gateway runs."""
    return office.make_tunnel("acme", {"tickets": "http://127.0.0.1:9/mcp"})


@dataclass(frozen=True)
class Said:
    """What a command printed on standard error, and its exit code."""

    code: int
    error: str
    hint: str


def _run(*arguments: str | Path, folder: Path) -> Said:
    done = run_sallyport(*arguments, folder=folder)
    lines = dict(line.partition(": ")[::2] for line in done.stderr.splitlines())
    return Said(done.returncode, lines.get("error", done.stderr), lines.get("hint", ""))


# -- bundles, at the connector ------------------------------------------------------------------------


SPOILED: list[tuple[str, Callable[[bytes], bytes], int, str, str]] = [
    (
        "readable by others",
        lambda whole: whole,
        0o644,
        "{file} holds a private key and has mode 0644: others than its owner could use it",
        "run: chmod 600 {file}",
    ),
    (
        "half-written",
        lambda whole: whole[: len(whole) // 2],
        0o600,
        "{file} ends in the middle of a CERTIFICATE block",
        "copy the file again, whole",
    ),
    ("empty", lambda whole: b"", 0o600, "{file} is empty", "copy the file again, whole"),
]


@pytest.mark.parametrize(
    ("spoil", "mode", "error", "hint"), [row[1:] for row in SPOILED], ids=[row[0] for row in SPOILED]
)
def test_a_spoiled_bundle_is_named_with_its_remedy(
    acme: Tunnel, tmp_path: Path, spoil: Callable[[bytes], bytes], mode: int, error: str, hint: str
) -> None:
    """The connector says which file it is and what to do with it."""
    file = tmp_path / "agent.bundle.pem"
    file.write_bytes(spoil(acme.bundle().read_bytes()))
    file.chmod(mode)
    said = _run("connect", acme.id, "--bundle", file, "--port", "0", folder=tmp_path)
    assert said == Said(1, error.format(file=file), hint.format(file=file))


def test_a_bundle_of_another_tunnel_is_refused(office: Product, acme: Tunnel, tmp_path: Path) -> None:
    """The connector does not dial with it, and names both tunnels."""
    other = office.make_tunnel("bundles", {"tickets": "http://127.0.0.1:9/mcp"})
    said = _run("connect", acme.id, "--bundle", other.bundle(), "--port", "0", folder=tmp_path)
    assert said.code == 1
    assert said.error == f"{other.bundle()} is a bundle of tunnel {other.id}, not of {acme.id}"


def test_a_connector_port_in_use_is_an_error_and_never_another_port(acme: Tunnel, tmp_path: Path) -> None:
    """An agent's configuration names the port, so moving to another one would only hide the mistake."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        said = _run("connect", acme.id, "--bundle", acme.bundle(), "--port", str(port), folder=tmp_path)
    assert (said.code, said.error) == (1, f"cannot listen at {LOOPBACK}:{port}: address already in use")
    assert "--port" in said.hint


# -- the gateway's configuration and files --------------------------------------------------------------


BAD_CONFIGS: list[tuple[str, str, str, str]] = [
    ("unknown key", "sevrers: {}\n", ":14: sevrers: unknown key", "did you mean 'servers'?"),
    ("duplicate key", "log: {level: info}\n", ":14: log: given twice, first on line 1", "keep one of them"),
]


@pytest.mark.parametrize(
    ("more", "error", "hint"), [row[1:] for row in BAD_CONFIGS], ids=[row[0] for row in BAD_CONFIGS]
)
def test_a_wrong_key_in_the_config_is_named_with_file_and_line(
    acme: Tunnel, more: str, error: str, hint: str
) -> None:
    """A key too many stops the gateway before it dials."""
    good = acme.write_gateway_config("gw1").read_text()
    (acme.folder / "bad.yaml").write_text(good + more)
    said = _run("gateway", "run", "--config", "bad.yaml", folder=acme.folder)
    assert said == Said(1, f"bad.yaml{error}", hint)


def test_a_wrong_type_in_the_config_says_what_is_wanted(acme: Tunnel) -> None:
    """The value is named by its path of keys."""
    content = yaml.safe_load(acme.write_gateway_config("gw1").read_text())
    content["servers"]["tickets"]["url"] = 5
    (acme.folder / "bad.yaml").write_text(yaml.safe_dump(content))
    said = _run("gateway", "run", "--config", "bad.yaml", folder=acme.folder)
    assert said.code == 1
    assert said.error.startswith("bad.yaml:")
    assert said.error.endswith(
        "servers.tickets.url: wanted a URL such as http://127.0.0.1:9000/mcp, found a number"
    )


@pytest.mark.parametrize("command", ["gateway", "relay"])
def test_a_missing_config_is_named(tmp_path: Path, command: str) -> None:
    """Both programs say which file is not there."""
    said = _run(command, "run", "--config", "none.yaml", folder=tmp_path)
    assert said == Said(1, "none.yaml: no such file", "name the right one with --config")


def test_a_gateway_key_that_others_can_read_is_refused(acme: Tunnel) -> None:
    """The message has the chmod to run."""
    key = acme.identity.link("gw1").key
    config = acme.write_gateway_config("gw1")
    os.chmod(key, 0o644)
    try:
        said = _run("gateway", "run", "--config", config, folder=acme.folder)
    finally:
        os.chmod(key, 0o600)
    assert said.code == 1
    assert said.error == f"{key} holds a private key and has mode 0644: others than its owner could use it"
    assert said.hint == f"run: chmod 600 {key}"


def test_a_gateway_with_another_tunnels_identity_is_refused(office: Product, acme: Tunnel) -> None:
    """The ID in the config is checked against the root."""
    other = office.make_tunnel("identities", {})
    tunnel = {"id": other.id, "identity": "./identity", "name": "gw1"}
    config = acme.write_gateway_config("gw1", {"tunnel": tunnel})
    said = _run("gateway", "run", "--config", config, folder=acme.folder)
    assert said.code == 1
    assert f"names tunnel {other.id}" in said.error
    assert f"holds the root of {acme.id}" in said.error


# -- the relay ----------------------------------------------------------------------------------------


def test_a_relay_port_in_use_is_an_error(office: Product) -> None:
    """A second relay at the same address says who is in the way and how to find him."""
    said = _run("relay", "run", "--config", "relay.yaml", folder=office.relay_folder)
    assert (said.code, said.error) == (1, f"cannot listen on {office.relay_address}: the port is in use")
    assert "ss -ltnp" in said.hint


def test_a_relay_refuses_to_register_what_is_no_root(office: Product, acme: Tunnel) -> None:
    """A leaf given in the root's place is named, with the file that was meant."""
    leaf = acme.identity.gateway("gw1").certificate
    said = _run("relay", "tunnel", "add", leaf, folder=office.relay_folder)
    assert said.code == 1
    assert said.error.startswith("gateway certificate gw1 is not registered")
    assert "root.pem" in said.hint


# -- the link -----------------------------------------------------------------------------------------


def _reason_for_no_link(tunnel: Tunnel, relay: dict[str, str]) -> str:
    """Start a gateway that cannot come up, and return what it logs while it goes on trying."""
    config = tunnel.write_gateway_config("gw1", {"relay": relay})
    arguments = ("gateway", "run", "--config", config)
    with tunnel.product.start(f"lost-{tunnel.name}", *arguments, folder=tunnel.folder) as gateway:
        # Twice: it has survived the first failure.
        return str(gateway.wait_for("no link", count=2)["reason"])


def test_an_unreachable_relay_is_named(acme: Tunnel) -> None:
    """The gateway says where it could not connect, and goes on trying."""
    address = f"{LOOPBACK}:{free_port()}"
    reason = _reason_for_no_link(acme, {"address": address, "ca": str(acme.relay_ca)})
    assert reason == f"no connection to the relay at {address}: Connection refused"


def test_a_relay_with_the_wrong_certificate_is_not_trusted(acme: Tunnel, tmp_path: Path) -> None:
    """The gateway says that it is another relay, by its CA and by its pin."""
    acme.product.run("relay", "init", "--domain", DOMAIN, "--host", LOOPBACK, folder=tmp_path)
    address = acme.product.relay_address
    by_ca = _reason_for_no_link(acme, {"address": address, "ca": str(tmp_path / "relay-ca.pem")})
    by_pin = _reason_for_no_link(acme, {"address": address, "pin": f"sha256/{'A' * 43}="})
    assert "what answers is not the relay that the config trusts" in by_ca
    assert "not the pinned sha256/AAAA" in by_pin


def test_a_tunnel_that_the_relay_does_not_know_is_named(office: Product, tmp_path: Path) -> None:
    """An unregistered tunnel's gateway says so, and not that a connection was closed."""
    addresses = ("--domain", DOMAIN, "--relay", office.relay_address, "--name", "gw1")
    office.run("certs", "init", *addresses, folder=tmp_path)
    stranger = Tunnel(office, "stranger", tmp_path, {"tickets": "http://127.0.0.1:9/mcp"})
    relay = {"address": office.relay_address, "ca": str(stranger.relay_ca)}
    assert f"the relay does not know tunnel {stranger.id}" in _reason_for_no_link(stranger, relay)
