"""
What the local endpoint makes of a request: who may ask, and how it reads on its way to the gateway (pure).

**Who may ask.** The endpoint listens on loopback and asks for no credential, so every web page in the
user's browser could try to use it, with the user's certificate. Three headers betray it; each is set by the
browser, and no page can change it:

* ``Host``, when by DNS rebinding a foreign name suddenly resolves to 127.0.0.1: one that is not this
  endpoint's own is answered 421.
* ``Origin``, which goes with what a script reads, and with every method but GET and HEAD: one that is not
  local is answered 403.
* ``Sec-Fetch-Site``, for a GET that is not to be read (an ``<img>``, a form, a link) carries no Origin, and a
  right Host. Anything but ``same-origin`` and ``none`` (the user's own doing) is answered 403, unless a local
  Origin vouches for the page. Browsers send it to loopback, also without TLS; those from before 2023 may not.

So it is on every path and every method. The gateway cannot do this for us: it sees neither the local name
nor the local port. A checked Origin is dropped.

**How it reads.** The connector always asks for the tunnel's bare name, ``<label>.<domain>``, so that the
relay does not learn which server is called (identity §3). There the first path segment names the server; in
``/.well-known/X/…``, which stands beside every endpoint (RFC 8615), the one after X does. An endpoint that
serves one server puts that name in, one that serves the whole tunnel expects its client to have done so.
No path is normalised or judged here: that is the gateway's business, which knows what is exposed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sallyport.connector.errors import LocalRequestRefused

Headers = Sequence[tuple[bytes, bytes]]

_LOCAL_HOSTS: Final = (b"127.0.0.1", b"localhost", b"[::1]")
_LOCAL_ORIGIN: Final = re.compile(rb"http://(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?")
# Sec-Fetch-Site of a request that no page of another origin caused (Fetch Metadata §2.3).
_OWN_SITES: Final = frozenset({b"same-origin", b"none"})
_WELL_KNOWN: Final = b"/.well-known/"
_HTTP_PORT: Final = 80
# The shape of a server's name (identity §3) and of the reserved ones; nothing else is put into a header.
_SERVER_SEGMENT: Final = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class LocalSide:
    """
    The local end: what a client may call it, and what it serves.

    Attributes:
        port: The TCP port of the listeners.
        server: The server that stands at the root, or ``None`` when the whole tunnel does.
    """

    port: int
    server: str | None = None
    _hosts: frozenset[bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        hosts = {b"%b:%d" % (host, self.port) for host in _LOCAL_HOSTS}
        if self.port == _HTTP_PORT:
            hosts.update(_LOCAL_HOSTS)
        object.__setattr__(self, "_hosts", frozenset(hosts))

    def check(self, headers: Headers) -> bytes:
        """
        Refuse a request that no local program meant for this endpoint.

        Args:
            headers: The request's headers, names in any case.

        Returns:
            The Host, checked and in lower case.

        Raises:
            LocalRequestRefused: 421 for the Host, 403 for Origin or Sec-Fetch-Site, as the module says.
        """
        hosts = _values(headers, b"host")
        host = hosts[0].lower() if len(hosts) == 1 else b""
        if host not in self._hosts:
            raise LocalRequestRefused(
                421, "host", f"this endpoint answers to 127.0.0.1:{self.port} and localhost:{self.port} only"
            )
        origins = _values(headers, b"origin")
        if origins and not (len(origins) == 1 and _LOCAL_ORIGIN.fullmatch(origins[0].lower())):
            raise LocalRequestRefused(403, "origin", "web pages of other origins may not use this endpoint")
        if not origins and not _OWN_SITES.issuperset(_values(headers, b"sec-fetch-site")):
            raise LocalRequestRefused(
                403, "sec-fetch-site", "web pages of other origins may not cause requests to this endpoint"
            )
        return host

    def gateway_target(self, target: bytes) -> bytes:
        """
        Rewrite an origin-form target, query included, to the form that names the server.

        ``/mcp`` turns into ``/<server>/mcp``, ``/.well-known/X/r`` into ``/.well-known/X/<server>/r``. Where
        the whole tunnel is served the target is in that form already. The ``*`` of OPTIONS names no server
        and stays.
        """
        if self.server is None or not target.startswith(b"/"):
            return target
        server = self.server.encode("ascii")
        path, mark, query = target.partition(b"?")
        name, suffix, rest = _well_known(path)
        if name:
            return _WELL_KNOWN + name + b"/" + server + suffix + rest + mark + query
        return b"/" + server + path + mark + query

    def public_base(self, host: bytes, target: bytes) -> bytes:
        """
        Say where the client sees the server's root: origin and prefix, apart, for ``Sallyport-Base``.

        The prefix is ``/`` where the server stands at the root, else ``/<server>``.

        Args:
            host: What ``check`` returned.
            target: The target as the client sent it.
        """
        prefix = b"/"
        if self.server is None:
            path = target.partition(b"?")[0]
            name, _, rest = _well_known(path)
            segment = (rest if name else path[1:]).partition(b"/")[0]
            if _SERVER_SEGMENT.fullmatch(segment):
                prefix += segment
        return b"http://" + host + b" " + prefix


def without(headers: Headers, *names: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers but those called ``names`` (lower case), in order."""
    return [header for header in headers if header[0].lower() not in names]


def _well_known(path: bytes) -> tuple[bytes, bytes, bytes]:
    """Split ``/.well-known/X/rest`` into X, the slash after it, and the rest; X is empty elsewhere."""
    if not path.startswith(_WELL_KNOWN):
        return b"", b"", b""
    return path.removeprefix(_WELL_KNOWN).partition(b"/")


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]
