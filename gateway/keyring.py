"""
The keys file on disk: read anew whenever it has changed, written whole.

A running gateway asks the file system about the file each time that a *key* is presented (one ``stat``;
whoever calls with a certificate pays nothing), and reads it only when the answer is another one than before.
So a key that was revoked is refused at the very next request, on a connection that is open as well, without a
restart, a signal or a timer.

Whatever is wrong with the file, missing, broken or readable by others, no key is accepted until it is
mended: the last good content may hold the key whose revocation was being written. The callers with
certificates are not concerned.
"""

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import structlog

from sallyport.certs.api_key import API_KEY_BYTES, ApiKey
from sallyport.certs.errors import FileRefused
from sallyport.certs.storage import MAX_FILE, PRIVATE_MODE, is_present, read_private, write_private
from sallyport.gateway.errors import KeysUnusable
from sallyport.gateway.keys import KeysMalformed, KeyTable, StoredKey, encode_keys, key_name, parse_keys

log = structlog.get_logger("sallyport.gateway.keys")

_Stamp = tuple[int, ...]


class Keyring:
    """
    The keys of a running gateway.

    Args:
        path: The keys file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: _Stamp | None = None
        self._found: KeyTable | KeysUnusable | None = None

    def find(self, presented: ApiKey) -> StoredKey | None:
        """
        Return what is kept of a key, as the file stands now; None for a key that is not in it.

        Raises:
            KeysUnusable: The file cannot be used, and why.
        """
        return self.table().find(presented)

    def table(self) -> KeyTable:
        """
        Return the keys as the file stands now.

        Raises:
            KeysUnusable: As ``find``.
        """
        # The stamp is taken before the reading: if the file is replaced in between, the next one differs.
        stamp = _stamp_of(self.path)
        if self._found is None or stamp != self._stamp:
            self._stamp = stamp
            self._found = self._read()
        if isinstance(self._found, KeysUnusable):
            # A new one each time: an exception that is raised twice collects both tracebacks.
            raise KeysUnusable(self.path, self._found.reason, hint=self._found.hint)
        return self._found

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

    def _read(self) -> KeyTable | KeysUnusable:
        """Read the file and say so in the log: this is once for each change of it."""
        try:
            table = load_keys(self.path)
        except KeysUnusable as error:
            log.error("keys unusable", path=str(self.path), reason=error.reason, hint=error.hint)
            return error
        log.info("keys read", path=str(self.path), keys=len(table.keys))
        return table


def load_keys(path: Path) -> KeyTable:
    """
    Read a keys file.

    Raises:
        KeysUnusable: It is missing, readable by others, cut off, or not of the form that is written here.
    """
    try:
        return parse_keys(read_private(path, holding="the hashes of API keys"))
    except FileRefused as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        hint = "make a first key: sallyport gateway keys add NAME" if missing else error.hint
        raise KeysUnusable(path, error.reason, hint=hint) from error
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
    with _alone(path):
        table = load_keys(path) if is_present(path) else KeyTable()
        _save(path, table.with_key(stored))
    return key


def revoke_key(path: Path, name: str) -> None:
    """
    Forget a key: from the next request on, it opens nothing.

    Raises:
        KeyNameRefused: There is no key of that name.
        KeysUnusable: The file cannot be used.
        FileRefused: The file cannot be written.
    """
    with _alone(path):
        _save(path, load_keys(path).without(key_name(name)))


def _save(path: Path, table: KeyTable) -> None:
    data = encode_keys(table)
    if len(data) > MAX_FILE:
        raise FileRefused(path, f"would grow over {MAX_FILE // 1024} KiB", "revoke keys that nobody uses")
    write_private(path, data)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """
    Keep other commands from the file meanwhile.

    Two that read, change and write it at once would lose what one of them did, and that may be a revocation.
    """
    if sys.platform == "win32":
        yield  # the gateway is for Unix; there is no flock here
        return
    import fcntl

    beside = path.with_name(f".{path.name}.lock")
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, PRIVATE_MODE)
    except OSError as error:
        raise FileRefused(
            path, f"cannot be written: {beside} cannot be opened ({error.strerror})", "check the folder"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # which gives the lock back


def _stamp_of(path: Path) -> _Stamp:
    """
    Say which content and which mode a path has, without reading it; () when there is nothing.

    A new content is a new file here, and a chmod changes ctime, so a change cannot hide behind its mtime.
    """
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
        status.st_uid,
        status.st_gid,
    )
