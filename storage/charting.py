"""What charts read: series decimated to the points that draw them, and the extremes of many series side by side for a heatmap.

Long series are read by their rollups (``rollups.reading``). Every point that comes back is one that was written: of each bucket the
first, the last, the lowest and the highest, at their own steps.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from sqlalchemy import Connection, Row, select

from .codec import NON_FINITE, join
from .decimation import kept
from .records import Series
from .results import Envelope, SeriesData
from .rollups.buckets import Array
from .rollups.reading import Span, Stretch, spans, stretches
from .rollups.rows import ALL, EXTREMES, MEANS
from .runs import key_of
from .tables import samples

_MOST_ODD = 200
"""Buckets of which each point that is not finite is looked up; of more, evenly chosen ones."""

_FOUND = np.dtype([("segment", "i8"), ("step", "i8"), ("value", "f8")])


def decimated(
    connection: Connection, wanted: Sequence[Series], *, start: int | None, stop: int | None, segment: int | None, max_points: int
) -> Iterator[SeriesData]:
    """Yield the points of each series, decimated to about ``max_points``.

    Points that are not finite are all kept while they are few; of a long stretch of them its ends. The first and the last point of
    each segment are kept in any case.

    Raises:
        ValueError: ``max_points`` is below 1.
    """
    found: dict[int, list[Array]] = {series.id: [np.empty(0, _FOUND)] for series in wanted}
    totals = dict.fromkeys(found, 0)
    for span, drawn in _of_runs(connection, wanted, start, stop, segment, max(max_points // 2, 1)):
        for number, stretch in drawn.items():
            more = [_odd_points(connection, number, span, stretch), _at_edges(connection, number, span, stretch)]
            points = np.concatenate([_as_found(stretch), *more])
            inside = (points["step"] >= span.first) & (points["step"] <= span.last)
            found[number].append(_each_step_once(points[inside]))
            totals[number] += int(stretch.buckets["count"].sum()) + len(stretch.points)
    for series in wanted:
        points = np.concatenate(found[series.id])
        points = points[kept(points["segment"], points["step"], points["value"], max_points)]
        segments, places, values = (points[name].tolist() for name in ("segment", "step", "value"))
        yield SeriesData(series.key, segments, places, values, decimated=len(points) < totals[series.id])


def envelopes(
    connection: Connection,
    wanted: Sequence[Series],
    *,
    start: int | None,
    stop: int | None,
    segment: int | None,
    max_points: int,
    means: bool,
) -> Iterator[Envelope]:
    """Yield the extremes of each series over at least ``max_points`` stretches of it, or over every point where it has fewer.

    Args:
        means: also each stretch's mean and number of points.

    Raises:
        ValueError: ``max_points`` is below 1.
    """
    if max_points < 1:
        raise ValueError(f"max_points is {max_points}; it must be at least 1")
    parts: dict[int, list[tuple[Array, ...]]] = {series.id: [] for series in wanted}
    for span, drawn in _of_runs(connection, wanted, start, stop, segment, max_points, MEANS if means else EXTREMES):
        for number, stretch in drawn.items():
            parts[number].append(_extremes(span, stretch, means))
    for series in wanted:
        columns = [np.concatenate(column) for column in zip(*parts[series.id], strict=True)]
        columns = columns or [np.empty(0)] * (8 if means else 6)
        yield Envelope(series.key, *columns)


def _of_runs(
    connection: Connection,
    wanted: Sequence[Series],
    start: int | None,
    stop: int | None,
    segment: int | None,
    least: int,
    names: Sequence[str] = ALL,
) -> Iterator[tuple[Span, dict[int, Stretch]]]:
    by_run: dict[str, list[int]] = {}
    for series in wanted:
        by_run.setdefault(series.run_id, []).append(series.id)
    for run_id, numbers in by_run.items():
        for span in spans(connection, key_of(connection, run_id), start, stop, segment):
            yield span, stretches(connection, sorted(set(numbers)), span, least, names=names)


def _as_found(stretch: Stretch) -> Array:
    """Return the points that a stretch tells of: its own, and four of each bucket; some of them twice, in no order."""
    buckets, points = stretch.buckets, stretch.points
    there = buckets["count"] > buckets["nonfinite"]
    ends = [(buckets[f"{end}_step"], buckets[value]) for end, value in (("start", "first"), ("end", "last"))]
    extremes = [(buckets[f"{name}_step"][there], buckets[name][there]) for name in ("minimum", "maximum")]
    pairs = [
        (points["step"], points["value"]),
        *((step[~np.isnan(value)], value[~np.isnan(value)]) for step, value in ends),
        *extremes,
    ]
    found = np.empty(sum(len(step) for step, _ in pairs), _FOUND)
    found["segment"] = stretch.segment
    found["step"] = np.concatenate([step for step, _ in pairs])
    found["value"] = np.concatenate([value for _, value in pairs])
    return found


def _each_step_once(points: Array) -> Array:
    """Return points of one segment in order. Those of one step are one point, told of twice."""
    points = points[np.argsort(points["step"], kind="stable")]
    once: Array = points[np.diff(points["step"], prepend=points["step"][:1] - 1) > 0]
    return once


def _odd_points(connection: Connection, number: int, span: Span, stretch: Stretch) -> Array:
    """Return the points in a stretch's buckets that are not finite; of buckets that hold nothing else, the ends."""
    odd = stretch.buckets[stretch.buckets["nonfinite"] > 0]
    if len(odd) > _MOST_ODD:
        odd = odd[np.linspace(0, len(odd) - 1, _MOST_ODD).astype(np.int64)]
    query = select(samples.c.segment, samples.c.step, samples.c.kind).where(
        samples.c.series_id == number, samples.c.segment == span.segment, samples.c.kind != 0
    )
    nothing_else = odd["nonfinite"] == odd["count"]
    places = np.unique(np.concatenate([odd["start_step"][nothing_else], odd["end_step"][nothing_else]])).tolist()
    rows = list(connection.execute(query.where(samples.c.step.in_(places)))) if places else []
    for bucket in odd[~nothing_else]:
        between = samples.c.step.between(int(bucket["start_step"]), int(bucket["end_step"]))
        rows += connection.execute(query.where(between)).all()
    return np.array([(row[0], row[1], NON_FINITE[row[2]]) for row in rows], _FOUND)


def _at_edges(connection: Connection, number: int, span: Span, stretch: Stretch) -> Array:
    """Return the first and the last point of a span where a bucket reaches beyond it: two looks into the index at most."""
    whole = select(samples.c.segment, samples.c.step, samples.c.value, samples.c.kind).where(
        samples.c.series_id == number, samples.c.segment == span.segment, samples.c.step.between(span.first, span.last)
    )
    rows: list[Row[int, int, float | None, int]] = []
    if (stretch.buckets["start_step"] < span.first).any():
        rows += connection.execute(whole.order_by(samples.c.step).limit(1)).all()
    if (stretch.buckets["end_step"] > span.last).any():
        rows += connection.execute(whole.order_by(samples.c.step.desc()).limit(1)).all()
    return np.array([(row[0], row[1], join(row[2], row[3])) for row in rows], _FOUND)


def _extremes(span: Span, stretch: Stretch, means: bool) -> tuple[Array, ...]:
    """Return the columns of an Envelope, a point being a stretch of one."""
    buckets, points = stretch.buckets, stretch.points
    finite = np.isfinite(points["value"])
    value = np.where(finite, points["value"], np.nan)
    start = np.concatenate([buckets["start_step"], points["step"]])
    columns = [
        start,
        np.concatenate([buckets["end_step"], points["step"]]),
        np.concatenate([buckets["minimum"], value]),
        np.concatenate([buckets["maximum"], value]),
        np.concatenate([buckets["nonfinite"], (~finite).astype(np.int64)]),
    ]
    if means:
        columns += [np.concatenate([buckets["mean"], value]), np.append(buckets["count"], np.ones(len(points), np.int64))]
    order = np.argsort(start, kind="stable")
    return np.full(len(start), span.segment), *(column[order] for column in columns)
