"""The store: tunnels in a database, seen by every process that has it open."""

import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sallyport.relay.errors import DatabaseFailed, TunnelArchived, TunnelUnknown
from sallyport.relay.registry import TunnelState
from sallyport.relay.store import Registered, TunnelStore

LABEL = "abcdefghijklmnopqrstuvwxyz234567"
OTHER = "bcdefghijklmnopqrstuvwxyz234567a"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a database that is not there yet."""
    return f"sqlite:///{tmp_path}/relay.db"


@pytest.fixture
def store(url: str) -> Iterator[TunnelStore]:
    """An open store."""
    with closing(TunnelStore(url)) as opened:
        yield opened


def test_a_tunnel_is_registered(store: TunnelStore) -> None:
    """What was registered is read back whole."""
    assert store.register(LABEL, "PEM", name="acme", now=NOW) is Registered.ADDED
    tunnel = store.tunnel(LABEL)
    assert store.tunnels() == [tunnel]
    assert (tunnel.label, tunnel.name, tunnel.root_pem) == (LABEL, "acme", "PEM")
    assert tunnel.state is TunnelState.ACTIVE
    assert tunnel.created == tunnel.updated == NOW


def test_tunnels_are_listed_in_order_of_registration(store: TunnelStore) -> None:
    """The oldest comes first."""
    store.register(OTHER, "PEM", name=None, now=NOW)
    store.register(LABEL, "PEM", name=None, now=LATER)
    assert [tunnel.label for tunnel in store.tunnels()] == [OTHER, LABEL]


def test_registering_again_takes_over_the_certificate(store: TunnelStore) -> None:
    """A root certificate that was issued again under its key replaces the old one and keeps the name."""
    store.register(LABEL, "OLD", name="acme", now=NOW)
    assert store.register(LABEL, "NEW", name=None, now=LATER) is Registered.UPDATED
    tunnel = store.tunnel(LABEL)
    assert (tunnel.root_pem, tunnel.name, tunnel.created, tunnel.updated) == ("NEW", "acme", NOW, LATER)


def test_registering_the_same_changes_nothing(store: TunnelStore) -> None:
    """A repeated command is no change, so that no relay reloads for it."""
    store.register(LABEL, "PEM", name="acme", now=NOW)
    number = store.change_number()
    assert store.register(LABEL, "PEM", name=None, now=LATER) is Registered.UNCHANGED
    assert store.register(LABEL, "PEM", name="acme", now=LATER) is Registered.UNCHANGED
    assert store.change_number() == number


def test_every_change_is_seen_by_other_processes(store: TunnelStore, url: str) -> None:
    """Whoever else has the database open sees the number rise."""
    with closing(TunnelStore(url)) as other:
        seen = [other.change_number()]
        store.register(LABEL, "PEM", name=None, now=NOW)
        seen.append(other.change_number())
        store.set_state(LABEL, TunnelState.DISABLED, now=LATER)
        seen.append(other.change_number())
        store.register(LABEL, "NEW", name=None, now=LATER)
        seen.append(other.change_number())
        assert seen == sorted(set(seen))
        assert other.tunnel(LABEL).state is TunnelState.DISABLED


def test_an_archived_tunnel_stays_so(store: TunnelStore, url: str) -> None:
    """Its ID is never used again: not by registering it, not by enabling it."""
    store.register(LABEL, "PEM", name=None, now=NOW)
    store.set_state(LABEL, TunnelState.ARCHIVED, now=LATER)
    with pytest.raises(TunnelArchived, match="archived for good, and its ID is never used again"):
        store.register(LABEL, "NEW", name=None, now=LATER)
    with pytest.raises(TunnelArchived):
        store.set_state(LABEL, TunnelState.ACTIVE, now=LATER)
    assert store.tunnel(LABEL).state is TunnelState.ARCHIVED


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM tunnel", "UPDATE tunnel SET state = 'active'", f"UPDATE tunnel SET label = '{OTHER}'"],
)
def test_not_even_sql_brings_an_id_back(store: TunnelStore, tmp_path: Path, statement: str) -> None:
    """The database itself refuses what would let an ID be used again."""
    store.register(LABEL, "PEM", name=None, now=NOW)
    store.set_state(LABEL, TunnelState.ARCHIVED, now=LATER)
    with closing(sqlite3.connect(tmp_path / "relay.db")) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)


def test_an_unknown_tunnel_is_told(store: TunnelStore) -> None:
    """Looking up or changing what is not there names the ID."""
    with pytest.raises(TunnelUnknown, match=f"no tunnel tnl_{LABEL} is registered"):
        store.tunnel(LABEL)
    with pytest.raises(TunnelUnknown):
        store.set_state(LABEL, TunnelState.DISABLED, now=NOW)


def test_what_was_registered_is_there_after_a_restart(url: str) -> None:
    """Opening an existing database keeps what is in it, its change number included."""
    with closing(TunnelStore(url)) as first:
        first.register(LABEL, "PEM", name="acme", now=NOW)
        number = first.change_number()
    with closing(TunnelStore(url)) as second:
        assert second.tunnel(LABEL).name == "acme"
        assert second.change_number() == number


@pytest.mark.parametrize(
    "change",
    [
        "INSERT OR REPLACE INTO tunnel SELECT label, name, root_pem, 'active', created, updated FROM tunnel",
        "REPLACE INTO tunnel SELECT label, 'other', root_pem, state, created, updated FROM tunnel",
        "INSERT INTO tunnel SELECT * FROM tunnel WHERE true"
        " ON CONFLICT (label) DO UPDATE SET state = 'active'",
        "DELETE FROM tunnel",
        "UPDATE tunnel SET state = 'active'",
        "UPDATE OR REPLACE tunnel SET label = 'x'",
    ],
)
def test_no_program_brings_an_archived_tunnel_back(store: TunnelStore, tmp_path: Path, change: str) -> None:
    """The database itself refuses, whoever asks."""
    store.register(LABEL, "PEM", name="acme", now=NOW)
    store.set_state(LABEL, TunnelState.ARCHIVED, now=LATER)
    before = store.tunnels()
    with closing(sqlite3.connect(tmp_path / "relay.db")) as other, pytest.raises(sqlite3.IntegrityError):
        other.execute(change)
    assert store.tunnels() == before


# Databases that cannot be used


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """The error names the database and says what to check."""
    with pytest.raises(DatabaseFailed, match=r"relay\.db cannot be used") as caught:
        TunnelStore(f"sqlite:///{tmp_path}/nowhere/relay.db")
    assert "folder" in caught.value.hint


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    """Somebody else's file is left alone."""
    file = tmp_path / "relay.db"
    file.write_bytes(b"not a database at all" * 100)
    with pytest.raises(DatabaseFailed, match="not a database"):
        TunnelStore(f"sqlite:///{file}")
    assert file.read_bytes() == b"not a database at all" * 100


def test_a_later_schema_is_told(url: str, tmp_path: Path) -> None:
    """An older sallyport does not touch what a newer one has made."""
    TunnelStore(url).close()
    with closing(sqlite3.connect(tmp_path / "relay.db")) as connection, connection:
        connection.execute("UPDATE relay_number SET value = 99 WHERE name = 'schema_version'")
    with pytest.raises(DatabaseFailed, match="version 99") as caught:
        TunnelStore(url)
    assert "newer" in caught.value.hint


@pytest.mark.parametrize(
    "url", ["nonsense", "nosuchthing:///x", "postgresql://user:secret@127.0.0.1:1/relay"]
)
def test_a_url_that_leads_nowhere_is_told_without_its_password(url: str) -> None:
    """The text never holds a password."""
    with pytest.raises(DatabaseFailed) as caught:
        TunnelStore(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:p@ss:secret@db/relay",
        "postgresql://user:p@secret@db/relay",
        "postgresql://user:p@x/secret@db/relay",
        "postgresql://us:er@secret:x@db/relay",
        "postgresql://user:p@[secret@db/relay",
        "postgresql//user:secret@db/relay",
        "postgresql://db:secret/relay",
        "secret://user:x@db/relay",
        "postgresql://127.0.0.1:1/relay?password=secret",
    ],
)
def test_no_part_of_a_password_is_told_whatever_the_url_is_taken_for(url: str) -> None:
    """Unescaped, a password's end is read as host, port or path: the text and what it came of repeat none."""
    with pytest.raises(DatabaseFailed) as caught:
        TunnelStore(url)
    told = "".join(traceback.format_exception(caught.value, limit=0))
    assert "secret" not in told
    assert "secret" not in caught.value.hint


def test_an_address_in_a_file_name_is_no_password(tmp_path: Path) -> None:
    """An SQLite URL has no user."""
    TunnelStore(f"sqlite:///{tmp_path}/me@home.db").close()
    assert (tmp_path / "me@home.db").exists()
