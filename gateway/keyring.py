"""
The keys file on disk: read anew whenever it has changed, written whole.

A running gateway asks the file system about the file when a *key* is presented (one ``stat``; whoever calls
with a certificate pays nothing), at most once in ``LOOK_EVERY``, and reads it only when the answer is another
one than before. So a key that was revoked is refused a millisecond after the file was written at the latest,
on a connection that is open as well, without a restart, a signal or a timer. No command notices: it needs
longer than that to end.

Whatever is wrong with the file, missing, broken or readable by others, no key is accepted until it is
mended: the last good content may hold the key whose revocation was being written. What is not the file's
own fault, such as a process without a free descriptor, is tried again at the next look. The callers with
certificates are not concerned.
"""

import secrets
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from sallyport.certs.api_key import API_KEY_BYTES, ApiKey
from sallyport.certs.errors import FileRefused
from sallyport.certs.lock import alone_with
from sallyport.certs.storage import (
    MAX_FILE,
    Stamp,
    followed,
    is_present,
    read_private,
    stamp,
    write_private,
)
from sallyport.gateway.errors import KeysMissing, KeysUnusable
from sallyport.gateway.keys import KeysMalformed, KeyTable, StoredKey, encode_keys, key_name, parse_keys
from sallyport.tunnel.limits import limit

log = structlog.get_logger("sallyport.gateway.keys")

LOOK_EVERY: Final = limit(
    0.001, "seconds",
    "for which a look at the keys file holds, and so a revoked key at the longest: less than any command "
    "needs that revokes one, and many calls",
)  # fmt: skip


class Keyring:
    """
    The keys of a running gateway.

    Args:
        path: The keys file.
        clock: Seconds, from any beginning; it never goes back.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._looked = 0.0  # when, on the clock
        self._stamp: Stamp | None = None
        self._found: KeyTable | KeysUnusable | None = None
        self._told = ""

    def table(self) -> KeyTable:
        """
        Return the keys as the file stands now, or stood ``LOOK_EVERY`` ago at most.

        Returns:
            One object while nothing changes.

        Raises:
            KeysUnusable: The file cannot be used, and why.
        """
        found, now = self._found, self._clock()
        if found is None or now - self._looked >= LOOK_EVERY:
            self._looked = now
            found = self._found = self._look(found)
        if isinstance(found, KeysUnusable):
            # A new one each time: an exception that is raised twice collects both tracebacks.
            raise KeysUnusable(self.path, found.reason, hint=found.hint)
        return found

    def require_usable(self) -> None:
        """
        Look at the file at the start, where a fault still has somebody to read of it.

        Raises:
            KeysUnusable: It is there and cannot be used. While there is none, nobody calls by key.
        """
        if is_present(self.path):
            self.table()
        else:
            log.warning("no keys yet", path=str(self.path), hint="sallyport gateway keys add NAME")

    def _look(self, found: KeyTable | KeysUnusable | None) -> KeyTable | KeysUnusable:
        """Return what was found before, or read the file where that need no longer be so."""
        # The stamp is taken before the reading: if the file is replaced in between, the next one differs.
        version = stamp((self.path,))
        if found is None or version != self._stamp:
            self._stamp = version
            self._told = ""
            return self._read()
        may_have_passed = isinstance(found, KeysUnusable) and found.may_pass
        return self._read() if may_have_passed else found

    def _read(self) -> KeyTable | KeysUnusable:
        """Read the file and say so in the log: once for each change of it, or of what is wrong with it."""
        try:
            table = load_keys(self.path)
        except KeysUnusable as error:
            if error.reason != self._told:
                self._told = error.reason
                log.error("keys unusable", path=str(self.path), reason=error.reason, hint=error.hint)
            return error
        self._told = ""
        log.info("keys read", path=str(self.path), keys=len(table.keys))
        return table


def load_keys(path: Path) -> KeyTable:
    """
    Read a keys file.

    Raises:
        KeysMissing: There is none.
        KeysUnusable: It is readable by others, cut off, or not of the form that is written here; or the
            system cannot read it now.
    """
    try:
        return parse_keys(read_private(path, holding="the hashes of API keys"))
    except FileRefused as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError):
            raise KeysMissing(path, error.reason) from error
        # The file is as it was before and after, so its stamp does not tell when such a thing has passed.
        raise KeysUnusable(
            path, error.reason, hint=error.hint, may_pass=isinstance(cause, OSError)
        ) from error
    except KeysMalformed as error:
        hint = "restore it from a backup, or move it away and make the keys anew"
        raise KeysUnusable(path, str(error), hint=hint) from error


def add_key(
    path: Path,
    name: str,
    *,
    servers: frozenset[str] | None,
    now: datetime,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> ApiKey:
    """
    Make a key and keep its hash; the file is made when it is missing.

    Args:
        path: The keys file.
        name: Whose it is.
        servers: What it opens; None for every server.
        now: When it was made.
        random: Gives as many random bytes as it is asked for.

    Returns:
        The key, which nobody can be told a second time.

    Raises:
        KeyNameRefused: The name is taken, or is none.
        KeysUnusable: The file is there and cannot be used.
        FileRefused: The file cannot be written.
    """
    key = ApiKey.of_random(random(API_KEY_BYTES))
    stored = StoredKey(key_name(name), key.digest, servers, now)
    path = followed(path)
    with alone_with(path):
        table = load_keys(path) if is_present(path) else KeyTable()
        _save(path, table.with_key(stored))
    return key


def revoke_key(path: Path, name: str) -> None:
    """
    Forget a key: it opens nothing from the next request on, ``LOOK_EVERY`` after this at the latest.

    Raises:
        KeyNameRefused: There is no key of that name.
        KeysUnusable: The file cannot be used.
        FileRefused: The file cannot be written.
    """
    path = followed(path)
    with alone_with(path):
        _save(path, load_keys(path).without(key_name(name)))


def _save(path: Path, table: KeyTable) -> None:
    data = encode_keys(table)
    if len(data) > MAX_FILE:
        raise FileRefused(path, f"would grow over {MAX_FILE // 1024} KiB", "revoke keys that nobody uses")
    write_private(path, data)
