"""
The programs of docs/clients.md as they stand there: through the product, and against an impostor with a
certificate of a public CA for the server's name.

Only the names are put in. Where the name leads is what DNS would say, so each client is told beside the
program: curl by its configuration file, Node and Python by a module that is loaded before it.
"""

import http.server
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from bench.attacks import public_server_file
from tests.harness.child_process import CHECKOUT
from tests.harness.product import DOMAIN, LOOPBACK, Product, Tunnel
from tests.harness.stage import Fixture

_PAGE = (CHECKOUT / "docs" / "clients.md").read_text()
_BLOCK = re.compile(r"^```(sh|js|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CERTIFICATE, _KEY = _PAGE.split("## With an API key")
_PROGRAMS = {
    f"{language} with a {kind}": (language, program)
    for kind, section in (("certificate", _CERTIFICATE), ("key", _KEY))
    for language, program in _BLOCK.findall(section)
}

# What a resolver and port 443 would do on a real network.
_NODE_RESOLVER = """
const tls = require("node:tls"), connect = tls.connect;
tls.connect = (options, ...rest) => connect({...options, host: "127.0.0.1", port: %d}, ...rest);
"""
_PYTHON_RESOLVER = """
import socket
_look_up = socket.getaddrinfo
socket.getaddrinfo = lambda host, port, *rest, **named: _look_up("127.0.0.1", %d, *rest, **named)
"""


@dataclass(frozen=True)
class Desk:
    """A folder with what a user of the page has in his."""

    tunnel: Tunnel
    folder: Path

    def run(
        self, language: str, program: str, port: int, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program of the page, with the server's name leading to a port of this machine."""
        text = program.replace("<label>", self.tunnel.label).replace("<domain>", DOMAIN)
        (self.folder / ".curlrc").write_text(f'connect-to = "::{LOOPBACK}:{port}"\nsilent\nshow-error\n')
        (self.folder / "resolver.js").write_text(_NODE_RESOLVER % port)
        (self.folder / "sitecustomize.py").write_text(_PYTHON_RESOLVER % port)
        command = {
            "sh": ["sh", "-c", text],
            "js": ["node", "--require", "./resolver.js", "-e", text],
            "python": [sys.executable, "-c", text],
        }[language]
        # No bytecode: a resolver that is written twice within a second would be taken for the first one.
        ours = {"CURL_HOME": self.folder, "PYTHONPATH": self.folder, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **{name: str(value) for name, value in ours.items()}, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, fixture: Fixture) -> Iterator[Desk]:
    """Run a tunnel that takes keys, and lay the user's files out."""
    folder = tmp_path_factory.mktemp("desk")
    with Product(tmp_path_factory.mktemp("keyed") / "p") as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": fixture.url})
        tunnel.start_gateway(settings={"keys": True})
        key = product.run(
            *("gateway", "keys", "add", "ci", "--server", "tickets", "--config", "gateway-gw1.yaml"),
            folder=tunnel.folder,
        )
        (folder / "ci.key").write_text(key)
        shutil.copy(tunnel.identity.root_path, folder / "root.pem")
        shutil.copy(tunnel.bundle("alice"), folder / "alice.bundle.pem")
        yield Desk(tunnel, folder)


class Impostor:
    """What a hostile relay would put behind the name: a good certificate of a public CA, and open ears."""

    def __init__(self, pem: Path) -> None:
        self.heard: list[str] = []
        heard = self.heard

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                heard.append(str(self.headers))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Write nothing into the test's output."""

        self._server = http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        # The handshake happens where a connection is served: a refused one must not end the server.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_port

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True)
class Trap:
    """An impostor, and the public CA that certified him."""

    impostor: Impostor
    authority: Path


@pytest.fixture
def trap(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    """Stand in the gateway's place."""
    monkeypatch.setattr(http.server.ThreadingHTTPServer, "handle_error", lambda *_: None)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "public-ca.pem"))
    impostor = Impostor(public_server_file(authority, desk.tunnel, tmp_path / "impostor"))
    yield Trap(impostor, tmp_path / "public-ca.pem")
    impostor.close()


def _needs(language: str) -> None:
    program = {"sh": "curl", "js": "node", "python": sys.executable}[language]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def test_the_page_has_all_six() -> None:
    """curl, Node and Python, each with a certificate and with a key."""
    assert len(_PROGRAMS) == 6


@pytest.mark.parametrize("name", _PROGRAMS)
def test_a_program_of_the_page_is_answered(desk: Desk, name: str) -> None:
    """It reaches the MCP server, which says who it is."""
    language, program = _PROGRAMS[name]
    _needs(language)

    done = desk.run(language, program, desk.tunnel.product.relay_port)

    assert done.returncode == 0, done.stderr
    assert '"serverInfo"' in done.stdout, done.stdout


@pytest.mark.parametrize("name", _PROGRAMS)
def test_it_refuses_an_impostor_with_a_public_certificate(desk: Desk, trap: Trap, name: str) -> None:
    """Although this machine trusts his CA: not one header reaches him."""
    language, program = _PROGRAMS[name]
    _needs(language)
    trusts_him = {"SSL_CERT_FILE": str(trap.authority), "NODE_EXTRA_CA_CERTS": str(trap.authority)}

    done = desk.run(language, program, trap.impostor.port, **trusts_him)

    assert done.returncode != 0
    assert re.search("certificate|issuer", done.stderr), done.stderr
    assert trap.impostor.heard == []


@pytest.mark.parametrize("language", ["js", "python"])
def test_one_that_adds_the_root_to_the_public_cas_gives_its_key_away(
    desk: Desk, trap: Trap, language: str
) -> None:
    """As the page warns: it reaches the gateway as before, and the impostor as well."""
    _needs(language)
    _, program = _PROGRAMS[f"{language} with a key"]
    both = desk.folder / "both.pem"
    both.write_bytes((desk.folder / "root.pem").read_bytes() + trap.authority.read_bytes())
    if language == "js":
        careless, added = re.sub(r"  ca: .*\n", "", program), {"NODE_EXTRA_CA_CERTS": str(both)}
    else:
        careless = program.replace("ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)", "ssl.create_default_context()")
        added = {"SSL_CERT_FILE": str(trap.authority)}
    assert careless != program

    assert '"serverInfo"' in desk.run(language, careless, desk.tunnel.product.relay_port, **added).stdout
    desk.run(language, careless, trap.impostor.port, **added)

    assert (desk.folder / "ci.key").read_text().strip() in str(trap.impostor.heard)
