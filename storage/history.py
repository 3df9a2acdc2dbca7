"""A run's whole history: replayed as batches with bounded memory, or laid out as one pandas frame."""

from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, and_, or_, select

from .codec import unpack
from .columns import MOST_STEPS, columns, in_parts, of_these_steps
from .database import Database
from .reading import point_array, series_of
from .records import Batch, Kind, Series, SeriesKey, StepRecord, derived_id
from .runs import key_of
from .tables import histograms, series, steps

if TYPE_CHECKING:
    import pandas as pd

_MOST_TUPLES = 1024
_WIDTH = np.dtype(np.int64).itemsize


def replay(database: Database, run_id: str, steps_per_batch: int, keys: Container[SeriesKey] | None = None) -> Iterator[Batch]:
    """Yield the history in order. Each batch is read in a transaction of its own, so nothing is held between two of them."""
    after: tuple[int, int] | None = None
    names = _Names(keys)
    while True:
        with database.read() as connection:
            run_key = key_of(connection, run_id)
            places = _next_steps(connection, run_key, after, steps_per_batch)
            if not places:
                return
            segment = places[0][0]
            records: list[StepRecord] = []
            for first in range(0, len(places), MOST_STEPS):
                records += _records(connection, run_key, segment, places[first : first + MOST_STEPS], names)
        after = (segment, records[-1].step)
        yield Batch(derived_id(run_id, segment, records[0].step, records[-1].step), run_id, segment, tuple(records))


def _next_steps(connection: Connection, run_key: int, after: tuple[int, int] | None, limit: int) -> list[tuple[int, int, float]]:
    """Return the next (segment, step, time), all of one segment."""
    query = select(steps.c.segment, steps.c.step, steps.c.time).where(steps.c.run_key == run_key)
    if after is not None:
        segment, step = after
        query = query.where(or_(steps.c.segment > segment, and_(steps.c.segment == segment, steps.c.step > step)))
    rows = connection.execute(query.order_by(steps.c.segment, steps.c.step).limit(limit)).all()
    return [(row[0], row[1], row[2]) for row in rows if row[0] == rows[0][0]]


def _records(
    connection: Connection, run_key: int, segment: int, places: Sequence[tuple[int, int, float]], names: "_Names"
) -> Iterator[StepRecord]:
    """Yield a record a step. Samples are put in order as columns and cut at the steps."""
    first, last = places[0][1], places[-1][1]
    names.learn(connection, run_key)  # after the steps: what was written with them has its series by now
    known = names.wanted
    found = columns(connection, known, segment, first, last)
    shapes = _histograms(connection, known, segment, first, last)
    order = np.lexsort((found.series, found.steps))
    ordered = found.steps[order]
    wanted = np.array([step for _, step, _ in places], np.int64)
    starts = np.searchsorted(ordered, wanted, "left").tolist()
    stops = np.searchsorted(ordered, wanted, "right").tolist()
    numbers, values = found.series[order].tobytes(), found.values[order].tolist()
    for (_, step, time), start, stop in zip(places, starts, stops, strict=True):
        keys = names.of(numbers[_WIDTH * start : _WIDTH * stop])
        packed = tuple(unpack(names.by_number[number], blob) for number, blob in sorted(shapes.get(step, ())))
        yield StepRecord(step, time, keys, tuple(values[start:stop]), packed)


def _histograms(
    connection: Connection, numbers: Sequence[int], segment: int, first: int, last: int
) -> dict[int, list[tuple[int, bytes]]]:
    """Return (series number, packed histogram) by step."""
    found: dict[int, list[tuple[int, bytes]]] = {}
    for some in in_parts(numbers):
        query = of_these_steps(histograms, some, segment, first, last, histograms.c.step, histograms.c.packed)
        for number, step, blob in connection.execute(query):
            found.setdefault(step, []).append((number, blob))
    return found


class _Names:
    """The run's series by their numbers, and the tuples of keys made of them: equal ones are one and the same."""

    def __init__(self, keys: Container[SeriesKey] | None) -> None:
        self.by_number: dict[int, SeriesKey] = {}
        self.wanted: list[int] = []
        """Numbers of the series to be read."""
        self._keys = keys
        self._tuples: dict[bytes, tuple[SeriesKey, ...]] = {}

    def learn(self, connection: Connection, run_key: int) -> None:
        """Read the series that came since the last time; numbers of one run rise."""
        query = select(series.c.id, series.c.signal, series.c.module, series.c.head, series.c.rank)
        newer = query.where(series.c.run_key == run_key, series.c.id > next(reversed(self.by_number), -1))
        for row in connection.execute(newer.order_by(series.c.id)):
            key = self.by_number[row[0]] = SeriesKey(*row[1:])
            if self._keys is None or key in self._keys:
                self.wanted.append(row[0])

    def of(self, numbers: bytes) -> tuple[SeriesKey, ...]:
        """Return the keys of these series numbers, 64-bit integers side by side."""
        found = self._tuples.get(numbers)
        if found is None:
            if len(self._tuples) >= _MOST_TUPLES:
                self._tuples.clear()
            found = tuple(self.by_number[number] for number in np.frombuffer(numbers, np.int64).tolist())
            self._tuples[numbers] = found
        return found


def frame(connection: Connection, run_id: str, signal: str | None, module: str | None) -> "pd.DataFrame":
    """Return samples in order of (segment, step), series in order of first appearance."""
    import pandas as pd

    found: Sequence[Series] = series_of(connection, run_id, signal=signal, module=module)
    data = [point_array(connection, item.id) for item in found]
    which = np.repeat(np.arange(len(found)), [len(item) for item in data])
    points = np.concatenate(data) if data else point_array(connection, -1)
    order = np.lexsort((which, points["step"], points["segment"]))
    which, points = which[order], points[order]

    def named(names: Sequence[str], codes: Any) -> "pd.Series[str]":
        return pd.Series(pd.array(list(names), dtype="str").take(codes) if len(codes) else [], dtype="str")

    return pd.DataFrame(
        {
            "step": points["step"],
            "segment": points["segment"],
            "signal": named([item.key.signal for item in found], which),
            "module": named([item.key.module for item in found], which),
            "head": np.array([item.key.head for item in found], dtype=np.int64)[which],
            "rank": np.array([item.key.rank for item in found], dtype=np.int64)[which],
            "value": points["value"],
            "kind": named([kind.name.lower() for kind in Kind], points["kind"]),
        }
    )
