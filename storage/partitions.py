"""Partitions of ``samples`` on PostgreSQL: a range of series numbers each, made when the first series of it comes.

``samples_0_5000`` holds the series from 0 to below 5000. The function that makes them belongs to the owner of the schema and runs
with its rights (migration 0003), so a writer needs none of its own.
"""

from sqlalchemy import Connection, text


def cover(connection: Connection, series_id: int) -> None:
    """See to it that samples of a series have a partition to go to; on other engines, nothing. Cheap when there is one."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT foreshock_cover_series(:series_id)"), {"series_id": series_id})
