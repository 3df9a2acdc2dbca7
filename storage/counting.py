"""Counting rows of tables that may hold many millions, within a time that one waits for."""

import random
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Table, func, literal, select

_PARTS = 256


@dataclass(frozen=True, slots=True)
class Count:
    """A number of rows; not ``exact``: extrapolated from the part that was counted in time."""

    rows: int
    exact: bool = True


def counted_by(
    connection: Connection, table: Table, owner: Column[int], group: ColumnElement[int] | None = None, *, seconds: float
) -> dict[int, Count]:
    """Count a table's rows, by a column if one is given, else under 0.

    The rows are counted by parts of the range of owners' numbers (the first column of the table's key), in an order that mixes old
    and new ones. Those not reached in ``seconds`` count as much as the others on average.

    Args:
        owner: the primary key that the first column of the table's own refers to.
    """
    stop = time.monotonic() + seconds
    low: Any
    high: Any
    low, high = connection.execute(select(func.min(owner), func.max(owner))).one()
    if low is None:
        return {}
    width = (high - low) // _PARTS + 1
    starts = list(range(low, high + 1, width))
    random.Random(0).shuffle(starts)
    key = next(iter(table.primary_key))
    by = literal(0).label("by") if group is None else group.label("by")
    found: dict[int, int] = {}
    done = 0
    for start in starts:
        if done and time.monotonic() >= stop:
            break
        query = select(by, func.count()).where(key >= start, key < start + width).group_by("by")
        for value, rows in connection.execute(query):
            found[value] = found.get(value, 0) + rows
        done += 1
    exact = done == len(starts)
    return {value: Count(round(rows * len(starts) / done), exact) for value, rows in sorted(found.items())}
