"""Partitions of ``samples`` on PostgreSQL: a range of series numbers each, made when the first series of it comes.

``samples_0_5000`` holds the series from 0 to below 5000. The function that makes them belongs to the owner of the schema and runs
with its rights (migration 0003), so a writer needs none of its own.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text

from .tables import series

_PATIENCE = "2s"  # to wait for a table: whoever comes later waits behind us
_LISTED = """
SELECT relname, CAST(split_part(relname, '_', 2) AS bigint), CAST(split_part(relname, '_', 3) AS bigint),
    CASE WHEN reltuples < 0 THEN NULL ELSE CAST(reltuples AS bigint) END, pg_total_relation_size(pg_class.oid)
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = to_regclass('samples') ORDER BY 2
"""


@dataclass(frozen=True, slots=True)
class Partition:
    """Samples of series ``first <= id < past``. ``rows`` is the server's estimate, None before its first ANALYZE."""

    name: str
    first: int
    past: int
    rows: int | None
    bytes: int


def cover(connection: Connection, series_id: int) -> None:
    """See to it that samples of a series have a partition to go to; on other engines, nothing. Cheap when there is one."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT foreshock_cover_series(:series_id)"), {"series_id": series_id})


def listed(connection: Connection) -> list[Partition]:
    """Return all partitions, the lowest first; none on other engines."""
    if connection.dialect.name != "postgresql":
        return []
    return [Partition(*row) for row in connection.execute(text(_LISTED))]


def drop_empty(connection: Connection) -> list[str]:
    """Drop partitions to which no series belongs any more, and return their names; a role that does not own them drops none.

    The highest stays: from its upper end the next one is made. Call it in a transaction of its own.

    Raises:
        StoreUnavailableError: others use the tables for longer than one would let them wait; nothing was dropped.
    """
    empty = [partition for partition in listed(connection)[:-1] if not _in_use(connection, partition)]
    if not empty or not _ours(connection):
        return []
    connection.execute(text(f"SET LOCAL lock_timeout = '{_PATIENCE}'"))
    # A writer that has taken a series number holds `series` until it commits; after that we see it. Samples of such a number
    # could never be written without its partition: numbers only rise, and so do the partitions that are made.
    connection.execute(text("LOCK TABLE series IN SHARE MODE"))
    dropped = [partition.name for partition in empty if not _in_use(connection, partition)]
    for name in dropped:
        connection.execute(text(f"DROP TABLE {name}"))
    return dropped


def _in_use(connection: Connection, partition: Partition) -> bool:
    within = series.c.id.between(partition.first, partition.past - 1)
    if connection.execute(select(func.count()).select_from(series).where(within)).scalar_one():
        return True
    return bool(connection.execute(text(f"SELECT EXISTS (SELECT 1 FROM {partition.name})")).scalar_one())


def _ours(connection: Connection) -> bool:
    owner = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('samples')"
    return bool(connection.execute(text(owner)).scalar_one())
