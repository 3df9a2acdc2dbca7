"""Keeping rollups up to date in the transaction that writes the points.

As a rule points come in order, and what is not in a full bucket yet is remembered from one batch to the next: a batch then costs
the rows that it fills, written once and never touched again. Points that come late or a second time make the buckets from there on
anew.
"""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from sqlalchemy import Connection, delete, func, select

from ..codec import NON_FINITE
from ..copying import copy_in
from ..tables import rollups, samples
from ..upserts import bulk_upsert
from .buckets import BUCKET, POINT, WHOLE, Array, Rows, Tails
from .rows import read_rows

_COLUMNS = [name for name in BUCKET.names or () if name != "series"]


def append(connection: Connection, segment: int, tails: Tails, points: Array) -> None:
    """Take points that were just written and come after all others of the segment.

    Args:
        points: of shape (n,) of POINT, in order of (series, step).
    """
    numbers = np.unique(points["series"])
    known = np.array([tails.knows(number) for number in numbers.tolist()], bool)
    if known.all():
        _save(connection, segment, tails.advance(points))
        return
    _save(connection, segment, tails.advance(points[np.isin(points["series"], numbers[known])]))
    _load(connection, segment, tails, numbers[~known].tolist())


def mend(connection: Connection, segment: int, tails: Tails, points: Array) -> None:
    """Take points that were just written, of which some come before others or a second time. Reads from the first of them on."""
    numbers, starts = np.unique(points["series"], return_index=True)
    tails.forget(numbers.tolist())
    for number, first in zip(numbers.tolist(), points["step"][starts].tolist(), strict=True):
        of_series = (rollups.c.series_id == number, rollups.c.segment == segment)
        if _points_are_there(connection, number, segment, first):
            connection.execute(delete(rollups).where(*of_series, rollups.c.end_step >= first))
    _load(connection, segment, tails, numbers.tolist())


def _points_are_there(connection: Connection, number: int, segment: int, first: int) -> bool:
    """Return whether the points behind the buckets from a step on are still there; if thinned out, buckets are all there is."""
    behind = select(func.min(rollups.c.start_step), func.max(rollups.c.end_step), func.sum(rollups.c.count)).where(
        rollups.c.series_id == number, rollups.c.segment == segment, rollups.c.level == 1, rollups.c.end_step >= first
    )
    start, end, count = connection.execute(behind).one()
    if start is None:
        return True
    there = select(func.count()).where(
        samples.c.series_id == number, samples.c.segment == segment, samples.c.step.between(start, end)
    )
    return bool(connection.execute(there).scalar_one() >= count)


def _load(connection: Connection, segment: int, tails: Tails, numbers: Collection[int]) -> None:
    """Read how far series have come, and make the buckets that they can fill."""
    points = [np.empty(0, POINT)]
    for number in sorted(numbers):
        of_series = (rollups.c.series_id == number, rollups.c.segment == segment)
        query = select(rollups.c.level, func.max(rollups.c.bucket), func.max(rollups.c.end_step)).where(*of_series)
        come = {level: (bucket, step) for level, bucket, step in connection.execute(query.group_by(rollups.c.level))}
        waiting = []
        for level in come:
            of_next, _ = come.get(level + 1, (-1, None))
            open_ones = rollups.c.bucket >= (of_next + 1) * WHOLE
            waiting.append((level, read_rows(connection, level, *of_series, open_ones)[1]))
        filled, end = come.get(1, (-1, None))
        tails.remember(number, (filled + 1) * WHOLE, waiting)
        points.append(_points_after(connection, number, segment, end))
    _save(connection, segment, tails.advance(np.concatenate(points)))


def _points_after(connection: Connection, number: int, segment: int, end: int | None) -> Array:
    query = select(samples.c.step, func.coalesce(samples.c.value, 0.0), samples.c.kind).where(
        samples.c.series_id == number, samples.c.segment == segment
    )
    if end is not None:
        query = query.where(samples.c.step > end)
    rows = connection.execute(query.order_by(samples.c.step)).all()
    found = np.empty(len(rows), POINT)
    found["series"] = number
    found["step"] = [row[0] for row in rows]
    found["value"] = [NON_FINITE[row[2]] if row[2] else row[1] for row in rows]
    return found


def _save(connection: Connection, segment: int, full: Iterator[Rows]) -> None:
    for rows in full:
        columns = _columns(segment, rows)
        if connection.dialect.name == "postgresql":
            copy_in(connection, rollups, columns)
        else:
            bulk_upsert(connection, rollups, list(zip(*(_cells(column) for column in columns.values()), strict=True)))


def _columns(segment: int, rows: Rows) -> dict[str, Array]:
    buckets, size = rows.buckets, len(rows.buckets)
    empty = buckets["count"] == buckets["nonfinite"]
    columns: dict[str, Array] = {
        "series_id": buckets["series"],
        "segment": np.full(size, segment),
        "level": np.full(size, rows.level),
        "bucket": rows.numbers,
    }
    for name in _COLUMNS:
        without = empty.any() and name in ("minimum_step", "maximum_step")
        columns[name] = np.ma.array(buckets[name], mask=empty) if without else buckets[name]
    return columns


def _cells(column: Array) -> list[Any]:
    if column.dtype.kind == "f" and np.isnan(column).any():
        return [None if cell != cell else cell for cell in column.tolist()]
    cells: list[Any] = column.tolist()  # a masked array gives None
    return cells
