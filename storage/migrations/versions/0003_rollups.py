"""Rollups, built from the samples that are there; on PostgreSQL ``samples`` becomes partitioned.

Revision: 0003. On PostgreSQL the old table turns into the first partition, without a copy. Partitions are made by a function that
runs with its owner's rights, so that a writer needs none but to insert.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"), ("engine", "InnoDB"))
}
SPAN = 5000  # series numbers in a partition
WHOLE = 10  # points in a bucket of level 1, buckets of one level in one of the next
ROWS = 1000  # of an INSERT

COVER = """
CREATE FUNCTION foreshock_cover_series(series bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
    past bigint;
    until bigint := (series / {span} + 1) * {span};
    part text;
BEGIN
    SELECT coalesce(max(split_part(relname, '_', 3)::bigint), 0) INTO past
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'samples'::regclass;
    IF series < past THEN RETURN; END IF;
    PERFORM pg_advisory_xact_lock(hashtext('{schema}.foreshock_cover_series'));
    SELECT coalesce(max(split_part(relname, '_', 3)::bigint), 0) INTO past
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'samples'::regclass;
    IF series < past THEN RETURN; END IF;
    part := 'samples_' || past || '_' || until;
    EXECUTE format('CREATE TABLE %I (LIKE samples INCLUDING ALL)', part);
    EXECUTE format('ALTER TABLE samples ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', part, past, until);
END $$
"""


def _column(name: str, kind: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, **options)


def _place(name: str, kind: Any) -> sa.Column[Any]:
    return _column(name, kind, primary_key=True, autoincrement=False)


def upgrade() -> None:
    """Make the table, fill it; divide the samples."""
    _clear_half_done(op.get_bind())
    op.create_table(
        "rollups",
        _place("series_id", NUMBER),
        _place("segment", sa.Integer()),
        _place("level", sa.SmallInteger()),
        _place("bucket", sa.BigInteger()),
        _column("start_step", sa.BigInteger()),
        _column("end_step", sa.BigInteger()),
        _column("count", sa.BigInteger()),
        _column("nonfinite", sa.BigInteger()),
        sa.Column("minimum", sa.Double()),
        sa.Column("maximum", sa.Double()),
        sa.Column("minimum_step", sa.BigInteger()),
        sa.Column("maximum_step", sa.BigInteger()),
        sa.Column("mean", sa.Double()),
        sa.Column("first", sa.Double()),
        sa.Column("last", sa.Double()),
        sqlite_with_rowid=False,
        **OPTIONS,
    )
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        _divide(connection)
    rollups = sa.Table("rollups", sa.MetaData(), autoload_with=connection)
    numbers = connection.execute(sa.text("SELECT id FROM series ORDER BY id")).scalars().all()
    for number in numbers:
        rows = list(_rollups_of(connection, number))
        for first in range(0, len(rows), ROWS):
            connection.execute(sa.insert(rollups), rows[first : first + ROWS])


def _clear_half_done(connection: sa.Connection) -> None:
    """Remove what an interrupted upgrade left where making a table cannot be taken back; all of it is made again."""
    if connection.dialect.name in ("mysql", "mariadb"):
        there = sa.inspect(connection)
        if there.has_table("rollups") and {"series_id", "level", "bucket"} <= {
            each["name"] for each in there.get_columns("rollups")
        }:
            op.drop_table("rollups")


def _divide(connection: sa.Connection) -> None:
    schema = connection.execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    last = connection.execute(sa.text("SELECT coalesce(max(id), 0) FROM series")).scalar_one()
    past = (last // SPAN + 1) * SPAN
    connection.exec_driver_sql("ALTER TABLE samples RENAME CONSTRAINT samples_pkey TO samples_undivided_pkey")
    connection.exec_driver_sql(f"ALTER TABLE samples RENAME TO samples_0_{past}")
    connection.exec_driver_sql(
        f"CREATE TABLE samples (LIKE samples_0_{past}, PRIMARY KEY (series_id, segment, step)) PARTITION BY RANGE (series_id)"
    )
    connection.exec_driver_sql(f"ALTER TABLE samples ATTACH PARTITION samples_0_{past} FOR VALUES FROM (0) TO ({past})")
    connection.exec_driver_sql(COVER.format(schema=schema, span=SPAN).replace("%", "%%"))


def _rollups_of(connection: sa.Connection, number: int) -> Iterator[dict[str, Any]]:
    """Yield a series' rows of every level: those of points first, then those of rows."""
    query = sa.text("SELECT segment, step, value FROM samples WHERE series_id = :number ORDER BY segment, step")
    points = connection.execute(query, {"number": number}).all()
    if len(points) < WHOLE:
        return
    segments = np.array([row[0] for row in points])
    steps = np.array([row[1] for row in points], np.int64)
    values = np.array([np.nan if row[2] is None else row[2] for row in points], np.float64)  # NULL is any value that is not finite
    for segment in np.unique(segments).tolist():
        at = segments == segment
        one, odd = np.ones(at.sum(), np.int64), np.isnan(values[at]).astype(np.int64)
        names = (
            "start_step",
            "end_step",
            "count",
            "nonfinite",
            "minimum",
            "maximum",
            "minimum_step",
            "maximum_step",
            "mean",
            "first",
            "last",
        )
        columns = (steps[at], steps[at], one, odd, values[at], values[at], steps[at], steps[at], values[at], values[at], values[at])
        items, level = dict(zip(names, columns, strict=True)), 1
        while len(items["count"]) >= WHOLE:
            items = _joined(items)
            kept = [[None if cell != cell else cell for cell in column.tolist()] for column in items.values()]
            for bucket, row in enumerate(zip(*kept, strict=True)):
                cells = dict(zip(items, row, strict=True))
                if cells["count"] == cells["nonfinite"]:
                    cells["minimum_step"] = cells["maximum_step"] = None
                yield {"series_id": number, "segment": segment, "level": level, "bucket": bucket, **cells}
            level += 1


def _joined(items: dict[str, Any]) -> dict[str, Any]:
    """Return ten by ten made one; fewer at the end are left out."""
    whole = len(items["count"]) // WHOLE * WHOLE
    by_ten = {name: column[:whole].reshape(-1, WHOLE) for name, column in items.items()}
    lowest = np.where(np.isnan(by_ten["minimum"]), np.inf, by_ten["minimum"])
    highest = np.where(np.isnan(by_ten["maximum"]), -np.inf, by_ten["maximum"])
    low, high = lowest.argmin(axis=1)[:, None], highest.argmax(axis=1)[:, None]
    count, odd = by_ten["count"].sum(axis=1), by_ten["nonfinite"].sum(axis=1)
    share = (by_ten["count"] - by_ten["nonfinite"]) / np.maximum(count - odd, 1)[:, None]
    mean = np.where(share > 0, by_ten["mean"], 0.0) * share

    def of(name: str, place: Any) -> Any:
        return np.take_along_axis(by_ten[name], place, axis=1)[:, 0]

    return {
        "start_step": by_ten["start_step"][:, 0],
        "end_step": by_ten["end_step"][:, -1],
        "count": count,
        "nonfinite": odd,
        "minimum": of("minimum", low),
        "maximum": of("maximum", high),
        "minimum_step": of("minimum_step", low),
        "maximum_step": of("maximum_step", high),
        "mean": np.where(count > odd, mean.sum(axis=1), np.nan),
        "first": by_ten["first"][:, 0],
        "last": by_ten["last"][:, -1],
    }


def downgrade() -> None:
    """Remove the rollups; make the samples one table again."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("CREATE TABLE undivided (LIKE samples, PRIMARY KEY (series_id, segment, step))")
        connection.exec_driver_sql("INSERT INTO undivided SELECT * FROM samples")
        op.drop_table("samples")
        connection.exec_driver_sql("ALTER TABLE undivided RENAME TO samples")
        connection.exec_driver_sql("ALTER INDEX undivided_pkey RENAME TO samples_pkey")
        connection.exec_driver_sql("DROP FUNCTION foreshock_cover_series")
    op.drop_table("rollups")
