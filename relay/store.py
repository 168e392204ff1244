"""
The relay's database: which tunnels are registered.

One table of tunnels and one of two numbers. Everything that changes a tunnel raises the number ``change`` in
the same transaction, so that a running relay learns of what ``sallyport relay tunnel …`` did, from whatever
process, by reading one row (``change_number``). SQLite by default, in WAL mode, so that reading never waits
for writing; any other database that SQLAlchemy knows by URL.

A tunnel's ID is never used twice: the label is the primary key, an archived row stays, and in SQLite triggers
refuse to delete or replace a row and to bring an archived one back, whatever program asks.

Every method blocks: call it from a command, or from a worker thread, never on the event loop.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import (
    URL,
    CheckConstraint,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateTable

from sallyport.relay.errors import DatabaseFailed, TunnelArchived, TunnelUnknown
from sallyport.relay.registry import Tunnel, TunnelState
from sallyport.tunnel.limits import limit

# Version 1: the first. A change that an older relay would misread takes the next number and a migration.
SCHEMA_VERSION: Final = 1

# What the errors of a URL say, which must not repeat it.
_SETTING: Final = "of `database:`"
_EXAMPLE: Final = "write sqlite:///relay.db, or postgresql://USER:PASSWORD@HOST/NAME"
_ESCAPE: Final = f"{_EXAMPLE}, with @ as %40, : as %3A and / as %2F in user and password"

_BUSY_MILLISECONDS: Final = limit(
    5_000, "milliseconds",
    "that a writer waits for another one before it gives up",
)  # fmt: skip

_schema = MetaData()

_tunnels = Table(
    "tunnel",
    _schema,
    Column("label", String(32), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("root_pem", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created", String(32), nullable=False),  # ISO 8601, UTC: SQLite has no type for a time
    Column("updated", String(32), nullable=False),
    CheckConstraint("state IN ('active', 'disabled', 'archived')", name="tunnel_state"),
)

_numbers = Table(
    "relay_number",
    _schema,
    Column("name", String(32), primary_key=True),
    Column("value", Integer, nullable=False),
)

_SQLITE_TRIGGERS: Final = (
    """
    CREATE TRIGGER IF NOT EXISTS tunnel_stays BEFORE DELETE ON tunnel
    BEGIN SELECT RAISE(ABORT, 'a tunnel is archived, never deleted: its ID is not used again'); END
    """,
    """
    CREATE TRIGGER IF NOT EXISTS tunnel_stays_archived BEFORE UPDATE ON tunnel
    WHEN OLD.label <> NEW.label OR (OLD.state = 'archived' AND NEW.state <> 'archived')
    BEGIN SELECT RAISE(ABORT, 'an archived tunnel stays archived'); END
    """,
    # INSERT OR REPLACE deletes the row that is in its way, and asks no trigger for DELETE.
    """
    CREATE TRIGGER IF NOT EXISTS tunnel_is_added_once BEFORE INSERT ON tunnel
    WHEN EXISTS (SELECT 1 FROM tunnel WHERE label = NEW.label)
    BEGIN SELECT RAISE(ABORT, 'a tunnel is added once: its ID is not used again'); END
    """,
)


class Registered(StrEnum):
    """
    What ``register`` did.
    """

    ADDED = "added"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


class TunnelStore:
    """
    The registered tunnels, in a database.

    Args:
        url: the database as SQLAlchemy names it, for instance ``sqlite:////var/lib/sallyport/relay.db``.

    Raises:
        DatabaseFailed: it cannot be opened, or was made by a later version of sallyport.
    """

    def __init__(self, url: str) -> None:
        self._engine = _connect(url)
        # A password may stand among the parameters as well.
        self._shown = self._engine.url.set(query={}).render_as_string(hide_password=True)
        try:
            self._open()
        except DatabaseFailed:
            self.close()
            raise

    def close(self) -> None:
        """
        Let go of the database.
        """
        self._engine.dispose()

    # Reading

    def tunnels(self) -> list[Tunnel]:
        """
        List all tunnels, in the order of their registration.
        """
        with self._transaction() as connection:
            rows = connection.execute(select(_tunnels).order_by(_tunnels.c.created, _tunnels.c.label))
            return [_tunnel(row) for row in rows]

    def tunnel(self, label: str) -> Tunnel:
        """
        Look one tunnel up.

        Raises:
            TunnelUnknown: there is none with that label.
        """
        with self._transaction() as connection:
            return _read(connection, label)

    def change_number(self) -> int:
        """
        Return the number that every change raises.
        """
        with self._transaction() as connection:
            return _number(connection, "change")

    # Writing

    def register(self, label: str, root_pem: str, *, name: str | None, now: datetime) -> Registered:
        """
        Add a tunnel, or take over the new root certificate of one (same key, hence same ID).

        Args:
            label: the tunnel's label, which is the hash of the root's key.
            root_pem: its root certificate, judged by ``registration.judge_root``.
            name: what the operator calls it; None keeps the name that it has.
            now: the time, with a zone.

        Raises:
            TunnelArchived: the tunnel is archived.
        """
        moment = now.astimezone(UTC).isoformat(timespec="seconds")
        with self._transaction() as connection:
            try:
                known = _read(connection, label)
            except TunnelUnknown:
                connection.execute(
                    insert(_tunnels).values(
                        label=label,
                        name=name or "",
                        root_pem=root_pem,
                        state=TunnelState.ACTIVE.value,
                        created=moment,
                        updated=moment,
                    )
                )
                _count_change(connection)
                return Registered.ADDED
            if known.state is TunnelState.ARCHIVED:
                raise TunnelArchived(known.id)
            if known.root_pem == root_pem and name in (None, known.name):
                return Registered.UNCHANGED
            kept = known.name if name is None else name
            _change(connection, label, name=kept, root_pem=root_pem, updated=moment)
            return Registered.UPDATED

    def set_state(self, label: str, state: TunnelState, *, now: datetime) -> bool:
        """
        Disable, enable or archive a tunnel.

        Returns:
            Whether that changes anything.

        Raises:
            TunnelUnknown: there is none with that label.
            TunnelArchived: it is archived, which is for good.
        """
        with self._transaction() as connection:
            known = _read(connection, label)
            if known.state is state:
                return False
            if known.state is TunnelState.ARCHIVED:
                raise TunnelArchived(known.id)
            moment = now.astimezone(UTC).isoformat(timespec="seconds")
            _change(connection, label, state=state.value, updated=moment)
            return True

    def _open(self) -> None:
        with self._transaction() as connection:
            version = _prepare(connection)
        if version != SCHEMA_VERSION:
            reason = f"its schema has version {version}, not {SCHEMA_VERSION}"
            raise DatabaseFailed(self._shown, reason, "install a newer sallyport")

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """
        Run one transaction and translate what the database says, here and nowhere else.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise DatabaseFailed(self._shown, str(error.orig), _hint(str(error.orig))) from error
        except SQLAlchemyError as error:
            raise DatabaseFailed(self._shown, str(error)) from error


# Opening


def _connect(url: str) -> Engine:
    """
    Make the engine of a URL. Of the URL's text nothing is repeated but its scheme: any part of it may be one
    of the password's, where that was not escaped. The cause is cut off for the same reason.
    """
    try:
        parsed = make_url(url)
        _require_unambiguous(parsed)
        engine = create_engine(parsed, pool_pre_ping=not url.startswith("sqlite"))
    except NoSuchModuleError:
        raise DatabaseFailed(_SETTING, "this kind of database is not known", _EXAMPLE) from None
    except (ArgumentError, ValueError):
        raise DatabaseFailed(_SETTING, "its URL cannot be read", _ESCAPE) from None
    except ImportError as error:
        raise DatabaseFailed(
            url.partition(":")[0], f"its driver is not installed: {error}", "pip install it"
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _require_unambiguous(url: URL) -> None:
    """
    Refuse a URL with more than one @ in front of its parameters: what stands between them is a part of the
    password, and would be taken for the host and told to the resolver, the log and the screen.
    """
    if url.get_backend_name() != "sqlite" and any("@" in part for part in (url.host, url.database) if part):
        raise ValueError("more than one @")


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # a registered tunnel is there after a power cut
    cursor.close()


def _prepare(connection: Connection) -> int:
    """
    Make what is missing and return the schema's version.
    """
    for table in _schema.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
    if connection.dialect.name == "sqlite":
        for trigger in _SQLITE_TRIGGERS:
            connection.execute(text(trigger))
    for name, value in (("schema_version", SCHEMA_VERSION), ("change", 0)):
        try:
            with connection.begin_nested():
                connection.execute(insert(_numbers).values(name=name, value=value))
        except IntegrityError:
            continue  # It was made before, perhaps a moment ago by another process.
    return _number(connection, "schema_version")


# Rows


def _number(connection: Connection, name: str) -> int:
    value: int = connection.execute(select(_numbers.c.value).where(_numbers.c.name == name)).scalar_one()
    return value


def _read(connection: Connection, label: str) -> Tunnel:
    row = connection.execute(select(_tunnels).where(_tunnels.c.label == label)).one_or_none()
    if row is None:
        raise TunnelUnknown(f"tnl_{label}")
    return _tunnel(row)


def _tunnel(row: Row[tuple[str, str, str, str, str, str]]) -> Tunnel:
    return Tunnel(
        label=row.label,
        name=row.name,
        root_pem=row.root_pem,
        state=TunnelState(row.state),
        created=datetime.fromisoformat(row.created),
        updated=datetime.fromisoformat(row.updated),
    )


def _change(connection: Connection, label: str, **columns: str) -> None:
    connection.execute(update(_tunnels).where(_tunnels.c.label == label).values(**columns))
    _count_change(connection)


def _count_change(connection: Connection) -> None:
    connection.execute(update(_numbers).where(_numbers.c.name == "change").values(value=_numbers.c.value + 1))


def _hint(reason: str) -> str:
    # The text chooses a hint for a person and nothing else.
    if "unable to open" in reason:
        return "check that the folder exists and that this user may write into it"
    if "readonly" in reason:
        return "give the file and its folder to the user whom the relay runs as"
    return ""
