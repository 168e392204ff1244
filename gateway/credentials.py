"""
Who makes a request: the certificate of the connection, the key of the request, or nobody (pure).

Every request is asked, whatever the handshake saw, because an API key belongs to a request and can be revoked
while the connection stays open. A key comes as ``Sallyport-Key`` or as ``Authorization: Bearer sp_…``. It is
for the gateway alone: here it is taken out of the headers, or the request ends with 401.

* One key at most. Two, be they the same, are 401: somebody between may have added one.
* A whole key anywhere else, in another header, the path or the query, is 401: it would go to the server. What
  only begins like one is somebody else's credential, and passes.
* A caller with a certificate may send a key as well. Then both must be good, for the server that is asked,
  too; he is called by his certificate.
* Neither is 401: our own, without ``resource_metadata``, for it is no matter of OAuth.

Identity §5.
"""

from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Protocol

from sallyport.certs.api_key import API_KEY_PREFIX, ApiKey, holds_api_key
from sallyport.certs.errors import NameRefused
from sallyport.gateway.errors import KeysUnusable, RequestRefused
from sallyport.gateway.keys import KeyTable, StoredKey
from sallyport.tunnel.limits import limit

Headers = list[tuple[bytes, bytes]]

KEYS_OFF: Final = "this gateway has API keys turned off; call with a caller certificate"
UNIDENTIFIED: Final = "unidentified"
"""The rule that refuses a request with neither certificate nor key."""

_WHERE_IT_BELONGS: Final = "it belongs in Sallyport-Key, or in Authorization: Bearer sp_…"
_LONGEST_NAME: Final = limit(
    64, "bytes",
    "of a header's name in the text of a refusal: its sender has chosen it, and it comes back to him",
)  # fmt: skip
_WELL_KNOWN: Final = b"/.well-known/"


class Keys(Protocol):
    """Where keys are looked up: a ``Keyring``."""

    def table(self) -> KeyTable:
        """Return the keys as they stand now, one object while nothing changes; raises ``KeysUnusable``."""


@dataclass(frozen=True, slots=True)
class Credential:
    """Who makes a request, and what he may ask for."""

    principal: str
    """``cert:NAME`` or ``key:NAME``."""
    trust: str
    """How he proved it: ``certificate`` or ``key``."""
    key: StoredKey | None
    """What is kept of the key that came with the request, if one did."""
    table: KeyTable | None = field(default=None, repr=False)
    """Where that key was found."""

    def require(self, server: str) -> None:
        """
        Demand that the request may go to a server.

        Raises:
            RequestRefused: 403 ``key-server``: its key is for others.
        """
        if self.key is not None and not self.key.opens(server):
            raise RequestRefused(403, "key-server", f"key {self.key.name} is not for server {server}")

    def is_still_good(self, keys: Keys | None) -> bool:
        """
        Ask again, for a request that repeats the one which this was made for.

        Returns:
            Whether nothing has changed; else ``identify`` says what has.

        Raises:
            RequestRefused: 503 ``keys``: no key can be judged.
        """
        return self.table is None or (keys is not None and _table(keys) is self.table)


def identify(
    headers: Headers, *, certified: str, keys: Keys | None, target: bytes
) -> tuple[Credential, Headers]:
    """
    Say who makes a request.

    Args:
        headers: As the caller sent them.
        certified: ``cert:NAME`` as the handshake proved it; empty for a caller without a certificate.
        keys: Where keys are looked up; None when they are off.
        target: The request's target, as he sent it.

    Returns:
        Who it is, and the headers without his key.

    Raises:
        RequestRefused: 401 ``key`` for a key that is wrong, not alone, or in the wrong place; 401
            ``unidentified`` for neither certificate nor key; 503 ``keys`` when no key can be judged.
    """
    presented, rest = _take_keys(headers)
    # One search for all of it: this is done for each new head.
    if holds_api_key(b"\n".join((target, *chain.from_iterable(rest)))):
        raise RequestRefused(401, "key", _misplaced(target, rest, are_keys_on=keys is not None))
    if not presented:
        if not certified:
            raise RequestRefused(401, UNIDENTIFIED, _how_to_call(target))
        return Credential(certified, "certificate", None), headers
    if keys is None:
        raise RequestRefused(401, "key", KEYS_OFF)
    if len(presented) > 1:
        raise RequestRefused(401, "key", "the request carries more than one API key")
    table = _table(keys)
    key = _judge(presented[0], table)
    if certified:
        return Credential(certified, "certificate", key, table), rest
    return Credential(f"key:{key.name}", "key", key, table), rest


def _take_keys(headers: Headers) -> tuple[list[bytes], Headers]:
    """Split the keys, or what is meant as one, from the other headers."""
    presented = []
    rest = []
    for header in headers:
        name, value = header
        match name.lower():
            case b"sallyport-key":
                presented.append(value.strip())
            case b"authorization" if (token := _key_in(value)) is not None:
                presented.append(token)
            case _:
                rest.append(header)
    return presented, rest


def _key_in(authorization: bytes) -> bytes | None:
    """Return the key in an ``Authorization`` value (RFC 6750 §2.1); None when it holds none in that form."""
    match authorization.split(None, 1):
        case [scheme, token] if scheme.lower() == b"bearer" and token.startswith(API_KEY_PREFIX):
            return token.rstrip()
        case _:
            return None


def _misplaced(target: bytes, headers: Headers, *, are_keys_on: bool) -> str:
    """Say where a key stands that would have gone to the server; the key itself is quoted nowhere."""
    where = next((_place(name) for name, value in headers if holds_api_key(name + b":" + value)), "")
    if not where:
        path, _, _query = target.partition(b"?")
        where = "the path" if holds_api_key(path) else "the query"
    what_to_do = _WHERE_IT_BELONGS if are_keys_on else KEYS_OFF
    return f"an API key stands in {where}, which the server would read; {what_to_do}"


def _place(name: bytes) -> str:
    return "a header's name" if holds_api_key(name) else name[:_LONGEST_NAME].decode("latin-1")


def _judge(presented: bytes, table: KeyTable) -> StoredKey:
    # One answer for a key that never was, one that was revoked and one that is misspelt: a stranger learns
    # nothing from the difference, and the operator has the list.
    refused = RequestRefused(401, "key", "this is no API key of this gateway, or it was revoked")
    try:
        key = ApiKey(presented)
    except NameRefused:
        raise refused from None  # the cause would carry nothing: a key is quoted nowhere
    found = table.find(key)
    if found is None:
        raise refused
    return found


def _table(keys: Keys) -> KeyTable:
    try:
        return keys.table()
    except KeysUnusable as error:
        # Not 401: the key may be good, and a client that throws it away would have to be told again.
        raise RequestRefused(
            503, "keys", "this gateway cannot judge API keys now, and accepts none; its log says why"
        ) from error


def _how_to_call(target: bytes) -> str:
    text = (
        "call with a caller certificate, or with an API key in Sallyport-Key or in Authorization: Bearer sp_…"
    )
    if _WELL_KNOWN in target:
        text += "; OAuth discovery without either needs a server with anonymous paths, and there is none here"
    return text
