"""
Callers with API keys, through real processes: who gets in, what reaches the servers, and how soon a key ends.
"""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import pytest
from mcp import Client

from tests.harness.child_process import ChildProcess, run_sallyport
from tests.harness.product import DOMAIN, LOOPBACK, Connector, Product, Tunnel
from tests.harness.stage import Fixture

Header = tuple[str, str]


class Upstream:
    """An internal server that remembers every head, and answers with its name."""

    def __init__(self, name: str) -> None:
        self.heads: list[list[Header]] = []
        heads = self.heads

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                heads.append([(key.lower(), value) for key, value in self.headers.items()])
                body = name.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Write nothing into the test's output."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """What a gateway's configuration says."""
        return f"http://{LOOPBACK}:{self._server.server_port}/mcp"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class OpenConnection:
    """One TLS connection straight to the relay, kept open between requests; with a certificate or without."""

    def __init__(self, tunnel: Tunnel, *, server: str = "tickets", caller: str | None = None) -> None:
        name = tunnel.host(server)
        self._connection = http.client.HTTPSConnection(name, timeout=20)
        plain = socket.create_connection((LOOPBACK, tunnel.product.relay_port), timeout=20)
        context = tunnel.only_root_context(caller)
        self._socket = context.wrap_socket(plain, server_hostname=name)
        self._connection.sock = self._socket

    def get(self, *headers: Header, path: str = "/mcp") -> tuple[int, bytes, http.client.HTTPResponse]:
        """Ask, and return the status, the body and the answer's head."""
        self._connection.putrequest("GET", path)
        for name, value in headers:
            self._connection.putheader(name, value)
        self._connection.endheaders()
        answer = self._connection.getresponse()
        return answer.status, answer.read(), answer

    def close(self) -> None:
        """Leave."""
        self._connection.close()
        self._socket.close()


@dataclass
class Town:
    """A tunnel whose gateway takes keys, with two servers and a key for one of them."""

    tunnel: Tunnel
    gateway: ChildProcess
    tickets: Upstream
    wiki: Upstream
    key: str
    _open: list[OpenConnection] = field(default_factory=list)

    def add(self, name: str, *servers: str) -> str:
        """Make a key as an operator does."""
        options = [option for server in servers for option in ("--server", server)]
        return self.tunnel.product.run(*_KEYS, "add", name, *options, folder=self.tunnel.folder).strip()

    def revoke(self, name: str) -> None:
        """Revoke a key as an operator does."""
        self.tunnel.product.run(*_KEYS, "revoke", name, folder=self.tunnel.folder)

    def connect(self, *, server: str = "tickets", caller: str | None = None) -> OpenConnection:
        """Open a connection that the test need not close."""
        connection = OpenConnection(self.tunnel, server=server, caller=caller)
        self._open.append(connection)
        return connection

    def leave(self) -> None:
        """Close what the test has opened."""
        while self._open:
            self._open.pop().close()


_CONFIG = "gateway-gw1.yaml"
_KEYS = ("gateway", "keys")


@pytest.fixture(scope="module")
def _town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    tickets, wiki = Upstream("tickets"), Upstream("wiki")
    with Product(tmp_path_factory.mktemp("town") / "p") as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": tickets.url, "wiki": wiki.url})
        tunnel.write_gateway_config(settings={"keys": True})
        # The commands below look for ./gateway.yaml, as at an operator's.
        (tunnel.folder / "gateway.yaml").symlink_to(_CONFIG)
        gateway = tunnel.start_gateway(settings={"keys": True})
        town = Town(tunnel, gateway, tickets, wiki, "")
        town.key = town.add("ci", "tickets")
        yield town
    tickets.close()
    wiki.close()


@pytest.fixture
def town(_town: Town) -> Iterator[Town]:
    """Give the running town, with nothing remembered of the test before."""
    _town.tickets.heads.clear()
    _town.wiki.heads.clear()
    yield _town
    _town.leave()


def error_of(body: bytes) -> dict[str, object]:
    """Read the JSON-RPC error that every refusal of ours is."""
    error = json.loads(body)["error"]
    assert isinstance(error, dict)
    return error


def rule_of(body: bytes) -> str:
    """Read which rule refused."""
    data = error_of(body)["data"]
    assert isinstance(data, dict)
    assert data["executed"] == "no"
    return str(data["rule"])


@pytest.mark.parametrize(
    "form", ["Sallyport-Key: {}", "Authorization: Bearer {}", "authorization: bearer  {} "]
)
def test_a_key_opens_its_server_and_stays_outside(town: Town, form: str) -> None:
    """Either header will do; the server sees neither, and everything else."""
    name, _, value = form.format(town.key).partition(": ")

    status, body, _ = town.connect().get((name, value), ("X-Other", "kept"))

    assert (status, body) == (200, b"tickets")
    (head,) = town.tickets.heads
    assert ("x-other", "kept") in head
    assert not [value for _, value in head if "sp_" in value]
    line = town.gateway.wait_for("call", caller="key:ci", status=200)
    assert (line["trust"], line["server"]) == ("key", "tickets")
    assert town.key not in town.gateway.log


def test_a_bearer_of_the_servers_own_passes_beside_a_key(town: Town) -> None:
    """The key says who calls the tunnel; Authorization is for the server."""
    bearer = ("Authorization", "Bearer eyJhbGciOi")

    assert town.connect().get(("Sallyport-Key", town.key), bearer)[0] == 200

    assert ("authorization", "Bearer eyJhbGciOi") in town.tickets.heads[0]


def wrong_keys(key: str) -> list[list[Header]]:
    """List what must not open anything: misspelt, twice, disguised, far too long."""
    other = "sp_" + "a" * 52
    forms = [other, key[:-1], key + "a", key.upper(), key.replace("sp_", "SP_"), "sp_", key + "a" * 8000]
    wrong = [[("Sallyport-Key", form)] for form in [*forms, "", "nonsense", f"Bearer {key}", f"{key}, {key}"]]
    wrong += [[("Authorization", f"Bearer {form}")] for form in forms if form.startswith("sp_")]
    disguises = ("", "Token ", "Bearer x, Bearer ", 'Bearer "')
    wrong += [[("Authorization", disguise + key)] for disguise in disguises]
    wrong += [[("Authorization", f"BEARER {key.upper()}")]]
    good = [("Sallyport-Key", key), ("Authorization", f"Bearer {key}")]
    wrong += [[(name, key)] for name in ("X-Api-Key", "X-Sallyport-Key", "Authentication", "Cookie")]
    wrong += [[("Authorization", f"Bearer{key}")], [good[0], ("X-Api-Key", key)]]
    wrong += [good, [good[0], good[0]], [good[1], good[1]], [good[0], ("Sallyport-Key", other)]]
    return wrong


@pytest.mark.parametrize("caller", [None, "agent"])
def test_every_wrong_key_is_401_and_goes_no_further(town: Town, caller: str | None) -> None:
    """With a certificate on the connection as well: one that brings a bad key is refused."""
    for headers in wrong_keys(town.key):
        connection = town.connect(caller=caller)
        status, body, answer = connection.get(*headers)
        assert (status, rule_of(body)) == (401, "key"), headers
        assert answer.getheader("WWW-Authenticate") == 'Bearer error="invalid_token"'
        connection.close()
    good = ("Sallyport-Key", town.key)
    status, body, _ = town.connect(caller=caller).get(good, path=f"/mcp?key={town.key}")
    assert (status, rule_of(body)) == (401, "key")
    assert town.key.encode() not in body
    assert town.tickets.heads == []


def test_neither_certificate_nor_key_is_401_without_a_way_to_oauth(town: Town) -> None:
    """The handshake lets strangers in, for a key could follow; the request does not, and the line closes."""
    status, body, answer = town.connect().get()

    assert (status, rule_of(body)) == (401, "unidentified")
    assert answer.getheader("WWW-Authenticate") == "Bearer"
    assert b"resource_metadata" not in body
    assert answer.getheader("Connection") == "close"

    path = "/.well-known/oauth-protected-resource/mcp"
    status, body, _ = town.connect().get(path=path)
    assert status == 401
    assert "OAuth discovery" in str(error_of(body)["message"])
    # A stranger does not learn which servers there are.
    assert town.connect(server="nosuch").get()[0] == 401


def test_a_key_is_for_its_servers_only(town: Town) -> None:
    """At another server it is 403, in the path form too; a key without servers opens both."""
    headers = ("Sallyport-Key", town.key)

    status, body, _ = town.connect(server="wiki").get(headers)

    assert (status, rule_of(body)) == (403, "key-server")
    assert town.wiki.heads == []
    every = ("Sallyport-Key", town.add("everywhere"))
    assert town.connect(server="wiki").get(every)[:2] == (200, b"wiki")
    assert town.connect(server="tickets").get(every)[:2] == (200, b"tickets")
    town.revoke("everywhere")


def test_a_certificate_and_a_key_must_both_be_good(town: Town) -> None:
    """The caller is called by the certificate; the key's servers bind all the same."""
    key = ("Sallyport-Key", town.key)

    assert town.connect(caller="agent").get(key)[0] == 200
    assert town.gateway.wait_for("call", caller="cert:agent", status=200)["trust"] == "certificate"
    assert town.connect(caller="agent", server="wiki").get()[0] == 200
    assert town.connect(caller="agent", server="wiki").get(key)[0] == 403
    assert "sp_" not in str(town.tickets.heads)


def test_a_revoked_key_ends_at_the_next_request_of_an_open_connection(town: Town) -> None:
    """No restart and no new connection: the request after the command is refused."""
    key = ("Sallyport-Key", town.add("leaver", "tickets"))
    connection = town.connect()
    assert connection.get(key)[0] == 200
    assert connection.get(key)[0] == 200

    town.revoke("leaver")

    status, body, _ = connection.get(key)
    assert (status, rule_of(body)) == (401, "key")
    assert len(town.tickets.heads) == 2
    # The others are where they were.
    assert town.connect().get(("Sallyport-Key", town.key))[0] == 200


def test_a_certificate_that_fails_still_ends_the_handshake(town: Town) -> None:
    """Optional is not unchecked: another tunnel's certificate does not fall back to nobody."""
    other = town.tunnel.product.make_tunnel("other", {"tickets": town.tickets.url})
    context = town.tunnel.only_root_context(None)
    context.load_cert_chain(other.bundle())
    name = town.tunnel.host("tickets")
    with socket.create_connection((LOOPBACK, town.tunnel.product.relay_port), timeout=20) as plain:
        with context.wrap_socket(plain, server_hostname=name) as tls:
            # In TLS 1.3 the refusal is the first thing to be read, after a handshake that seemed to succeed.
            with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
                tls.recv(1)
    assert town.tickets.heads == []


@pytest.mark.parametrize("fault", ["wide", "broken", "missing"])
def test_an_unusable_keys_file_accepts_no_key(town: Town, fault: str) -> None:
    """503 in words until it is mended, the reason in the log; callers with certificates do not notice."""
    path = town.tunnel.folder / "keys.json"
    content = path.read_bytes()
    key = ("Sallyport-Key", town.key)
    match fault:
        case "wide":
            path.chmod(0o644)
        case "broken":
            path.write_bytes(content[:-20])
        case _:
            path.unlink()

    status, body, _ = town.connect().get(key)

    assert (status, rule_of(body)) == (503, "keys")
    assert str(path).encode() not in body
    assert town.gateway.events("keys unusable")[-1]["path"] == str(path)
    assert town.connect(caller="agent").get()[0] == 200
    checked = run_sallyport("gateway", "check", folder=town.tunnel.folder)
    if fault == "missing":  # which it also is before the first key is made
        assert (checked.returncode, "no key yet" in checked.stdout) == (0, True)
    else:
        assert (checked.returncode, "no API key is accepted" in checked.stdout) == (1, True)

    path.write_bytes(content)
    path.chmod(0o600)
    assert town.connect().get(key)[0] == 200


def test_check_and_add_say_what_a_key_is_worth_to_a_careless_caller(town: Town) -> None:
    """Identity §1's sentence is where keys are turned on and where one is made; the key stands alone."""
    checked = run_sallyport("gateway", "check", folder=town.tunnel.folder)
    made = run_sallyport(*_KEYS, "add", "warned", folder=town.tunnel.folder)
    town.revoke("warned")

    assert checked.returncode == 0, checked.stdout
    for text in (checked.stdout, made.stderr):
        assert "a caller that also trusts public CAs" in text
    assert made.stdout.startswith("sp_")
    assert made.stdout.count("\n") == 1


def by_key(tunnel: Tunnel, key: str, folder: Path, server: str | None = "tickets") -> Connector:
    """Start a connector that has a key and no bundle."""
    file = folder / "my.key"
    file.write_text(key + "\n")
    file.chmod(0o600)
    process = tunnel.product.start(
        f"connector-by-key-{folder.name}",
        *("connect", f"{tunnel.id}/{server}" if server else tunnel.id, "--port", "0", "--log-format", "json"),
        *("--relay", tunnel.product.relay_address, "--domain", DOMAIN, "--key-file", file),
        folder=folder,
    )
    address = str(process.wait_for("listening")["address"])
    return Connector(process, int(address.rpartition(":")[2]))


def test_the_connector_needs_no_bundle(town: Town, tmp_path: Path) -> None:
    """It finds the root by the ID, adds the key, and drops one that the client made up."""
    connector = by_key(town.tunnel, town.key, tmp_path)
    connection = http.client.HTTPConnection(LOOPBACK, connector.port, timeout=20)
    for _ in range(2):
        connection.request("GET", "/mcp", headers={"Sallyport-Key": "made up"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"tickets")
    connection.close()

    assert len(town.gateway.events("root shown")) == 1
    assert town.key not in connector.process.log
    assert town.key not in Path(f"/proc/{connector.process.pid}/cmdline").read_text()
    assert "sp_" not in str(town.tickets.heads)


def test_a_wrong_key_is_401_through_the_connector_too(town: Town, tmp_path: Path) -> None:
    """The gateway says so, of each request: the connector cannot know."""
    connector = by_key(town.tunnel, "sp_" + "b" * 52, tmp_path)
    connection = http.client.HTTPConnection(LOOPBACK, connector.port, timeout=20)
    connection.request("GET", "/mcp")
    answer = connection.getresponse()
    assert (answer.status, rule_of(answer.read())) == (401, "key")
    connection.close()


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_the_sdk_client_calls_by_key(
    fixture: Fixture, fresh_product: Product, tmp_path: Path, mode: str
) -> None:
    """An unmodified MCP client, a connector with a key, and a real MCP server."""
    fresh_product.start_relay()
    tunnel = fresh_product.make_tunnel("acme", {"tickets": fixture.url})
    tunnel.start_gateway(settings={"keys": True})
    added = fresh_product.run(*_KEYS, "add", "sdk", "--config", _CONFIG, folder=tunnel.folder)
    connector = by_key(tunnel, added.strip(), tmp_path)
    with anyio.fail_after(30):
        async with Client(connector.url, mode=mode) as client:
            tools = (await client.list_tools()).tools
    assert "probe_echo" in {tool.name for tool in tools}


def test_a_gateway_without_keys_keeps_strangers_out(
    fixture: Fixture, fresh_product: Product, tmp_path: Path
) -> None:
    """Off is the default: the handshake fails without a certificate, and no root is shown."""
    fresh_product.start_relay()
    tunnel = fresh_product.make_tunnel("acme", {"tickets": fixture.url})
    gateway = tunnel.start_gateway()

    stranger = OpenConnection(tunnel)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        stranger.get(("Sallyport-Key", "sp_" + "a" * 52))
    stranger.close()

    connector = by_key(tunnel, "sp_" + "a" * 52, tmp_path)
    connection = http.client.HTTPConnection(LOOPBACK, connector.port, timeout=20)
    connection.request("GET", "/mcp")
    answer = connection.getresponse()
    assert answer.status == 503
    assert "takes no API keys" in str(error_of(answer.read())["message"])
    connection.close()
    assert gateway.events("root shown") == []
    refused = run_sallyport(*_KEYS, "add", "x", "--config", _CONFIG, folder=tunnel.folder)
    assert refused.returncode == 1
    assert "API keys are off" in refused.stderr
