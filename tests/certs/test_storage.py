"""Files on disk: modes that no umask changes, whole or absent, and a clear word about everything else."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sallyport.certs.errors import FileRefused
from sallyport.certs.storage import (
    MAX_FILE,
    make_private_directory,
    read_private,
    read_public,
    stamp,
    write_private,
    write_public,
)

pytestmark = pytest.mark.platform("linux", "darwin")


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set the process's umask for one test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    """Read a path's permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    """A key is 0600 and a certificate 0644, whatever the shell was set to."""
    write_private(tmp_path / "key", b"k")
    write_public(tmp_path / "cert", b"c")
    make_private_directory(tmp_path / "folder")

    assert (mode(tmp_path / "key"), mode(tmp_path / "cert"), mode(tmp_path / "folder")) == (
        0o600,
        0o644,
        0o700,
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Writing and reading are mirrors, and nothing else is left in the directory."""
    write_private(tmp_path / "key", b"first")
    write_private(tmp_path / "key", b"second")

    assert read_private(tmp_path / "key") == b"second"
    assert os.listdir(tmp_path) == ["key"]


def test_replacing_narrows_a_wide_file(tmp_path: Path) -> None:
    """The mode is the new file's, not that of the one it replaces."""
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o666)

    write_private(path, b"new")

    assert mode(path) == 0o600


def test_a_file_that_may_not_be_replaced_is_left_alone(tmp_path: Path) -> None:
    """``replace=False`` refuses and changes nothing, also for a dangling link."""
    path = tmp_path / "key"
    path.symlink_to(tmp_path / "nowhere")

    with pytest.raises(FileRefused, match="exists already"):
        write_private(path, b"x", replace=False)

    assert path.is_symlink()


def test_writing_replaces_a_link_and_not_its_target(tmp_path: Path) -> None:
    """A link planted where a key will be written does not send the key elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"untouched")
    path = tmp_path / "key"
    path.symlink_to(elsewhere)

    write_private(path, b"secret")

    assert elsewhere.read_bytes() == b"untouched"
    assert not path.is_symlink()


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails at the last moment costs the new content only."""
    path = tmp_path / "key"
    write_private(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileRefused, match="cannot be written") as refused:
        write_private(path, b"new")

    assert refused.value.hint == "make room on the disk"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["key"]


def test_the_next_write_removes_what_a_killed_one_has_left(tmp_path: Path) -> None:
    """Between write and rename there is a whole private key of another name; nothing else is touched."""
    path = tmp_path / "gw1.key"
    left = [".gw1.key.0123456789ab", ".gw1.key.fedcba987654"]
    near = ("gw1.key.next.0123456789ab", "gw1.key.backup", "xgw1.key.0123456789ab", "gw1_key.0123456789ab")
    others = [f".{name}" for name in near]
    for name in [*left, *others]:
        (tmp_path / name).touch()

    write_private(path, b"new")

    assert sorted(os.listdir(tmp_path)) == sorted(["gw1.key", *others])


def test_a_stamp_tells_a_chmod(tmp_path: Path) -> None:
    """A key that others can read has to be judged again, though not a byte has changed."""
    path = tmp_path / "key"
    write_private(path, b"secret")
    before = stamp((path,))

    path.chmod(0o644)

    assert stamp((path,)) != before


def test_writing_into_a_missing_directory_says_so(tmp_path: Path) -> None:
    """The path that could not be written is named."""
    with pytest.raises(FileRefused, match="nowhere/key cannot be written: does not exist"):
        write_private(tmp_path / "nowhere" / "key", b"")


@pytest.mark.parametrize("wide", [0o601, 0o604, 0o610, 0o620, 0o640, 0o644, 0o660, 0o666, 0o777, 0o440])
def test_refuses_a_key_that_others_can_use(tmp_path: Path, wide: int) -> None:
    """Any bit for anybody else is too much; the command that mends it is in the hint."""
    path = tmp_path / "it's.key"
    path.write_bytes(b"secret")
    path.chmod(wide)

    with pytest.raises(FileRefused, match=f"mode {wide:04o}") as refused:
        read_private(path)

    assert refused.value.hint == f"run: chmod 600 '{tmp_path}/it'\"'\"'s.key'"
    assert read_public(path) == b"secret"


@pytest.mark.parametrize("narrow", [0o600, 0o400, 0o700])
def test_accepts_a_key_that_only_its_owner_can_use(tmp_path: Path, narrow: int) -> None:
    """Narrower than 0600 is fine."""
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(narrow)

    assert read_private(path) == b"secret"


@pytest.mark.parametrize(
    ("owner", "group", "bits", "accepted"),
    [
        (0, 2000, 0o440, True),  # a secret with defaultMode 0400 and fsGroup 2000
        (0, 2000, 0o640, True),
        (0, 2000, 0o660, False),
        (0, 2000, 0o444, False),
        (0, 2000, 0o450, False),
        (0, 3000, 0o440, False),
        (1001, 2000, 0o440, False),
    ],
)
def test_accepts_what_kubernetes_mounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, group: int, bits: int, accepted: bool
) -> None:
    """A file of root's that one of the process's groups, and nobody else, may read is private enough."""
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(bits)
    real = os.fstat

    def pretend(descriptor: int) -> os.stat_result:
        fields = list(real(descriptor))
        fields[stat.ST_UID], fields[stat.ST_GID] = owner, group
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", pretend)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [1000, 2000])

    if accepted:
        assert read_private(path) == b"secret"
    else:
        with pytest.raises(FileRefused, match="others than its owner"):
            read_private(path)


def test_follows_links_to_a_private_file(tmp_path: Path) -> None:
    """Kubernetes mounts each secret through two links; what counts is the file at their end."""
    (tmp_path / "data").mkdir()
    target = tmp_path / "data" / "key"
    write_private(target, b"secret")
    (tmp_path / "now").symlink_to("data")
    (tmp_path / "key").symlink_to("now/key")

    assert read_private(tmp_path / "key") == b"secret"
    target.chmod(0o644)
    with pytest.raises(FileRefused, match="mode 0644"):
        read_private(tmp_path / "key")


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


ODDITIES = {
    "nothing": (lambda path: None, "does not exist"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "does not exist"),
    "link to itself": (_loop, "leads back to itself"),
    "directory": (lambda path: path.mkdir(), "is a directory"),
    "FIFO": (lambda path: os.mkfifo(path, 0o600), "is a FIFO"),
    "socket": (_socket, "is a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "too large": (
        lambda path: path.write_bytes(b"x" * (MAX_FILE + 1)) and path.chmod(0o600),
        "larger than 256 KiB",
    ),
}


@pytest.mark.parametrize("read", [read_private, read_public])
@pytest.mark.parametrize("oddity", ODDITIES)
def test_says_what_is_there_instead_of_a_file(tmp_path: Path, oddity: str, read: object) -> None:
    """Whatever stands at the path, the answer comes at once and names it."""
    make, reason = ODDITIES[oddity]
    path = tmp_path / "key"
    make(path)

    with pytest.raises(FileRefused, match=f"key.*{reason}"):
        (read_private if read is read_private else read_public)(path)


def test_a_path_below_a_file_is_explained(tmp_path: Path) -> None:
    """A path with a file in the middle leads nowhere, and says so."""
    (tmp_path / "file").touch()

    with pytest.raises(FileRefused, match="below something that is not a directory"):
        read_public(tmp_path / "file" / "key")


@pytest.mark.platform("linux")
def test_a_refusal_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """A gateway that tries again for days does not run out of descriptors."""
    before = os.listdir("/proc/self/fd")

    for _ in range(3):
        with pytest.raises(FileRefused):
            read_private(tmp_path)

    assert len(os.listdir("/proc/self/fd")) == len(before)
