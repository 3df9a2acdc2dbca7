"""What a store has of a run already, so that an import writes only what is missing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...base import Store
from ...records import Histogram, Series, SeriesKey

MOST_CHANGED = 50_000


@dataclass(slots=True)
class Row:
    """What is known of one step."""

    time: float
    values: dict[SeriesKey, float] = field(default_factory=dict)
    histograms: dict[SeriesKey, Histogram] = field(default_factory=dict)


Rows = dict[int, Row]
"""Rows by step, of one segment."""


class Stored:
    """Reads back the ranges that are about to be written. Memory: those ranges."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._series: Mapping[SeriesKey, Series] = {series.key: series for series in store.series(run_id)}
        self._changed: dict[tuple[int, int, SeriesKey], tuple[float, float]] = {}

    def missing(self, segment: int, rows: Rows) -> Rows:
        """Return what of the rows the store has not. A value that it has under another number waits for ``changed``: a later one of
        the same step may be the one that counts.
        """
        values = {key: self._values(key, segment, *span) for key, span in _spans(rows, "values").items()}
        shapes = {key: self._shapes(key, segment, *span) for key, span in _spans(rows, "histograms").items()}
        found: Rows = {}
        for step, row in rows.items():
            new = Row(row.time)
            for key, value in row.values.items():
                there = values[key].get(step)
                if there is None:
                    new.values[key] = value
                elif _same(there, value):
                    self._changed.pop((segment, step, key), None)
                else:
                    self._changed[segment, step, key] = row.time, value
            new.histograms.update((key, each) for key, each in row.histograms.items() if step not in shapes[key])
            if new.values or new.histograms:
                found[step] = new
        return found

    def changed(self, *, at_least: int = 1) -> dict[int, Rows]:
        """Return, and forget, the values that differ from those stored, by segment, once there are ``at_least`` so many."""
        by_segment: dict[int, Rows] = {}
        if len(self._changed) < at_least:
            return by_segment
        for (segment, step, key), (time, value) in self._changed.items():
            by_segment.setdefault(segment, {}).setdefault(step, Row(time)).values[key] = value
        self._changed = {}
        return by_segment

    def _values(self, key: SeriesKey, segment: int, first: int, last: int) -> dict[int, float]:
        series = self._series.get(key)
        if series is None:
            return {}
        (data,) = self._store.read([series], start=first, stop=last + 1, segment=segment)
        return dict(zip(data.steps, data.values, strict=True))

    def _shapes(self, key: SeriesKey, segment: int, first: int, last: int) -> set[int]:
        if key not in self._series:
            return set()
        there = self._store.histograms(self._run_id, key.signal, key.module, start=first, stop=last + 1)
        return {each.step for each in there if each.segment == segment and each.histogram.key == key}


def _spans(rows: Rows, part: str) -> dict[SeriesKey, tuple[int, int]]:
    """Return the first and last step of each series in the rows."""
    spans: dict[SeriesKey, tuple[int, int]] = {}
    for step, row in rows.items():
        for key in getattr(row, part):
            first, last = spans.get(key, (step, step))
            spans[key] = min(first, step), max(last, step)
    return spans


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


class StepCount:
    """How many different steps there were. Eight bytes a step."""

    def __init__(self) -> None:
        self._seen: dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}

    def add(self, segment: int, steps: Rows) -> None:
        """Count the steps of these rows."""
        new = np.fromiter(steps, np.int64, len(steps))
        there = self._seen.get(segment)
        self._seen[segment] = np.unique(new) if there is None else np.union1d(there, new)

    def __len__(self) -> int:
        return sum(len(steps) for steps in self._seen.values())
