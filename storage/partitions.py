"""Partitions of ``samples`` on PostgreSQL: a range of series numbers each, made when the first series of it comes.

``samples_0_5000`` holds the series from 0 to below 5000. The function that makes them belongs to the owner of the schema and runs
with its rights (migration 0003), so a writer needs none of its own. Other engines have none, and nothing here does anything there.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text

from .tables import series


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition, which holds the series with ``first <= number < past``; ``rows`` is the server's estimate, -1: none yet."""

    name: str
    first: int
    past: int
    rows: int
    bytes: int


def cover(connection: Connection, series_id: int) -> None:
    """See to it that samples of a series have a partition to go to. Cheap when there is one."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT foreshock_cover_series(:series_id)"), {"series_id": series_id})


def listed(connection: Connection) -> list[Partition]:
    """Return all partitions, the lowest first."""
    if connection.dialect.name != "postgresql":
        return []
    rows = connection.execute(
        text(
            "SELECT relname, reltuples, pg_total_relation_size(pg_class.oid) FROM pg_inherits "
            "JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'samples'::regclass"
        )
    )
    found = [Partition(name, *(int(part) for part in name.split("_")[1:]), int(count), size) for name, count, size in rows]
    return sorted(found, key=lambda partition: partition.first)


def drop_empty(connection: Connection) -> list[str]:
    """Drop partitions to which no series belongs any more, and return their names.

    The highest stays: from its upper end the next one is made. A role that does not own them, and one that would have to wait for
    others, drops none.
    """
    dropped = []
    for partition in listed(connection)[:-1]:
        within = series.c.id.between(partition.first, partition.past - 1)
        if connection.execute(select(func.count()).select_from(series).where(within)).scalar_one():
            continue
        if connection.execute(text(f"SELECT EXISTS (SELECT 1 FROM {partition.name})")).scalar_one() or not _ours(connection):
            continue
        connection.execute(text("SET LOCAL lock_timeout = '2s'"))
        connection.execute(text(f"DROP TABLE {partition.name}"))
        dropped.append(partition.name)
    return dropped


def _ours(connection: Connection) -> bool:
    owner = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'samples'::regclass"
    return bool(connection.execute(text(owner)).scalar_one())
