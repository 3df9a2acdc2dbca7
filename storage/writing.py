"""Writing a batch: the run's row, the ledger, series numbers, steps, samples, rollups, histograms - in that order, one transaction.

The run's row is updated first, which on a server locks it until the commit: writers of one run follow one another, so a batch
gets its place in the ledger in the order in which batches become visible, and a cursor never passes one that is still to come.

Samples travel as columns: steps that share one ``keys`` tuple are turned from rows into columns together, about 0.05 microseconds a
point. PostgreSQL takes columns as they are; for the other engines they become rows again, a few thousand at a time, so that the
training thread need not wait long for Python's lock.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np
from sqlalchemy import Connection, MetaData, bindparam, case, func, insert, select, update

from .codec import pack
from .copying import copy_in
from .numbering import Numbers, add_series
from .records import Batch, Kind, StepRecord
from .rollups.buckets import POINT, Array, Tails
from .rollups.keeping import append, mend
from .runs import key_of, unknown
from .tables import batches, histograms, runs, samples, steps
from .upserts import bulk_upsert, upsert

_ROWS = 199 * 50  # made at a time of columns, a few milliseconds; a multiple of the rows of one statement on SQLite


def write_batches(
    connection: Connection, several: Sequence[Batch], known: Numbers | None, *, careful: bool = False
) -> Numbers | None:
    """Write batches of one segment as if they were one; return what is known of its run then, ``known`` unless series are new.

    ``known`` is changed: where the transaction is not committed, it must not be used again.

    Args:
        careful: take nothing for granted that speeds things up: neither that points are new nor what is known of rollups.

    Raises:
        UnknownRunError: the run is not there.
        OverflowError: a number is beyond what columns hold.
    """
    run_key = _move_forward(connection, several)
    found = connection.execute(select(batches.c.id).where(batches.c.id.in_([each.id for each in several])))
    there = set(found.scalars())
    fresh = [each for each in several if each.steps and each.id not in there]
    if not fresh:
        return known
    batch = replace(fresh[0], steps=tuple(record for each in fresh for record in each.steps)) if len(fresh) > 1 else fresh[0]
    # Known numbers are those of this very run, not of one of the same id that was deleted.
    numbers = known if known is not None and known.run_key == run_key else Numbers(run_key, {})
    if careful or numbers.sequence != connection.execute(_LAST, {"run": run_key}).scalar():
        numbers.tails.clear()  # somebody else wrote meanwhile
    for each in fresh:
        numbers.sequence = _enter(connection, each, run_key)
    if missing := numbers.missing(batch):
        numbers = add_series(connection, numbers, missing)
    last = connection.execute(_FURTHEST, {"run": run_key, "place": batch.segment}).scalar()
    _write_steps(connection, batch, run_key)
    points = columns_of(batch, numbers)
    new = not careful and (last is None or last < min(record.step for record in batch.steps))
    _write_samples(connection, batch.segment, points, new=new)
    if len(points):
        tails = numbers.tails.setdefault(batch.segment, Tails(complete=last is None))
        (append if new else mend)(connection, batch.segment, tails, points)
    packed = {
        (number, record.step): (number, batch.segment, record.step, pack(histogram))
        for record in batch.steps
        for histogram in record.histograms
        for number in (numbers.by_key[histogram.key],)
    }
    bulk_upsert(connection, histograms, list(packed.values()))
    return numbers


_LAST = select(func.max(batches.c.seq)).where(batches.c.run_key == bindparam("run"))
_FURTHEST = select(func.max(steps.c.step)).where(steps.c.run_key == bindparam("run"), steps.c.segment == bindparam("place"))


def columns_of(batch: Batch, numbers: Numbers) -> Array:
    """Return a batch's samples in order of (series, step), of shape (n,) of POINT; of two of one (series, step) the last given."""
    groups: dict[int, list[StepRecord]] = {}
    for record in batch.steps:
        groups.setdefault(id(record.keys), []).append(record)
    parts, places, rows = [np.empty(0, POINT)], [np.empty(0, np.int64)], {id(record): row for row, record in enumerate(batch.steps)}
    distinct = len({record.step for record in batch.steps}) == len(batch.steps)
    for group in groups.values():
        layout = numbers.layout(group[0].keys)
        distinct = distinct and layout.distinct
        values_SK = np.array([record.values for record in group], np.float64)  # steps x keys
        part = np.empty(values_SK.T.shape, POINT)
        part["series"] = layout.numbers[:, None]
        part["step"] = np.fromiter((record.step for record in group), np.int64, len(group))
        part["value"] = values_SK.T[layout.places]
        parts.append(part.ravel())
        places.append(np.tile(np.fromiter((rows[id(record)] for record in group), np.int64, len(group)), len(layout.keys)))
    points = np.concatenate(parts)
    if distinct and len(groups) == 1 and _rising(batch):
        return points
    order = np.lexsort((np.concatenate(places), points["step"], points["series"]))
    points = points[order]
    if distinct:
        return points
    later = points[1:]
    replaced = (points["series"][:-1] == later["series"]) & (points["step"][:-1] == later["step"])
    newest: Array = points[np.append(~replaced, True)[: len(points)]]
    return newest


def _rising(batch: Batch) -> bool:
    return all(earlier.step < later.step for earlier, later in zip(batch.steps, batch.steps[1:], strict=False))


def _write_samples(connection: Connection, segment: int, points: Array, *, new: bool) -> None:
    """Write points: on PostgreSQL new ones straight into the table, others by way of a table of their own."""
    if not len(points):
        return
    if connection.dialect.name != "postgresql":
        for first in range(0, len(points), _ROWS):
            bulk_upsert(connection, samples, list(_rows(segment, points[first : first + _ROWS])))
        return
    finite = np.isfinite(points["value"])
    columns = {
        "series_id": points["series"],
        "segment": np.full(len(points), segment),
        "step": points["step"],
        "value": np.where(finite, points["value"], np.nan),
        "kind": _kinds(points["value"]),
    }
    if new:
        copy_in(connection, samples, columns)
        return
    connection.exec_driver_sql("CREATE TEMPORARY TABLE staged_samples (LIKE samples) ON COMMIT DROP")
    copy_in(connection, samples, columns, into="staged_samples")
    names = list(columns)
    merge = upsert("postgresql", samples, names[:3], lambda row: {"value": row.value, "kind": row.kind})
    staged = samples.to_metadata(MetaData(), name="staged_samples")
    connection.execute(merge.from_select(names, select(*staged.c)))
    connection.exec_driver_sql("DROP TABLE staged_samples")


def _rows(segment: int, points: Array) -> Iterator[tuple[Any, ...]]:
    values = points["value"].tolist()
    kinds: Iterable[int] = repeat(0)
    finite = np.isfinite(points["value"])
    if not finite.all():
        values = [value if there else None for value, there in zip(values, finite.tolist(), strict=True)]
        kinds = _kinds(points["value"]).tolist()
    return zip(points["series"].tolist(), repeat(segment), points["step"].tolist(), values, kinds, strict=False)


def _kinds(values: Array) -> Array:
    kinds = np.zeros(len(values), np.int64)
    kinds[np.isnan(values)] = Kind.NAN
    kinds[np.isposinf(values)] = Kind.POSITIVE_INFINITY
    kinds[np.isneginf(values)] = Kind.NEGATIVE_INFINITY
    return kinds


def _write_steps(connection: Connection, batch: Batch, run_key: int) -> None:
    times = {record.step: (run_key, batch.segment, record.step, record.time) for record in batch.steps}
    bulk_upsert(connection, steps, list(times.values()))


def _enter(connection: Connection, batch: Batch, run_key: int) -> int:
    """Enter a batch into the ledger and return its place there."""
    places = [record.step for record in batch.steps]
    row = {"id": batch.id, "run_key": run_key, "segment": batch.segment, "first_step": min(places), "last_step": max(places)}
    (place,) = connection.execute(insert(batches), row).inserted_primary_key or (-1,)
    return int(place)


def _move_forward(connection: Connection, several: Sequence[Batch]) -> int:
    run_id = several[0].run_id
    if not any(batch.steps for batch in several):
        return key_of(connection, run_id)
    last_step = max(record.step for batch in several for record in batch.steps)
    latest = max(record.time for batch in several for record in batch.steps)
    statement = (
        update(runs)
        .where(runs.c.id == run_id)
        .values(
            last_step=case((runs.c.last_step < last_step, last_step), else_=runs.c.last_step),
            heartbeat_at=case((runs.c.heartbeat_at < latest, latest), else_=runs.c.heartbeat_at),
        )
    )
    if connection.execute(statement).rowcount == 0:
        raise unknown(connection, run_id)
    return key_of(connection, run_id)
