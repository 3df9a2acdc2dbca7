"""The samples of a range of steps as columns, each engine by its quickest way.

A row a sample costs a driver several Python objects. SQLite's makes them in C, half a microsecond a row. Over a network they are
what takes the time, most of all in drivers written in Python; so a server sends one row a series, all its steps and values packed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, Table, case, func, literal_column, select

from .codec import NON_FINITE
from .records import Kind
from .tables import samples

MOST_STEPS = 10_000
"""Steps to be asked for at once: a packed series then stays far below what a server sends as one value."""

_ROWS = 10_000  # fetched at a time
_SERIES = 500  # named in one query; of more than a thousand MariaDB makes a table first
_ROW = np.dtype([("series", "i8"), ("step", "i8"), ("value", "f8"), ("kind", "i1")])
_NAMES = {Kind.POSITIVE_INFINITY: "inf", Kind.NEGATIVE_INFINITY: "-inf", Kind.NAN: "nan"}

Array = np.ndarray[Any, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Columns:
    """Samples in no order, N of each: series numbers, steps (both int64), and values (float64, non-finite ones in place)."""

    series: Array
    steps: Array
    values: Array


Reader = Callable[..., Iterator[Columns]]


def columns(
    connection: Connection, numbers: Sequence[int], segment: int, first: int, last: int, *, most_steps: int = MOST_STEPS
) -> Columns:
    """Return the samples of these series in one segment with ``first <= step <= last``.

    There must be no more than ``most_steps`` different steps among them.
    """
    if connection.dialect.name in ("mysql", "mariadb"):
        connection.exec_driver_sql(f"SET SESSION group_concat_max_len = {most_steps * 32}")
    read: Reader = _READERS.get(connection.dialect.name, _rows)
    chunks = [chunk for some in in_parts(numbers) for chunk in read(connection, some, segment, first, last)]
    if not chunks:
        return Columns(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))
    return Columns(*(np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("series", "steps", "values")))


def in_parts(numbers: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the numbers (or ids), some at a time."""
    return (numbers[first : first + _SERIES] for first in range(0, len(numbers), _SERIES))


def of_these_steps(table: Table, numbers: Sequence[int], segment: int, first: int, last: int, *wanted: Any) -> Select[Any]:
    """Return a query of samples or histograms of some series in a range of steps.

    Every engine answers it by one look into the primary key a series. Joined with the table of series, MariaDB would read whole
    segments, whatever the range.
    """
    where = (table.c.series_id.in_(numbers), table.c.segment == segment, table.c.step.between(first, last))
    return select(table.c.series_id, *wanted).where(*where)


def _rows(connection: Connection, *place: Any) -> Iterator[Columns]:
    """A row a sample, from the driver's cursor into an array a few thousand at a time."""
    query = of_these_steps(samples, *place, samples.c.step, func.coalesce(samples.c.value, 0.0), samples.c.kind)
    result = connection.execute(query)
    while rows := result.cursor.fetchmany(_ROWS):
        found = np.fromiter(rows, _ROW, len(rows))
        yield Columns(found["series"], found["step"], _with_kinds(found["value"], found["kind"]))
    result.close()


def _packed(connection: Connection, *place: Any) -> Iterator[Columns]:
    """A row a series: big-endian 64-bit steps and values. The aggregates of a group see its rows in one and the same order."""
    spelt: dict[int, ColumnElement[float]] = {kind.value: literal_column(f"'{name}'::float8") for kind, name in _NAMES.items()}
    value = case(spelt, value=samples.c.kind, else_=samples.c.value)
    nothing: ColumnElement[bytes] = literal_column("''::bytea")
    query = of_these_steps(
        samples,
        *place,
        func.string_agg(func.int8send(samples.c.step), nothing),
        func.string_agg(func.float8send(value), nothing),
    ).group_by(samples.c.series_id)
    for number, steps, values in connection.execute(query):
        yield _one_series(number, np.frombuffer(steps, ">i8"), np.frombuffer(values, ">f8"))


def _listed(connection: Connection, *place: Any) -> Iterator[Columns]:
    """A row a series: steps, values and kinds as comma-separated text. See also ``_packed``.

    Only of a plain number does MariaDB write every digit here; beside text, in a CASE or a CONCAT, it cuts off the exponent.
    """
    found = (samples.c.step, func.coalesce(samples.c.value, 0.0), samples.c.kind)
    query = of_these_steps(samples, *place, *(func.group_concat(column) for column in found)).group_by(samples.c.series_id)
    for number, *texts in connection.execute(query):
        steps, values, kinds = (np.fromstring(text, kind, sep=",") for text, kind in zip(texts, ("i8", "f8", "i1"), strict=True))
        yield _one_series(number, steps, _with_kinds(values, kinds))


def _with_kinds(values: Array, kinds: Array) -> Array:
    """Put what is not finite in its place, and return the values."""
    if kinds.any():
        for kind, value in NON_FINITE.items():
            values[kinds == kind] = value
    return values


def _one_series(number: int, steps: Array, values: Array) -> Columns:
    return Columns(np.full(len(steps), number), steps.astype(np.int64, copy=False), values.astype(np.float64, copy=False))


_READERS: Mapping[str, Reader] = {"postgresql": _packed, "mysql": _listed, "mariadb": _listed}
