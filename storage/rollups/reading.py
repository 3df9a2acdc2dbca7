"""The level that a chart needs: enough buckets for its width, and points themselves where there are few.

From a coarse level down, only the buckets that reach into the wanted steps are read, so that the cost follows what is returned
and not the length of the run. What is in no bucket of the chosen level yet comes from the levels below, at last from the points.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, ScalarSelect, func, select

from ..columns import columns
from ..tables import rollups, steps
from .buckets import BUCKET, POINT, WHOLE, Array
from .rows import ALL, read_rows

_UNBOUNDED = 2**63 - 1
_PART = 0.5  # of a segment: a smaller one is looked for from further above
_HIGHEST = 12  # level looked at: a series of more points than that would fill disks


@dataclass(frozen=True, slots=True)
class Stretch:
    """What was read of one series in one segment: buckets (BUCKET) and points (POINT), which do not overlap; each in order."""

    segment: int
    buckets: Array
    points: Array


@dataclass(frozen=True, slots=True)
class Span:
    """A segment of a run and the steps in it that are wanted, ``first <= step <= last``; both are there.

    ``reach`` is the largest step of the segment, wanted or not (of steps below zero the distance from it).
    """

    segment: int
    first: int
    last: int
    reach: int


def spans(connection: Connection, run_key: int, start: int | None, stop: int | None, segment: int | None) -> list[Span]:
    """Return the segments of a run that hold steps from ``start`` to before ``stop``. A look or two into the index for each."""
    found: list[Span] = []
    low, high = -_UNBOUNDED if start is None else start, _UNBOUNDED if stop is None else stop - 1
    for number in _segments(connection, run_key) if segment is None else [segment]:
        whole = [steps.c.run_key == run_key, steps.c.segment == number]
        # Each a query of its own: asked for two ends in one, SQLite counts through all that lies between them.
        looks = _ends([*whole, steps.c.step.between(low, high)])
        if start is not None or stop is not None:
            looks += _ends(whole)
        first, last, *extent = connection.execute(select(*looks)).one()
        if first is not None:
            found.append(Span(number, first, last, max(map(abs, extent or (first, last)))))
    return found


def _ends(where: Sequence[ColumnElement[bool]]) -> list[ScalarSelect[Any]]:
    return [select(end).where(*where).scalar_subquery() for end in (func.min(steps.c.step), func.max(steps.c.step))]


def _segments(connection: Connection, run_key: int) -> Iterator[int]:
    number: int | None = -1
    while number is not None:
        following = select(func.min(steps.c.segment)).where(steps.c.run_key == run_key, steps.c.segment > number)
        number = connection.execute(following).scalar()
        if number is not None:
            yield number


def stretches(
    connection: Connection, numbers: Sequence[int], span: Span, least: int, *, names: Sequence[str] = ALL
) -> dict[int, Stretch]:
    """Return, for each series number, what draws it over a span: at least ``least`` buckets, or all points.

    Args:
        least: buckets that suffice; at most about ten times as many buckets or points are read of a series.
        names: what of the buckets is needed.
    """
    descent = _Descent(connection, span, least, names)
    return descent.run(np.array(sorted(numbers), np.int64))


class _Descent:
    """One way down the levels, many series side by side."""

    def __init__(self, connection: Connection, span: Span, least: int, names: Sequence[str]) -> None:
        self._names = names
        self._connection = connection
        self._span = span
        self._least = least
        self._buckets: dict[int, list[Array]] = {}
        self._points: dict[int, list[Array]] = {}

    def run(self, numbers: Array) -> dict[int, Stretch]:
        """Return the stretch of each series; ``numbers`` rise."""
        span = self._span
        remaining = numbers
        # Of each remaining series the buckets to look at: from, and below.
        low, high = np.zeros(len(numbers), np.int64), np.full(len(numbers), _UNBOUNDED)
        level = self._coarsest()
        fine = np.empty(0, BUCKET)  # of level 1, of series that turn out to have few
        while level >= 1 and len(remaining):
            bucket, rows = self._read(level, remaining, low, high)
            place = np.searchsorted(remaining, rows["series"])
            before, after = rows["end_step"] < span.first, rows["start_step"] > span.last
            inside = ~before & ~after
            many = np.bincount(place[inside], minlength=len(remaining))
            passed = np.bincount(place[before], minlength=len(remaining))
            past = high.copy()
            np.minimum.at(past, place[after], bucket[after])
            enough = many >= self._least
            self._take(rows[inside & enough[place]])
            ends = np.zeros(len(remaining), np.int64)
            np.maximum.at(ends, place, bucket + 1)
            ends = np.maximum(ends, low)
            open_ended = enough & (past == _UNBOUNDED)
            self._tail(level - 1, remaining[open_ended], ends[open_ended] * WHOLE)
            if level == 1:
                fine = rows[inside & ~enough[place]]
            low = ((low + passed) * WHOLE)[~enough]
            high = np.where(past == _UNBOUNDED, _UNBOUNDED, np.minimum(past, _UNBOUNDED // WHOLE) * WHOLE)[~enough]
            remaining = remaining[~enough]
            level -= 1
        self._read_points(remaining, span.first, fine)
        return {number: self._stretch(number) for number in numbers.tolist()}

    def _coarsest(self) -> int:
        """Return the level to begin with: the finest that still has few buckets when every step of the segment has its point.

        For a small part of a segment those are few wherever it lies, lest more be read to find it than it holds.
        """
        steps, level = self._span.reach + 1, 1
        part = (self._span.last - self._span.first + 1) / steps
        most = WHOLE * self._least if part > _PART else min(WHOLE * self._least, 2 * WHOLE)
        while level < _HIGHEST and steps > WHOLE**level * most:
            level += 1
        return level

    def _read(self, level: int, numbers: Array, low: Array, high: Array) -> tuple[Array, Array]:
        where = [rollups.c.series_id.in_(numbers.tolist()), rollups.c.segment == self._span.segment]
        if low.min() > 0:
            where.append(rollups.c.bucket >= int(low.min()))
        if high.max() < _UNBOUNDED:
            where.append(rollups.c.bucket < int(high.max()))
        bucket, rows = read_rows(self._connection, level, *where, names=self._names)
        place = np.searchsorted(numbers, rows["series"])
        wanted = (bucket >= low[place]) & (bucket < high[place])
        return bucket[wanted], rows[wanted]

    def _tail(self, level: int, numbers: Array, low: Array) -> None:
        """Take what follows the last bucket of a series on the level above. ``low`` are the first buckets of this level that do."""
        while level >= 1 and len(numbers):
            ends = low.copy()
            for first in np.unique(low).tolist():  # as a rule one: series of a run are measured together
                some = numbers[low == first]
                bucket, rows = self._read(level, some, np.full(len(some), first), np.full(len(some), _UNBOUNDED))
                self._take(rows[rows["start_step"] <= self._span.last])
                np.maximum.at(ends, np.searchsorted(numbers, rows["series"]), bucket + 1)
            low, level = ends * WHOLE, level - 1
        for first in np.unique(reached := np.array([self._reached(number) for number in numbers.tolist()], np.int64)).tolist():
            self._read_points(numbers[reached == first], first, np.empty(0, BUCKET))

    def _reached(self, number: int) -> int:
        """Return the first step behind all buckets taken of a series."""
        return max(int(part["end_step"][-1]) + 1 for part in self._buckets[number])

    def _read_points(self, numbers: Array, first: int, fine: Array) -> None:
        """Take the points of series from a step on; where they were thinned out, the buckets of level 1 that tell of them."""
        span = self._span
        if not len(numbers) or first > span.last:
            return
        # As many as are left by the levels above, or those of a bucket that is not full yet.
        most = 2 * WHOLE * max(self._least, WHOLE)
        for number, points in _points(self._connection, numbers.tolist(), span.segment, first, span.last, most):
            buckets = fine[fine["series"] == number]
            within = np.searchsorted(points["step"], buckets["end_step"], "right") - np.searchsorted(
                points["step"], buckets["start_step"]
            )
            whole = (buckets["start_step"] >= span.first) & (buckets["end_step"] <= span.last)
            for bucket in buckets[whole & (within < buckets["count"])]:
                self._buckets.setdefault(number, []).append(bucket.reshape(1))
                points = points[(points["step"] < bucket["start_step"]) | (points["step"] > bucket["end_step"])]
            self._points.setdefault(number, []).append(points)

    def _take(self, rows: Array) -> None:
        if not len(rows):
            return
        cuts = np.flatnonzero(np.diff(rows["series"])) + 1
        for part in np.split(rows, cuts):
            self._buckets.setdefault(int(part["series"][0]), []).append(part)

    def _stretch(self, number: int) -> Stretch:
        buckets = np.concatenate(self._buckets.get(number, [np.empty(0, BUCKET)]))
        points = np.concatenate(self._points.get(number, [np.empty(0, POINT)]))
        return Stretch(self._span.segment, buckets, points)


def _points(
    connection: Connection, numbers: Sequence[int], segment: int, first: int, last: int, most: int
) -> Iterator[tuple[int, Array]]:
    """Yield each series with its points in a range of steps, in order; ``most`` bounds those of one series."""
    found = columns(connection, numbers, segment, first, last, most_steps=most)
    points = np.empty(len(found.series), POINT)
    points["series"], points["step"], points["value"] = found.series, found.steps, found.values
    points = points[np.lexsort((points["step"], points["series"]))]
    starts = np.searchsorted(points["series"], numbers, "left").tolist()
    stops = np.searchsorted(points["series"], numbers, "right").tolist()
    for number, start, stop in zip(numbers, starts, stops, strict=True):
        yield number, points[start:stop]
