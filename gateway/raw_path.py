"""
What a request's raw path may look like, and which raw paths a server exposes (pure).

Decisions are made on the bytes the caller sent, and those bytes are what the upstream gets: nothing is
normalised here, because whoever normalises must do it exactly as the server behind does. Instead, every
spelling that *some* server would read as another path is refused: dot segments, however encoded; empty
segments; backslashes; encoded slashes; control characters; a ``;parameter`` that hides a dot segment
(Tomcat reads ``/..;x/`` as ``/../``). What is left means the same to every reader, and for it a prefix
comparison by whole segments is exact.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from sallyport.gateway.errors import RequestRefused
from sallyport.tunnel.limits import limit

# Most paths are plain, and one linear match proves it: no segment is empty or begins with a dot, and no
# byte has a second spelling. The rest is looked at segment by segment.
_PLAIN = re.compile(rb"(?:/[\w~!$&'()*+,=:@-][\w.~!$&'()*+,=:@-]*)*/?")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NAME_END = re.compile(rb"[;?#]")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

_MAX_ENCODED_LAYERS: Final = limit(
    3, "levels",
    "of percent-encoding in a path: a server may decode once too often, and a proxy before it once more; "
    "without a bound, a head full of %25 would cost the square of its length",
)  # fmt: skip

_WELL_KNOWN = b"/.well-known/"


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """
    Split an origin-form request target (RFC 9112 §3.2.1) into path and query, refusing ambiguous paths.

    Args:
        target: The request target as it stood in the request line.

    Returns:
        The path, and the query with its question mark (empty when there is none). Joined they are
        ``target`` again.

    Raises:
        RequestRefused: 403 ``path`` when some server could read the path as another one.
    """
    path, mark, query = target.partition(b"?")
    if not path.startswith(b"/"):
        raise _refused("the request target has to be a path")
    if not _PLAIN.fullmatch(path):
        _check_segments(path)
    return path, mark + query


def is_at_or_below(path: bytes, prefix: bytes) -> bool:
    """
    Tell whether ``path`` is ``prefix`` or lies below it, by whole segments.

    Args:
        path: A path from :func:`split_target`.
        prefix: A path without a slash at its end; empty for the root.
    """
    return path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == 0x2F)


@dataclass(frozen=True, slots=True)
class Exposure:
    """The raw paths of one server that callers may ask for."""

    prefixes: tuple[bytes, ...]

    @classmethod
    def of(cls, paths: Iterable[bytes]) -> "Exposure":
        """
        Expose paths, each with what is below it.

        Args:
            paths: The path of the server's ``url``, and the entries of its ``paths``.
        """
        return cls(tuple(path.rstrip(b"/") for path in paths))

    def permits(self, path: bytes) -> bool:
        """Tell whether a path from :func:`split_target` is exposed."""
        return any(is_at_or_below(path, prefix) for prefix in self.prefixes) or _is_discovery(path)


def _is_discovery(path: bytes) -> bool:
    """
    Tell whether ``path`` is OAuth or OpenID metadata (RFC 8414 §3.1, RFC 9728 §3.1).

    It stands beside the endpoint, not below it, and in path form has the endpoint's path after it.
    """
    if not path.startswith(_WELL_KNOWN):
        return False
    suffix = path.removeprefix(_WELL_KNOWN).partition(b"/")[0]
    return suffix.startswith(b"oauth-") or suffix == b"openid-configuration"


def _check_segments(path: bytes) -> None:
    """Refuse a path that has a second reading; see the module's docstring."""
    if _BROKEN_ESCAPE.search(path):
        raise _refused("the path holds a percent sign that encodes nothing")
    segments = path[1:].split(b"/")
    for position, segment in enumerate(segments):
        if not segment and position < len(segments) - 1:
            raise _refused("the path holds an empty segment")
        _check_segment(segment)


def _check_segment(segment: bytes) -> None:
    """Judge one segment as it stands and as each reader that decodes it would see it."""
    text = segment
    for _ in range(_MAX_ENCODED_LAYERS):
        _check_reading(text)
        decoded = unquote_to_bytes(text)
        if decoded == text:
            return
        text = decoded
    raise _refused("the path is percent-encoded too many times")


def _check_reading(text: bytes) -> None:
    if b"/" in text or b"\\" in text:
        raise _refused("the path holds a backslash or an encoded slash")
    if _CONTROL.search(text):
        raise _refused("the path holds a control character")
    # Windows servers drop trailing spaces, others cut at a parameter, a query or a fragment.
    name = _NAME_END.split(text, maxsplit=1)[0].strip()
    if name in (b".", b"..") or (text and not name):
        raise _refused("the path holds a dot segment or an empty one")
    try:
        text.decode()
    except UnicodeDecodeError:
        # An overlong encoding of a dot or a slash (%c0%ae) is what this is for.
        raise _refused("the path is not UTF-8") from None


def _refused(detail: str) -> RequestRefused:
    return RequestRefused(403, "path", detail)
