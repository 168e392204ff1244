"""
The kinds of value that a key may have; pure.

Each is a function from what the document holds to the value that the program uses, raising ``FieldRefused``
with words for the operator; the ``Annotated`` types at the end put them into the models. No message repeats
a value that may hold a password.

Code that builds a model itself may give ready values (an ``Address``, a ``Path``, seconds as a number): only
a document, recognised by the loader's validation context, is held to the written forms.
"""

import ipaddress
import math
import re
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

from pydantic import PlainValidator, ValidationInfo, WithJsonSchema

# Names that go into certificates: the same rules as in ``sallyport.certs.names``, which this package does not
# import; tests/config/test_names_agree.py holds the two together.
_LDH = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_LONGEST_DOMAIN = 215  # <label>.link.<domain> has 38 characters more, and DNS ends at 253

_HOST_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = 24 * 3600.0
_SIZE = re.compile(r"([0-9]{1,6})(KiB|MiB|GiB)")
_BYTES = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_LARGEST_SIZE = 1024 * _BYTES["GiB"]
_LARGEST_COUNT = 1_000_000
# The relay takes 64 links of one tunnel, and each worker has two while it changes from one to the next.
_MOST_WORKERS = 16
_TUNNEL_ID = re.compile(r"tnl_[a-z2-7]{32}")
_PIN = re.compile(r"sha256/[A-Za-z0-9+/]{43}=")
_PLAIN_PATH = re.compile(r"/[^\s?#%\\\x00-\x20\x7f-\U0010ffff]*")
_MEMORY = frozenset({"", "/", "/:memory:"})


class FieldRefused(ValueError):
    """A value is not what its key wants; pydantic carries it to the loader, which adds file, line and key."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Address(NamedTuple):
    """Where to listen or to connect; an IPv6 host is held without its brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        literal = _ip(self.host)
        return literal is not None and literal.is_loopback

    @classmethod
    def parse(cls, text: str, *, default_port: int | None = None) -> "Address":
        """
        Read ``host:port``; an IPv6 host stands in brackets.

        Args:
            text: the address as written.
            default_port: used when ``text`` names no port; None makes the port mandatory.

        Raises:
            FieldRefused: it is no such address, or the port is outside 1–65535.
        """
        host, port = _split_port(text)
        if port is None and default_port is None:
            raise FieldRefused("no port", f"write {text}:PORT" if host else "write host:port")
        return cls(_host(host), _port(port) if port is not None else default_port or 0)


def _split_port(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        literal, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or ":" not in literal:
            raise FieldRefused(f"{text!r} is no address", "write an IPv6 address as [::1]:443")
        return literal, rest[1:] if rest else None
    if text.count(":") > 1:
        raise FieldRefused(f"{text!r} is no address", f"write an IPv6 address in brackets, as [{text}]:443")
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise FieldRefused(f"port {text!r} is not a number from 1 to 65535")
    return int(text)


def _host(text: str) -> str:
    literal = _ip(text)
    if literal is not None:
        return str(literal)
    lower = text.lower()
    if not lower or len(lower) > 253 or not all(map(_HOST_LABEL.fullmatch, lower.split("."))):
        raise FieldRefused(f"{text!r} is no host name or IP address", "write host:port")
    if lower.rpartition(".")[2].isdigit():
        raise FieldRefused(f"{text!r} is no IP address")
    return lower


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _text(value: object, wanted: str) -> str:
    if not isinstance(value, str):
        raise FieldRefused(f"wanted {wanted}, found {kind_of(value)}")
    return value


def kind_of(value: object) -> str:
    """Return what the operator would call ``value``: *a list*, *a number* …, never its content."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return type(value).__name__


# What the models use: one function for each kind of value.


def _address(value: object) -> Address:
    if isinstance(value, Address):
        return value
    return Address.parse(_text(value, "an address such as 0.0.0.0:443"))


def _relay_address(value: object) -> Address:
    if isinstance(value, Address):
        return value
    return Address.parse(_text(value, "an address such as relay.example.com:443"), default_port=443)


def _loopback_address(value: object) -> Address | None:
    if value is None:
        return None
    address = _address(value)
    if not address.is_loopback:
        message = f"{address.host} is not loopback: whoever reaches the health listener may read it"
        raise FieldRefused(message, f"write 127.0.0.1:{address.port}")
    return address


def _duration(value: object, info: ValidationInfo) -> float:
    seconds = _seconds(value, is_written=info.context is not None)
    if not math.isfinite(seconds) or not 0 < seconds <= _LONGEST:
        raise FieldRefused("a duration must be more than nothing and at most 24h")
    return seconds


def _seconds(value: object, *, is_written: bool) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if is_written:
            raise FieldRefused(f"{value} has no unit", f'write "{value}s", "{value}m" or "{value}h"')
        return float(value)
    text = _text(value, 'a duration such as "5s", "10m" or "1h"')
    match = _DURATION.fullmatch(text)
    if match is None:
        raise FieldRefused(f"{text!r} is no duration", 'write a number and ms, s, m or h, such as "10m"')
    return float(match[1]) * _SECONDS[match[2]]


def _size(value: object, info: ValidationInfo) -> int:
    size = _bytes(value, is_written=info.context is not None)
    if not 0 < size <= _LARGEST_SIZE:
        raise FieldRefused("a size must be more than nothing and at most 1024GiB")
    return size


def _bytes(value: object, *, is_written: bool) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if is_written:
            raise FieldRefused(f"{value} has no unit", f'write "{value}KiB", "{value}MiB" or "{value}GiB"')
        return value
    text = _text(value, 'a size such as "64KiB" or "128MiB"')
    match = _SIZE.fullmatch(text)
    if match is None:
        raise FieldRefused(f"{text!r} is no size", 'write a number and KiB, MiB or GiB, such as "128MiB"')
    return int(match[1]) * _BYTES[match[2]]


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise FieldRefused(f"wanted a whole number, found {kind_of(value)}")
    if not 0 < value <= _LARGEST_COUNT:
        raise FieldRefused(f"{value} is not a number from 1 to {_LARGEST_COUNT}")
    return value


def _workers(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MOST_WORKERS:
        raise FieldRefused(f"wanted auto or a number from 1 to {_MOST_WORKERS}, found {value!r}")
    return value


def _path(value: object, info: ValidationInfo) -> Path:
    text = str(value) if isinstance(value, Path) else _text(value, "a path")
    if not text or not text.isprintable():
        raise FieldRefused("a path must be one or more printable characters")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise FieldRefused(f"{text!r}: there is no such home directory", "write the whole path") from error
    folder = (info.context or {}).get("folder")
    return Path(folder, path) if folder is not None else path


def _tunnel_id(value: object) -> str:
    text = _text(value, "a tunnel ID")
    if not _TUNNEL_ID.fullmatch(text):
        hint = "`sallyport certs show identity/root.pem` prints the ID"
        raise FieldRefused("no tunnel ID: wanted tnl_ and 32 characters a–z, 2–7", hint)
    return text


def _name(value: object) -> str:
    text = _text(value, "a name")
    if not _NAME.fullmatch(text):
        hint = "use up to 63 of a-z, 0-9, '.', '_' and '-', with a letter or digit at both ends"
        raise FieldRefused(f"{text!r} is no name", hint)
    return text


def _pin(value: object) -> str:
    text = _text(value, "a pin such as sha256/…")
    if not _PIN.fullmatch(text) or len(b64decode(text.removeprefix("sha256/"))) != 32:
        raise FieldRefused("no pin: wanted sha256/ and the base64 of 32 bytes", "`relay init` prints the pin")
    return text


def _relay_ca(value: object, info: ValidationInfo) -> Path | Literal["system"] | None:
    if value is None or value == "system":
        return value
    return _path(value, info)


def _domain(value: object) -> str:
    text = _text(value, "a domain").lower()
    labels = text.split(".")
    if labels[-1].isdigit() or len(text) > _LONGEST_DOMAIN or not all(map(_LDH.fullmatch, labels)):
        hint = "write it as in tunnel.example.com: letters, digits and inner hyphens between the dots"
        raise FieldRefused(f"{text!r} is no domain", hint)
    if labels[0] == "link":
        raise FieldRefused(f"{text!r} begins with link, which is kept for the gateways' links")
    return text


def server_url(value: object) -> str:
    """
    Return ``value`` if it is the URL of a server that a gateway can reach.

    Raises:
        FieldRefused: it is not; says which part of it has no place in one.
    """
    text = _text(value, "a URL such as http://127.0.0.1:9000/mcp")
    parts = _split_url(text)
    if parts.scheme not in ("http", "https"):
        raise FieldRefused(f"{parts.scheme or 'no'} scheme: wanted http or https", _scheme_hint(parts.scheme))
    if "@" in parts.netloc:
        raise FieldRefused("a user name or password has no place in a URL", "remove everything up to the @")
    if "?" in text or "#" in text:
        raise FieldRefused("a query or fragment has no place in a server's URL", "remove it")
    if not parts.hostname:
        raise FieldRefused("the URL names no host", "write http://host:port/path")
    Address.parse(parts.netloc, default_port=443)
    return text


def _split_url(text: str) -> SplitResult:
    # urlsplit drops tabs and line ends and lets everything else pass; a URL has none of them.
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise FieldRefused(
            "a URL is of printable ASCII without space and backslash", "percent-encode the rest"
        )
    try:
        return urlsplit(text)
    except ValueError as error:
        raise FieldRefused("no URL", "write http://host:port/path, an IPv6 host in brackets") from error


def _scheme_hint(scheme: str) -> str:
    if scheme in ("stdio", "unix", "http+unix"):
        return f"{scheme} servers are not available in this version"
    if scheme in ("ws", "wss"):
        return "MCP's streamable HTTP is carried, WebSockets are not"
    return "write http://host:port/path"


def _exposed_path(value: object) -> str:
    text = _text(value, "a path such as /files")
    if not _PLAIN_PATH.fullmatch(text):
        raise FieldRefused(
            f"{text!r} is no path", "write it from / on, without query, spaces or percent signs"
        )
    if {".", ".."} & set(text.split("/")) or "//" in text:
        raise FieldRefused(f"{text!r} is not in its shortest form", "write it without //, /./ and /../")
    return text


def _origin(value: object) -> str:
    text = _text(value, "an origin such as https://app.example.com").lower()
    parts = _split_url(text)
    is_bare = text == f"{parts.scheme}://{parts.netloc}" and "@" not in parts.netloc
    if parts.scheme not in ("http", "https") or not is_bare:
        raise FieldRefused("no origin: wanted scheme, host and port only", "write https://app.example.com")
    Address.parse(parts.netloc, default_port=443)
    return text


def _database(value: object, info: ValidationInfo) -> str:
    text = _text(value, "a URL such as sqlite:///relay.db")
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.partition("+")[0] not in ("sqlite", "postgresql"):
        raise FieldRefused(
            "no database URL: wanted sqlite:///FILE or postgresql://…", "write sqlite:///relay.db"
        )
    if scheme.startswith("postgresql"):
        return text
    if rest.partition("?")[0] in _MEMORY or not rest.startswith("/"):
        hint = "write sqlite:///relay.db, or sqlite:////var/lib/sallyport/relay.db from the root"
        raise FieldRefused("an SQLite database must be a file: `relay tunnel add` writes it too", hint)
    # SQLAlchemy takes what follows the third slash as the path, from the working directory when relative.
    return f"{scheme}:///{_path(rest[1:], info)}"


def _schema(kind: str, *examples: str, pattern: str = "") -> WithJsonSchema:
    """Say to editors, and to the page of keys, what text such a value is."""
    schema: dict[str, object] = {"type": "string", "title": kind}
    if pattern:
        schema["pattern"] = f"^(?:{pattern})$"
    return WithJsonSchema(schema | {"examples": list(examples)})


def _or_null(schema: WithJsonSchema) -> WithJsonSchema:
    """The same for a key that may be empty."""
    return WithJsonSchema({**(schema.json_schema or {}), "type": ["string", "null"]})


_LISTENER = _schema("address", "0.0.0.0:443", "[::]:443")
_LOOPBACK = _or_null(_schema("loopback address", "127.0.0.1:7421"))
_FILE = _schema("path", "./file.pem")
_CA = _or_null(_schema("path, or system", "./relay-ca.pem", "system"))
_TUNNEL = _schema("tunnel ID", "tnl_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", pattern=_TUNNEL_ID.pattern)

AddressField = Annotated[Address, PlainValidator(_address), _LISTENER]
RelayAddressField = Annotated[
    Address, PlainValidator(_relay_address), _schema("address", "relay.example.com:443")
]
LoopbackField = Annotated[Address | None, PlainValidator(_loopback_address), _LOOPBACK]
DurationField = Annotated[
    float, PlainValidator(_duration), _schema("duration", "5s", "10m", pattern=_DURATION.pattern)
]
SizeField = Annotated[int, PlainValidator(_size), _schema("size", "64KiB", "1GiB", pattern=_SIZE.pattern)]
CountField = Annotated[
    int,
    PlainValidator(_count),
    WithJsonSchema({"type": "integer", "title": "number", "minimum": 1, "maximum": _LARGEST_COUNT}),
]
WorkersField = Annotated[
    int | Literal["auto"],
    PlainValidator(_workers),
    WithJsonSchema(
        {
            "type": ["integer", "string"],
            "title": "`auto`, or number",
            "minimum": 1,
            "maximum": _MOST_WORKERS,
            "pattern": "^auto$",
        }
    ),
]
PathField = Annotated[Path, PlainValidator(_path), _FILE]
TunnelIdField = Annotated[str, PlainValidator(_tunnel_id), _TUNNEL]
NameField = Annotated[str, PlainValidator(_name), _schema("name", "gw1", pattern=_NAME.pattern)]
RelayCaField = Annotated[Path | Literal["system"] | None, PlainValidator(_relay_ca), _CA]
PinField = Annotated[
    str, PlainValidator(_pin), _schema("pin", "sha256/" + "A" * 43 + "=", pattern=_PIN.pattern)
]
DomainField = Annotated[str, PlainValidator(_domain), _schema("domain", "tunnel.example.com")]
ServerUrlField = Annotated[str, PlainValidator(server_url), _schema("URL", "http://127.0.0.1:9000/mcp")]
ExposedPathField = Annotated[str, PlainValidator(_exposed_path), _schema("path of a URL", "/files")]
OriginField = Annotated[str, PlainValidator(_origin), _schema("origin", "https://app.example.com")]
DatabaseField = Annotated[str, PlainValidator(_database), _schema("URL", "sqlite:///relay.db")]
