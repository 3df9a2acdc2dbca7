"""How large a store is: its file, or its tables on a server."""

from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, bindparam, text

from .database import Database
from .tables import VERSION_TABLE, metadata

TABLES = (*metadata.tables, VERSION_TABLE)
"""Every table of ours."""

_POSTGRES = """
SELECT name, pg_total_relation_size(to_regclass(quote_ident(name))) + coalesce(
    (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = to_regclass(quote_ident(name))), 0)
FROM unnest(CAST(:names AS text[])) AS name WHERE to_regclass(quote_ident(name)) IS NOT NULL
"""
_MARIADB = """
SELECT table_name, data_length + index_length + data_free FROM information_schema.tables
WHERE table_schema = database() AND table_name IN :names
"""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes. Of a SQLite file: with its log, of which ``log``, and ``free`` inside it; of a server's store: of each table too."""

    total: int
    log: int = 0
    free: int = 0
    tables: dict[str, int] = field(default_factory=dict)


def size_of(database: Database, connection: Connection) -> Size:
    """Return how large the store is. Cheap: nothing is counted."""
    if database.dialect == "sqlite":
        page, pages, free = (_pragma(connection, name) for name in ("page_size", "page_count", "freelist_count"))
        if database.path is None:
            return Size(page * pages, free=page * free)
        log = _bytes(Path(f"{database.path}-wal"))
        return Size(_bytes(database.path) + log, log, page * free)
    if database.dialect == "postgresql":
        rows = connection.execute(text(_POSTGRES), {"names": list(TABLES)})
    else:
        rows = connection.execute(text(_MARIADB).bindparams(bindparam("names", expanding=True)), {"names": TABLES})
    tables = {name: int(size) for name, size in rows}
    return Size(sum(tables.values()), tables=dict(sorted(tables.items(), key=lambda each: -each[1])))


def used_pages(connection: Connection) -> int:
    """Return how many bytes of a SQLite store are not free: what a rewritten file will have."""
    page, pages, free = (_pragma(connection, name) for name in ("page_size", "page_count", "freelist_count"))
    return page * (pages - free)


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
