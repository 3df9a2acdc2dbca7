"""The schema's revision: told cheaply, raised when it is old, refused when it is newer than this program."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, MetaData, Table, inspect, select, text

from .database import LOCK_WAIT, Database
from .errors import ReadOnlyStoreError, StoreConfigurationError, StoreError
from .records import Run, new_id
from .runs import create as create_run
from .tables import VERSION_TABLE, metadata

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0005"
"""The revision this program writes. Kept here so that opening a store of today needs no Alembic; a test compares."""

_LOCK_NUMBER = 0x666F7265  # any number that is always the same: who holds it may migrate


def revision(connection: Connection) -> str | None:
    """Return the store's revision, None where foreshock's tables are not."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    table = Table(VERSION_TABLE, MetaData(), autoload_with=connection)
    found: str | None = connection.execute(select(table.c.version_num)).scalar_one_or_none()
    return found


def standing(database: Database) -> str | None:
    """Return the store's revision, None where there is no store yet.

    Raises:
        StoreConfigurationError: the schema is newer than this program.
        StoreUnavailableError: the store cannot be reached.
    """
    with database.read() as connection:
        found = revision(connection)
    if found is not None and found > HEAD:
        raise StoreConfigurationError(
            f"{database.address} was written by a newer foreshock (schema {found}; this one knows up to {HEAD}). "
            "Mend it with: pip install -U foreshock"
        )
    return found


def refuse_foreign(database: Database, connection: Connection) -> None:
    """Refuse to make a store where somebody else's tables are in the way.

    Raises:
        StoreConfigurationError: they are.
    """
    taken = set(inspect(connection).get_table_names()) & metadata.tables.keys()
    if taken and revision(connection) is None:  # asked last: another process may have made the store meanwhile
        raise StoreConfigurationError(
            f"{database.address} has tables of somebody else under names that foreshock uses ({', '.join(sorted(taken))}). "
            "Give foreshock a database or a schema of its own."
        )


def existing(database: Database) -> str:
    """Return the revision of a store that must be there.

    Raises:
        StoreConfigurationError: it is not, or its schema is newer than this program.
        StoreUnavailableError: the store cannot be reached.
    """
    found = standing(database)
    if found is None:
        raise StoreConfigurationError(
            f"{database.address} exists but holds no foreshock store. Name the right one with --store URL or FORESHOCK_STORE."
        )
    return found


def prepare(database: Database, *, create: bool) -> None:
    """Bring the schema to ``HEAD``: make it where it is missing, upgrade it where it is old.

    Args:
        create: whether that may be done. A reader says False: its role may not have the right, and it must not change under a
            writer of an older foreshock what that one goes on writing.

    Raises:
        StoreConfigurationError: the schema is newer than this program, or missing or old and not to be changed.
        StoreUnavailableError: the store cannot be reached or written.
    """
    if create:
        if (found := standing(database)) != HEAD:
            upgrade(database, found)
    elif (found := existing(database)) != HEAD:
        raise StoreConfigurationError(
            f"{database.address} {_older(found)}, and is not changed by what only reads it. Mend it with: foreshock db upgrade "
            "--store URL (a run that writes into it does the same)"
        )


def upgrade(database: Database, found: str | None) -> None:
    """Make or upgrade the tables, whole or not at all (MariaDB and MySQL: as far as it comes; doing it again goes on from there).

    Several processes may do this at once; one migrates, the others wait and find it done.

    Args:
        found: the revision that was found, for messages.

    Raises:
        StoreConfigurationError: the role may not change tables, or somebody else's are in the way.
        StoreUnavailableError: the store cannot be reached or written.
    """
    if database.path is not None:
        if found is None:  # before the file is changed
            with database.read() as connection:
                refuse_foreign(database, connection)
        _write_ahead(database)
    try:
        with database.write() as connection, _in_turn(connection):
            if revision(connection) != HEAD:
                if found is None:
                    refuse_foreign(database, connection)
                from alembic import command

                command.upgrade(migrations(connection), HEAD)
    except StoreError as error:
        if found is None and not isinstance(error, ReadOnlyStoreError):
            raise
        was = _older(found) if found else "holds no foreshock store yet"
        kind = StoreConfigurationError if isinstance(error, ReadOnlyStoreError) else type(error)
        raise kind(
            f"{database.address} {was}, and the tables cannot be made or changed from here: {error} "
            "Mend it with: foreshock db upgrade --store URL, as a role that may not only write rows but owns the schema"
        ) from error


def _older(found: str) -> str:
    return f"was written by an older foreshock (schema {found}; this one needs {HEAD})"


def check(database: Database, *, write: bool = True) -> None:
    """Prove that the schema is ours and, unless told not to, that a row can be written; the row is rolled back.

    Raises:
        StoreConfigurationError, StoreUnavailableError: with the reason.
    """
    with database.read() as connection:
        found = revision(connection)
    if found != HEAD:
        raise StoreConfigurationError(
            f"{database.address} has schema {found}, this foreshock writes {HEAD}. Mend it with: foreshock db upgrade"
        )
    if not write:
        return
    with contextlib.suppress(_Undo), database.write() as connection:
        create_run(connection, Run(new_id(), ""))
        raise _Undo


class _Undo(Exception):
    """Not an error: it ends a transaction that is meant to be rolled back."""


def migrations(connection: Connection) -> "Config":
    """Return Alembic's configuration for this connection, made here so that an installed wheel needs no file for it."""
    # Imported here: Alembic costs a tenth of a second, and is needed once in a store's life.
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, metadata=metadata, version_table=VERSION_TABLE)
    return config


@contextmanager
def _in_turn(connection: Connection) -> Iterator[None]:
    """Let one process at a time migrate. SQLite's write lock does that by itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
    if connection.dialect.name not in ("mysql", "mariadb"):
        yield
        return
    connection.execute(text("SELECT GET_LOCK('foreshock', 30)"))
    try:
        yield
    finally:
        connection.execute(text("SELECT RELEASE_LOCK('foreshock')"))


def _write_ahead(database: Database) -> None:
    """Switch a SQLite file to write-ahead logging, which lets readers read while a run writes. It stays switched.

    The switch needs the file alone for a moment and does not wait for it by itself. Where it cannot be made (some network
    file systems) the store works without, only slower.
    """
    deadline = time.monotonic() + LOCK_WAIT
    connection = database.engine.raw_connection()
    try:
        while time.monotonic() < deadline:
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL").close()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_BUSY":
                    return
                time.sleep(0.01)
            else:
                return
    finally:
        connection.close()
