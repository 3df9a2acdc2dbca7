"""Writing a batch: the run's row, the ledger, series numbers, steps, samples, histograms - in that order, one transaction.

The run's row is updated first, which on a server locks it until the commit: writers of one run follow one another, so a batch
gets its place in the ledger in the order in which batches become visible, and a cursor never passes one that is still to come.
"""

from itertools import repeat
from operator import itemgetter
from typing import Any

import numpy as np
from sqlalchemy import Connection, case, insert, select, update

from .codec import pack, split
from .numbering import Layout, Numbers, add_series
from .records import Batch, StepRecord
from .runs import key_of, unknown
from .tables import batches, histograms, runs, samples, steps
from .upserts import bulk_upsert


def write_batch(connection: Connection, batch: Batch, known: Numbers | None) -> Numbers | None:
    """Write a batch; return the series numbers of its run, which are those known unless there were new ones.

    Raises:
        UnknownRunError: the run is not there.
        OverflowError: a number is beyond what columns hold.
    """
    if not batch.steps:
        key_of(connection, batch.run_id)
        return known
    run_key = _move_forward(connection, batch)
    if connection.execute(select(batches.c.seq).where(batches.c.id == batch.id)).first() is not None:
        return known
    places = [record.step for record in batch.steps]
    row = {"id": batch.id, "run_key": run_key, "segment": batch.segment, "first_step": min(places), "last_step": max(places)}
    connection.execute(insert(batches), row)
    # Known numbers are those of this very run, not of one of the same id that was deleted.
    numbers = known if known is not None and known.run_key == run_key else Numbers(run_key, {})
    if missing := numbers.missing(batch):
        numbers = add_series(connection, run_key, missing)
    times = {record.step: (run_key, batch.segment, record.step, record.time) for record in batch.steps}
    bulk_upsert(connection, steps, list(times.values()))
    bulk_upsert(connection, samples, sample_rows(batch, numbers))
    packed = {
        (number, record.step): (number, batch.segment, record.step, pack(histogram))
        for record in batch.steps
        for histogram in record.histograms
        for number in (numbers.by_key[histogram.key],)
    }
    bulk_upsert(connection, histograms, list(packed.values()))
    return numbers


def sample_rows(batch: Batch, numbers: Numbers) -> list[tuple[Any, ...]]:
    """Return the rows of ``samples`` in primary key order, one for each (series, step): the last one given counts.

    Steps that share one ``keys`` tuple are turned from rows into columns together; that is what makes this fast
    (about 0.2 microseconds a point).
    """
    groups: dict[int, list[StepRecord]] = {}
    for record in batch.steps:
        groups.setdefault(id(record.keys), []).append(record)
    layouts = [numbers.layout(group[0].keys) for group in groups.values()]
    distinct_steps = len({record.step for record in batch.steps}) == len(batch.steps)
    if not distinct_steps or not all(layout.distinct for layout in layouts):
        return _rows_one_by_one(batch, numbers)
    rows: list[tuple[Any, ...]] = []
    for layout, group in zip(layouts, groups.values(), strict=True):
        values_SK = np.array([record.values for record in group], dtype=np.float64)  # steps x keys
        rows.extend(_group_rows(batch.segment, [record.step for record in group], layout, values_SK))
    if len(groups) > 1:
        rows.sort(key=itemgetter(0, 2))
    return rows


def _group_rows(segment: int, places: list[int], layout: Layout, values_SK: np.ndarray[Any, Any]) -> list[tuple[Any, ...]]:
    finite_K = np.isfinite(values_SK).all(axis=0).tolist()
    columns = values_SK.T.tolist()
    rows: list[tuple[Any, ...]] = []
    for number, column in layout.columns:
        if finite_K[column]:
            rows.extend(zip(repeat(number), repeat(segment), places, columns[column], repeat(0), strict=False))
        else:
            rows.extend((number, segment, place, *split(value)) for place, value in zip(places, columns[column], strict=True))
    return rows


def _rows_one_by_one(batch: Batch, numbers: Numbers) -> list[tuple[Any, ...]]:
    rows: dict[tuple[int, int], tuple[Any, ...]] = {}
    for record in batch.steps:
        for key, value in zip(record.keys, record.values, strict=True):
            number = numbers.by_key[key]
            rows[number, record.step] = (number, batch.segment, record.step, *split(value))
    return [rows[place] for place in sorted(rows)]


def _move_forward(connection: Connection, batch: Batch) -> int:
    last_step = max(record.step for record in batch.steps)
    latest = max(record.time for record in batch.steps)
    statement = (
        update(runs)
        .where(runs.c.id == batch.run_id)
        .values(
            last_step=case((runs.c.last_step < last_step, last_step), else_=runs.c.last_step),
            heartbeat_at=case((runs.c.heartbeat_at < latest, latest), else_=runs.c.heartbeat_at),
        )
    )
    if connection.execute(statement).rowcount == 0:
        raise unknown(connection, batch.run_id)
    return key_of(connection, batch.run_id)
