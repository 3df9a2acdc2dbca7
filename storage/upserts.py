"""Insert-or-update in the three dialects that have it, one row at a time or many at the driver's full speed."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Dialect, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.expression import ColumnCollection

from .errors import StoreConfigurationError

_MOST_PARAMETERS = 999  # of a statement, in every SQLite there is

Updates = Callable[[Any], Mapping[str, Any]]
"""Given the row that was to be inserted, what to set in the row that is there."""


def upsert(dialect: str, table: Table, keys: Sequence[str], updates: Updates) -> Any:
    """Return an INSERT that updates the row with the same ``keys`` instead of failing.

    Raises:
        StoreConfigurationError: the dialect is not one of those supported.
    """
    if dialect in ("sqlite", "postgresql"):
        statement = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
        return statement.on_conflict_do_update(index_elements=list(keys), set_=updates(statement.excluded))
    if dialect in ("mysql", "mariadb"):
        mysql_statement = mysql.insert(table)
        incoming: ColumnCollection[Any, Any] = mysql_statement.inserted
        return mysql_statement.on_duplicate_key_update(**updates(incoming))
    raise unsupported(dialect)


def insert_new(dialect: str, table: Table, key: str) -> Any:
    """Return an INSERT that leaves a row with the same ``key`` as it is."""
    if dialect in ("mysql", "mariadb"):  # INSERT IGNORE would hide every other error as well
        return mysql.insert(table).on_duplicate_key_update(**{key: table.c[key]})
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    raise unsupported(dialect)


def bulk_upsert(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert full rows, newer values replacing older ones. No two rows may have the same primary key.

    Past SQLAlchemy's parameter handling, straight to the driver: PostgreSQL gets one array a column, MySQL ``executemany``,
    SQLite many rows a statement (a third less processor time than ``executemany``, and most of it outside Python's lock,
    which the training thread wants). Fastest when rows come in primary key order.
    """
    if not rows:
        return
    dialect = connection.dialect
    if dialect.name == "postgresql":
        connection.exec_driver_sql(_bulk_sql(table, dialect), tuple(list(column) for column in zip(*rows, strict=True)))
        return
    whole = 0
    if dialect.name == "sqlite":
        size = _MOST_PARAMETERS // len(table.columns)
        whole = len(rows) - len(rows) % size
        statement = _bulk_sql(table, dialect, size)
        for first in range(0, whole, size):
            connection.exec_driver_sql(statement, tuple(chain.from_iterable(rows[first : first + size])))
    if whole < len(rows):
        connection.exec_driver_sql(_bulk_sql(table, dialect), list(rows[whole:]))


@lru_cache(maxsize=64)
def _bulk_sql(table: Table, dialect: Dialect, size: int = 1) -> str:
    """Return the statement for ``size`` rows (on PostgreSQL: for any number)."""
    quote = dialect.identifier_preparer.quote
    names = [quote(column.name) for column in table.columns]
    keys = [quote(column.name) for column in table.primary_key]
    values = [name for name in names if name not in keys]
    head = f"INSERT INTO {quote(table.name)} ({', '.join(names)})"
    if dialect.name in ("mysql", "mariadb"):
        updates = ", ".join(f"{name} = VALUES({name})" for name in values)
        return f"{head} VALUES ({', '.join(['%s'] * len(names))}) ON DUPLICATE KEY UPDATE {updates}"
    updates = ", ".join(f"{name} = excluded.{name}" for name in values)
    conflict = f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {updates}"
    if dialect.name == "sqlite":
        row = f"({', '.join(['?'] * len(names))})"
        return f"{head} VALUES {', '.join([row] * size)} {conflict}"
    arrays = ", ".join(f"%s::{column.type.compile(dialect)}[]" for column in table.columns)
    return f"{head} SELECT * FROM unnest({arrays}) {conflict}"


def unsupported(dialect: str) -> StoreConfigurationError:
    """Return the error for a dialect we cannot write."""
    return StoreConfigurationError(
        f"foreshock keeps its store in SQLite, PostgreSQL, MySQL or MariaDB, not in {dialect!r}. "
        "Example: store='sqlite:///foreshock.db' or 'postgresql://user@host/database'."
    )
