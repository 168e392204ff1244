"""
What a request's own headers decide, before it is forwarded (pure).

Who calls is known by now (``credentials``, which has taken the API keys out); this is about what else the
request brings along. An ``Origin`` means a browser, and no browser page may reach an internal server unless
the operator listed it (DNS rebinding). ``Authorization`` belongs to the server behind, if that one wants it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sallyport.gateway.errors import RequestRefused

Headers = list[tuple[bytes, bytes]]



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
            headers: As the caller sent them, in order, without API keys.

        Returns:
            The headers that may pass: all, or all but ``Authorization`` without passthrough.

        Raises:
            RequestRefused: 403 ``origin`` for a foreign page.
        """
        for name, value in headers:
            if name.lower() == b"origin" and value.strip().lower() not in self.origins:
                raise RequestRefused(403, "origin", "the server's config does not list this origin")
        if self.passthrough:
            return headers
        return [header for header in headers if header[0].lower() != b"authorization"]
