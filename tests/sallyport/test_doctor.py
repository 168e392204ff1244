"""The doctor names the hop that fails, from both sides, with what to do about it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sallyport.config.loader import load_gateway
from sallyport.doctor_caller import examine_as_caller
from sallyport.doctor_gateway import examine_as_gateway
from sallyport.hops import Hop, Verdict, in_order
from sallyport.processes import free_port
from tests.harness.child_process import run_sallyport
from tests.harness.product import LOOPBACK, Product, Tunnel

_NOWHERE = "http://127.0.0.1:9/mcp"  # nothing here calls the server itself


@dataclass(frozen=True)
class _Stage:
    """A relay that runs, and a tunnel whose gateway runs."""

    product: Product
    tunnel: Tunnel
    config: Path
    bundle: Path


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Stage]:
    """Run what is well, for the tests that leave it so."""
    with Product(tmp_path_factory.mktemp("doctor")) as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": _NOWHERE})
        bundle = tunnel.bundle()
        tunnel.start_gateway(settings={"health": f"{LOOPBACK}:{free_port()}"})
        yield _Stage(product, tunnel, tunnel.folder / "gateway-gw1.yaml", bundle)


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    """Make a product of the test's own, with nothing started."""
    with Product(tmp_path / "product") as product:
        yield product


async def _as_gateway(config: Path) -> dict[Hop, Verdict]:
    return _by_hop([verdict async for verdict in examine_as_gateway(load_gateway(config))])


async def _as_caller(bundle: Path) -> dict[Hop, Verdict]:
    return _by_hop([verdict async for verdict in examine_as_caller(bundle)])


def _by_hop(found: list[Verdict]) -> dict[Hop, Verdict]:
    return {verdict.hop: verdict for verdict in in_order(found)}


def _states(verdicts: dict[Hop, Verdict]) -> list[str]:
    return [verdicts[hop].state for hop in Hop]


@pytest.mark.anyio
async def test_gateway_side_is_well(stage: _Stage) -> None:
    """The running gateway is asked, and a canary goes all the way with a bundle of the identity."""
    verdicts = await _as_gateway(stage.config)
    assert _states(verdicts) == ["ok"] * 5
    assert verdicts[Hop.LINK].what.endswith("says the running gateway")
    assert verdicts[Hop.RELAY].what.endswith("proves itself by relay-ca.pem")
    assert "there and back in" in verdicts[Hop.CANARY].what


@pytest.mark.anyio
async def test_caller_side_is_well(stage: _Stage) -> None:
    """A bundle is enough to see every hop."""
    verdicts = await _as_caller(stage.bundle)
    assert _states(verdicts) == ["ok"] * 5
    assert verdicts[Hop.FILES].what.startswith(f"caller agent of {stage.tunnel.id}, ")


def test_command_prints_every_hop(stage: _Stage) -> None:
    """A table for people and JSON for programs; status 0 when all is well."""
    shown = run_sallyport("doctor", "--bundle", stage.bundle, folder=stage.tunnel.folder)
    assert shown.returncode == 0, shown.stderr
    assert all(hop in shown.stdout for hop in Hop)
    told = run_sallyport("doctor", "--config", stage.config, "--json", folder=stage.tunnel.folder)
    answer = json.loads(told.stdout)
    assert answer["ok"] is True
    assert [hop["hop"] for hop in answer["hops"]] == list(Hop)


def test_sides_are_not_mixed(stage: _Stage) -> None:
    """One place to look from at a time."""
    done = run_sallyport(
        "doctor", "--bundle", stage.bundle, "--config", stage.config, folder=stage.tunnel.folder
    )
    assert done.returncode == 2
    assert "name one of --config and --bundle" in done.stderr


@pytest.mark.anyio
async def test_link_is_tried_where_no_gateway_tells(stage: _Stage) -> None:
    """Without a health listener a link of our own is made, and the relay's clock read from its answer."""
    stage.tunnel.write_gateway_config("gw2")
    verdicts = await _as_gateway(stage.tunnel.folder / "gateway-gw2.yaml")
    assert _states(verdicts) == ["ok"] * 5
    assert verdicts[Hop.LINK].what.endswith("accepts a link")


@pytest.mark.anyio
async def test_key_that_others_can_read(stage: _Stage) -> None:
    """Files come first, and nothing is dialled with a key that is no secret."""
    bundle = stage.bundle.with_name("wide.bundle.pem")
    bundle.write_bytes(stage.bundle.read_bytes())
    bundle.chmod(0o644)
    try:
        verdicts = await _as_caller(bundle)
    finally:
        bundle.unlink()
    assert _states(verdicts) == ["failed", "skipped", "skipped", "skipped", "skipped"]
    assert "chmod 600" in verdicts[Hop.FILES].hint
    assert verdicts[Hop.LINK].what == "not tried, because of the files and keys"


@pytest.mark.anyio
async def test_no_caller_to_play(stage: _Stage, tmp_path: Path) -> None:
    """Without a bundle the canary call is skipped, which is no failure, and it is said how to have one."""
    moved = stage.bundle.rename(tmp_path / stage.bundle.name)
    try:
        verdicts = await _as_gateway(stage.config)
    finally:
        moved.rename(stage.bundle)
    assert _states(verdicts) == ["ok", "ok", "ok", "ok", "skipped"]
    assert "certs issue caller" in verdicts[Hop.CANARY].hint


@pytest.mark.anyio
async def test_relay_is_somebody_else(stage: _Stage, tmp_path: Path) -> None:
    """A relay that the configured CA does not vouch for fails at its own hop, before any link."""
    run_sallyport("relay", "init", "--domain", "other.test", "--host", LOOPBACK, folder=tmp_path)
    relay = {"address": stage.product.relay_address, "ca": str(tmp_path / "relay-ca.pem")}
    stage.tunnel.write_gateway_config("gw3", {"relay": relay})
    verdicts = await _as_gateway(stage.tunnel.folder / "gateway-gw3.yaml")
    assert _states(verdicts) == ["ok", "skipped", "failed", "skipped", "skipped"]
    assert "relay.ca" in verdicts[Hop.RELAY].hint
    assert ", pin sha256/" in verdicts[Hop.RELAY].what


@pytest.mark.anyio
async def test_tunnel_is_not_registered(stage: _Stage, tmp_path: Path) -> None:
    """The relay answers and does not know us: the link fails, and the command to run there is named."""
    address = stage.product.relay_address
    stage.product.run("certs", "init", "--domain", "tunnel.test", "--relay", address, folder=tmp_path)
    stranger = Tunnel(stage.product, "stranger", tmp_path, {"tickets": _NOWHERE})
    config = stranger.write_gateway_config("gw1")
    verdicts = await _as_gateway(config)
    assert _states(verdicts) == ["ok", "skipped", "ok", "failed", "skipped"]
    assert "relay tunnel add" in verdicts[Hop.LINK].hint
    seen_by_caller = await _as_caller(stranger.bundle())
    assert _states(seen_by_caller) == ["ok", "skipped", "ok", "failed", "skipped"]


@pytest.mark.anyio
async def test_gateway_is_not_running(product: Product) -> None:
    """A caller sees it at the link; on the gateway's side a link can be made and the call goes nowhere."""
    product.start_relay()
    tunnel = product.make_tunnel("acme", {"tickets": _NOWHERE})
    as_caller = await _as_caller(tunnel.bundle())
    assert _states(as_caller) == ["ok", "skipped", "ok", "failed", "skipped"]
    as_gateway = await _as_gateway(tunnel.write_gateway_config())
    assert _states(as_gateway) == ["ok", "ok", "ok", "ok", "failed"]
    assert "sallyport gateway run" in as_gateway[Hop.CANARY].hint


@pytest.mark.anyio
async def test_relay_is_not_running(product: Product) -> None:
    """Both sides name the relay, and the command ends with status 1."""
    folder = product.folder / "acme"
    folder.mkdir()
    address = ("--domain", "tunnel.test", "--relay", product.relay_address)
    product.run("certs", "init", *address, folder=folder)
    tunnel = Tunnel(product, "acme", folder, {"tickets": _NOWHERE})
    config = tunnel.write_gateway_config()
    for verdicts in (await _as_gateway(config), await _as_caller(tunnel.bundle())):
        assert _states(verdicts) == ["ok", "skipped", "failed", "skipped", "skipped"]
    done = run_sallyport("doctor", "--config", config, folder=folder)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
