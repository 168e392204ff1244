"""
The upstream that all systems share: one nginx worker with the same answers on three ports.

    plain     HTTP, for systems that end the caller's TLS themselves (the product, the MCP proxies)
    tls       HTTPS, for those that pass it through: TLS 1.3, P-256, tickets as nginx gives them by default
    mutual    the same, and a client certificate is demanded

All three answer alike, so that what is compared is the way to them. Answers come from memory and no
connection is ever closed by age, because an upstream at its limit would make all tunnels look the same.
What other servers answer can be put behind the same ports (``behind``): event streams come so.
``/mcp/upload`` is the odd one: nginx only reads a body to its end when it has somebody to tell, so there the
same worker asks itself, without the body, once it has all of it; an answer that is given earlier would let a
client stop sending.

It runs in a folder of its own, as root or as anybody, and touches nothing of an nginx that is installed.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Final

from bench.speed.certificates import Authority, Leaf
from bench.speed.install import require
from bench.speed.program import Program
from sallyport.processes import free_port
from tests.harness.product import DOMAIN

MIB: Final = 1024 * 1024
BIG: Final = 64 * MIB  # bytes of GET /mcp/big
LARGEST_UPLOAD: Final = 128 * MIB  # bytes that POST /mcp/upload takes

_MOST_CONNECTIONS: Final = 40_000  # Ten thousand idle ones, each perhaps with one behind nginx, and room.
_OWN_DESCRIPTORS: Final = 64  # files and sockets of nginx itself

# The answer of a small tool call.
_ANSWER: Final = (
    '{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"'
    + "m" * 510
    + '"}],"isError":false}}'
)

_CONFIG: Final = Template("""\
$user
daemon off;
worker_processes 1;
worker_rlimit_nofile $descriptors;
pid nginx.pid;
error_log stderr warn;
events { worker_connections $connections; }
http {
  access_log off;
  server_tokens off;
  sendfile on;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_max_body_size $upload;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  ssl_protocols TLSv1.3;
  ssl_certificate $certificate;
  ssl_certificate_key $key;
  server {
    listen 127.0.0.1:$plain backlog=4096;
    listen 127.0.0.1:$tls ssl backlog=4096;
    include paths.conf;
  }
  server {
    listen 127.0.0.1:$mutual ssl backlog=4096;
    ssl_client_certificate $authority;
    ssl_verify_client on;
    ssl_verify_depth 2;
    include paths.conf;
  }
}
""")

_PATHS: Final = Template("""\
default_type application/json;
location = /mcp { return 200 '$answer'; }
location = /mcp/big { default_type application/octet-stream; alias $big; }
location = /mcp/upload {
  client_body_buffer_size $upload;
  proxy_pass_request_body off;
  proxy_set_header Content-Length "";
  proxy_pass http://127.0.0.1:$plain/mcp;
}
""")

_PASSED_ON: Final = Template("""\
location $path {
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host 127.0.0.1:$port;
  proxy_buffering off;
  proxy_read_timeout 1h;
  proxy_pass http://127.0.0.1:$port;
}
""")


@dataclass(frozen=True)
class Upstream:
    """
    Attributes:
        plain: Port of HTTP, for systems that end the caller's TLS themselves.
        tls: Port of HTTPS, for those that pass it through.
        mutual: Port of HTTPS that demands a client certificate of ``authority``.
        server_name: For which its certificate is good.
        authority: The root (PEM) of its certificate.
        certificate: A client certificate that ``mutual`` accepts, and
        key: its key.
        pid: Of the one worker.

    Paths, on each port: ``POST /mcp`` answers a JSON-RPC result of about 600 bytes; ``GET /mcp/big`` 64 MiB
    of random bytes; ``POST /mcp/upload`` takes up to 128 MiB and answers 200.
    """

    plain: int
    tls: int
    mutual: int
    server_name: str
    authority: Path
    certificate: Path
    key: Path
    pid: int


@contextmanager
def run_upstream(folder: Path, *, behind: Mapping[str, int] | None = None) -> Iterator[Upstream]:
    """
    Run the upstream while the context lasts.

    Args:
        folder: An empty folder of its own.
        behind: Servers on 127.0.0.1 that nginx stands before, port by path prefix: what they stream is
            passed on as it comes.

    Raises:
        NotInstalled: There is no nginx.
        NotReached: It did not come up.
    """
    authority = Authority.make(folder / "certificates", "bench upstream")
    # The wildcard names what callers of the bare tunnel ask for, whose label nobody knows yet.
    server = authority.issue_server("server", names=[f"upstream.{DOMAIN}", f"*.{DOMAIN}"])
    client = authority.issue_client("client")
    upstream = Upstream(
        plain=free_port(),
        tls=free_port(),
        mutual=free_port(),
        server_name=f"upstream.{DOMAIN}",
        authority=authority.root,
        certificate=client.certificate,
        key=client.key,
        pid=0,
    )
    _write_files(folder, upstream, server, behind or {})
    command: list[str | Path] = [require("nginx"), "-p", f"{folder}/", "-e", "stderr", "-c", "nginx.conf"]
    with Program("nginx", command, folder=folder) as nginx:
        for port in (upstream.plain, upstream.tls, upstream.mutual):
            nginx.wait_for_port(port)
        yield replace(upstream, pid=nginx.wait_for_child())


def _write_files(folder: Path, upstream: Upstream, server: Leaf, behind: Mapping[str, int]) -> None:
    descriptors = Program.descriptor_limit()
    config = _CONFIG.substitute(
        # A worker of root's nginx would otherwise be nobody, who may not read the folder.
        user="user root;" if os.geteuid() == 0 else "",
        descriptors=descriptors,
        connections=min(_MOST_CONNECTIONS, descriptors - _OWN_DESCRIPTORS),
        upload=LARGEST_UPLOAD,
        plain=upstream.plain,
        tls=upstream.tls,
        mutual=upstream.mutual,
        authority=upstream.authority,
        certificate=server.certificate,
        key=server.key,
    )
    (folder / "nginx.conf").write_text(config)
    big = folder / "big"
    big.write_bytes(secrets.token_bytes(BIG))
    paths = _PATHS.substitute(answer=_ANSWER, big=big, upload=LARGEST_UPLOAD, plain=upstream.plain)
    passed_on = (_PASSED_ON.substitute(path=path, port=port) for path, port in behind.items())
    (folder / "paths.conf").write_text(paths + "".join(passed_on))
