"""Giving back the room of what was deleted, and bringing the engine's statistics up to date."""

import shutil
from dataclasses import dataclass

from . import partitions
from .base import StoreUnavailableError
from .database import Database
from .faults import as_sqlalchemy_raises, translated
from .inventory import take
from .tables import metadata


@dataclass(frozen=True, slots=True)
class Compacted:
    """Sizes in bytes before and after, logs included, and the partitions that were dropped."""

    before: int
    after: int
    dropped: tuple[str, ...] = ()


def compact(database: Database) -> Compacted:
    """Compact a store. SQLite rewrites the file, for which it must be written by nobody else; servers work beside others.

    Raises:
        StoreUnavailableError: another process writes the file, or the disk has no room for a copy of it; nothing was changed.
    """
    before = _size(database)
    match database.dialect:
        case "sqlite":
            _rewrite(database)
            return Compacted(before, _size(database))
        case "postgresql":
            with database.write() as connection:
                dropped = tuple(partitions.drop_empty(connection))
            _run(database, *(f"VACUUM (ANALYZE) {table.name}" for table in metadata.sorted_tables))
            return Compacted(before, _size(database), dropped)
        case _:
            _run(database, "OPTIMIZE TABLE " + ", ".join(table.name for table in metadata.sorted_tables))
            return Compacted(before, _size(database))


def _size(database: Database) -> int:
    found = take(database)
    return found.bytes + found.log_bytes


def _rewrite(database: Database) -> None:
    if database.path is not None:
        room, needed = shutil.disk_usage(database.path.parent).free, 2 * database.path.stat().st_size
        if room < needed:
            raise StoreUnavailableError(
                f"Compacting {database.path} writes a copy of it, for which {needed:,} bytes must be free; {room:,} are. "
                "Make room, or prune first: foreshock db prune"
            )
    _run(database, "PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA optimize", "PRAGMA wal_checkpoint(TRUNCATE)")


def _run(database: Database, *statements: str) -> None:
    """Run statements that may not stand in a transaction."""
    with translated(database.address), as_sqlalchemy_raises(database.engine.dialect):
        raw = database.engine.raw_connection()
        try:
            own = raw.driver_connection
            if database.dialect == "postgresql":
                own.autocommit = True  # type: ignore[union-attr]  # the driver's own connection
            cursor = raw.cursor()
            for statement in statements:
                cursor.execute(statement)
                if cursor.description:
                    cursor.fetchall()
            cursor.close()
        finally:
            raw.detach()
            raw.close()
