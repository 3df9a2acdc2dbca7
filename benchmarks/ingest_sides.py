"""What writes rows on this side of ``foreshock bench ingest``: foreshock itself, and what stands below it. A process each.

``foreshock`` is the way of every run: ``Writer.put`` for each step, ``flush`` until all is durable, rollups kept, the ledger of
batches and the times of steps too. The others write samples alone, into a table of the same columns and primary key, with no
rollups, ledger or idempotence: what the engine and its driver give at best, no tracker.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import BigInteger, Column, Double, Engine, MetaData, SmallInteger, Table, create_engine, event, insert

from ..storage import open_store
from ..storage.records import Run, SeriesKey, StepRecord, new_id
from ..storage.writer import Writer
from .ingest_trackers import Clock, Rows, names_of, rows_of

_BURST = 5_000  # steps handed over before they are waited for: half of what the writer's queue takes
_PLAIN = 50  # steps a transaction in the order of steps, 10,000 rows with 200 series
_SORTED = 1_000  # steps a transaction in the order of series
_TIMEOUT = 600.0

_SAMPLES = Table(
    "samples",
    MetaData(),
    *(Column(name, BigInteger, primary_key=True, autoincrement=False) for name in ("series_id", "segment", "step")),
    Column("value", Double),
    Column("kind", SmallInteger, nullable=False),
    sqlite_with_rowid=False,
)


def foreshock(url: str, names: Sequence[str], rows: Rows, clock: Clock, every: int) -> float:
    """Log the rows, ``every`` steps apart, as a monitor does; return the seconds until all were durable.

    Raises:
        RuntimeError: not all of it arrived.
    """
    keys = tuple(SeriesKey(signal, module) for module, _, signal in (name.partition("/") for name in names))
    with closing(open_store(url)) as store:
        writer = Writer(store, Run(new_id(), "bench", created_at=time.time()), 0, analyze=lambda batch: ())
        writer.start()
        whole = True
        for step, values in clock.each(rows):
            whole &= writer.put(StepRecord(step * every, time.time(), keys, values))
            if (step + 1) % _BURST == 0:
                whole &= writer.flush(_TIMEOUT)
        whole &= writer.flush(_TIMEOUT)
        seconds = clock.elapsed()
        stats = writer.stats
        writer.close()
    if not whole or stats.points_written != clock.steps * len(names):
        raise RuntimeError(f"{stats.points_written:,} of {clock.steps * len(names):,} points arrived: {stats.last_error}")
    return seconds


def core(url: str, names: Sequence[str], rows: Rows, clock: Clock, every: int) -> float:
    """SQLAlchemy Core, ``connection.execute(insert(table), rows)``, in the order of steps."""
    with _plain_table(url) as engine:
        statement = insert(_SAMPLES)
        for some in _in_parts(rows, clock, _PLAIN):
            given = [
                {"series_id": number, "segment": 0, "step": step * every, "value": value, "kind": 0}
                for step, values in some
                for number, value in enumerate(values)
            ]
            with engine.begin() as connection:
                connection.execute(statement, given)
        return clock.elapsed()


def driver(url: str, names: Sequence[str], rows: Rows, clock: Clock, every: int) -> float:
    """The driver's own ``executemany``, in the order of steps."""
    return _executemany(url, rows, clock, every, _PLAIN, in_series_order=False)


def driver_sorted(url: str, names: Sequence[str], rows: Rows, clock: Clock, every: int) -> float:
    """The driver's own ``executemany``, larger transactions in the order of the primary key."""
    return _executemany(url, rows, clock, every, _SORTED, in_series_order=True)


def copy(url: str, names: Sequence[str], rows: Rows, clock: Clock, every: int) -> float:
    """PostgreSQL's COPY of text, as psycopg writes it, in the order of the primary key."""
    with _plain_table(url) as engine, closing(engine.raw_connection()) as connection:
        for some in _in_parts(rows, clock, _SORTED):
            cursor: Any = connection.cursor()
            with cursor.copy("COPY samples (series_id, segment, step, value, kind) FROM STDIN") as going:
                for row in _of(some, every, in_series_order=True):
                    going.write_row(row)
            connection.commit()
        return clock.elapsed()


SIDES: dict[str, Callable[[str, Sequence[str], Rows, Clock, int], float]] = {
    "foreshock": foreshock,
    "sqlalchemy-core": core,
    "driver": driver,
    "driver-sorted": driver_sorted,
    "copy": copy,
}
DURABLE = {
    "sqlite": "the transaction is committed (WAL, synchronous = NORMAL): a kill of the process loses nothing",
    "postgresql": "the transaction is committed: a kill of the process, and what the server's own settings promise of its machine",
    "mysql": "the transaction is committed: a kill of the process, and what the server's own settings promise of its machine",
    "mariadb": "the transaction is committed: a kill of the process, and what the server's own settings promise of its machine",
}


def sides_of(engine: str) -> list[str]:
    """Return who can write to an engine; ``foreshock`` first."""
    return [name for name in SIDES if name != "copy" or engine == "postgresql"]


def _executemany(url: str, rows: Rows, clock: Clock, every: int, steps: int, *, in_series_order: bool) -> float:
    with _plain_table(url) as engine, closing(engine.raw_connection()) as connection:
        mark = "?" if engine.dialect.name == "sqlite" else "%s"
        statement = f"INSERT INTO samples (series_id, segment, step, value, kind) VALUES ({', '.join([mark] * 5)})"
        for some in _in_parts(rows, clock, steps):
            connection.cursor().executemany(statement, list(_of(some, every, in_series_order=in_series_order)))
            connection.commit()
        return clock.elapsed()


Part = list[tuple[int, Sequence[float]]]


def _in_parts(rows: Rows, clock: Clock, steps: int) -> Iterator[Part]:
    some: Part = []
    for one in clock.each(rows):
        some.append(one)
        if len(some) == steps:
            yield some
            some = []
    if some:
        yield some


def _of(some: Part, every: int, *, in_series_order: bool) -> Iterator[tuple[int, int, int, float, int]]:
    if not in_series_order:
        return ((number, 0, step * every, value, 0) for step, values in some for number, value in enumerate(values))
    return ((number, 0, step * every, values[number], 0) for number in range(len(some[0][1])) for step, values in some)


@contextmanager
def _plain_table(url: str) -> Iterator[Engine]:
    """Make the table; SQLite's settings are those of a store."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _as_a_store)
    try:
        _SAMPLES.create(engine)
        yield engine
    finally:
        engine.dispose()


def _as_a_store(connection: Any, _: Any) -> None:
    for setting in ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -16000"):
        connection.execute(f"PRAGMA {setting}")


def main(arguments: Sequence[str]) -> int:
    """Measure one: ``NAME URL SERIES STEPS SECONDS EVERY``; print a line of JSON."""
    name, url, series, steps, seconds, every = arguments
    clock, rows = Clock(float(seconds)), rows_of(int(series), int(steps))
    took = SIDES[name](url, names_of(int(series)), rows, clock, int(every))
    print(json.dumps({"seconds": took, "steps": clock.steps, "found": clock.steps * int(series)}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
