"""
Bytes on disk: keys that only their owner reads, and files that are whole or absent.

Writing goes to a new file beside the target (O_EXCL), is flushed to the disk, and takes the target's place
by a
rename: a reader sees the old file or the new one, never half of either, and the mode is right from the
first byte whatever the umask says.

Reading judges the file that was opened, not the path, so nothing can be changed in between. Links are
followed: Kubernetes mounts every secret through two. A private file must be mode 0600 or narrower; or
belong to root and to one of the process's groups and be readable, not writable, by that group, as
Kubernetes mounts secrets for a process that is not root. Identity §6.

What root writes belongs to whom the folder belongs: an administrator who renews a gateway's certificate
must not leave a key that the gateway's own user cannot read.

On Windows there are no modes to judge: a file there has its folder's access list, which in a user's profile
is the user, SYSTEM and Administrators.
"""

import errno
import os
import re
import secrets
import shlex
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from sallyport.certs.errors import FileRefused

PRIVATE_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o700

# What tells one version of some files from the next: both times of change, size and inode of each. A chmod
# and a chown change ctime alone, and nobody can set it back.
Stamp = tuple[tuple[int, int, int, int], ...]

# A bundle with a successor root is about 5 KiB. More than this is not ours, and not worth the memory.
MAX_FILE: Final = 256 * 1024

# In the name of a file that is not in its place yet: .NAME.<12 hex digits>.
_RANDOM_BYTES: Final = 6


def is_present(path: Path) -> bool:
    """
    Say whether there is something at a path; what this user may not see is not there for him.
    """
    return os.path.lexists(path)


def write_private(path: Path, data: bytes, *, replace: bool = True) -> None:
    """
    Write a file that only its owner can read (0600), whole or not at all.

    Args:
        path: the file; its directory must exist.
        data: the whole content.
        replace: whether a file that is there already may be replaced.

    Raises:
        FileRefused: if it cannot be written, or exists and may not be replaced.
    """
    _write(path, data, PRIVATE_MODE, replace=replace)


def write_public(path: Path, data: bytes, *, replace: bool = True) -> None:
    """
    Write a file that everybody may read (0644), whole or not at all.

    Args and errors are those of ``write_private``.
    """
    _write(path, data, PUBLIC_MODE, replace=replace)


def take_place(source: Path, target: Path) -> None:
    """
    Let a file take the place of another one in the same folder, or its name where there is none.

    Raises:
        FileRefused: if it cannot be renamed.
    """
    try:
        os.replace(source, target)
        _flush_directory(target.parent)
    except OSError as error:
        raise FileRefused(target, f"cannot be written: {_reason(error)}", _remedy(error)) from error


def followed(path: Path) -> Path:
    """
    Follow symbolic links to the file that is meant: writing to a link would replace the link.

    Raises:
        FileRefused: if it is a link that leads to no file. A new file is made where it was asked for, and not
        where somebody has pointed.
    """
    try:
        return path.resolve(strict=path.is_symlink())
    except (OSError, RuntimeError) as error:  # RuntimeError until Python 3.12
        raise FileRefused(path, "is a symbolic link that leads to no file", "remove the link") from error


def stamp(paths: Iterable[Path]) -> Stamp:
    """
    Tell the version of some files without reading them; one that is not there has a version, too.
    """
    return tuple(_version(path) for path in paths)


def give_to_owner_of(folder: Path, descriptor: int) -> None:
    """
    Give a file that root has just made to whom its folder belongs; see the top of this file.

    Args:
        folder: where it lies.
        descriptor: the file, open; one that was made here, never one that was found.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return
    status = os.stat(folder)
    if status.st_uid != 0:
        os.fchown(descriptor, status.st_uid, status.st_gid)


def make_private_directory(path: Path) -> None:
    """
    Make a directory that only its owner can enter (0700), or make one so; and what is missing above it.

    Raises:
        FileRefused: if it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        path.chmod(DIRECTORY_MODE)
    except OSError as error:
        raise FileRefused(path, f"cannot be made: {_reason(error)}", _remedy(error)) from error


def read_private(path: Path, *, holding: str = "a private key") -> bytes:
    """
    Read a key, or a file that holds one.

    Args:
        path: the file.
        holding: what is in it, for the refusal.

    Raises:
        FileRefused: if others could read it as well, with the chmod to run; or as ``read_public``.
    """
    return _read(path, private=holding)


def read_public(path: Path) -> bytes:
    """
    Read a file without secrets.

    Raises:
        FileRefused: if it is missing, unreadable, no regular file, or larger than anything of ours.
    """
    return _read(path)


def _write(path: Path, data: bytes, mode: int, *, replace: bool) -> None:
    if not replace and is_present(path):
        raise FileRefused(path, "exists already", "move it away first")
    _remove_leftovers(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(_RANDOM_BYTES)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _BINARY, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if sys.platform != "win32":
                    os.fchmod(file.fileno(), mode)  # the umask may have taken bits that a reader needs
                    give_to_owner_of(path.parent, file.fileno())
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(beside)
            raise
        _flush_directory(path.parent)
    except OSError as error:
        raise FileRefused(path, f"cannot be written: {_reason(error)}", _remedy(error)) from error


def _remove_leftovers(path: Path) -> None:
    """
    Remove what a write of this file has left behind that was killed before its rename: perhaps a key.
    """
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}")
    # What cannot be removed is no reason not to write: it is as private as it was.
    with suppress(OSError):
        for beside in path.parent.iterdir():
            if name.fullmatch(beside.name):
                beside.unlink()


def _version(path: Path) -> tuple[int, int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0, 0)  # Missing for the moment: reading it will say so.
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def _flush_directory(path: Path) -> None:
    if sys.platform == "win32":
        return  # directories cannot be opened there, and NTFS journals the rename
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, *, private: str = "") -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO without a writer would wait for one.
        descriptor = os.open(path, os.O_RDONLY | _NONBLOCK | _BINARY)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileRefused(path, f"is {_kind(status.st_mode)}, not a file")
            if private:
                _require_private(path, status, holding=private)
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_FILE + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FileRefused(path, _reason(error), _remedy(error)) from error
    if len(data) > MAX_FILE:
        raise FileRefused(
            path, f"is larger than {MAX_FILE // 1024} KiB, so it is no key or certificate of ours"
        )
    return data


def _require_private(path: Path, status: os.stat_result, *, holding: str) -> None:
    if sys.platform == "win32":
        return
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077 == 0:
        return
    # The exception is for those who are not root: root's own files have no need of a group to be read by it.
    in_group = status.st_gid in {os.getegid(), *os.getgroups()}
    if status.st_uid == 0 and os.geteuid() != 0 and in_group and mode & 0o037 == 0:
        return
    raise FileRefused(
        path,
        f"holds {holding} and has mode {mode:04o}: others than its owner could use it",
        f"run: chmod 600 {shlex.quote(str(path))}",
    )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "does not exist"
        case errno.EACCES | errno.EPERM:
            return "may not be accessed by this user"
        case errno.ELOOP:
            return "is a symbolic link that leads back to itself"
        case errno.EISDIR:
            return "is a directory, not a file"
        case errno.ENXIO:
            return "is a socket, not a file"
        case errno.ENOTDIR:
            return "is below something that is not a directory"
        case _:
            return f"cannot be used: {error.strerror or error}"


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return "run as the user who owns it, or give it to this one with chown"
        case errno.ENOENT:
            return "check the path"
        case errno.ENOSPC | errno.EDQUOT:
            return "make room on the disk"
        case errno.EMFILE | errno.ENFILE:
            return "raise the limit of open files: ulimit -n, or LimitNOFILE= of the service"
        case _:
            return ""


# Flags that not every system has.
_BINARY: Final[int] = getattr(os, "O_BINARY", 0)
_NOFOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)
