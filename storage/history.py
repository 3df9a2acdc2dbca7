"""A run's whole history: replayed as batches with bounded memory, or laid out as one pandas frame."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, and_, or_, select

from .codec import restore, unpack
from .database import Database
from .reading import numbers_to_keys, point_array, series_of
from .records import Batch, Histogram, Kind, Series, SeriesKey, StepRecord, derived_id
from .runs import key_of
from .tables import histograms, samples, series, steps

if TYPE_CHECKING:
    import pandas as pd

Place = tuple[int, int]


def replay(database: Database, run_id: str, steps_per_batch: int) -> Iterator[Batch]:
    """Yield the history in order. Each batch is read in a transaction of its own, so nothing is held between two of them."""
    after: Place | None = None
    shared: dict[tuple[int, ...], tuple[SeriesKey, ...]] = {}
    while True:
        with database.read() as connection:
            places = _next_steps(connection, run_id, after, steps_per_batch)
            if not places:
                return
            batch = _batch(connection, run_id, places, shared)
        yield batch
        after = (batch.segment, batch.steps[-1].step)


def _next_steps(connection: Connection, run_id: str, after: Place | None, limit: int) -> list[tuple[int, int, float]]:
    """Return the next steps, all of one segment."""
    query = select(steps.c.segment, steps.c.step, steps.c.time).where(steps.c.run_key == key_of(connection, run_id))
    if after is not None:
        segment, step = after
        query = query.where(or_(steps.c.segment > segment, and_(steps.c.segment == segment, steps.c.step > step)))
    rows = connection.execute(query.order_by(steps.c.segment, steps.c.step).limit(limit)).all()
    return [(row[0], row[1], row[2]) for row in rows if row[0] == rows[0][0]]


def _batch(
    connection: Connection,
    run_id: str,
    places: Sequence[tuple[int, int, float]],
    shared: dict[tuple[int, ...], tuple[SeriesKey, ...]],
) -> Batch:
    segment, first, last = places[0][0], places[0][1], places[-1][1]
    keys = numbers_to_keys(series_of(connection, run_id))
    run_key = key_of(connection, run_id)

    def of_these_steps(table: Any, *columns: Any) -> Any:
        joined = series.join(table, table.c.series_id == series.c.id)
        return (
            select(table.c.series_id, table.c.step, *columns)
            .select_from(joined)
            .where(series.c.run_key == run_key, table.c.segment == segment, table.c.step.between(first, last))
        )

    values: dict[int, dict[int, float]] = {step: {} for _, step, _ in places}
    for number, step, value, kind in connection.execute(of_these_steps(samples, samples.c.value, samples.c.kind)):
        values[step][number] = restore(value, kind)
    packed: dict[int, dict[int, Histogram]] = {step: {} for _, step, _ in places}
    for number, step, blob in connection.execute(of_these_steps(histograms, histograms.c.packed)):
        packed[step][number] = unpack(keys[number], blob)
    records = []
    for _, step, time in places:
        numbers = tuple(sorted(values[step]))
        names = shared.get(numbers) or shared.setdefault(numbers, tuple(keys[number] for number in numbers))
        shapes = tuple(packed[step][number] for number in sorted(packed[step]))
        records.append(StepRecord(step, time, names, tuple(values[step][number] for number in numbers), shapes))
    return Batch(derived_id(run_id, segment, first, last), run_id, segment, tuple(records))


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
