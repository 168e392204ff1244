"""
The API keys of a gateway as they are kept: the form of the keys file (pure).

    {"version": 1,
     "keys": [{"name": "ci", "sha256": "<64 hex digits>", "servers": ["tickets"],
               "created": "2026-11-21T12:00:00+00:00"}]}

``servers`` is a list of server names, or the word ``"all"``: what is missing or empty never means everything.
A file that is not exactly of this form is refused whole, because half a list of keys may be the half with the
key that was revoked. Nothing in it can be used to call: of each key it has the SHA-256.
"""

import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sallyport.certs.api_key import ApiKey, looks_like_api_key
from sallyport.gateway.errors import KeyNameRefused

VERSION: Final = 1
ALL_SERVERS: Final = "all"

# Identity §1, for whoever turns keys on or makes one.
PUBLIC_CA_WARNING: Final = (
    "a caller that also trusts public CAs trusts whoever controls the name's DNS and port 443, the relay's "
    "operator among them, and would give its key to an impostor: set callers up to trust only the tunnel's "
    "root (docs/clients.md)"
)

_LIST: Final = "`sallyport gateway keys list` shows the names"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII)
_SERVER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What a gateway keeps of one API key."""

    name: str
    """Whose it is; ``key:NAME`` in the logs."""
    digest: bytes
    """SHA-256 of the key as it is written."""
    servers: frozenset[str] | None
    """The servers that it opens; None for all of them, those of next year included."""
    created: datetime

    def opens(self, server: str) -> bool:
        """Say whether the key is for that server."""
        return self.servers is None or server in self.servers


class KeyTable:
    """
    The keys of one file, by what is known of a key that is presented.

    Args:
        keys: In the order of the file; names and digests differ.
    """

    def __init__(self, keys: Iterable[StoredKey] = ()) -> None:
        self.keys = tuple(keys)
        self._by_digest = {key.digest: key for key in self.keys}

    def find(self, presented: ApiKey) -> StoredKey | None:
        """Return what is kept of a key; None when it was never made, or was revoked."""
        digest = presented.digest
        # Looking a digest up tells nobody's clock anything: whoever can choose where it lands has the key.
        found = self._by_digest.get(digest)
        return found if found is not None and hmac.compare_digest(found.digest, digest) else None

    def with_key(self, key: StoredKey) -> "KeyTable":
        """
        Return the table with one more key.

        Raises:
            KeyNameRefused: The name is taken.
        """
        if any(kept.name == key.name for kept in self.keys):
            raise KeyNameRefused(
                key.name,
                "is taken",
                hint=f"choose another, or revoke that key: sallyport gateway keys revoke {key.name}",
            )
        return KeyTable((*self.keys, key))

    def without(self, name: str) -> "KeyTable":
        """
        Return the table without the key of that name.

        Raises:
            KeyNameRefused: There is none.
        """
        rest = [key for key in self.keys if key.name != name]
        if len(rest) == len(self.keys):
            raise KeyNameRefused(name, "is no key here", hint=_LIST)
        return KeyTable(rest)


def key_name(text: str) -> str:
    """
    Check a key's name.

    Raises:
        KeyNameRefused: It could not stand in a log line.
    """
    if text.strip().lower().startswith("sp_") or looks_like_api_key(text):
        # Somebody has pasted the key itself, which then must not stand on his screen again.
        raise KeyNameRefused("sp_…", "looks like a key, and a key has a name of its own", hint=_LIST)
    if not _NAME.fullmatch(text):
        raise KeyNameRefused(
            text, "is not 1 to 63 of a-z, 0-9, '.', '_' and '-' with a letter or digit at both ends"
        )
    return text


class KeysMalformed(ValueError):
    """The content of a keys file is not of the form above; the text is the clause after the file's name."""


def encode_keys(table: KeyTable) -> bytes:
    """Write a keys file: the mirror of ``parse_keys``."""
    keys = [
        {
            "name": key.name,
            "sha256": key.digest.hex(),
            "servers": ALL_SERVERS if key.servers is None else sorted(key.servers),
            "created": key.created.astimezone(UTC).isoformat(timespec="seconds"),
        }
        for key in table.keys
    ]
    return json.dumps({"version": VERSION, "keys": keys}, indent=1).encode("ascii") + b"\n"


def parse_keys(data: bytes) -> KeyTable:
    """
    Read the content of a keys file.

    Raises:
        KeysMalformed: It is of any other form, or has one name or one key twice.
    """
    try:
        content = json.loads(data.decode("ascii"), object_pairs_hook=_unambiguous)
    except KeysMalformed:
        raise
    except (ValueError, RecursionError) as error:
        raise KeysMalformed("is not JSON, or is cut off") from error
    if not isinstance(content, dict) or set(content) != {"version", "keys"}:
        raise KeysMalformed("is not a keys file: it wants `version` and `keys`, and nothing else")
    # `type`, since true and 1.0 are equal to 1.
    if type(content["version"]) is not int or content["version"] != VERSION:
        raise KeysMalformed(f"is of another version than {VERSION}: use the sallyport that wrote it")
    entries = content["keys"]
    if not isinstance(entries, list):
        raise KeysMalformed("does not hold a list of keys")
    table = KeyTable(_stored_key(number, entry) for number, entry in enumerate(entries, start=1))
    for what, values in (("name", {k.name for k in table.keys}), ("key", {k.digest for k in table.keys})):
        if len(values) != len(table.keys):
            raise KeysMalformed(f"has one {what} twice")
    return table


def _unambiguous(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make an object of its pairs; with one twice, who reads the first and who the last would disagree."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise KeysMalformed("says one thing twice")
    return value


def _stored_key(number: int, entry: object) -> StoredKey:
    if not isinstance(entry, dict) or set(entry) != {"name", "sha256", "servers", "created"}:
        raise KeysMalformed(f"has an entry that is no key, number {number}")
    match entry:
        case {"name": str(name), "sha256": str(digest), "created": str(created)} if (
            _NAME.fullmatch(name) and _DIGEST.fullmatch(digest)
        ):
            servers = _servers(number, entry["servers"])
            return StoredKey(name, bytes.fromhex(digest), servers, _moment(number, created))
        case _:
            raise KeysMalformed(f"has an entry that is no key, number {number}")


def _servers(number: int, value: object) -> frozenset[str] | None:
    if value == ALL_SERVERS:
        return None
    if not isinstance(value, list) or not value:
        raise KeysMalformed(f"does not say which servers key number {number} opens")
    names = frozenset(name for name in value if isinstance(name, str) and _SERVER.fullmatch(name))
    if len(names) != len(value):
        raise KeysMalformed(f"names something that is no server in key number {number}")
    return names


def _moment(number: int, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise KeysMalformed(f"has no date in key number {number}") from error
    if moment.tzinfo is None:
        raise KeysMalformed(f"has a date without a zone in key number {number}")
    return moment
