"""The keys file: its form, and what is on the disk."""

import errno
import json
import os
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sallyport.certs.api_key import ApiKey
from sallyport.certs.errors import FileRefused
from sallyport.gateway import keyring
from sallyport.gateway.errors import KeyNameRefused, KeysUnusable
from sallyport.gateway.keyring import LOOK_EVERY, Keyring, add_key, load_keys, revoke_key
from sallyport.gateway.keys import KeysMalformed, KeyTable, StoredKey, encode_keys, parse_keys

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
_ENTRY = {"name": "ci", "sha256": "0" * 64, "servers": ["tickets"], "created": "2026-11-21T12:00:00+00:00"}


def entry(**changes: object) -> dict[str, object]:
    """Make an entry of the file that differs from a good one."""
    return {**_ENTRY, **changes}


def content(*entries: object, **changes: object) -> bytes:
    """Make a file's content."""
    return json.dumps({"version": 1, "keys": list(entries), **changes}).encode()


def test_what_is_written_is_read() -> None:
    """Both kinds of key, with their servers; and no key is in it."""
    key = ApiKey.of_random(bytes(32))
    kept = (
        StoredKey("ci", key.digest, frozenset({"tickets", "wiki"}), NOW),
        StoredKey("all", bytes(32), None, NOW),
    )

    data = encode_keys(KeyTable(kept))

    assert parse_keys(data).keys == kept
    assert parse_keys(data).find(key) == kept[0]
    assert key.text not in data


MALFORMED = {
    "nothing": b"",
    "cut off": content(_ENTRY)[:-9],
    "not a mapping": b"[]",
    "too deep": b"[" * 100_000,
    "not ASCII": content(_ENTRY).replace(b"ci", "cí".encode()),
    "another version": content(version=2),
    "true is no version": content(version=True),
    "a key of the file too many": content(_ENTRY, more=1),
    "no list": json.dumps({"version": 1, "keys": {}}).encode(),
    "no entry": content(None),
    "a key of an entry too many": content(entry(more=1)),
    "one as a fraction": content(_ENTRY).replace(b'"version": 1', b'"version": 1.0'),
    "a version twice": content(_ENTRY).replace(b'"version": 1', b'"version": 2, "version": 1'),
    "a list twice": content(_ENTRY).replace(b'"keys": [', b'"keys": [], "keys": ['),
    "servers twice": content(_ENTRY).replace(b'"servers"', b'"servers": "all", "servers"'),
    "a number for a name": content(entry(name=5)),
    "a number for a hash": content(entry(sha256=int("1" * 64))),
    "a number for a date": content(entry(created=20261121)),
    "no name": content(entry(name="")),
    "a name for a log injection": content(entry(name="a\nb")),
    "a short hash": content(entry(sha256="0" * 63)),
    "a hash in capitals": content(entry(sha256="A" * 64)),
    "no servers": content(entry(servers=[])),
    "servers in a word": content(entry(servers="every")),
    "servers left out": content({key: value for key, value in _ENTRY.items() if key != "servers"}),
    "null for servers": content(entry(servers=None)),
    "a number for a server": content(entry(servers=["tickets", 1])),
    "a server twice": content(entry(servers=["tickets", "tickets"])),
    "no date": content(entry(created="yesterday")),
    "a date without a zone": content(entry(created="2026-11-21T12:00:00")),
    "one name twice": content(_ENTRY, entry(sha256="1" * 64)),
    "one key twice": content(_ENTRY, entry(name="other")),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_a_file_of_another_form_is_refused_whole(data: bytes) -> None:
    """Half a list of keys may be the half with the key that was revoked."""
    with pytest.raises(KeysMalformed):
        parse_keys(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a keys file that is not there yet."""
    return tmp_path / "keys.json"


def test_a_key_is_made_once_and_kept_as_a_hash(path: Path) -> None:
    """The file is private from the start, and what was returned is nowhere in it."""
    key = add_key(path, "ci", servers=None, now=NOW)
    other = add_key(path, "cd", servers=frozenset({"tickets"}), now=NOW)

    assert key != other
    assert path.stat().st_mode & 0o777 == 0o600
    assert key.text not in path.read_bytes()
    assert [kept.name for kept in load_keys(path).keys] == ["ci", "cd"]
    assert "sp_" not in repr(key)


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a" * 64, "a\n"])
def test_a_name_must_fit_into_a_log(path: Path, name: str) -> None:
    """Nothing is written for one that does not."""
    with pytest.raises(KeyNameRefused):
        add_key(path, name, servers=None, now=NOW)
    assert not path.exists()


@pytest.mark.parametrize("form", ["{}", " {}", "{} ", "'{}'", "Bearer {}", "{}a"])
@pytest.mark.parametrize("change", [str, str.upper, lambda text: text[3:]])
def test_a_key_in_place_of_a_name_is_not_repeated(
    path: Path, form: str, change: Callable[[str], str]
) -> None:
    """Somebody who pastes the key to revoke it must not read it again in a log."""
    pasted = form.format(change(add_key(path, "ci", servers=None, now=NOW).text.decode()))
    with pytest.raises(KeyNameRefused) as refused:
        revoke_key(path, pasted)
    assert pasted[10:40] not in f"{refused.value} {refused.value!r} {refused.value.hint}"


def test_a_taken_name_and_an_unknown_one_are_refused(path: Path) -> None:
    """Neither command changes the file then."""
    add_key(path, "ci", servers=None, now=NOW)
    before = path.read_bytes()
    with pytest.raises(KeyNameRefused, match="is taken"):
        add_key(path, "ci", servers=None, now=NOW)
    with pytest.raises(KeyNameRefused, match="is no key here"):
        revoke_key(path, "cd")
    assert path.read_bytes() == before


def test_a_broken_file_is_not_written_over(path: Path) -> None:
    """Adding a key must not be how all others vanish."""
    path.write_bytes(b"{")
    path.chmod(0o600)
    with pytest.raises(KeysUnusable):
        add_key(path, "ci", servers=None, now=NOW)
    assert path.read_bytes() == b"{"


def test_keys_that_do_not_fit_are_refused(path: Path) -> None:
    """The file stays readable for the gateway."""
    servers = frozenset(f"server-{number:056}" for number in range(5000))
    with pytest.raises(FileRefused, match="would grow"):
        add_key(path, "ci", servers=servers, now=NOW)


def test_commands_at_once_lose_nothing(path: Path) -> None:
    """Each reads, changes and writes alone."""
    names = [f"key-{number}" for number in range(20)]
    threads = [
        threading.Thread(target=add_key, args=(path, name), kwargs={"servers": None, "now": NOW})
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kept.name for kept in load_keys(path).keys) == sorted(names)


class _Clock:
    """Time that goes on whenever it is read, so that each look is a new one; or only when it is told to."""

    def __init__(self, *, step: float = 2 * LOOK_EVERY) -> None:
        self.now = 1000.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize("ask", [lambda ring, key: ring.table().find(key), lambda ring, _key: ring.table()])
def test_one_look_holds_for_a_millisecond(
    path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Keyring, ApiKey], object]
) -> None:
    """Many calls share one ``stat``, whichever way they ask; the first one after it looks again."""
    key = add_key(path, "ci", servers=None, now=NOW)
    looks: list[object] = []
    monkeypatch.setattr(keyring, "stamp", lambda paths: looks.append(paths))
    clock = _Clock(step=0.0)
    ring = Keyring(path, clock=clock)

    for _ in range(10):
        ask(ring, key)
    clock.now += LOOK_EVERY * 0.99
    ask(ring, key)
    assert len(looks) == 1

    clock.now += LOOK_EVERY * 0.02
    for _ in range(10):
        ask(ring, key)
    assert len(looks) == 2


def test_a_revocation_is_in_force_a_millisecond_later(path: Path) -> None:
    """And so is a fault of the file, and its mending."""
    key = add_key(path, "ci", servers=None, now=NOW)
    other = add_key(path, "cd", servers=None, now=NOW)
    clock = _Clock(step=0.0)
    ring = Keyring(path, clock=clock)
    assert ring.table().find(key) is not None

    revoke_key(path, "ci")
    clock.now += LOOK_EVERY * 1.01
    assert ring.table().find(key) is None
    assert ring.table().find(other) is not None

    path.chmod(0o640)
    clock.now += LOOK_EVERY * 1.01
    for _ in range(2):
        with pytest.raises(KeysUnusable):
            ring.table().find(other)

    path.chmod(0o600)
    clock.now += LOOK_EVERY * 1.01
    assert ring.table().find(other) is not None


def test_a_running_gateway_sees_every_change_at_the_next_look(path: Path) -> None:
    """A key that is made, one that is revoked, a file that is mended; and one log line each."""
    ring = Keyring(path, clock=_Clock())
    with capture_logs() as lines:
        key = add_key(path, "ci", servers=None, now=NOW)
        assert ring.table().find(key) is not None
        other = add_key(path, "cd", servers=None, now=NOW)
        assert ring.table().find(other) is not None
        revoke_key(path, "ci")
        assert ring.table().find(key) is None
        assert ring.table().find(other) is not None
    assert [line["event"] for line in lines] == ["keys read"] * 3


@pytest.mark.parametrize("fault", ["wide", "broken", "missing", "a folder"])
def test_whatever_is_wrong_with_the_file_no_key_is_good(path: Path, fault: str) -> None:
    """The last good content is not gone back to; the log says why, once."""
    key = add_key(path, "ci", servers=None, now=NOW)
    ring = Keyring(path, clock=_Clock())
    assert ring.table().find(key) is not None
    kept = path.read_bytes()
    match fault:
        case "wide":
            path.chmod(0o640)
        case "broken":
            path.write_bytes(kept[:-3])
        case _:
            path.unlink()
    if fault == "a folder":
        path.mkdir()

    with capture_logs() as lines:
        for _ in range(3):
            with pytest.raises(KeysUnusable) as refused:
                ring.table().find(key)
            assert refused.value.hint or fault == "a folder"
    assert [line["event"] for line in lines] == ["keys unusable"]

    if fault == "a folder":
        path.rmdir()
    path.write_bytes(kept)
    path.chmod(0o600)
    assert ring.table().find(key) is not None


def test_the_file_is_read_only_when_it_has_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look costs one stat."""
    key = add_key(path, "ci", servers=None, now=NOW)
    ring = Keyring(path, clock=_Clock())
    ring.table().find(key)
    opened: list[object] = []
    monkeypatch.setattr(os, "open", lambda *arguments, **_: opened.append(arguments))
    for _ in range(10):
        assert ring.table().find(key) is not None
    assert opened == []


def test_at_the_start_a_fault_is_an_error_and_no_file_is_none(path: Path) -> None:
    """Keys may be turned on before the first one is made."""
    Keyring(path).require_usable()
    path.write_bytes(b"{")
    with pytest.raises(KeysUnusable):
        Keyring(path).require_usable()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EACCES])
def test_what_passes_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Running out of descriptors at the one look after a change must not turn keys off until the next."""
    key = add_key(path, "ci", servers=None, now=NOW)
    ring = Keyring(path, clock=_Clock())
    opened = os.open

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with capture_logs() as lines:
        monkeypatch.setattr(os, "open", fail)
        for _ in range(3):
            with pytest.raises(KeysUnusable) as refused:
                ring.table().find(key)
        assert refused.value.hint or number in (errno.ENOMEM, errno.EIO)
        monkeypatch.setattr(os, "open", opened)
        assert ring.table().find(key) is not None
        assert ring.table().find(key) is not None
    assert [line["event"] for line in lines] == ["keys unusable", "keys read"]


def test_a_link_is_followed_to_the_file_that_is_meant(path: Path, tmp_path: Path) -> None:
    """Two gateways whose files lead to one: what is revoked at one is revoked at the other."""
    links = [tmp_path / "one" / "keys.json", tmp_path / "two" / "keys.json"]
    key = add_key(path, "ci", servers=None, now=NOW)
    for link in links:
        link.parent.mkdir()
        link.symlink_to("../keys.json")
    rings = [Keyring(link, clock=_Clock()) for link in links]
    assert all(ring.table().find(key) for ring in rings)

    add_key(links[0], "cd", servers=None, now=NOW)
    revoke_key(links[0], "ci")

    assert all(link.is_symlink() for link in links)
    assert not any(ring.table().find(key) for ring in rings)
    assert [kept.name for kept in load_keys(links[1]).keys] == ["cd"]
    assert os.listdir(links[0].parent) == ["keys.json"], "the lock is beside the file that is meant"


@pytest.mark.parametrize("target", ["nowhere", "keys.json"])
def test_a_link_to_nothing_makes_no_file(path: Path, target: str) -> None:
    """Whoever may write into the folder does not say where root's next file is."""
    path.symlink_to(target)
    with pytest.raises(FileRefused, match="leads to no file"):
        add_key(path, "ci", servers=None, now=NOW)
    assert os.listdir(path.parent) == ["keys.json"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_does_not_lock_the_gateways_user_out(path: Path) -> None:
    """``sudo gateway keys add`` is usual, and it is its own user who revokes."""
    os.chown(path.parent, 12345, 12345)

    add_key(path, "ci", servers=None, now=NOW)

    for file in path.parent.iterdir():
        assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (12345, 0o600), file.name


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_root_gives_away_only_what_it_has_made(path: Path, tmp_path: Path) -> None:
    """A lock that was there may be somebody's link to a file of root's."""
    precious = tmp_path / "precious"
    precious.touch()
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.link(precious, folder / ".keys.json.lock")
    os.chown(folder, 12345, 12345)

    add_key(folder / "keys.json", "ci", servers=None, now=NOW)

    assert precious.stat().st_uid == 0


def test_a_lock_of_somebody_else_says_what_to_do(path: Path) -> None:
    """It names the lock, which may be removed."""
    path.with_name(".keys.json.lock").symlink_to("elsewhere")
    with pytest.raises(FileRefused, match=r"\.keys\.json\.lock cannot be opened") as refused:
        add_key(path, "ci", servers=None, now=NOW)
    assert "removed" in refused.value.hint
