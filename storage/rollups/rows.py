"""Reading rows of the table ``rollups`` as columns."""

from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, case, func, select

from ..tables import rollups
from .buckets import BUCKET, Array

_NULLABLE = ("minimum", "maximum", "mean", "minimum_step", "maximum_step", "first", "last")
_FLAGS = ("first", "last")  # may be NULL where others are not
_ROW = np.dtype([("bucket", "i8"), *BUCKET.descr, *((f"no_{name}", "i1") for name in _FLAGS)])
_FETCHED = 10_000  # rows at a time

# In a variable, so that each query is built of the same expressions: SQLAlchemy then knows it again by its cache.
_COLUMNS: tuple[ColumnElement[Any], ...] = (
    rollups.c.bucket,
    rollups.c.series_id,
    *(func.coalesce(rollups.c[name], 0) if name in _NULLABLE else rollups.c[name] for name in (BUCKET.names or ())[1:]),
    *(case((rollups.c[name].is_(None), 1), else_=0) for name in _FLAGS),
)


def read_rows(connection: Connection, *where: ColumnElement[bool]) -> tuple[Array, Array]:
    """Return the numbers of some buckets, of shape (n,), and the buckets, of shape (n,) of BUCKET, by series, then bucket."""
    result = connection.execute(select(*_COLUMNS).where(*where).order_by(rollups.c.series_id, rollups.c.bucket))
    parts = [np.empty(0, _ROW)]
    while rows := result.cursor.fetchmany(_FETCHED):
        parts.append(np.fromiter(rows, _ROW, len(rows)))
    result.close()
    found = np.concatenate(parts)
    buckets = np.empty(len(found), BUCKET)
    for name in BUCKET.names or ():
        buckets[name] = found[name]
    for name in _FLAGS:
        buckets[name][found[f"no_{name}"] != 0] = np.nan
    empty = buckets["count"] == buckets["nonfinite"]
    for name in ("minimum", "maximum", "mean"):
        buckets[name][empty] = np.nan
    return found["bucket"], buckets
