"""Reading series: lists, points, times, histograms, what changed. Every function works in the caller's transaction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, Table, bindparam, func, select

from .codec import NON_FINITE, clean, unpack
from .columns import in_parts
from .decimation import evenly
from .records import Change, Changes, Series, SeriesKey
from .results import SeriesData, StepHistogram
from .runs import key_of
from .tables import batches, histograms, samples, segments, series, steps

_UNBOUNDED = 2**63 - 1


def series_of(connection: Connection, run_id: str, *, signal: str | None = None, module: str | None = None) -> list[Series]:
    """Return a run's series in order of first appearance."""
    query = select(series).where(series.c.run_key == key_of(connection, run_id)).order_by(series.c.id)
    if signal is not None:
        query = query.where(series.c.signal == clean(signal))
    if module is not None:
        query = query.where(series.c.module == clean(module))
    return [Series(row.id, run_id, SeriesKey(row.signal, row.module, row.head, row.rank)) for row in connection.execute(query)]


_POINT = np.dtype([("segment", "i8"), ("step", "i8"), ("value", "f8"), ("kind", "i1")])
_POINTS = (
    select(samples.c.segment, samples.c.step, func.coalesce(samples.c.value, 0.0), samples.c.kind)
    .where(samples.c.series_id == bindparam("series_id"))
    .order_by(samples.c.segment, samples.c.step)
)
_ROWS = 10_000  # fetched at a time
_LONG = 20  # times as many steps as are wanted: then they are looked up one by one

_PACKED = select(histograms.c.packed).where(
    *(histograms.c[name] == bindparam(name) for name in ("series_id", "segment", "step")),
)


def point_array(
    connection: Connection, number: int, *, start: int | None = None, stop: int | None = None, segment: int | None = None
) -> np.ndarray[Any, Any]:
    """Return the points of one series as a structured array (segment, step, value, kind), non-finite values in place.

    Rows go from the driver's cursor into the array a few thousand at a time: half a microsecond a point, where a list
    of a million result rows costs three and keeps the garbage collector busy.
    """
    query = _between(_POINTS, samples, start, stop)
    if segment is not None:
        query = query.where(samples.c.segment == segment)
    result = connection.execute(query, {"series_id": number})
    chunks = [np.empty(0, _POINT)]
    while rows := result.cursor.fetchmany(_ROWS):
        chunks.append(np.fromiter(rows, _POINT, len(rows)))
    result.close()
    found = np.concatenate(chunks)
    for kind, value in NON_FINITE.items():
        found["value"][found["kind"] == kind] = value
    return found


def points(
    connection: Connection, wanted: Series, *, start: int | None = None, stop: int | None = None, segment: int | None = None
) -> SeriesData:
    """Return all points of one series."""
    found = point_array(connection, wanted.id, start=start, stop=stop, segment=segment)
    return SeriesData(wanted.key, found["segment"].tolist(), found["step"].tolist(), found["value"].tolist())


def changes(connection: Connection, run_id: str, after: int) -> Changes:
    """Return what was written after a cursor: one range a segment."""
    query = (
        select(batches.c.segment, func.min(batches.c.first_step), func.max(batches.c.last_step), func.max(batches.c.seq))
        .where(batches.c.run_key == key_of(connection, run_id), batches.c.seq > after)
        .group_by(batches.c.segment)
        .order_by(batches.c.segment)
    )
    rows = connection.execute(query).all()
    return Changes(max((row[3] for row in rows), default=after), tuple(Change(row[0], row[1], row[2]) for row in rows))


def step_times(connection: Connection, run_id: str, max_points: int | None) -> list[tuple[int, int, float]]:
    """Return (segment, step, time), evenly thinned."""
    run_key = key_of(connection, run_id)
    if max_points is not None and (found := _thin_step_times(connection, run_key, max_points)):
        return found
    query = (
        select(steps.c.segment, steps.c.step, steps.c.time)
        .where(steps.c.run_key == run_key)
        .order_by(steps.c.segment, steps.c.step)
    )
    rows = connection.execute(query).all()
    return [(rows[i][0], rows[i][1], rows[i][2]) for i in evenly(len(rows), max_points)]


def _thin_step_times(connection: Connection, run_key: int, max_points: int) -> list[tuple[int, int, float]]:
    """Look up evenly spread steps of a long run; return nothing where the run is short, or most of these steps are not there."""
    of_segment = select(steps.c.step).where(steps.c.run_key == run_key, steps.c.segment == segments.c.segment).correlate(segments)
    first, last = (of_segment.order_by(way).limit(1).scalar_subquery() for way in (steps.c.step.asc(), steps.c.step.desc()))
    query = select(segments.c.segment, first, last).where(segments.c.run_key == run_key).order_by(segments.c.segment)
    ends = [row for row in connection.execute(query) if row[1] is not None]
    span = sum(end - begin + 1 for _, begin, end in ends)
    if span < _LONG * max_points:
        return []
    found: list[tuple[int, int, float]] = []
    for segment, begin, end in ends:
        count = end - begin + 1
        wanted = [begin + index for index in evenly(count, max(2, round(max_points * count / span)))]
        for some in in_parts(wanted):
            place = (steps.c.run_key == run_key, steps.c.segment == segment, steps.c.step.in_(some))
            rows = connection.execute(select(steps.c.step, steps.c.time).where(*place).order_by(steps.c.step))
            found += [(segment, row[0], row[1]) for row in rows]
    return found if 2 * len(found) >= max_points else []


def histograms_of(
    connection: Connection, run_id: str, signal: str, module: str, *, start: int | None, stop: int | None, limit: int | None
) -> list[StepHistogram]:
    """Return a module's histograms, evenly thinned; only those returned are read and unpacked."""
    keys = numbers_to_keys(series_of(connection, run_id, signal=signal, module=module))
    places = select(histograms.c.series_id, histograms.c.segment, histograms.c.step).where(histograms.c.series_id.in_(keys))
    places = _between(places, histograms, start, stop).order_by(histograms.c.segment, histograms.c.step, histograms.c.series_id)
    rows = connection.execute(places).all()
    found: list[StepHistogram] = []
    for row in (rows[index] for index in evenly(len(rows), limit)):
        packed: bytes = connection.execute(_PACKED, dict(row._mapping)).scalar_one()
        found.append(StepHistogram(row.segment, row.step, unpack(keys[row.series_id], packed)))
    return found


def _between(query: Select[Any], table: Table, start: int | None, stop: int | None) -> Select[Any]:
    if start is not None:
        query = query.where(table.c.step >= start)
    if stop is not None:
        query = query.where(table.c.step < stop)
    return query


def numbers_to_keys(found: Sequence[Series]) -> dict[int, SeriesKey]:
    """Return the key of each series number."""
    return {item.id: item.key for item in found}
