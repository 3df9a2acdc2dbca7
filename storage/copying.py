"""Columns of numbers into PostgreSQL by binary COPY: numpy lays the rows out, the client spends next to nothing.

A row is, for each column, its length in bytes (-1: NULL) and its big-endian bytes, behind a count of columns. Rows that are NULL in
the same columns are alike in shape, so each such group is one structured array.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from sqlalchemy import BigInteger, Connection, Double, Integer, SmallInteger, Table

from .faults import as_sqlalchemy_raises

Array = np.ndarray[Any, Any]

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_FORMATS = ((SmallInteger, ">i2"), (BigInteger, ">i8"), (Integer, ">i4"), (Double, ">f8"))
_ROWS = 50_000  # laid out at a time: a few MB


def copy_in(connection: Connection, table: Table, columns: Mapping[str, Array], *, into: str = "") -> None:
    """Insert rows that are new. A floating-point column has nan where it is NULL; an integer column may be masked where it is.

    Args:
        columns: an array of shape (n,) for every column of the table.
        into: name of another table of the same columns.

    Raises:
        sqlalchemy.exc.IntegrityError: a row was there.
    """
    formats = [_format(table, name) for name in columns]
    names = ", ".join(f'"{name}"' for name in columns)
    statement = f'COPY "{into or table.name}" ({names}) FROM STDIN (FORMAT binary)'
    total = len(next(iter(columns.values())))
    with (
        as_sqlalchemy_raises(connection.dialect, statement),
        closing(connection.connection.cursor()) as cursor,
        cursor.copy(statement) as copy,
    ):
        copy.write(_HEADER)
        for first in range(0, total, _ROWS):
            part = [column[first : first + _ROWS] for column in columns.values()]
            for block in _blocks(part, formats):
                copy.write(block)
        copy.write(_TRAILER)


def _format(table: Table, name: str) -> str:
    return next(format for kind, format in _FORMATS if isinstance(table.c[name].type, kind))


def _blocks(columns: Sequence[Array], formats: Sequence[str]) -> list[bytes]:
    """Return the bytes of rows, those of one shape together."""
    nulls = np.zeros(len(columns[0]), np.int64)
    for place, column in enumerate(columns):
        absent = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else _nan(column)
        if absent is not None:
            nulls |= absent.astype(np.int64) << place
    if not nulls.any():
        return [_laid_out(columns, formats, 0)]
    return [
        _laid_out([np.asarray(column)[nulls == shape] for column in columns], formats, shape) for shape in np.unique(nulls).tolist()
    ]


def _nan(column: Array) -> Array | None:
    return np.isnan(column) if column.dtype.kind == "f" else None


def _laid_out(columns: Sequence[Array], formats: Sequence[str], nulls: int) -> bytes:
    fields: list[tuple[str, str]] = [("columns", ">i2")]
    for place, format in enumerate(formats):
        fields.append((f"size{place}", ">i4"))
        if not nulls >> place & 1:
            fields.append((f"value{place}", format))
    rows = np.empty(len(columns[0]), np.dtype(fields))
    rows["columns"] = len(columns)
    for place, (column, format) in enumerate(zip(columns, formats, strict=True)):
        absent = nulls >> place & 1
        rows[f"size{place}"] = -1 if absent else np.dtype(format).itemsize
        if not absent:
            rows[f"value{place}"] = column
    return rows.tobytes()
