"""
What a request's own headers decide, before it is forwarded (pure).

Who calls was proven by the inner handshake; this is about what the request itself brings along. An
``Origin`` means a browser, and no browser page may reach an internal server unless the operator listed
it (DNS rebinding). A Sallyport key is a credential for the gateway alone: it is consumed or refused, and
never reaches an upstream. Any other ``Authorization`` belongs to the server behind.

API keys are off in this version, so one that is presented is always answered 401.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sallyport.gateway.errors import RequestRefused

Headers = list[tuple[bytes, bytes]]

_KEY_PREFIX = b"sp_"


@dataclass(frozen=True, slots=True)
class Policy:
    """What one server lets through: the origins it is open to, and whether Authorization passes."""

    origins: frozenset[bytes] = frozenset()
    passthrough: bool = True

    @classmethod
    def of(cls, origins: Iterable[str], *, passthrough: bool) -> "Policy":
        """Make a policy from a server's ``origins`` and ``passthrough`` keys."""
        return cls(frozenset(origin.lower().encode("ascii") for origin in origins), passthrough)

    def admitted(self, headers: Headers) -> Headers:
        """
        Judge the headers of one request.

        Args:
            headers: As the caller sent them, in order.

        Returns:
            The headers that may pass: all, or all but ``Authorization`` without passthrough.

        Raises:
            RequestRefused: 401 ``key`` for a Sallyport key, 403 ``origin`` for a foreign page.
        """
        for name, value in headers:
            match name.lower():
                case b"origin" if value.strip().lower() not in self.origins:
                    raise RequestRefused(403, "origin", "the server's config does not list this origin")
                case b"sallyport-key":
                    raise _keys_are_off()
                case b"authorization" if _is_key(value):
                    raise _keys_are_off()
        if self.passthrough:
            return headers
        return [header for header in headers if header[0].lower() != b"authorization"]


def _is_key(authorization: bytes) -> bool:
    """Tell whether an Authorization value is a bearer token of ours (RFC 6750 §2.1)."""
    match authorization.split(None, 1):
        case [scheme, token]:
            return scheme.lower() == b"bearer" and token.startswith(_KEY_PREFIX)
        case _:
            return False


def _keys_are_off() -> RequestRefused:
    return RequestRefused(401, "key", "this gateway has API keys turned off; call with a caller certificate")
