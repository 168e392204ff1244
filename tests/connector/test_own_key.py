"""A caller with an API key and no bundle: the root is found by the ID, and the key goes nowhere else."""

import asyncio
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import anyio
import pytest

from sallyport.certs.api_key import ApiKey
from sallyport.certs.contexts import door_context, root_giving_context
from sallyport.certs.errors import FileRefused
from sallyport.cli import main
from sallyport.connector.client import call_canary
from sallyport.connector.dial import Dialler
from sallyport.connector.errors import GatewayRefused, HopFailed, KeyRefused, KeysNotTaken
from sallyport.connector.own_key import CallerByKey, take_key
from sallyport.tunnel.alerts import Alert
from tests.connector.far_side import FarSide
from tests.harness.identity import DOMAIN, TestIdentity

KEY = ApiKey.of_random(bytes(range(32)))
TEXT = KEY.text.decode()


def far_with_keys(*connections: tuple[Literal["root", "calls"], TestIdentity]) -> FarSide:
    """Make a far side that shows a tunnel's root, or takes calls for it, connection by connection."""

    def contexts() -> Iterator[ssl.SSLContext]:
        for what, tunnel in connections:
            leaf = tunnel.directory.gateway("gw")
            if what == "root":
                yield root_giving_context(leaf, tunnel.root)
            else:
                yield door_context(leaf, tunnel.root, certificate_required=False)

    return FarSide.changing(contexts())


def dialler_to(far: FarSide, tunnel: TestIdentity) -> Dialler:
    """Make a dialler by key."""
    who = CallerByKey(tunnel.bundle.tunnel, DOMAIN, far.address, KEY)
    return Dialler(who, relay=None, clock=lambda: datetime.now(UTC))


async def refuse(dialler: Dialler) -> HopFailed:
    """Dial what must not be accepted."""

    def never() -> asyncio.Protocol:
        raise AssertionError("a peer that was not accepted has been introduced")

    with anyio.fail_after(10), pytest.raises(HopFailed) as failed:
        await dialler.dial(never)
    return failed.value


@pytest.mark.anyio
async def test_the_root_is_asked_for_once(tunnel: TestIdentity) -> None:
    """Dials that come together wait for one answer; later ones have it."""
    async with far_with_keys(("root", tunnel), *[("calls", tunnel)] * 3) as far:
        dialler = dialler_to(far, tunnel)
        with anyio.fail_after(10):
            transports = await asyncio.gather(*(dialler.dial(asyncio.Protocol) for _ in range(2)))
            transports.append(await dialler.dial(asyncio.Protocol))
        for transport in transports:
            transport.abort()
    assert [hello.alpn for hello in far.hellos] == [(b"sallyport-root/1",), *[(b"sallyport/1",)] * 3]
    assert {hello.server_name for hello in far.hellos} == {dialler.host}


@pytest.mark.anyio
async def test_the_key_is_in_every_request_and_in_no_first_connection(tunnel: TestIdentity) -> None:
    """The canary is a request like any other."""
    async with far_with_keys(("root", tunnel), ("calls", tunnel)) as far:
        who = CallerByKey(tunnel.bundle.tunnel, DOMAIN, far.address, KEY)
        await call_canary(who, timeout=10)
    (request,) = far.requests
    assert request.header(b"sallyport-key") == [KEY.text]


@pytest.mark.anyio
async def test_another_root_is_refused(tunnel: TestIdentity, other_tunnel: TestIdentity) -> None:
    """Somebody in the gateway's place with a tunnel of his own: nothing is sent to him."""
    async with far_with_keys(("root", other_tunnel)) as far:
        error = await refuse(dialler_to(far, tunnel))
    assert isinstance(error, GatewayRefused)
    assert error.rule == "anchor"
    assert far.requests == []


@pytest.mark.anyio
async def test_the_right_root_shown_by_another_does_not_help_him(
    tunnel: TestIdentity, other_tunnel: TestIdentity
) -> None:
    """The root is public. It has to vouch for who answers next, and the next dial asks for it again."""
    async with far_with_keys(
        ("root", tunnel), ("calls", other_tunnel), ("root", tunnel), ("calls", tunnel)
    ) as far:
        dialler = dialler_to(far, tunnel)
        error = await refuse(dialler)
        with anyio.fail_after(10):
            (await dialler.dial(asyncio.Protocol)).abort()
    assert isinstance(error, GatewayRefused)
    assert error.rule == "chain"


@pytest.mark.anyio
async def test_a_gateway_that_takes_no_keys_is_named(tunnel: TestIdentity) -> None:
    """Its door knows no such protocol, and the remedy is in the hint."""
    async with FarSide.alerting(Alert.NO_APPLICATION_PROTOCOL) as far:
        error = await refuse(dialler_to(far, tunnel))
    assert isinstance(error, KeysNotTaken)
    assert "keys: on" in error.hint


# Where the key comes from


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a key's file."""
    path = tmp_path / "my.key"
    path.write_text(f"{TEXT}\n")
    path.chmod(0o600)
    return path


def test_the_variable_does_not_stay_in_the_environment(file: Path) -> None:
    """Whether or not it is the one that is used."""
    environment = {"SALLYPORT_KEY": f" {TEXT}\n", "HOME": "/"}
    assert take_key(environment, None) == KEY
    assert environment == {"HOME": "/"}

    environment = {"SALLYPORT_KEY": "sp_" + "a" * 52}
    assert take_key(environment, file) == KEY
    assert environment == {}
    assert take_key(environment, None) is None


def test_what_is_no_key_is_not_repeated(file: Path) -> None:
    """A slip in a key leaves most of the key."""
    with pytest.raises(KeyRefused) as refused:
        take_key({"SALLYPORT_KEY": TEXT[:-1]}, None)
    assert TEXT[:-1] not in f"{refused.value!r} {refused.value} {refused.value.hint}"
    file.chmod(0o640)
    with pytest.raises(FileRefused, match="mode 0640"):
        take_key({}, file)


@pytest.mark.parametrize("pasted", [TEXT, TEXT.upper(), TEXT[3:], f" {TEXT}"])
def test_a_key_in_place_of_its_file_is_not_repeated(pasted: str) -> None:
    """It stands among the arguments already; the screen and the log need not have it, too."""
    with pytest.raises(KeyRefused, match="--key-file holds no API key") as refused:
        take_key({}, Path(pasted))
    assert pasted.strip() not in f"{refused.value!r} {refused.value} {refused.value.hint}"


TUNNEL = "tnl_" + "a" * 32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--key-file", "{file}"], "needs both --relay HOST:PORT and --domain DOMAIN"),
        (["--key-file", "{file}", "--relay", "r.test"], "needs both"),
        (["--key-file", "{file}", "--bundle", "b.pem"], "not both"),
        (["--domain", "tunnel.test"], "a bundle has a domain of its own"),
    ],
)
def test_a_call_by_key_says_what_is_missing(
    options: list[str], words: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Usage, exit 2, before anything is opened."""
    assert main(["connect", TUNNEL, *(option.format(file=file) for option in options)]) == 2
    assert words in capsys.readouterr().err


def test_a_key_in_the_variable_is_a_call_by_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No bundle is looked for then."""
    monkeypatch.setenv("SALLYPORT_KEY", TEXT)
    assert main(["connect", TUNNEL]) == 2
    assert "a call by key needs both" in capsys.readouterr().err
