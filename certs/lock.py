"""
One command at a time: a lock on a file that is read, changed and written.

Two commands that do so at once would lose what one of them did. The lock is an empty file of its own beside
the other, ``.NAME.lock``, since that one is replaced by each write. It is no lock on the folder: whoever may
read that could take it and keep it for ever. It stays where it is, 0600, for the next command.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sallyport.certs.errors import FileRefused
from sallyport.certs.storage import PRIVATE_MODE, give_to_owner_of

_NOFOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)  # not every system has it


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """
    Keep the other commands that ask for the same file waiting.

    Args:
        path: the file, there or not; its directory must exist.

    Raises:
        FileRefused: if the lock cannot be had.
    """
    if sys.platform == "win32":
        yield  # there is no flock here
        return
    import fcntl

    beside = path.with_name(f".{path.name}.lock")
    try:
        descriptor = _open(beside)
    except OSError as error:
        raise FileRefused(
            path,
            f"cannot be written: {beside} cannot be opened ({error.strerror})",
            "run as the user who owns the folder; a lock of another user may be removed, it is empty",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # which gives the lock back


def _open(path: Path) -> int:
    """
    Open the lock, and make it where there is none: for the folder's owner, who comes next, if root makes it.
    """
    flags = os.O_RDWR | _NOFOLLOW
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    except FileExistsError:
        # Never given away: what was there may be a link that somebody has made to another's file.
        return os.open(path, flags)
    try:
        give_to_owner_of(path.parent, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
