"""Ten points made one bucket, ten buckets made one of the next level: arithmetic on columns, many series at once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WHOLE = 10
"""Points in a bucket of level 1, and buckets of one level in a bucket of the next."""

POINT = np.dtype([("series", "i8"), ("step", "i8"), ("value", "f8")])
"""A point; ``value`` has nan and infinities as themselves."""

BUCKET = np.dtype(
    [
        ("series", "i8"),
        ("start_step", "i8"),
        ("end_step", "i8"),
        ("count", "i8"),
        ("nonfinite", "i8"),
        ("minimum", "f8"),
        ("maximum", "f8"),
        ("minimum_step", "i8"),
        ("maximum_step", "i8"),
        ("mean", "f8"),
        ("first", "f8"),
        ("last", "f8"),
    ]
)
"""A bucket, as the columns of the table ``rollups`` say; where they hold NULL nan, and steps of extremes that mean nothing."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Full buckets of one level: ``buckets[i]`` is the ``numbers[i]``-th of its series, counted from 0. Both of shape (n,)."""

    level: int
    numbers: Array
    buckets: Array


def of_points(points: Array) -> Array:
    """Return a bucket for every ten points. Shape (10 n,) of POINT, each ten of one series in order of steps, to (n,) of BUCKET."""
    steps, values = points["step"].reshape(-1, WHOLE), points["value"].reshape(-1, WHOLE)
    finite = np.isfinite(values)
    found = np.empty(len(steps), BUCKET)
    found["series"] = points["series"][::WHOLE]
    found["start_step"], found["end_step"] = steps[:, 0], steps[:, -1]
    found["count"] = WHOLE
    there = finite.sum(axis=1)
    found["nonfinite"] = WHOLE - there
    every = bool(finite.all())
    _extreme(found, "minimum", values if every else np.where(finite, values, np.inf), steps)
    _extreme(found, "maximum", values if every else np.where(finite, values, -np.inf), steps)
    # Each value by its share, not the sum by the number: values near the end of float64's range must not overflow.
    found["mean"] = (np.where(finite, values, 0.0) / np.maximum(there, 1)[:, None]).sum(axis=1)
    found["first"] = np.where(finite[:, 0], values[:, 0], np.nan)
    found["last"] = np.where(finite[:, -1], values[:, -1], np.nan)
    return _without_values(found)


def of_buckets(buckets: Array) -> Array:
    """Return a bucket for every ten buckets. Shape (10 n,) of BUCKET, each ten of one series in order, to (n,)."""
    tens = buckets.reshape(-1, WHOLE)
    found = np.empty(len(tens), BUCKET)
    for name in ("series", "start_step", "first"):
        found[name] = tens[name][:, 0]
    for name in ("end_step", "last"):
        found[name] = tens[name][:, -1]
    for name in ("count", "nonfinite"):
        found[name] = tens[name].sum(axis=1)
    finite = tens["count"] > tens["nonfinite"]
    _extreme(found, "minimum", np.where(finite, tens["minimum"], np.inf), tens["minimum_step"])
    _extreme(found, "maximum", np.where(finite, tens["maximum"], -np.inf), tens["maximum_step"])
    there = found["count"] - found["nonfinite"]
    share = (tens["count"] - tens["nonfinite"]) / np.maximum(there, 1)[:, None]
    found["mean"] = (np.where(finite, tens["mean"], 0.0) * share).sum(axis=1)
    return _without_values(found)


def _extreme(found: Array, name: str, values: Array, steps: Array) -> None:
    places = (values.argmin(axis=1) if name == "minimum" else values.argmax(axis=1))[:, None]
    found[name] = np.take_along_axis(values, places, axis=1)[:, 0]
    found[f"{name}_step"] = np.take_along_axis(steps, places, axis=1)[:, 0]


def _without_values(found: Array) -> Array:
    empty = found["count"] == found["nonfinite"]
    if empty.any():
        for name in ("minimum", "maximum", "mean"):
            found[name][empty] = np.nan
    return found


class Tails:
    """What of one segment's series is in no full bucket yet: of each fewer than ten points, and fewer than ten buckets a level.

    Args:
        complete: whether a series that is not known here has no points in the segment.
    """

    def __init__(self, *, complete: bool) -> None:
        self.complete = complete
        self._totals: dict[int, int] = {}
        self._open = [np.empty(0, POINT)]

    def knows(self, number: int) -> bool:
        """Return whether it is known how far a series has come."""
        return self.complete or number in self._totals

    def forget(self, numbers: Iterable[int]) -> None:
        """Forget series; they are unknown from now on."""
        gone = np.fromiter(numbers, np.int64)
        for number in gone.tolist():
            self._totals.pop(number, None)
        self._open = [items[~np.isin(items["series"], gone)] for items in self._open]

    def remember(self, number: int, total: int, levels: Iterable[tuple[int, Array]]) -> None:
        """Take up a series that has ``total`` points in full buckets; of each level the buckets that are in none of the next."""
        self._totals[number] = total
        for level, buckets in levels:
            while len(self._open) <= level:
                self._open.append(np.empty(0, BUCKET))
            self._open[level] = np.concatenate([self._open[level], buckets])

    def advance(self, points: Array) -> Iterator[Rows]:
        """Take further points of any series, in order of (series, step), and yield the buckets that are full now, level by level.

        The points of a series must come after those taken before.
        """
        numbers, counts = np.unique(points["series"], return_counts=True)
        before = np.array([self._totals.get(number, 0) for number in numbers.tolist()], np.int64)
        self._totals.update(zip(numbers.tolist(), (before + counts).tolist(), strict=True))
        items, level = points, 0
        while len(items):
            if level == len(self._open):
                self._open.append(np.empty(0, BUCKET))
            full = self._full(level, items)
            items = of_buckets(full) if level else of_points(full)
            level += 1
            if len(items):
                done = before // WHOLE**level
                yield Rows(level, done[np.searchsorted(numbers, items["series"])] + _places(items["series"]), items)

    def _full(self, level: int, items: Array) -> Array:
        """Put items behind those that wait, and return as many tens of each series as there are."""
        waiting = self._open[level]
        touched = np.isin(waiting["series"], items["series"])
        items = np.concatenate([waiting[touched], items])
        items = items[np.argsort(items["series"], kind="stable")]
        _, inverse, counts = np.unique(items["series"], return_inverse=True, return_counts=True)
        full = _places(items["series"]) < (counts // WHOLE * WHOLE)[inverse]
        self._open[level] = np.concatenate([waiting[~touched], items[~full]])
        found: Array = items[full]
        return found


def _places(series: Array) -> Array:
    """Return the place of each item among those of its series. Those of a series stand together."""
    starts = np.flatnonzero(np.diff(series, prepend=series[0] - 1)) if len(series) else np.empty(0, np.int64)
    lengths = np.diff(starts, append=len(series))
    places: Array = np.arange(len(series)) - np.repeat(starts, lengths)
    return places
