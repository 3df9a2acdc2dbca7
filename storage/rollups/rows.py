"""Reading rows of the table ``rollups`` as columns."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, case, func, select

from ..tables import rollups
from .buckets import BUCKET, Array

ALL = tuple(name for name in BUCKET.names or () if name != "series")
EXTREMES = ("start_step", "end_step", "count", "nonfinite", "minimum", "maximum")
"""What a heatmap needs of a bucket: half of it, and reading is what takes the time."""

_NULLABLE = ("minimum", "maximum", "mean", "minimum_step", "maximum_step", "first", "last")
_FLAGS = ("first", "last")  # may be NULL where others are not
_FETCHED = 10_000  # rows at a time


def read_rows(connection: Connection, *where: ColumnElement[bool], names: Sequence[str] = ALL) -> tuple[Array, Array]:
    """Return the numbers of some buckets, of shape (n,), and the buckets, of shape (n,) of BUCKET, by series, then bucket.

    Args:
        names: what of the buckets is to be read; the rest means nothing in what is returned. ``count`` and ``nonfinite`` must be.
    """
    columns, row = _layout(tuple(names))
    query = select(*columns).where(*where).order_by(rollups.c.series_id, rollups.c.bucket)
    result = connection.execute(query)
    parts = [np.empty(0, row)]
    while rows := result.cursor.fetchmany(_FETCHED):
        parts.append(np.fromiter(rows, row, len(rows)))
    result.close()
    found = np.concatenate(parts)
    buckets = np.zeros(len(found), BUCKET)
    for name in ("series", *names):
        buckets[name] = found[name]
    for name in set(_FLAGS) & set(names):
        buckets[name][found[f"no_{name}"] != 0] = np.nan
    empty = buckets["count"] == buckets["nonfinite"]
    for name in {"minimum", "maximum", "mean"} & set(names):
        buckets[name][empty] = np.nan
    return found["bucket"], buckets


@lru_cache
def _layout(names: tuple[str, ...]) -> tuple[list[ColumnElement[Any]], np.dtype[Any]]:
    """Return the columns to ask for, none of them NULL, and the row they make. Kept, so that SQLAlchemy knows the query again."""
    columns: list[ColumnElement[Any]] = [rollups.c.bucket, rollups.c.series_id]
    columns += [func.coalesce(rollups.c[name], 0) if name in _NULLABLE else rollups.c[name] for name in names]
    flags = [name for name in _FLAGS if name in names]
    columns += [case((rollups.c[name].is_(None), 1), else_=0) for name in flags]
    fields = [
        ("bucket", "i8"),
        ("series", "i8"),
        *((name, BUCKET[name].str) for name in names),
        *((f"no_{name}", "i4") for name in flags),
    ]
    return columns, np.dtype(fields)
