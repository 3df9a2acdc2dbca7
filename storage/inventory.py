"""What a store holds, told without changing it: for ``foreshock db info``."""

import time
from dataclasses import dataclass, field

from sqlalchemy import Column, Connection, Table, func, inspect, select, text

from . import schema
from .counting import Count, counted_by
from .database import Database
from .partitions import Partition, listed
from .sizing import Size, size_of
from .tables import alerts, events, histograms, leases, outbox, rollups, runs, samples, segments, series

_NONE = Count(0)
_POINTS, _ROLLUPS, _HISTOGRAMS = 2.0, 1.0, 0.5  # seconds to count for, at most


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that some process has, and for how many seconds more."""

    name: str
    owner: str
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Inventory:
    """A store at a moment. Counts of an older schema are of the tables that it has.

    ``oldest`` is when the oldest run began, ``newest`` when a run was last heard from (seconds since the epoch). ``rollups`` is by
    level: a row of level n stands for 10**n points.
    """

    engine: str
    address: str
    schema: str
    schema_of_program: str
    size: Size
    runs: dict[str, int] = field(default_factory=dict)
    segments: int = 0
    series: int = 0
    points: Count = _NONE
    rollups: dict[int, Count] = field(default_factory=dict)
    histograms: Count = _NONE
    events: int = 0
    alerts: dict[str, int] = field(default_factory=dict)
    outbox: dict[str, int] = field(default_factory=dict)
    oldest: float | None = None
    newest: float | None = None
    leases: tuple[Held, ...] = ()
    partitions: tuple[Partition, ...] = ()


def take(database: Database) -> Inventory:
    """Look at everything, in a few seconds however much there is: what would take longer is estimated, and says so.

    Raises:
        StoreConfigurationError: there is no store, or one of a newer foreshock.
        StoreUnavailableError: the store cannot be reached.
    """
    found = schema.existing(database)
    with database.read() as connection:
        there = set(inspect(connection).get_table_names())
        points = counted_by(connection, samples, series.c.id, seconds=_POINTS)
        packed = counted_by(connection, histograms, series.c.id, seconds=_HISTOGRAMS)
        levels = {}
        if rollups.name in there:
            levels = counted_by(connection, rollups, series.c.id, rollups.c.level, seconds=_ROLLUPS)
        oldest, newest = connection.execute(select(func.min(runs.c.created_at), func.max(runs.c.heartbeat_at))).one()
        return Inventory(
            engine=_engine(connection),
            address=database.address,
            schema=found,
            schema_of_program=schema.HEAD,
            size=size_of(database, connection),
            runs=_by(connection, runs, runs.c.status),
            segments=_rows(connection, segments),
            series=_rows(connection, series),
            points=points.get(0, _NONE),
            rollups=levels,
            histograms=packed.get(0, _NONE),
            events=_rows(connection, events),
            alerts=_by(connection, alerts, alerts.c.state),
            outbox=_by(connection, outbox, outbox.c.state),
            oldest=oldest,
            newest=newest,
            leases=_held(connection, time.time()) if leases.name in there else (),
            partitions=tuple(listed(connection)),
        )


def _engine(connection: Connection) -> str:
    if connection.dialect.name == "sqlite":
        return f"SQLite {connection.exec_driver_sql('SELECT sqlite_version()').scalar_one()}"
    if connection.dialect.name == "postgresql":
        return f"PostgreSQL {connection.execute(text('SHOW server_version')).scalar_one()}"
    version = str(connection.execute(text("SELECT version()")).scalar_one())
    return f"{'MariaDB' if 'mariadb' in version.lower() else 'MySQL'} {version}"


def _by(connection: Connection, table: Table, column: Column[str]) -> dict[str, int]:
    query = select(column, func.count()).select_from(table).group_by(column).order_by(column)
    return {row[0]: row[1] for row in connection.execute(query)}


def _rows(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _held(connection: Connection, now: float) -> tuple[Held, ...]:
    query = select(leases.c.name, leases.c.owner, leases.c.expires_at).where(leases.c.expires_at > now).order_by(leases.c.name)
    return tuple(Held(name, owner, until - now) for name, owner, until in connection.execute(query))
