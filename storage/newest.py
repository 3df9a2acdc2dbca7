"""What a list of many runs says about each: the newest values, a small picture of a course, how many alerts stand.

A few queries for all of them. A series is found by its digest, which depends on its key alone, and its newest point by one look at
the end of its part of the primary key. Every function works in the caller's transaction.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, func, select, true

from .codec import join
from .columns import in_parts
from .decimation import evenly
from .numbering import digest
from .records import AlertState, SeriesKey, Severity
from .tables import alerts, rollups, runs, samples, series

_LEAST = 3
"""A sparkline of a long series may have this many times fewer values than were asked for."""

Array = np.ndarray[Any, Any]


def newest(connection: Connection, run_ids: Sequence[str], keys: Sequence[SeriesKey]) -> dict[str, dict[SeriesKey, float]]:
    """Return run id -> key -> newest value; what was never measured is left out."""
    by_digest = {digest(key): key for key in keys}
    last = _beside if connection.dialect.name == "postgresql" else _one_by_one
    found: dict[str, dict[SeriesKey, float]] = {}
    for some in _parts(run_ids):
        for run_id, of_key, value, kind in connection.execute(last(some, list(by_digest))):
            if kind is not None:
                known = join(value, kind)
                found.setdefault(run_id, {})[by_digest[of_key]] = math.nan if known is None else known
    return found


def _last(*columns: Any) -> Select[Any]:
    query = select(*columns).where(samples.c.series_id == series.c.id)
    return query.order_by(samples.c.segment.desc(), samples.c.step.desc()).limit(1).correlate(series)


def _beside(some: Sequence[str], digests: Sequence[str]) -> Select[Any]:
    """Ask for the newest point of each series as a row beside it (LATERAL, which SQLite and MariaDB have not)."""
    point = _last(samples.c.value, samples.c.kind).lateral()
    query = select(runs.c.id, series.c.digest, point.c.value, point.c.kind)
    query = query.select_from(runs.join(series, series.c.run_key == runs.c.key).join(point, true()))
    return query.where(runs.c.id.in_(some), series.c.digest.in_(digests))


def _one_by_one(some: Sequence[str], digests: Sequence[str]) -> Select[Any]:
    """Ask for value and kind of the newest point of each series, each by a query of its own within the query."""
    value, kind = (_last(column).scalar_subquery() for column in (samples.c.value, samples.c.kind))
    query = select(runs.c.id, series.c.digest, value, kind).join(series, series.c.run_key == runs.c.key)
    return query.where(runs.c.id.in_(some), series.c.digest.in_(digests))


def sparklines(connection: Connection, run_ids: Sequence[str], key: SeriesKey, points: int) -> dict[str, list[float]]:
    """Return run id -> at most ``points`` values in order, of a long series the means of stretches, at the end the newest value.

    Of a series with many points those rollups are read that are few and yet enough.
    """
    numbers: dict[int, str] = {}
    levels: dict[int, int] = {}
    for some in _parts(run_ids):
        query = (
            select(series.c.id, runs.c.id, runs.c.last_step)
            .join(runs, series.c.run_key == runs.c.key)
            .where(runs.c.id.in_(some), series.c.digest == digest(key))
        )
        for number, run_id, last_step in connection.execute(query):
            numbers[number] = run_id
            # With a point a step: the coarsest level that has a third of the points that are wanted.
            levels[number] = math.floor(math.log10(max(1.0, (last_step + 1) * _LEAST / points)))
    lines: dict[int, Array] = {}
    for level in range(max(levels.values(), default=0), -1, -1):
        wanted = [number for number in numbers if levels[number] >= level and number not in lines]
        found = _rows(connection, wanted, level)
        lines |= {number: line for number, line in found.items() if len(line) * _LEAST >= points or level == 0}
    ends = newest(connection, list(run_ids), [key])
    return {run_id: _thinned(lines[number], ends[run_id][key], points) for number, run_id in numbers.items() if number in lines}


def _rows(connection: Connection, numbers: Sequence[int], level: int) -> dict[int, Array]:
    """Return the means of the series' buckets of a level, of level 0 the values themselves; nan where there is none."""
    found: dict[int, list[float]] = {}
    for some in in_parts(numbers):
        if level:
            of_level = (rollups.c.series_id.in_(some), rollups.c.level == level)
            query = select(rollups.c.series_id, rollups.c.mean).where(*of_level)
            query = query.order_by(rollups.c.series_id, rollups.c.segment, rollups.c.bucket)
        else:
            query = select(samples.c.series_id, samples.c.value).where(samples.c.series_id.in_(some))
            query = query.order_by(samples.c.series_id, samples.c.segment, samples.c.step)
        for number, value in connection.execute(query):
            found.setdefault(number, []).append(math.nan if value is None else value)
    return {number: np.array(values) for number, values in found.items()}


def _thinned(line: Array, end: float, points: int) -> list[float]:
    values: list[float] = line[evenly(len(line), points)].tolist()
    values[-1] = end
    return values


def alert_counts(
    connection: Connection, states: Sequence[AlertState], run_ids: Sequence[str] | None = None
) -> dict[str, dict[Severity, int]]:
    """Return run id -> severity -> number of its alerts in one of these states."""
    query = (
        select(runs.c.id, alerts.c.severity, func.count())
        .join(runs, runs.c.key == alerts.c.run_key)
        .where(alerts.c.state.in_([state.value for state in states]))
        .group_by(runs.c.id, alerts.c.severity)
    )
    found: dict[str, dict[Severity, int]] = {}
    queries = [query] if run_ids is None else [query.where(runs.c.id.in_(some)) for some in _parts(run_ids)]
    for run_id, severity, count in (row for one in queries for row in connection.execute(one)):
        found.setdefault(run_id, {})[Severity(severity)] = count
    return found


def _parts(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[first : first + 500] for first in range(0, len(names), 500))
