"""Partitions of ``samples`` on PostgreSQL: a range of series numbers each, made when the first series of it comes.

``samples_0_5000`` holds the series from 0 to below 5000. The function that makes them belongs to the owner of the schema and runs
with its rights (migration 0003), so a writer needs none of its own.
"""

from sqlalchemy import Connection, func, select, text

from .base import StoreUnavailableError
from .database import Database
from .sizing import Partition, partitions_of
from .tables import series

_PATIENCE = "5s"  # to wait for a table: whoever comes later waits behind us


def cover(connection: Connection, series_id: int) -> None:
    """See to it that samples of a series have a partition to go to; on other engines, nothing. Cheap when there is one."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT foreshock_cover_series(:series_id)"), {"series_id": series_id})


def drop_empty(database: Database) -> tuple[list[str], list[str]]:
    """Drop the partitions whose series are all gone, but never the last; on other engines, nothing. For the owner of the tables.

    Returns:
        The names of those that are gone, and a sentence for each that was busy and stayed.
    """
    with database.read() as connection:
        candidates = [each for each in partitions_of(connection)[:-1] if not _in_use(connection, each)]
    dropped, left = [], []
    for partition in candidates:
        try:
            if _drop(database, partition):
                dropped.append(partition.name)
        except StoreUnavailableError as error:
            left.append(f"The empty partition {partition.name} stays for now: {error}")
    return dropped, left


def _drop(database: Database, partition: Partition) -> bool:
    with database.write() as connection:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
        # A writer that has taken a series number of this range holds `series` until it commits; after that we see it. Such a
        # number without its partition could never be written: numbers only rise, and so do the partitions that are made.
        connection.exec_driver_sql("LOCK TABLE series IN SHARE MODE")
        if _in_use(connection, partition):
            return False
        connection.exec_driver_sql(f"DROP TABLE {partition.name}")
    return True


def _in_use(connection: Connection, partition: Partition) -> bool:
    owners = select(func.count()).select_from(series).where(series.c.id >= partition.first, series.c.id < partition.past)
    if connection.execute(owners).scalar_one():
        return True
    return bool(connection.execute(text(f"SELECT EXISTS (SELECT FROM {partition.name})")).scalar_one())
