"""Reading rows of the table ``rollups`` as columns, each engine by its quickest way (see also ``storage.columns``)."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, case, func, literal_column, select

from ..tables import rollups
from .buckets import BUCKET, WHOLE, Array

ALL = tuple(name for name in BUCKET.names or () if name not in ("series", "count"))
EXTREMES = ("start_step", "end_step", "nonfinite", "minimum", "maximum")
"""What a heatmap needs of a bucket: half of it, and reading is what takes the time."""
MEANS = (*EXTREMES, "mean")

_EMPTY = ("minimum", "maximum", "mean")  # NULL in a bucket with nothing finite, as the steps of extremes are
_ENDS = ("first", "last")  # may be NULL where others are not
_STEPS = ("minimum_step", "maximum_step")
_FETCHED = 500
"""Rows at a time: 42 ms for 40,000 rows of SQLite's driver, where ten thousand at a time took 45."""


def read_rows(connection: Connection, level: int, *where: ColumnElement[bool], names: Sequence[str] = ALL) -> tuple[Array, Array]:
    """Return the numbers of some buckets of a level, shape (n,), and the buckets, shape (n,) of BUCKET, by series, then bucket.

    Args:
        names: what of the buckets is to be read, in this order; but for ``series`` and ``count``, which are always there, the rest
            means nothing in what is returned. ``nonfinite`` must be read.
    """
    where = (rollups.c.level == level, *where)
    read = _packed if connection.dialect.name == "postgresql" else _rows
    found = read(connection, where, tuple(names))
    buckets = np.zeros(len(found["bucket"]), BUCKET)
    buckets["count"] = WHOLE**level
    for name in ("series", *names):
        buckets[name] = found[name]
    empty = buckets["count"] == buckets["nonfinite"]
    for name in set(_EMPTY) & set(names):
        buckets[name][empty] = np.nan
    return np.asarray(found["bucket"], np.int64), buckets


def _rows(connection: Connection, where: Sequence[ColumnElement[bool]], names: tuple[str, ...]) -> Array:
    """A row a bucket, from the driver's cursor into an array."""
    columns, row = _plain(names)
    result = connection.execute(select(*columns).where(*where).order_by(rollups.c.series_id, rollups.c.bucket))
    parts = [np.empty(0, row)]
    while rows := result.cursor.fetchmany(_FETCHED):
        parts.append(np.fromiter(rows, row, len(rows)))
    result.close()
    found = np.concatenate(parts)
    for name in set(_ENDS) & set(names):
        found[name][found[f"no_{name}"] != 0] = np.nan
    return found


@lru_cache
def _plain(names: tuple[str, ...]) -> tuple[list[ColumnElement[Any]], np.dtype[Any]]:
    """Return the columns to ask for, none of them NULL, and the row they make. Kept, so that SQLAlchemy knows the query again."""
    nullable = (*_EMPTY, *_ENDS, *_STEPS)
    ends = [name for name in _ENDS if name in names]
    columns: list[ColumnElement[Any]] = [rollups.c.bucket, rollups.c.series_id]
    columns += [func.coalesce(rollups.c[name], 0) if name in nullable else rollups.c[name] for name in names]
    columns += [case((rollups.c[name].is_(None), 1), else_=0) for name in ends]
    fields = [
        ("bucket", "i8"),
        ("series", "i8"),
        *((name, BUCKET[name].str) for name in names),
        *((f"no_{name}", "i4") for name in ends),
    ]
    return columns, np.dtype(fields)


def _packed(connection: Connection, where: Sequence[ColumnElement[bool]], names: tuple[str, ...]) -> Mapping[str, Array]:
    """A row a series, each column of its buckets packed: half the time of a row a bucket."""
    query = select(rollups.c.series_id, *_aggregates(names)).where(*where).group_by(rollups.c.series_id)
    series, *columns = list(zip(*connection.execute(query), strict=True)) or [()] * (2 + len(names))
    found = {
        name: np.frombuffer(b"".join(cells), f">{'i8' if name == 'bucket' else BUCKET[name].str[1:]}")
        for name, cells in zip(("bucket", *names), columns, strict=True)
    }
    found["series"] = np.repeat(np.array(series, np.int64), [len(cell) // 8 for cell in columns[0]])
    # An aggregate sees the rows of its group in any order, but all of them see them in the same.
    order = np.lexsort((found["bucket"], found["series"]))
    return {name: column[order] for name, column in found.items()}


@lru_cache
def _aggregates(names: tuple[str, ...]) -> list[ColumnElement[bytes]]:
    nothing: ColumnElement[bytes] = literal_column("''::bytea")
    cells = [func.int8send(rollups.c.bucket)]
    for name in names:
        column = rollups.c[name]
        if BUCKET[name].kind == "f":
            cells.append(func.float8send(func.coalesce(column, literal_column("'nan'::float8"))))
        else:
            cells.append(func.int8send(func.coalesce(column, 0) if name in _STEPS else column))
    return [func.string_agg(cell, nothing) for cell in cells]
