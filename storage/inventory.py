"""What a store holds, and how much room it takes: counted where that is cheap, estimated where the engine knows it roughly."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, text

from . import partitions
from .database import Database
from .schema import HEAD, revision
from .tables import alerts, histograms, leases, metadata, outbox, rollups, runs, samples, series

_COUNTED = 2_000_000
"""Points up to which SQLite counts them one by one, in well under a second; beyond, rollups tell."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """A store in numbers. ``points_exact`` is False where ``points`` is an estimate; sizes are in bytes."""

    address: str
    engine: str
    version: str
    schema: str | None
    schema_known: str
    bytes: int
    log_bytes: int
    tables: dict[str, int]
    runs: dict[str, int]
    series: int
    points: int
    points_exact: bool
    rollups: dict[int, int]
    histograms: int
    oldest_run: float | None
    newest_run: float | None
    alerts: dict[str, int]
    outbox: dict[str, int]
    leases: int
    partitions: list[partitions.Partition]


def take(database: Database) -> Inventory:
    """Look at a store and return what is there. Needs no right to write.

    Raises:
        StoreUnavailableError, StoreConfigurationError: it cannot be read.
    """
    with database.read() as connection:
        points, exact = _points(connection)
        many = connection.execute(select(func.count()).select_from(series)).scalar_one()
        oldest, newest = connection.execute(select(func.min(runs.c.created_at), func.max(runs.c.created_at))).one()
        size, log, tables = _sizes(connection, database)
        return Inventory(
            database.address,
            connection.dialect.name,
            _version(connection),
            revision(connection),
            HEAD,
            size,
            log,
            tables,
            _grouped(connection, runs.c.status),
            many,
            points,
            exact,
            {int(level): count for level, count in _grouped(connection, rollups.c.level).items()}
            if exact
            else _levels(points, many),
            connection.execute(select(func.count()).select_from(histograms)).scalar_one(),
            oldest,
            newest,
            _grouped(connection, alerts.c.state),
            _grouped(connection, outbox.c.state),
            connection.execute(select(func.count()).select_from(leases)).scalar_one(),
            partitions.listed(connection),
        )


def _grouped(connection: Connection, column: Any) -> dict[Any, int]:
    query = select(column, func.count()).group_by(column).order_by(column)
    return dict(tuple(row) for row in connection.execute(query))


def _levels(points: int, many: int) -> dict[int, int]:
    """Return about how many rollups there are of so many points of so many series."""
    return {level: points // 10**level for level in range(1, 10) if points // 10**level >= many}


def _version(connection: Connection) -> str:
    query = "SELECT sqlite_version()" if connection.dialect.name == "sqlite" else "SELECT version()"
    return str(connection.execute(text(query)).scalar_one())


def _points(connection: Connection) -> tuple[int, bool]:
    match connection.dialect.name:
        case "postgresql":
            estimate = connection.execute(
                text(
                    "SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint FROM pg_inherits "
                    "JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'samples'::regclass"
                )
            ).scalar_one()
        case "sqlite":
            filled = select(func.coalesce(func.sum(rollups.c.count), 0)).where(rollups.c.level == 2)
            estimate = connection.execute(filled).scalar_one()
        case _:
            estimate = connection.execute(
                text("SELECT table_rows FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'samples'")
            ).scalar_one()
    if estimate > _COUNTED:
        return int(estimate), False
    return connection.execute(select(func.count()).select_from(samples)).scalar_one(), True


def _sizes(connection: Connection, database: Database) -> tuple[int, int, dict[str, int]]:
    """Return the size of all, of the write-ahead log beside a file, and by table where a server tells."""
    names = [table.name for table in metadata.sorted_tables]
    match connection.dialect.name:
        case "sqlite":
            pages, page = (connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size"))
            log = database.path.with_name(database.path.name + "-wal") if database.path is not None else None
            return pages * page, log.stat().st_size if log is not None and log.exists() else 0, {}
        case "postgresql":
            sizes = {
                name: connection.execute(text(f"SELECT pg_total_relation_size('{name}'::regclass)")).scalar_one() for name in names
            }
            sizes["samples"] += sum(partition.bytes for partition in partitions.listed(connection))
        case _:
            rows = connection.execute(
                text("SELECT table_name, data_length + index_length FROM information_schema.tables WHERE table_schema = DATABASE()")
            )
            sizes = {name: int(size or 0) for name, size in rows if name in names}
    return sum(sizes.values()), 0, sizes
