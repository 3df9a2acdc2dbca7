"""Reading series: lists, points, times, histograms, what changed. Every function works in the caller's transaction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, Table, bindparam, func, select

from .base import SeriesData, StepHistogram
from .codec import clean, restore, unpack
from .decimation import evenly, kept
from .records import Change, Changes, Series, SeriesKey
from .runs import key_of
from .tables import batches, histograms, samples, series, steps

_UNBOUNDED = 2**63 - 1


def series_of(connection: Connection, run_id: str, *, signal: str | None = None, module: str | None = None) -> list[Series]:
    """Return a run's series in order of first appearance."""
    query = select(series).where(series.c.run_key == key_of(connection, run_id)).order_by(series.c.id)
    if signal is not None:
        query = query.where(series.c.signal == clean(signal))
    if module is not None:
        query = query.where(series.c.module == clean(module))
    return [Series(row.id, run_id, SeriesKey(row.signal, row.module, row.head, row.rank)) for row in connection.execute(query)]


_POINTS = (
    select(samples.c.segment, samples.c.step, samples.c.value, samples.c.kind)
    .where(samples.c.series_id == bindparam("series_id"))
    .order_by(samples.c.segment, samples.c.step)
)

_PACKED = select(histograms.c.packed).where(
    *(histograms.c[name] == bindparam(name) for name in ("series_id", "segment", "step")),
)


def points(
    connection: Connection,
    wanted: Series,
    *,
    start: int | None = None,
    stop: int | None = None,
    segment: int | None = None,
    max_points: int | None = None,
) -> SeriesData:
    """Return the points of one series, decimated to about ``max_points``."""
    query = _between(_POINTS, samples, start, stop)
    if segment is not None:
        query = query.where(samples.c.segment == segment)
    rows = connection.execute(query, {"series_id": wanted.id}).all()
    if not rows:
        return SeriesData(wanted.key, [], [], [])
    segments, places, values, kinds = zip(*rows, strict=True)
    if any(kinds):
        values = tuple(restore(value, kind) for value, kind in zip(values, kinds, strict=True))
    if max_points is None or len(values) <= max_points:
        return SeriesData(wanted.key, segments, places, values)
    segments_N, steps_N, values_N = np.array(segments), np.array(places), np.array(values, dtype=np.float64)
    keep = kept(segments_N, steps_N, values_N, max_points)
    return SeriesData(
        wanted.key, segments_N[keep].tolist(), steps_N[keep].tolist(), values_N[keep].tolist(), decimated=len(keep) < len(values)
    )


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
    query = (
        select(steps.c.segment, steps.c.step, steps.c.time)
        .where(steps.c.run_key == key_of(connection, run_id))
        .order_by(steps.c.segment, steps.c.step)
    )
    rows = connection.execute(query).all()
    return [(rows[i][0], rows[i][1], rows[i][2]) for i in evenly(len(rows), max_points)]


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
