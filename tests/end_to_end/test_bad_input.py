"""
Bad input gets a clear answer: what each command, connector, relay and gateway says to it, word for word.

The words stand in ``bad_input.golden``. A message that changes fails here, so that nobody changes what users
read without reading it: see ``tests/harness/golden``.
"""

import asyncio
import json
import re
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from sallyport.certs.issuer import create_identity, issue_caller
from sallyport.processes import free_port
from tests.harness.child_process import ChildProcess, run_sallyport
from tests.harness.golden import Golden, normalised
from tests.harness.product import DOMAIN, LOOPBACK, Connector, Product, Tunnel
from tests.harness.raw_http import Endpoint
from tests.harness.raw_link import knock_as_link
from tests.harness.rough_upstream import RoughUpstream
from tests.hostile.http_requests import hostile_requests

pytestmark = pytest.mark.anyio

GOLDEN = Golden(Path(__file__).with_name("bad_input.golden"))
_SOON = 30
_JSON = [("Content-Type", "application/json")]


@dataclass
class Scene:
    """A running product, and what is wrong with it in places."""

    product: Product
    acme: Tunnel  # with its gateway
    other: Tunnel  # registered, without a gateway
    old: Tunnel  # made so long ago that its leaves have expired
    connector: Connector
    gateway: ChildProcess  # acme's

    def say(self, *arguments: str | Path, folder: Path | None = None) -> str:
        """Run a command and return what it said to people, with its exit code."""
        wide = {"COLUMNS": "1000"}  # no line of a table is broken where a port has a digit more
        done = run_sallyport(*arguments, folder=folder or self.acme.folder, environment=wide)
        lines = (done.stdout + done.stderr).splitlines()
        said = "\n".join(" ".join(line.split()) for line in lines if line.strip() and line[0] != "{")
        return f"{said}\nexit {done.returncode}"

    def gateway_says(self, change: Callable[[str], str], *command: str) -> str:
        """Change the text of acme's configuration, and start a gateway with it, or another command."""
        path = self.acme.write_gateway_config()
        changed = path.with_name("changed.yaml")
        changed.write_text(change(path.read_text()))
        return self.say(*(command or ("gateway", "run")), "--config", changed.name)

    async def asked(self, endpoint: Endpoint, path: str | None = None, body: bytes = b"{}") -> str:
        """Make a call and return status and error."""
        async with await endpoint.send("POST", _JSON, body, path=path) as reply:
            error = (await reply.json())["error"]
        return f"{reply.status} {json.dumps(error, indent=1)}"

    async def told(self, data: bytes, host: str, *, caller: str = "agent") -> str:
        """Send bytes inside the inner TLS and return the status and message of the answer."""
        reader, writer = await asyncio.open_connection(
            LOOPBACK,
            self.product.relay_port,
            ssl=self.acme.only_root_context(caller),
            server_hostname=host,
        )
        writer.write(data)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        error = json.loads(await reader.readexactly(length))["error"]
        writer.transport.abort()
        return f"{answer.split(b' ')[1].decode()} {error['message']}"

    async def alert(self, name: str) -> str:
        """Return what a TLS client says when it asks the relay for a name."""
        try:
            await asyncio.open_connection(
                LOOPBACK,
                self.product.relay_port,
                ssl=self.acme.only_root_context(),
                server_hostname=name,
            )
        except ssl.SSLError as error:
            return _alert_in(f"[SSL: {error.reason}]")
        return "connected"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Run relay, gateway and connector, and prepare what is wrong."""
    timeouts = {"connect": "2s", "first_byte": "2s", "idle": "5s"}
    with RoughUpstream() as upstream, Product(tmp_path_factory.mktemp("bad") / "product") as product:
        servers = {
            "rough": {"url": upstream.url, "timeouts": timeouts},
            "absent": {"url": f"http://127.0.0.1:{free_port()}/mcp", "timeouts": timeouts},
        }
        upstream.may_read.set()
        product.start_relay()
        acme = product.make_tunnel("acme", {})
        gateway = acme.start_gateway(settings={"servers": servers})
        acme.servers = {"rough": upstream.url}
        other = product.make_tunnel("other", {"tickets": upstream.url})
        yield Scene(product, acme, other, _old_tunnel(product), acme.start_connector(None), gateway)


def _old_tunnel(product: Product) -> Tunnel:
    """Register a tunnel that was made 200 days ago and never looked after."""
    folder = product.folder / "old"
    folder.mkdir()
    then = datetime.now(UTC) - timedelta(days=200)
    directory = create_identity(
        folder / "identity", domains=[DOMAIN], relay=product.relay_address, name="gw1", now=then
    )
    issue_caller(directory, "agent", domain=None, now=then)
    product.run("relay", "tunnel", "add", directory.root_path, "--name", "old", folder=product.relay_folder)
    return Tunnel(product, "old", folder, {"tickets": "http://127.0.0.1:9/mcp"})


def check(name: str, text: str) -> None:
    """Compare what was said with the golden text."""
    GOLDEN.check(name, normalised(text))


# -- nobody there -------------------------------------------------------------------------------------


async def test_no_gateway(scene: Scene) -> None:
    """The relay says it by an alert, the connector in words, at once."""
    connector = scene.other.start_connector()
    with anyio.fail_after(_SOON):
        check("no gateway connected, connector", await scene.asked(connector.endpoint()))
        check("no gateway connected, TLS client", await scene.alert(scene.other.host("tickets")))


async def test_unknown_tunnel(scene: Scene, tmp_path: Path) -> None:
    """A tunnel that this relay does not know."""
    stranger = Tunnel(scene.product, "stranger", tmp_path, {})
    scene.product.run(
        *("certs", "init", "--domain", DOMAIN, "--relay", scene.product.relay_address), folder=tmp_path
    )
    connector = stranger.start_connector()
    with anyio.fail_after(_SOON):
        check("unknown tunnel, connector", await scene.asked(connector.endpoint()))
        check("unknown tunnel, TLS client", await scene.alert(f"tickets.{'a' * 32}.{DOMAIN}"))


async def test_unreachable_relay(scene: Scene) -> None:
    """Nobody listens where the relay should be."""
    connector = scene.acme.start_connector(relay=f"{LOOPBACK}:{free_port()}")
    with anyio.fail_after(_SOON):
        check("unreachable relay, connector", await scene.asked(connector.endpoint()))
    address = f"{LOOPBACK}:{free_port()}"
    text = scene.gateway_says(lambda text: text.replace(scene.product.relay_address, address), "doctor")
    check("unreachable relay, doctor", text)


async def test_unknown_server_and_foreign_host(scene: Scene) -> None:
    """Both are 421, never 404."""
    with anyio.fail_after(_SOON):
        check("unknown server", await scene.asked(scene.connector.endpoint(), "/nothing/mcp"))
        host = scene.acme.host("rough")
        request = b"GET /mcp HTTP/1.1\r\nHost: %b\r\n\r\n" % scene.acme.host("absent").encode()
        check("Host outside the SNI", await scene.told(request, host))


# -- certificates and keys ----------------------------------------------------------------------------


def test_expired_certificates(scene: Scene) -> None:
    """Each end says so of its own files before it dials, and the relay of a link's."""
    old = scene.old
    bundle = old.identity.caller_bundle("agent")
    connect = ("connect", f"{old.id}/tickets", "--bundle", bundle, "--port", "0")
    check("expired caller certificate", scene.say(*connect, folder=old.folder))
    config = old.write_gateway_config()
    check("expired gateway certificate", scene.say("gateway", "run", "--config", config, folder=old.folder))
    check("expired link certificate, relay", knock_as_link(old, _joined(old, "link")))


async def test_certificates_of_others(scene: Scene) -> None:
    """A good certificate in the wrong place, and one of another tunnel, on either layer."""
    bundle = scene.other.bundle()
    check(
        "bundle of another tunnel", scene.say("connect", f"{scene.acme.id}/rough", "--bundle", bundle)
    )
    said = _alert_in(knock_as_link(scene.acme, _joined(scene.other, "link")))
    check("link certificate of another tunnel, relay", said)
    said = _alert_in(knock_as_link(scene.acme, _joined(scene.acme, "gateway")))
    check("gateway certificate as a link, relay", said)
    with anyio.fail_after(_SOON):
        pem = _joined(scene.acme, "link")
        shutil.copy(pem, scene.acme.identity.caller_bundle("thief"))
        request = b"GET /mcp HTTP/1.1\r\nHost: %b\r\n\r\n" % scene.acme.host("rough").encode()
        said = await scene.told(request, scene.acme.host("rough"), caller="thief")
        check("link certificate as a caller", said)


def test_relay_with_the_wrong_certificate(scene: Scene, tmp_path: Path) -> None:
    """The gateway names whom it trusted and what it met."""
    scene.product.run("relay", "init", "--domain", DOMAIN, "--host", LOOPBACK, folder=tmp_path)
    foreign = tmp_path / "relay-ca.pem"
    text = scene.gateway_says(lambda text: text.replace(str(scene.acme.relay_ca), str(foreign)), "doctor")
    check("relay with the wrong certificate, doctor", text.replace(str(tmp_path), "FOLDER"))


def test_key_readable_by_others(scene: Scene) -> None:
    """Refused, with the command that mends it."""
    key = scene.acme.identity.gateway("gw1").key
    key.chmod(0o644)
    try:
        check("key readable by others", scene.gateway_says(lambda text: text))
    finally:
        key.chmod(0o600)


def test_half_written_bundle(scene: Scene, tmp_path: Path) -> None:
    """A copy that was cut off."""
    path = tmp_path / "agent.bundle.pem"
    data = scene.acme.bundle().read_bytes()
    path.write_bytes(data[: len(data) // 2])
    path.chmod(0o600)
    said = scene.say("connect", f"{scene.acme.id}/rough", "--bundle", path)
    check("half-written bundle", said.replace(str(tmp_path), "FOLDER"))


def _alert_in(said: str) -> str:
    """Return the alert in OpenSSL's words for it, without what differs between its versions."""
    name = re.search(r"\[SSL: ([A-Z0-9_/]+)\]", said)
    return f"TLS alert: {re.sub('^(SSLV3|TLSV1|TLSV13|SSL/TLS)_(ALERT_)?', '', name[1])}" if name else said


def _joined(tunnel: Tunnel, role: str) -> Path:
    """Return a leaf's chain and key in one file, as OpenSSL's clients take it."""
    files = getattr(tunnel.identity, role)("gw1")
    path = tunnel.folder / f"{role}-joined.pem"
    path.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    return path


# -- files and ports ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("unknown key", lambda text: text.replace("servers:", "serverz:")),
        ("wrong type", lambda text: text + "health: 7421\n"),
        ("value without its unit", lambda text: text + "limits: {request_body: 1000}\n"),
        ("duplicate key", lambda text: text + "log: {level: info}\n"),
        ("missing key", lambda text: text.replace("  address:", "  # address:")),
        ("not YAML", lambda text: text + "a: [1\n"),
    ],
)
def test_configuration(scene: Scene, name: str, change: Callable[[str], str]) -> None:
    """File, line, key, what is wrong, and the remedy."""
    check(f"configuration, {name}", scene.gateway_says(change))


def test_missing_files(scene: Scene) -> None:
    """The file that is not there is named, and what would make it."""
    check("missing configuration", scene.say("gateway", "run", "--config", "nothing.yaml"))
    check("no configuration at all", scene.say("relay", "run", folder=scene.product.folder))
    changed = scene.gateway_says(lambda text: text.replace("./identity", "./nowhere"))
    check("missing identity", changed)
    check("missing bundle", scene.say("connect", f"{scene.acme.id}/rough", "--bundle", "nothing.pem"))


def test_port_in_use(scene: Scene) -> None:
    """An error, never another port."""
    bundle = scene.acme.bundle()
    taken = str(scene.connector.port)
    connect = ("connect", f"{scene.acme.id}/rough", "--bundle", bundle, "--port", taken)
    check("port in use, connector", scene.say(*connect))
    check("port in use, relay", scene.say("relay", "run", folder=scene.product.relay_folder))
    with socket.create_server((LOOPBACK, 0)) as listener:
        health = f"health: 127.0.0.1:{listener.getsockname()[1]}\n"
        check("port in use, health", scene.gateway_says(lambda text: text + health))


# -- HTTP ---------------------------------------------------------------------------------------------

_HOSTILE = {
    "CL and TE": "CL and TE",
    "two Hosts": "two Hosts",
    "obs-fold": "folded field",
    "bare LF": "bare LF inside a value",
    "100 KiB head": "100 KiB header",
    "1,000 headers": "1,000 headers",
    "body longer than declared": "chunk longer than its size",
    "CONNECT": "CONNECT",
    "absolute form for another host": "absolute form, other host",
    "HTTP/2 preface": "HTTP/2 preface",
}


@pytest.mark.parametrize("name", _HOSTILE)
async def test_hostile_http(scene: Scene, name: str) -> None:
    """The status and the rule."""
    host = scene.acme.host("rough")
    case = next(case for case in hostile_requests(host.encode()) if case.name == _HOSTILE[name])
    with anyio.fail_after(_SOON):
        check(f"HTTP, {name}", await scene.told(case.data, host))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("refuses", "/absent/mcp"),
        ("hangs", "/rough/mcp/hang"),
        ("dies before its answer", "/rough/mcp/die-at-once"),
        ("sends garbage", "/rough/mcp/garbage"),
    ],
)
async def test_bad_server(scene: Scene, name: str, path: str) -> None:
    """Whose fault it is, and whether the call may have run."""
    with anyio.fail_after(_SOON):
        check(f"server {name}", await scene.asked(scene.connector.endpoint(), path))


async def test_server_dies_in_its_answer(scene: Scene) -> None:
    """What came is passed on and cut off, so the words are in the gateway's log."""
    with anyio.fail_after(_SOON):
        endpoint = scene.connector.endpoint()
        async with await endpoint.send("GET", path="/rough/mcp/die-in-body/100") as reply:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reply.body()
    path = "/rough/mcp/die-in-body/100"
    line = scene.gateway.wait_for("call", path=path)
    check("server dies in its answer, gateway's log", f"{line['outcome']}: {line['failure']}")


def test_every_golden_text_is_of_some_test() -> None:
    """The file holds nothing that no test produces: a removed test takes its text along."""
    source = Path(__file__).read_text(encoding="utf-8")
    made = ("configuration, ", "HTTP, ", "server ")
    for name in GOLDEN.names:
        words = [name, *(name.removeprefix(start) for start in made if name.startswith(start))]
        assert any(f'"{each}"' in source for each in words), name
