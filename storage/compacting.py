"""Giving back the room of what was deleted, and fresh statistics to whoever plans queries: for ``foreshock db compact``."""

import os
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import exc, select, text

from . import partitions, schema
from .database import Database
from .errors import StoreConfigurationError, StoreUnavailableError
from .faults import translate, translated
from .records import LOST_AFTER, RunStatus
from .sizing import TABLES, size_of, used_pages
from .tables import runs

_PATIENCE = 2.0  # seconds to wait for SQLite's lock
_STATISTICS = 1000  # rows of an index that ANALYZE looks at in SQLite: the whole would take as long as reading the file
_UNIX_TEMPORARY = ("/var/tmp", "/usr/tmp", "/tmp")


@dataclass(frozen=True, slots=True)
class Compaction:
    """What came of it. ``dropped`` names partitions that are gone; ``left`` says what could not be done just now."""

    address: str
    before: int
    after: int
    seconds: float
    dropped: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def compact(database: Database) -> Compaction:
    """Give back what is free, and gather statistics.

    SQLite rewrites the file: nobody else may write meanwhile, and there must be room for two copies. PostgreSQL drops partitions
    that hold nothing any more and makes the room of deleted rows usable again; MariaDB and MySQL rebuild the tables. Both let
    runs write meanwhile.

    Raises:
        StoreConfigurationError: the schema is not this program's, the store is in memory, or the role does not own the tables.
        StoreUnavailableError: somebody writes into the file, or the disk has no room for the copy.
    """
    schema.prepare(database, create=False)
    started = time.monotonic()
    if database.dialect in ("mysql", "mariadb"):
        _tell_errors(database, "ANALYZE TABLE")  # which it knows sizes by
    before = _size(database)
    dropped: list[str] = []
    left: list[str] = []
    if database.dialect == "sqlite":
        left = _compact_file(database)
    elif database.dialect == "postgresql":
        dropped, left = _compact_postgres(database)
    else:
        left = _tell_errors(database, "OPTIMIZE TABLE")
    return Compaction(database.address, before, _size(database), time.monotonic() - started, tuple(dropped), tuple(left))


def _size(database: Database) -> int:
    with database.read() as connection:
        return size_of(database, connection).total


# -- SQLite ------------------------------------------------------------------------------------------------------


def _compact_file(database: Database) -> list[str]:
    path = database.path
    if path is None:
        raise StoreConfigurationError("A store in memory has no file to compact; it is gone with its process.")
    _refuse_live(database)
    _refuse_without_room(database, path)
    connection = database.engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {round(_PATIENCE * 1000)}")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        cursor.execute("VACUUM")
        cursor.execute(f"PRAGMA analysis_limit = {_STATISTICS}").fetchone()
        cursor.execute("ANALYZE")
        busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return ["A reader is looking at the old contents; the file shrinks when it is done and the next run ends."] if busy else []
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise StoreUnavailableError(
                f"Another process is writing into {path}, and the file can only be rewritten while nobody does. "
                "It is as it was; try again later."
            ) from error
        raise translate(exc.OperationalError("", None, error), database.address) from error
    finally:
        connection.invalidate()  # with its settings
        connection.close()


def _refuse_live(database: Database) -> None:
    now = time.time()
    query = select(runs.c.name, runs.c.heartbeat_at).where(
        runs.c.status == RunStatus.RUNNING.value, runs.c.heartbeat_at > now - LOST_AFTER
    )
    with database.read() as connection:
        live = connection.execute(query.order_by(runs.c.heartbeat_at.desc())).all()
    if live:
        who = f"{live[0].name} and {len(live) - 1} more are" if len(live) > 1 else f"{live[0].name} is"
        silent = max(0.0, now - live[0].heartbeat_at)
        raise StoreUnavailableError(
            f"Run {who} being written into {database.path} (last heard from {silent:.0f} s ago), and the file can only be "
            "rewritten while nobody writes. Try again when it has ended; a run that was killed counts as ended after "
            f"{LOST_AFTER:.0f} s."
        )


def _refuse_without_room(database: Database, path: Path) -> None:
    """SQLite writes a copy into its folder for temporary files, then that copy into the log beside the file."""
    with database.read() as connection:
        needed = used_pages(connection)
    beside, temporary = path.parent, _temporary_folder()
    wanted = {beside: needed, temporary: needed}
    if os.stat(beside).st_dev == os.stat(temporary).st_dev:
        wanted = {beside: 2 * needed}
    for folder, amount in wanted.items():
        free = shutil.disk_usage(folder).free
        if free < amount:
            raise StoreUnavailableError(
                f"Compacting {path} takes {amount:,} bytes in {folder} for a while, and {free:,} are free there. Make room, or "
                "name another folder for the copy with SQLITE_TMPDIR=FOLDER; the file is as it was."
            )


def _temporary_folder() -> Path:
    named = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), *_UNIX_TEMPORARY)
    return next((Path(each) for each in named if each and os.path.isdir(each) and os.access(each, os.W_OK | os.X_OK)), Path.cwd())


# -- servers -----------------------------------------------------------------------------------------------------


def _compact_postgres(database: Database) -> tuple[list[str], list[str]]:
    with database.read() as connection:
        mine, owner = connection.execute(
            text("SELECT pg_has_role(relowner, 'USAGE'), pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass('runs')")
        ).one()
    if not mine:
        raise StoreConfigurationError(
            f"The tables of {database.address} belong to the role {owner!r}, and only their owner can compact them. "
            f"Mend it with: foreshock db compact --store postgresql://{owner}@host/database"
        )
    dropped, left = [], []
    try:
        with database.write() as connection:
            dropped = partitions.drop_empty(connection)
    except StoreUnavailableError as error:
        left = [f"Empty partitions, if any, stay for now: {error}"]
    with translated(database.address, writing=True), database.engine.connect() as connection:
        outside = connection.execution_options(isolation_level="AUTOCOMMIT")  # VACUUM is no part of a transaction
        for name in TABLES:
            outside.exec_driver_sql(f"VACUUM (ANALYZE) {name}")
    return dropped, left


def _tell_errors(database: Database, statement: str) -> list[str]:
    """Let MariaDB or MySQL do something to each table; return what it says of those where it could not."""
    left = []
    with translated(database.address, writing=True), database.engine.connect() as connection:
        for name in TABLES:
            for _, _, kind, message in connection.exec_driver_sql(f"{statement} {name}").all():
                if kind.lower() == "error":
                    left.append(f"Table {name}: {message}")
    return left
