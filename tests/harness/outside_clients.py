"""
Programs that call a tunnel and are not ours, set up as the documentation says: trusting only its root.

Each makes one request and reports whether it was answered and what it said otherwise, in its own words. The
public name does not resolve here, so each is told where to dial, which is what an attacker who holds the
DNS does as well.
"""

import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness.mcp_wire import META, MODERN, request, tool_call
from tests.harness.product import LOOPBACK, Connector, Tunnel

_PATIENCE = 20  # seconds

# A call that the server counts, so that one that got through anyhow is seen there.
_META = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
_BODY = json.dumps(request("tools/call", {**tool_call("probe_echo", {"text": "a secret"}), "_meta": _META}))
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": MODERN,
    "Mcp-Method": "tools/call",
    "Mcp-Name": "probe_echo",
}

# A plain client of Node's own https module; what it trusts is `ca` and nothing else.
_NODE_PROGRAM = """
const https = require("node:https"), fs = require("node:fs");
const o = JSON.parse(process.argv[1]);
const pem = o.cert && fs.readFileSync(o.cert);
const r = https.request({host: o.host, port: o.port, servername: o.name, path: o.path, method: "POST",
  headers: {...o.headers, Host: o.name}, ca: fs.readFileSync(o.ca), cert: pem, key: pem},
  s => { s.resume(); s.on("end", () => { console.log(s.statusCode); process.exit(0); }); });
r.on("error", e => { console.error(`${e.code}: ${e.message.trim()}`); process.exit(1); });
r.end(o.body);
"""


@dataclass(frozen=True)
class Attempt:
    """How one request ended: answered by whoever answers there, or what the client said instead."""

    answered: bool
    said: str


@dataclass(frozen=True)
class OutsideClient:
    """A client by its name, and one request of it."""

    name: str
    attempt: Callable[[], Attempt]


@dataclass(frozen=True)
class Target:
    """
    What a client is set up with.

    Args:
        name: the public name that it calls.
        port: where that name leads on this machine.
        root: the file with all that it trusts.
        bundle: its own certificate and key; None for a caller without one.
        path: of the MCP endpoint.
    """

    name: str
    port: int
    root: Path
    bundle: Path | None
    path: str = "/mcp"


def clients_of(tunnel: Tunnel, connector: Connector, port: int) -> list[OutsideClient]:
    """Return every client, calling through the given port; programs that are not installed are left out."""
    bundle = tunnel.bundle()
    target = Target(tunnel.host("tickets"), port, tunnel.identity.root_path, bundle)
    whole_bundle = Target(target.name, port, bundle, bundle)
    clients = [
        OutsideClient("connector", lambda: _call_connector(connector)),
        OutsideClient("Python", lambda: call_python(target)),
    ]
    if shutil.which("curl"):
        clients.append(OutsideClient("curl", lambda: call_curl(target)))
        # A bundle ends with the root, so people do this too; it also makes the issuing CA trusted.
        clients.append(OutsideClient("curl, bundle as CA", lambda: call_curl(whole_bundle)))
    if shutil.which("node"):
        clients.append(OutsideClient("Node", lambda: call_node(target)))
    return clients


def _call_connector(connector: Connector) -> Attempt:
    connection = http.client.HTTPConnection(LOOPBACK, connector.port, timeout=_PATIENCE)
    try:
        return _judge(*_exchange(connection, "/mcp", f"{LOOPBACK}:{connector.port}"))
    finally:
        connection.close()


def call_python(target: Target, context: ssl.SSLContext | None = None) -> Attempt:
    """Call with Python's own ``ssl`` and ``http.client``; by default trusting the target's root only."""
    if context is None:
        context = ssl.create_default_context(cafile=str(target.root))
    if target.bundle is not None:
        context.load_cert_chain(target.bundle)
    connection = http.client.HTTPSConnection(target.name, timeout=_PATIENCE, context=context)
    try:
        with socket.create_connection((LOOPBACK, target.port), timeout=_PATIENCE) as plain:
            connection.sock = context.wrap_socket(plain, server_hostname=target.name)
            return _judge(*_exchange(connection, target.path, target.name))
    except OSError as error:
        return Attempt(False, f"{type(error).__name__}: {error}")
    finally:
        connection.close()


def call_curl(target: Target) -> Attempt:
    """Call with curl: ``--cacert`` replaces what curl trusts."""
    command = ["curl", "--silent", "--show-error", "--max-time", str(_PATIENCE), "--output", "-"]
    command += ["--write-out", "\n%{http_code}", "--cacert", str(target.root), "--data-binary", _BODY]
    command += ["--connect-to", f"::{LOOPBACK}:{target.port}"]
    if target.bundle is not None:
        command += ["--cert", str(target.bundle)]
    for name, value in _HEADERS.items():
        command += ["--header", f"{name}: {value}"]
    done = _run([*command, f"https://{target.name}{target.path}"])
    answered = done.returncode == 0 and done.stdout.endswith("200")
    return Attempt(answered, done.stderr.strip() or done.stdout[-300:])


def call_node(target: Target) -> Attempt:
    """Call with Node: ``ca`` replaces what Node trusts."""
    options = {
        "host": LOOPBACK,
        "port": target.port,
        "name": target.name,
        "path": target.path,
        "headers": _HEADERS,
        "body": _BODY,
        "ca": str(target.root),
        "cert": str(target.bundle) if target.bundle else None,
    }
    done = _run(["node", "-e", _NODE_PROGRAM, json.dumps(options)])
    return Attempt(done.returncode == 0 and done.stdout.strip() == "200", done.stderr.strip() or done.stdout)


def _exchange(connection: http.client.HTTPConnection, path: str, host: str) -> tuple[int, bytes]:
    connection.request("POST", path, body=_BODY, headers={**_HEADERS, "Host": host})
    response = connection.getresponse()
    return response.status, response.read()


def _judge(status: int, body: bytes) -> Attempt:
    return Attempt(status == 200, "" if status == 200 else f"{status} {_error_message(body)}")


def _error_message(body: bytes) -> str:
    try:
        parsed: Mapping[str, Mapping[str, object]] = json.loads(body)
        return str(parsed["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:300].decode(errors="replace")


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * _PATIENCE, check=False)
